"""Many sources on few processors: which may compute, and how long they take all together."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from streamer.system.fair_semaphore import FairSemaphore
from streamer.system.processors import seconds_without_processor

INFERENCE_NICENESS = 5
"""Of the threads that run networks: those that need the interpreter take a processor from them, as
all the others wait for it meanwhile."""

Result = TypeVar("Result")


@dataclass(slots=True)
class _Job:
    """A function to be run on one of the threads for networks, and what came of it."""

    function: Callable[[], Any]
    result: Any = None
    error: BaseException | None = None
    work_seconds: float = 0.0
    done: SimpleQueue[None] = field(default_factory=SimpleQueue)

    def run(self) -> None:
        """Run the function and measure it; its errors are kept."""
        started, used, waited = time.monotonic(), time.thread_time(), seconds_without_processor()
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error
        used = time.thread_time() - used
        waited = seconds_without_processor() - waited
        # A model may be computed on other threads, for which this one waits.
        self.work_seconds = max(used, time.monotonic() - started - waited)


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    """Run jobs until there is None, at a lower priority where threads have one of their own."""
    if sys.platform == "linux":
        with suppress(OSError):  # the system call may be forbidden, as a container can
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), INFERENCE_NICENESS)
    while job := jobs.get():
        job.run()
        job.done.put(None)
        del job  # not to be kept in memory while waiting for the next one


class Scheduler:
    """Shares the processors among the sources of one process.

    As many networks run at once as there are `processors`, on as many threads, in the order in
    which they come. What is computed before and after that needs the interpreter, which threads
    would pass back and forth with every call of numpy: only half as many have a slot for it, or
    one.
    """

    def __init__(self, processors: int) -> None:
        self.inference_seconds = 0.0
        """What a window is expected to take, as measured when the model was loaded."""
        self._processors = processors
        self._turns = FairSemaphore(max(1, processors // 2))
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = 0
        self._mine = threading.local()
        """Whether the thread has a slot of `_turns`."""
        self._work_lock = threading.Lock()
        self._work: dict[str, float] = {}
        self._total = 0.0

    @property
    def waiting(self) -> int:
        """Number of threads that wait for a slot."""
        return self._turns.waiting

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot to compute, and hold it for the length of the context."""
        with self._turns.slot():
            self._mine.slot = True
            try:
                yield
            finally:
                self._mine.slot = False

    def infer(self, function: Callable[[], Result]) -> tuple[Result, float]:
        """Run a network; return its result, and how many seconds of a processor it took.

        Meanwhile others may have the calling thread's slot. Errors of the function are raised.
        """
        job = _Job(function)
        has_slot = getattr(self._mine, "slot", False)
        with self._turns.released() if has_slot else nullcontext():
            if self._has_threads():
                self._jobs.put(job)
                job.done.get()
            else:
                job.run()
        if job.error is not None:
            raise job.error
        return job.result, job.work_seconds

    def _has_threads(self) -> bool:
        """Start the threads for networks at the first need; return whether there is one."""
        if self._threads < self._processors:
            with self._work_lock:
                for number in range(self._threads, self._processors):
                    name = f"inference {number + 1}"
                    thread = threading.Thread(
                        target=_work, args=(self._jobs,), name=name, daemon=True
                    )
                    try:
                        thread.start()
                    except RuntimeError:  # the system gives no more threads
                        break
                    weakref.finalize(self, self._jobs.put, None)
                    self._threads += 1
        return self._threads > 0

    @property
    def round_seconds(self) -> float:
        """Seconds in which every source is decided about once; 0 for a source that is alone."""
        return self._total / self._processors if len(self._work) > 1 else 0.0

    @property
    def expected_seconds(self) -> float:
        """Seconds in which a window of every source is expected to be classified; 0 for one."""
        sources = len(self._work)
        return self.inference_seconds * sources / self._processors if sources > 1 else 0.0

    def expect(self, source: str) -> None:
        """Take note of a source whose work is not known yet."""
        with self._work_lock:
            self._work.setdefault(source, 0.0)

    def update(self, source: str, work_seconds: float) -> None:
        """Set how many seconds of work a decision about a source takes."""
        with self._work_lock:
            self._total += work_seconds - self._work.get(source, 0.0)
            self._work[source] = work_seconds

    def forget(self, source: str) -> None:
        """Leave out a source that takes no more decisions."""
        with self._work_lock:
            self._work.pop(source, None)
            self._total = sum(self._work.values())  # drops rounding errors, too
