"""A semaphore that serves threads in the order in which they asked."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue


class FairSemaphore:
    """Lets a limited number of threads compute at once, first come, first served.

    Hundreds of threads that compute side by side starve one another, and above all the event loop,
    of the processors and of the interpreter. `threading.Semaphore` lets a thread that asks again
    overtake those that wait; here every thread gets an equal share.

    A thread that has waited for `patience` seconds goes on without a slot, if that is given: those
    who hold the slots may hang.
    """

    def __init__(self, slots: int, patience: float | None = None) -> None:
        self._free = slots
        self._patience = patience
        self._waiters: deque[SimpleQueue[None]] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Number of threads that wait for a slot."""
        return len(self._waiters)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot and hold it for the length of the context."""
        self._acquire()
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Give the held slot away for the length of the context, then take the next one again."""
        self._release()
        try:
            yield
        finally:
            self._acquire(first=True)

    def _acquire(self, *, first: bool = False) -> None:
        """Wait for a slot, behind those who wait already or as the `first` of them."""
        waiter: SimpleQueue[None] = SimpleQueue()
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return
            if first:
                self._waiters.appendleft(waiter)
            else:
                self._waiters.append(waiter)
        try:
            waiter.get(timeout=self._patience)
        except Empty:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                    self._free -= 1
                    return
            waiter.get()  # granted just now

    def _release(self) -> None:
        with self._lock:
            self._free += 1
            if self._free > 0 and self._waiters:
                self._free -= 1
                self._waiters.popleft().put(None)
