"""What sources share: a thread that produces blocks, and a bounded, paced queue after it."""

from __future__ import annotations

import dataclasses
import threading
import time
from abc import abstractmethod
from collections import deque

import numpy as np

from streamer.sources.base import NO_THREAD, AudioBlock, Source, SourceEnded, SourceError
from streamer.system.memory import allowed_memory

LIVE_SECONDS = 60.0
"""How much audio of a live source may wait to be read before the oldest goes."""
LIVE_BYTES = 64 << 20
"""The same limit for very high rates and many channels."""
AHEAD_SECONDS = 2.0
"""How far a source that can wait is read ahead."""
CATCH_UP = 1.001
"""Playing speed while too much waits, so that two clocks cannot drift apart."""
CATCH_UP_SECONDS = 20.0
"""How much of a live source may wait before it is played at that speed; files never get there."""
JOINED_SECONDS = 1.0
"""What is due already is read in pieces of up to this much: a reader that is behind has the work of
each piece only once."""
RESUME_SECONDS = 10.0
"""A file that fell further behind than this (the process was suspended) goes on from now."""


class Waiting:
    """What waits of all live sources together: bounded, however many fall behind at once.

    Parameters
    ----------
    limit
        Bytes that may wait in all. Beyond it a source that has more than an equal share of it loses
        its oldest.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: dict[Session, int] = {}
        self._total = 0
        self._lock = threading.Lock()

    def note(self, session: Session, size: int) -> None:
        """Take down how many bytes wait in a session."""
        with self._lock:
            self._total += size - self._sizes.pop(session, 0)
            if size:
                self._sizes[session] = size

    def is_too_much(self, size: int) -> bool:
        """Tell whether one session with `size` bytes has to give some of them up."""
        return self._total > self._limit and size * len(self._sizes) > self._limit


WAITING = Waiting(allowed_memory() // 2)
"""What waits in this process; the other half of its memory is for all that is done with it."""


class Session:
    """One opening of a source: its queue, its end, and whether somebody still wants it.

    A producer that is stuck in a system call outlives its session; what it still delivers goes
    nowhere, and `stopped` tells it to return.

    Parameters
    ----------
    paced
        Release each block only when its last sample would be heard, counted from the first block
        and never before the block arrived. Otherwise release blocks at once, as they are.
    waiting
        Among what its blocks count.
    """

    def __init__(self, *, paced: bool, waiting: Waiting = WAITING) -> None:
        self.patient = True
        """Whether the producer waits while the queue is full, or the oldest block goes."""
        self.catch_up_seconds = CATCH_UP_SECONDS
        self.stopped = threading.Event()
        self._paced = paced
        self._blocks: deque[AudioBlock] = deque()
        self._changed = threading.Condition()
        self._seconds = 0.0
        self._bytes = 0
        self._waiting = waiting
        self._dropped = 0
        self._heard: float | None = None
        self._end: Exception | None = None

    def __len__(self) -> int:
        """Count the blocks that wait for the reader."""
        return len(self._blocks)

    def put(self, block: AudioBlock) -> None:
        """Hand on a block whose `heard` is the time at which it arrived."""
        with self._changed:
            if self.patient:
                self._changed.wait_for(
                    lambda: self._seconds < AHEAD_SECONDS or self.stopped.is_set()
                )
            if self.stopped.is_set():
                return
            self._blocks.append(block)
            self._seconds += block.seconds
            self._count(block.samples.nbytes)
            while not self.patient and self._is_too_much():
                oldest = self._pop()
                self._dropped += oldest.dropped + len(oldest.samples)
            self._changed.notify_all()

    def end(self, reason: Exception) -> None:
        """Let readers see `reason` once they have read what came before."""
        with self._changed:
            if not self.stopped.is_set():
                self._end = reason
                self._changed.notify_all()

    def stop(self) -> None:
        """Wake the reader and the producer; neither gets anything more."""
        with self._changed:
            self.stopped.set()
            self._blocks.clear()
            self._count(-self._bytes)
            self._end = SourceEnded()
            self._changed.notify_all()

    def get(self, timeout: float) -> AudioBlock | None:
        """Return the next block that is due within `timeout` seconds, or None."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                due = self._due() if self._blocks else None
                now = time.monotonic()
                if due is not None and (due <= now or not self._paced):
                    return self._join(self._take(due))
                if due is None and self._end is not None:
                    raise self._end
                if now >= deadline:
                    return None
                self._changed.wait(min(deadline, due or deadline) - now)

    def _join(self, first: AudioBlock) -> AudioBlock:
        """Add to a block what follows on it without a seam and is due as well."""
        blocks, seconds = [first], first.seconds
        while self._paced and self._blocks:
            following = self._blocks[0]
            seconds += following.seconds
            due = self._due()
            if (
                seconds > JOINED_SECONDS
                or due > time.monotonic()
                or following.discontinuity
                or following.dropped
                or following.title != first.title
                or following.sample_rate != first.sample_rate
                or following.samples.shape[1:] != first.samples.shape[1:]
            ):
                break
            blocks.append(self._take(due))
        if len(blocks) == 1:
            return first
        samples = np.concatenate([block.samples for block in blocks])
        return dataclasses.replace(first, samples=samples, heard=blocks[-1].heard)

    def _due(self) -> float:
        """Return when the next block's last sample is heard (monotonic, in seconds)."""
        block = self._blocks[0]
        if not self._paced or self._heard is None:
            return block.heard
        speed = CATCH_UP if self._seconds > self.catch_up_seconds else 1.0
        lost = (self._dropped + block.dropped) / block.sample_rate
        due = max(block.heard, self._heard + (block.seconds + lost) / speed)
        now = time.monotonic()
        return now if self.patient and now - due > RESUME_SECONDS else due

    def _take(self, heard: float) -> AudioBlock:
        block = self._pop()
        self._heard = heard
        dropped, self._dropped = self._dropped + block.dropped, 0
        self._changed.notify_all()
        return dataclasses.replace(
            block,
            heard=heard,
            dropped=dropped,
            discontinuity=block.discontinuity or dropped > 0,
        )

    def _pop(self) -> AudioBlock:
        block = self._blocks.popleft()
        self._seconds = self._seconds - block.seconds if self._blocks else 0.0
        self._count(-block.samples.nbytes)
        return block

    def _count(self, more: int) -> None:
        """Count the bytes that wait."""
        self._bytes += more
        self._waiting.note(self, self._bytes)

    def _is_too_much(self) -> bool:
        return (
            self._seconds > LIVE_SECONDS
            or self._bytes > LIVE_BYTES
            or self._waiting.is_too_much(self._bytes)
        )


