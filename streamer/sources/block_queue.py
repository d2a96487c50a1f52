"""The bounded queue between the thread that produces the blocks of a source and their reader."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from streamer.sources.base import AudioBlock, SourceEnded
from streamer.system.memory import allowed_memory

READ_AHEAD_SECONDS = 1.0
"""How much a source that can wait produces before it is read."""
REFILL_SECONDS = 0.5
"""What is left of it when it goes on: waking a thread for each block costs more than the block."""
NEED_TOLERANCE_SECONDS = 0.005
"""By how much the need of a reader may differ from the last one without waking the producer."""
LEAD_SECONDS = 0.3
"""How long before a reader is given what it has asked for that is produced, so that a second of
sound of each of many sources is not kept for a second."""
MAX_BACKLOG_SECONDS = 60.0
"""How much of a live source is kept before the oldest block is dropped."""
MAX_BACKLOG_BYTES = 64 << 20
"""The same limit for very high rates and many channels."""
CATCH_UP_SPEED = 1.001
"""Playing speed while a live source has a large backlog, so that two clocks cannot drift apart."""
CATCH_UP_SECONDS = 20.0
"""Backlog from which on a live source is played at `CATCH_UP_SPEED`."""
MAX_JOINED_SECONDS = 1.5
"""Blocks that are due are joined up to this length, which saves a late reader work per block."""
ROUNDING_SECONDS = 1e-9
"""Sums of seconds may be wrong by this much, a small part of a sample."""
SUSPENDED_SECONDS = 10.0
"""A file that is this late (the process was suspended) continues from now."""


class BufferBudget:
    """Limits the memory of all queues of live sources together, in bytes.

    While more is queued, every queue that holds more than an equal share drops its oldest blocks.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: dict[BlockQueue, int] = {}
        self._total = 0
        self._lock = threading.Lock()

    def update(self, queue: BlockQueue, size: int) -> None:
        """Set how many bytes a queue holds."""
        with self._lock:
            self._total += size - self._sizes.pop(queue, 0)
            if size:
                self._sizes[queue] = size

    def is_exceeded_by(self, size: int) -> bool:
        """Return whether a queue of `size` bytes has to drop blocks."""
        return self._total > self._limit and size * len(self._sizes) > self._limit


