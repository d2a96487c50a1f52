"""Many sources on few processors: which may compute, and how long they take all together."""

from __future__ import annotations

import threading

from streamer.system.fair_semaphore import FairSemaphore


class Scheduler(FairSemaphore):
    """Shares the processors among the sources of one process.

    As many compute at once as there are `processors`, and `spare` more: a thread with a slot leaves
    its processor idle while it waits for the interpreter.
    """

    def __init__(self, processors: int, spare: int = 0) -> None:
        super().__init__(processors + spare)
        self._processors = processors
        self._work_lock = threading.Lock()
        self._work: dict[str, float] = {}
        self._total = 0.0

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
