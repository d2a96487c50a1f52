"""Many sources on few processors: which may compute, and how long they take all together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from streamer.system.fair_semaphore import FairSemaphore


class Scheduler:
    """Shares the processors among the sources of one process.

    As many networks run at once as there are `processors`. What is computed before and after that
    needs the interpreter, which threads would pass back and forth with every call of numpy: only
    half as many have a slot for it, or one.
    """

    def __init__(self, processors: int) -> None:
        self._processors = processors
        self._turns = FairSemaphore(max(1, processors // 2))
        self._inferences = FairSemaphore(processors)
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

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Wait until a network may run; meanwhile others may have the thread's slot."""
        has_slot = getattr(self._mine, "slot", False)
        with self._turns.released() if has_slot else nullcontext(), self._inferences.slot():
            yield

    @property
    def round_seconds(self) -> float:
        """Seconds in which every source is decided about once; 0 for a source that is alone."""
        return self._total / self._processors if len(self._work) > 1 else 0.0

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