class ThreadedSource(Source):
    """A source whose blocks are produced on a thread of its own, so that no `read` ever hangs.

    Parameters
    ----------
    name
        What clients call it.
    paced
        Whether blocks are released in real time however fast they are produced.
    """

    def __init__(self, name: str, *, paced: bool) -> None:
        self.name = name
        self._paced = paced
        self._session: Session | None = None

    @property
    def waiting_blocks(self) -> int:
        """Blocks that wait to be read."""
        session = self._session
        return 0 if session is None else len(session)

    @abstractmethod
    def produce(self, session: Session) -> None:
        """Put blocks until the source ends (return) or breaks (raise) or `session` is stopped."""

    def open(self) -> None:
        """Start the producing thread; what goes wrong there is raised by `read`."""
        self.close()
        session = self._session = Session(paced=self._paced)
        thread = threading.Thread(
            target=self._run, args=(session,), name=f"source {self.name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            raise SourceError(NO_THREAD) from None

    def read(self, timeout: float) -> AudioBlock | None:
        """Return the next block, or None if `timeout` seconds brought none."""
        session = self._session
        if session is None:
            raise SourceEnded
        return session.get(timeout)

    def close(self) -> None:
        """Stop the session; a producer stuck in a system call is left behind to finish alone."""
        session, self._session = self._session, None
        if session is not None:
            session.stop()

    def _run(self, session: Session) -> None:
        try:
            self.produce(session)
            session.end(SourceEnded())
        except Exception as error:
            session.end(error)
