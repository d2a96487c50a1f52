"""Whose turn it is to compute: as many threads at once as there are processors, in order.

Hundreds of threads that compute side by side would leave each other, and above all the event
loop, next to nothing of the processors and of the interpreter; and whoever was served last would be
served last again. In turn they need the same time altogether, and all get the same share of it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

WATCHED = 5
"""Decisions over which the work of a source is measured: their mean without the longest, since one
hiccup is to change nothing, but among hundreds of sources long ones are part of the work."""
TRUSTED = 2
"""Decisions from which on it is believed: the first may have waited for what is set up only once.
"""


def processors() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only some systems tell
        return os.cpu_count() or 1


class _Call:
    """What one thread waits for."""

    def __init__(self) -> None:
        self._given = 0.0
        self._held = threading.Lock()
        self._held.acquire()

    def give(self) -> None:
        self._given = time.monotonic()
        self._held.release()

    def wait(self) -> float:
        self._held.acquire()
        return self._given


class Scheduler:
    """Lets threads compute in the order in which they asked, so many at once and no more.

    Parameters
    ----------
    at_once
        How many may compute at once.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._free = at_once
        self._waiting: deque[_Call] = deque()
        self._lock = threading.Lock()
        self._work: dict[str, deque[float]] = {}
        self._usual: dict[str, float] = {}
        self._total = 0.0

    @contextmanager
    def turn(self) -> Iterator[float]:
        """Wait for a turn; it lasts as long as the context.

        The value is `time.monotonic()` when it was given, in seconds: a thread that has to be woken
        takes part of its turn for that.
        """
        given = self._begin()
        try:
            yield given
        finally:
            self._end()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Give one's turn to somebody else for as long as the context lasts, then wait for one."""
        self._end()
        try:
            yield
        finally:
            self._begin()

    def note(self, source: str, work: float) -> None:
        """Take down how many seconds a decision about a source took, waiting left out."""
        with self._lock:
            works = self._work.setdefault(source, deque(maxlen=WATCHED))
            works.append(work)
            if len(works) >= TRUSTED:
                usual = (sum(works) - max(works)) / (len(works) - 1)
                self._total += usual - self._usual.get(source, 0.0)
                self._usual[source] = usual

    def forget(self, source: str) -> None:
        """Leave a source out that needs no more turns."""
        with self._lock:
            self._work.pop(source, None)
            self._usual.pop(source, None)
            self._total = sum(self._usual.values())  # nor does it keep what rounding added up

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return len(self._waiting)

    @property
    def round_seconds(self) -> float:
        """Seconds that one decision about every source takes in all; 0 if one source has all."""
        return self._total / self._at_once if len(self._usual) > 1 else 0.0

    def _begin(self) -> float:
        call = _Call()
        with self._lock:
            if self._free:
                self._free -= 1
                return time.monotonic()
            self._waiting.append(call)
        return call.wait()

    def _end(self) -> None:
        with self._lock:
            call = self._waiting.popleft() if self._waiting else None
            self._free += call is None
        if call:
            call.give()