SHARED_BUDGET = BufferBudget(allowed_memory() // 2)
"""The budget of this process: half of its memory."""


class BlockQueue:
    """The blocks of a source between one `open` and the next.

    A producer that is stuck in a system call outlives its queue: what it still delivers is
    discarded, and `stopped` tells it to return.

    If `paced`, each block is released only when its last sample is due: at the speed of sound from
    the first block on, and never before the block has arrived. Otherwise blocks are released at
    once, as they are.

    It has many methods: those of the producer, of the reader, and what is due when, whose state one
    lock protects.
    """

    def __init__(
        self,
        *,
        paced: bool,
        budget: BufferBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.blocking = True
        """Whether `put` waits while the queue is full; otherwise the oldest block is dropped."""
        self.catch_up_seconds = CATCH_UP_SECONDS
        self.stopped = threading.Event()
        """Set when the producer is to return."""
        self.producer_seconds = 0.0
        """Seconds of a processor that the producing thread had used at its last block."""
        self._paced = paced
        self._budget = budget or SHARED_BUDGET
        self._clock = clock
        self._lock = threading.Lock()
        self._refill = threading.Condition(self._lock)
        """Notified when the producer may go on."""
        self._arrival = threading.Condition(self._lock)
        """Notified when the reader has what it waits for."""
        self._awaited_seconds = 0.0
        """What has to be queued for the reader to be woken."""
        self._needed_seconds = 0.0
        """What the reader has asked for last, if it is not more than it is given at once."""
        self._blocks: deque[AudioBlock] = deque()
        self._seconds = 0.0
        self._bytes = 0
        self._dropped = 0
        self._last_end_time: float | None = None
        self._end: Exception | None = None

    def __len__(self) -> int:
        """Return the number of blocks in the queue."""
        return len(self._blocks)

    @property
    def is_full(self) -> bool:
        """Whether `put` would wait."""
        if not self.blocking:
            return False
        if self._need() is None:
            return self._seconds >= max(READ_AHEAD_SECONDS, self._needed_seconds)
        return not self._has_room()

    def _need(self) -> tuple[float, float] | None:
        """Return how much the reader needs and when, in seconds; None if that is not known.

        After a reading it is expected to need as much again.
        """
        if not self._paced or not self._needed_seconds or self._last_end_time is None:
            return None
        seconds = max(self._needed_seconds, LEAD_SECONDS)
        return seconds, self._last_end_time + seconds

    def _has_room(self) -> bool:
        """Return whether the producer that waited may go on."""
        if (need := self._need()) is None:
            return self._seconds <= REFILL_SECONDS or self._seconds < self._needed_seconds
        seconds, end_time = need
        return self._seconds < seconds and self._clock() >= end_time - LEAD_SECONDS

    def _seconds_to_wait(self) -> float | None:
        """Return how long the producer has no room for certain; None if it will be notified."""
        if (need := self._need()) is None:
            return None
        seconds, end_time = need
        if self._seconds >= seconds:  # that is there, so it is about the next reading
            end_time += seconds
        left = end_time - LEAD_SECONDS - self._clock()
        return left + NEED_TOLERANCE_SECONDS if left > 0 else None

    def wait_for_room(self) -> None:
        """Wait, if the queue is full, until the reader will soon need more.

        If it is not known when, until `REFILL_SECONDS` are left.
        """
        with self._lock:
            if self.is_full:
                while not (self._has_room() or self.stopped.is_set()):
                    self._refill.wait(self._seconds_to_wait())

    def put(self, block: AudioBlock) -> None:
        """Append a block whose `end_time` is the time at which it arrived."""
        self.producer_seconds = time.thread_time()
        self.wait_for_room()
        with self._lock:
            if self.stopped.is_set():
                return
            self._blocks.append(self._in_time(block))
            self._seconds += block.seconds
            self._add_bytes(block.samples.nbytes)
            while not self.blocking and self._is_full():
                oldest = self._pop()
                self._dropped += oldest.dropped + len(oldest.samples)
            if self._seconds >= self._awaited_seconds:
                self._arrival.notify()

    def _in_time(self, block: AudioBlock) -> AudioBlock:
        """Return a block that is not late for itself if it is not for what the reader needs."""
        need = self._need()
        if not self.blocking or need is None or block.end_time > need[1]:
            return block
        assert self._last_end_time is not None
        begin = self._last_end_time + self._seconds
        return dataclasses.replace(block, end_time=min(block.end_time, begin))

    def end(self, reason: Exception) -> None:
        """Let `get` raise `reason` after the last block."""
        with self._lock:
            if not self.stopped.is_set():
                self._end = reason
                self._arrival.notify()

    def stop(self) -> None:
        """Discard all blocks and wake the producer and the reader."""
        with self._lock:
            self.stopped.set()
            self._blocks.clear()
            self._add_bytes(-self._bytes)
            self._end = SourceEnded()
            self._refill.notify_all()
            self._arrival.notify()

    def get(self, timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
        """Return the next block that is due within `timeout` seconds, or None.

        If the queue is paced, blocks that are due are joined, and a reader that needs
        `enough_seconds` is woken only when so much is due, or after the timeout; of the last block
        it gets no more than it needs. After the last block the reason given to `end` is raised.
        """
        deadline = self._clock() + timeout
        with self._lock:
            before, self._needed_seconds = (
                self._needed_seconds,
                min(enough_seconds, MAX_JOINED_SECONDS),
            )
            is_other = abs(self._needed_seconds - before) > NEED_TOLERANCE_SECONDS
            if is_other or self._has_room():
                self._refill.notify()
            while True:
                now = self._clock()
                due = self._due_time(now) if self._blocks else None
                if due is not None and not self._paced:
                    return self._take(due)
                complete = None if due is None else self._complete_time(due, enough_seconds)
                if due is not None and complete is not None and complete <= now:
                    return self._join_due(enough_seconds)
                if due is not None and due <= now:
                    if now >= deadline:
                        return self._join_due(enough_seconds)
                elif due is None and self._end is not None:
                    raise self._end
                elif now >= deadline:
                    return None
                self._awaited_seconds = enough_seconds if complete is None else math.inf
                self._arrival.wait(min(deadline, complete or deadline) - now)

    def _join_due(self, needed: float) -> AudioBlock:
        """Take the next block, and those that are due as well and continue it seamlessly.

        Of one that is not due, take the part with which there are `needed` seconds.
        """
        first = self._take_due(needed)
        assert first is not None
        blocks, room = [first], MAX_JOINED_SECONDS - first.seconds
        while self._blocks:
            following = self._blocks[0]
            if (
                following.discontinuity
                or following.dropped
                or following.title != first.title
                or following.sample_rate != first.sample_rate
                or following.samples.shape[1:] != first.samples.shape[1:]
            ):
                break
            needed -= blocks[-1].seconds
            taken = self._take_due(needed, room)
            if taken is None:
                break
            blocks.append(taken)
            room -= taken.seconds
        if len(blocks) == 1:
            return first
        samples = np.concatenate([block.samples for block in blocks])
        return dataclasses.replace(first, samples=samples, end_time=blocks[-1].end_time)

    def _take_due(self, needed: float, most_seconds: float = math.inf) -> AudioBlock | None:
        """Take the next block if it is due, else the needed part of it; None if neither is due."""
        block, now = self._blocks[0], self._clock()
        due = self._due_time(now)
        if due <= now and block.seconds <= most_seconds:
            return self._take(due)
        begin = self._begin_time()
        if begin is None or not ROUNDING_SECONDS < needed < min(block.seconds, most_seconds):
            return None
        part_seconds = _whole_samples(needed, block)
        if begin + part_seconds > now:
            return None
        count = round(part_seconds * block.sample_rate)
        rest = block.samples[count:]
        if len(rest):
            # A copy, since a view would keep the whole block in memory until the next reading.
            self._blocks[0] = dataclasses.replace(block, samples=rest.copy(), discontinuity=False)
            self._blocks.appendleft(dataclasses.replace(block, samples=block.samples[:count]))
        return self._take(begin + part_seconds)

    def _begin_time(self) -> float | None:
        """Return when the next block begins; None if it may not be divided.

        A block that arrived only after the one before was played is released as a whole, since
        its rest would be late by the length of its first part.
        """
        block, begin = self._blocks[0], self._last_end_time
        if begin is None or block.end_time > begin or block.dropped or self._dropped:
            return None
        return begin

    def _due_time(self, now: float) -> float:
        """Return the end time of the next block, in seconds of the clock.

        If a file is too late, its time is moved so that the block is due now.
        """
        block = self._blocks[0]
        if not self._paced or self._last_end_time is None:
            return block.end_time
        speed = CATCH_UP_SPEED if self._seconds > self.catch_up_seconds else 1.0
        dropped_seconds = (self._dropped + block.dropped) / block.sample_rate
        seconds = (block.seconds + dropped_seconds) / speed
        due = max(block.end_time, self._last_end_time + seconds)
        if self.blocking and now - due > SUSPENDED_SECONDS:
            self._last_end_time = now - seconds - ROUNDING_SECONDS
            return now
        return due

    def _complete_time(self, due: float, seconds: float) -> float | None:
        """Return when so much will be due, or all that still comes; None if it has not arrived.

        The next block is `due` at that time.
        """
        begin = self._begin_time()
        first = self._blocks[0]
        if begin is not None and ROUNDING_SECONDS < seconds < first.seconds:
            return begin + _whole_samples(seconds, first)
        seconds -= first.seconds
        for block in itertools.islice(self._blocks, 1, None):
            if seconds <= ROUNDING_SECONDS:
                break
            if seconds < block.seconds and block.end_time <= due and not block.dropped:
                return due + _whole_samples(seconds, block)
            seconds -= block.seconds
            due = max(block.end_time, due + block.seconds)
        return due if seconds <= ROUNDING_SECONDS or self._end is not None else None

    def _take(self, end_time: float) -> AudioBlock:
        block = self._pop()
        self._last_end_time = end_time
        dropped, self._dropped = self._dropped + block.dropped, 0
        if self._has_room():
            self._refill.notify()
        discontinuity = block.discontinuity or dropped > 0
        return dataclasses.replace(
            block, end_time=end_time, dropped=dropped, discontinuity=discontinuity
        )

    def _pop(self) -> AudioBlock:
        block = self._blocks.popleft()
        self._seconds = self._seconds - block.seconds if self._blocks else 0.0
        self._add_bytes(-block.samples.nbytes)
        return block

    def _add_bytes(self, size: int) -> None:
        self._bytes += size
        self._budget.update(self, self._bytes)

    def _is_full(self) -> bool:
        return (
            self._seconds > MAX_BACKLOG_SECONDS
            or self._bytes > MAX_BACKLOG_BYTES
            or self._budget.is_exceeded_by(self._bytes)
        )


def _whole_samples(seconds: float, block: AudioBlock) -> float:
    """Return a time rounded up to whole samples of a block, but for errors of rounding."""
    return max(1, math.ceil(seconds * block.sample_rate - 1e-6)) / block.sample_rate
