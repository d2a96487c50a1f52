from __future__ import annotations

import dataclasses
import threading
import weakref

import numpy as np
import pytest
from support.waiting import LONGEST_WAIT_SECONDS, wait_until

from streamer.sources import AudioBlock, SourceEnded, SourceError
from streamer.sources.block_queue import (
    MAX_BACKLOG_SECONDS,
    READ_AHEAD_SECONDS,
    BlockQueue,
    BufferBudget,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class RunningClock(Clock):
    """A clock that goes on between two looks at it."""

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def block(seconds: float, end_time: float = 0.0, rate: int = 1000) -> AudioBlock:
    return AudioBlock(np.zeros((round(seconds * rate), 1), np.float32), rate, end_time)


def live_queue(clock: Clock, *, paced: bool, budget: BufferBudget | None = None) -> BlockQueue:
    queue = BlockQueue(paced=paced, budget=budget, clock=clock)
    queue.blocking = False
    return queue


def played(clock: Clock, count: int) -> BlockQueue:
    """Return a queue of which the first of some blocks of 0.125 s was read."""
    queue = live_queue(clock, paced=True)
    for _ in range(count):
        queue.put(block(0.125, end_time=clock.now))
    assert queue.get(0.0)
    return queue


def end_times(
    queue: BlockQueue, clock: Clock, step: float, steps: int
) -> list[tuple[float, float]]:
    """Advance the clock and return when each block was released, and its end time."""
    released = []
    for _ in range(steps):
        while one := queue.get(0.0):
            released.append((clock.now, one.end_time))
        clock.now += step
    return released


def test_a_live_source_that_is_not_read_drops_the_oldest_blocks(clock: Clock) -> None:
    queue = live_queue(clock, paced=False)
    for second in range(int(MAX_BACKLOG_SECONDS) + 10):
        queue.put(block(1.0, end_time=float(second)))
    assert len(queue) == MAX_BACKLOG_SECONDS
    first, second = queue.get(0.0), queue.get(0.0)
    assert first is not None
    assert second is not None
    assert (first.end_time, first.dropped, first.discontinuity) == (10.0, 10_000, True)
    assert (second.end_time, second.dropped, second.discontinuity) == (11.0, 0, False)


def test_live_sources_share_the_budget_equally(clock: Clock) -> None:
    budget = BufferBudget(8 * block(1.0).samples.nbytes)
    queues = [live_queue(clock, paced=False, budget=budget) for _ in range(4)]
    first = queues[0]
    for _ in range(10):
        first.put(block(1.0))
    assert len(first) == 8
    for _ in range(10):
        for queue in queues:
            queue.put(block(1.0))
    assert [len(queue) for queue in queues] == [2, 2, 2, 2]
    after = first.get(0.0)
    assert after is not None
    assert (after.dropped, after.discontinuity) == (18_000, True)
    for queue in queues[1:]:
        queue.stop()
    for _ in range(10):
        first.put(block(1.0))
    assert len(first) == 8


def test_a_file_waits_for_its_reader_and_loses_nothing(clock: Clock) -> None:
    queue = BlockQueue(paced=False, clock=clock)
    done = threading.Event()

    def produce() -> None:
        for number in range(20):
            queue.put(block(1.0, end_time=float(number)))
        done.set()

    threading.Thread(target=produce, daemon=True).start()
    times = []
    for number in range(20):
        # The producer is at most this far ahead, so it is not done before the last reads.
        assert number + READ_AHEAD_SECONDS >= 20 or not done.is_set()
        one = queue.get(LONGEST_WAIT_SECONDS)
        assert one is not None
        assert one.dropped == 0
        times.append(one.end_time)
    assert times == [float(number) for number in range(20)]
    assert done.wait(LONGEST_WAIT_SECONDS)


def test_a_burst_from_a_live_source_is_released_in_real_time(clock: Clock) -> None:
    queue = live_queue(clock, paced=True)
    began = clock.now
    for _ in range(5):
        queue.put(block(0.25, end_time=began))
    released = end_times(queue, clock, step=0.125, steps=10)
    assert released == [(began + 0.25 * number, began + 0.25 * number) for number in range(5)]


def test_a_block_is_not_released_before_it_has_arrived(clock: Clock) -> None:
    queue = live_queue(clock, paced=True)
    began = clock.now
    for arrival in (0.0, 0.5, 0.5):
        queue.put(block(0.125, end_time=began + arrival))
    released = end_times(queue, clock, step=0.125, steps=8)
    assert released == [(began + due, began + due) for due in (0.0, 0.5, 0.625)]


def test_dropped_audio_does_not_delay_the_rest(clock: Clock) -> None:
    queue = live_queue(clock, paced=True)
    began = clock.now
    queue.put(block(0.125, end_time=began))
    assert queue.get(0.0)
    for _ in range(round((MAX_BACKLOG_SECONDS + 2) / 0.5)):
        queue.put(block(0.5, end_time=began))
    # Two seconds were dropped; the next block is due two and a half seconds after the first one,
    # or a little earlier since there is a backlog.
    clock.now += 2.49
    assert queue.get(0.0) is None
    clock.now += 0.01
    after = queue.get(0.0)
    assert after is not None
    assert after.dropped == 2000
    assert after.end_time == pytest.approx(began + 2.5, abs=0.01)


def test_a_file_continues_from_now_after_the_process_was_suspended(clock: Clock) -> None:
    queue = BlockQueue(paced=True, clock=clock)
    began = clock.now
    queue.put(block(0.5, end_time=began))
    queue.put(block(0.5, end_time=began))
    assert queue.get(0.0)
    clock.now += 3600.0
    after = queue.get(0.0)
    assert after is not None
    assert after.end_time == pytest.approx(clock.now)


def test_a_suspended_file_continues_though_its_reader_needs_more_than_is_queued() -> None:
    clock = RunningClock()
    queue = BlockQueue(paced=True, clock=clock)
    began = clock.now
    for _ in range(4):
        queue.put(block(0.25, end_time=began))
    assert queue.get(0.0)
    clock.now += 20.0
    after = queue.get(0.0, 2.5)
    assert after is not None
    assert after.end_time == pytest.approx(clock.now)


def test_the_error_comes_after_the_last_block(clock: Clock) -> None:
    queue = BlockQueue(paced=False, clock=clock)
    queue.put(block(0.1))
    queue.end(SourceError("broken"))
    assert queue.get(0.0) is not None
    with pytest.raises(SourceError, match="broken"):
        queue.get(0.0)


def test_stopping_wakes_the_producer_and_the_reader() -> None:
    queue = BlockQueue(paced=False)
    queue.put(block(READ_AHEAD_SECONDS))
    producer = threading.Thread(target=queue.put, args=(block(1.0),), daemon=True)
    producer.start()
    queue.stop()
    producer.join(LONGEST_WAIT_SECONDS)
    assert not producer.is_alive()
    with pytest.raises(SourceEnded):
        queue.get(LONGEST_WAIT_SECONDS)


def test_an_error_caused_by_stopping_is_ignored(clock: Clock) -> None:
    queue = BlockQueue(paced=False, clock=clock)
    queue.stop()
    queue.end(SourceError("the connection was closed"))
    with pytest.raises(SourceEnded):
        queue.get(0.0)


def test_an_empty_queue_returns_none_after_the_timeout() -> None:
    assert BlockQueue(paced=True).get(0.01) is None


def test_blocks_that_are_due_are_joined_up_to_a_second_and_a_half(clock: Clock) -> None:
    queue = live_queue(clock, paced=True)
    long_ago = clock.now - 100.0
    for number in range(25):
        queue.put(block(0.1, end_time=long_ago + 0.1 * number))
    pieces = [queue.get(0.0) for _ in range(2)]
    assert [piece.seconds for piece in pieces if piece] == pytest.approx([1.4, 1.1])
    assert [piece.end_time for piece in pieces if piece] == pytest.approx(
        [long_ago + 1.3, long_ago + 2.4]
    )
    assert queue.get(0.0) is None


def test_blocks_are_not_joined_across_a_new_title_or_a_discontinuity(clock: Clock) -> None:
    queue = live_queue(clock, paced=True)
    plain = block(0.1, end_time=clock.now - 100.0)
    queue.put(plain)
    queue.put(dataclasses.replace(plain, title="Song"))
    queue.put(dataclasses.replace(plain, title="Song"))
    queue.put(dataclasses.replace(plain, title="Song", discontinuity=True))
    pieces = [queue.get(0.0) for _ in range(3)]
    assert [piece and (piece.title, piece.discontinuity) for piece in pieces] == [
        (None, False),
        ("Song", False),
        ("Song", True),
    ]
    assert [piece.seconds for piece in pieces if piece] == pytest.approx([0.1, 0.2, 0.1])


def test_a_reader_that_needs_a_second_is_given_it_at_once_when_it_is_due(clock: Clock) -> None:
    queue, began = played(clock, 15), clock.now
    read = threading.Thread(target=lambda: pieces.append(queue.get(3600.0, 1.0)), daemon=True)
    pieces: list[AudioBlock | None] = []
    clock.now = began + 0.9
    read.start()
    clock.now = began + 1.0
    queue.put(block(0.125, end_time=began))
    read.join(LONGEST_WAIT_SECONDS)
    assert [piece and (piece.seconds, piece.end_time) for piece in pieces] == [(1.0, began + 1.0)]


def test_a_reader_is_given_the_part_of_a_block_that_it_needs(clock: Clock) -> None:
    queue, began = BlockQueue(paced=True, clock=clock), clock.now
    sound = np.arange(1000, dtype=np.float32)[:, np.newaxis]
    for samples in np.split(sound, [100, 500]):
        queue.put(AudioBlock(samples, 1000, began))
    pieces = [queue.get(0.0)]
    clock.now = began + 0.249
    assert queue.get(0.0, 0.25) is None
    for due, needed in ((0.25, 0.25), (0.7, 0.45), (0.9, 0.2)):
        clock.now = began + due
        pieces.append(queue.get(0.0, needed))
    assert [piece and (len(piece.samples), piece.end_time) for piece in pieces] == [
        (100, began),
        (250, pytest.approx(began + 0.25)),
        (450, pytest.approx(began + 0.7)),
        (200, pytest.approx(began + 0.9)),
    ]
    np.testing.assert_array_equal(
        np.concatenate([piece.samples for piece in pieces if piece]), sound
    )


def test_what_is_left_of_a_divided_block_fills_the_queue(clock: Clock) -> None:
    queue = BlockQueue(paced=True, clock=clock)
    queue.put(block(0.1, end_time=clock.now))
    assert queue.get(0.0)
    queue.put(block(READ_AHEAD_SECONDS + 0.5, end_time=clock.now))
    for _ in range(3):
        clock.now += 0.4
        assert queue.is_full
        assert queue.get(0.0, 0.4)
    clock.now += 0.2
    assert not queue.is_full


def test_what_is_read_of_a_divided_block_is_not_kept_in_memory(clock: Clock) -> None:
    queue = BlockQueue(paced=True, clock=clock)
    queue.put(block(0.1, end_time=clock.now))
    assert queue.get(0.0)
    divided = block(0.5, end_time=clock.now)
    samples = weakref.ref(divided.samples)
    queue.put(divided)
    del divided
    clock.now += 0.4
    assert queue.get(0.0, 0.4)
    assert len(queue) == 1
    assert samples() is None


def test_a_block_that_arrived_late_is_not_divided(clock: Clock) -> None:
    queue = live_queue(clock, paced=True)
    queue.put(block(0.125, end_time=clock.now))
    assert queue.get(0.0)
    clock.now += 0.0625
    queue.put(block(0.125, end_time=clock.now))
    assert queue.get(0.0, 0.0625) is None
    clock.now += 0.0625
    piece = queue.get(0.0, 0.0625)
    assert piece is not None
    assert (piece.seconds, piece.end_time) == (0.125, clock.now)


def test_after_the_timeout_a_reader_is_given_what_is_due_though_it_needs_more(clock: Clock) -> None:
    queue = played(clock, 3)
    clock.now += 0.3
    piece = queue.get(0.0, 1.0)
    assert piece is not None
    assert piece.seconds == 0.25
    assert queue.get(0.0, 1.0) is None


def test_the_rest_of_a_source_is_not_waited_for_when_nothing_follows(clock: Clock) -> None:
    queue = live_queue(clock, paced=True)
    queue.put(block(0.125, end_time=clock.now))
    queue.put(block(0.125, end_time=clock.now))
    queue.end(SourceEnded())
    clock.now += 0.125
    rest = queue.get(3600.0, 1.0)
    assert rest is not None
    assert rest.seconds == 0.25
    with pytest.raises(SourceEnded):
        queue.get(3600.0, 1.0)


def test_a_full_queue_is_filled_again_only_when_half_of_it_was_read(clock: Clock) -> None:
    queue = BlockQueue(paced=False, clock=clock)
    for _ in range(4):
        queue.put(block(READ_AHEAD_SECONDS / 4))
    has_room = threading.Event()

    def wait() -> None:
        queue.wait_for_room()
        has_room.set()

    assert queue.is_full
    threading.Thread(target=wait, daemon=True).start()
    wait_until(lambda: queue._refill._waiters, "a producer that waits")  # type: ignore[attr-defined]
    assert queue.get(0.0)
    assert not queue.is_full
    assert not has_room.is_set()
    assert queue.get(0.0)
    assert has_room.wait(LONGEST_WAIT_SECONDS)


def wait_for_room(queue: BlockQueue) -> threading.Event:
    """Let a producer wait until there is room; return what is set then."""
    has_room = threading.Event()

    def wait() -> None:
        queue.wait_for_room()
        has_room.set()

    threading.Thread(target=wait, daemon=True).start()
    wait_until(lambda: queue._refill._waiters, "a producer that waits")  # type: ignore[attr-defined]
    return has_room


def test_what_a_reader_needs_is_produced_shortly_before(clock: Clock) -> None:
    queue = BlockQueue(paced=True, clock=clock)
    queue.put(block(0.25, end_time=clock.now))
    assert queue.get(0.0)
    for _ in range(4):
        queue.put(block(0.25, end_time=clock.now))
    assert queue.get(0.0, 1.0) is None
    clock.now += 1.0
    assert queue.get(0.0, 1.0)
    # Nothing is left, but the next second is needed a second later.
    assert queue.is_full
    has_room = wait_for_room(queue)
    assert queue.get(0.0, 1.0) is None
    clock.now += 0.5
    assert queue.is_full
    assert not has_room.is_set()
    clock.now += 0.25
    assert not queue.is_full
    assert has_room.wait(LONGEST_WAIT_SECONDS)  # though nobody reads


def test_a_file_is_not_played_more_slowly_by_what_comes_shortly_before_it_is_needed(
    clock: Clock,
) -> None:
    queue = BlockQueue(paced=True, clock=clock)
    began = clock.now
    queue.put(block(0.27, end_time=began))
    assert queue.get(0.0)
    for second in range(1, 10):
        assert queue.get(0.0, 1.0) is None
        clock.now = began + second - 0.2
        while not queue.is_full:
            queue.put(block(0.27, end_time=clock.now))
        clock.now = began + second
        one = queue.get(0.0, 1.0)
        assert one is not None
        assert one.seconds == pytest.approx(1.0)
        assert one.end_time == pytest.approx(began + second)


def test_a_file_is_played_more_slowly_by_what_comes_after_it_is_needed(clock: Clock) -> None:
    queue = BlockQueue(paced=True, clock=clock)
    queue.put(block(0.25, end_time=clock.now))
    assert queue.get(0.0)
    assert queue.get(0.0, 0.5) is None
    clock.now += 2.0
    queue.put(block(0.5, end_time=clock.now))
    one = queue.get(0.0, 0.5)
    assert one is not None
    assert one.end_time == clock.now


def test_a_reader_that_needs_sound_sooner_than_before_wakes_the_producer(clock: Clock) -> None:
    queue = BlockQueue(paced=True, clock=clock)
    queue.put(block(0.25, end_time=clock.now))
    assert queue.get(0.0, 1.5)
    has_room = wait_for_room(queue)
    assert queue.get(0.0, 0.2) is None
    assert has_room.wait(LONGEST_WAIT_SECONDS)


def test_what_a_reader_with_short_hops_needs_is_there_long_before(clock: Clock) -> None:
    queue = BlockQueue(paced=True, clock=clock)
    queue.put(block(0.1, end_time=clock.now))
    assert queue.get(0.0, 0.05)
    queue.put(block(0.1, end_time=clock.now))
    assert not queue.is_full
    queue.put(block(0.3, end_time=clock.now))
    assert queue.is_full
