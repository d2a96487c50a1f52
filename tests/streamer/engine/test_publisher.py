from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from streamer.core.decision import Decision
from streamer.core.events import (
    PlacedSegment,
    Published,
    Sink,
    SourceKind,
    SourceState,
    SourceStatus,
    SpectrogramColumns,
)
from streamer.core.segments import Segment, State
from streamer.engine.listener import PipelineEvent
from streamer.engine.publisher import Clock, Publisher

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


class FakeClock(Clock):
    """A clock that stands still."""

    time = NOON
    seconds = 1000.0
    ahead = 0.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds

    def offset(self) -> float:
        return self.ahead


class Recorder(Sink):
    """Keeps every call."""

    def __init__(self) -> None:
        self.published: list[Published] = []
        self.sources: list[tuple[str, str]] = []
        self.ended: list[PlacedSegment] = []

    def publish(self, published: Published) -> None:
        self.published.append(published)

    def add_source(self, name: str, kind: SourceKind) -> None:
        self.sources.append((name, kind))

    def remove_source(self, name: str, segments: Sequence[PlacedSegment]) -> None:
        self.sources.remove((name, "media"))
        self.ended += segments


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def publisher(clock: FakeClock, recorder: Recorder) -> Publisher:
    return Publisher([recorder, Recorder()], clock)


def decision(position: float, source: str = "radio", end_time: float = 1000.0) -> PipelineEvent:
    shares = {"blues": 0.25, "jazz": 0.75}
    event = Decision(position, 1.0, State.MUSIC, "jazz", 0.75, shares, shares, -20.0)
    return PipelineEvent(source, event, end_time)


SEGMENT = Segment(1, 0.0, None, State.MUSIC, "jazz", 0.75, None, False)


def test_decisions_are_numbered_within_their_source(
    publisher: Publisher, recorder: Recorder
) -> None:
    for position, source in enumerate(("radio", "radio", "hall", "radio")):
        publisher.publish(decision(position, source))
    assert [(each.source, each.sequence) for each in recorder.published] == [
        ("radio", 0),
        ("radio", 1),
        ("hall", 0),
        ("radio", 2),
    ]


def test_an_event_carries_the_time_since_its_last_sample(
    publisher: Publisher, clock: FakeClock
) -> None:
    clock.seconds = 1000.25
    assert publisher.publish(decision(3.0)).latency == 0.25


def test_times_are_in_whole_milliseconds(publisher: Publisher, clock: FakeClock) -> None:
    clock.time = NOON + timedelta(microseconds=1999)
    assert publisher.publish(decision(3.0)).time == NOON + timedelta(milliseconds=1)


def test_each_event_has_the_type_of_its_message(publisher: Publisher) -> None:
    columns = SpectrogramColumns(3.0, np.zeros((2, 4), np.uint8))
    events = [
        decision(3.0),
        PipelineEvent("radio", SEGMENT, 0.0),
        PipelineEvent("radio", columns, 0.0),
        SourceStatus("radio", "media", SourceState.STALLED, "no sound"),
    ]
    types = [publisher.publish(event).type for event in events]
    assert types == ["prediction", "segment", "spectrogram", "source"]


def test_segments_are_placed_in_clock_time_and_follow_the_clock(
    publisher: Publisher, clock: FakeClock
) -> None:
    publisher.publish(decision(10.0))
    (placed,) = publisher.publish(PipelineEvent("radio", SEGMENT, 0.0)).segments
    assert (placed.start, placed.end) == (NOON - timedelta(seconds=10), NOON)
    clock.time, clock.ahead = NOON + timedelta(days=1, seconds=1), 86_400.0
    (moved,) = publisher.publish(decision(11.0)).segments
    assert moved.end - moved.start == timedelta(seconds=11)


def status(state: SourceState, reason: str = "", since: float | None = None) -> SourceStatus:
    return SourceStatus("radio", "media", state, f"{reason}; next attempt", reason, since)


def test_a_state_that_is_noticed_late_is_placed_where_it_began(
    publisher: Publisher, clock: FakeClock
) -> None:
    publisher.publish(status(SourceState.LIVE, since=1000.0))
    publisher.publish(decision(10.0))
    publisher.publish(PipelineEvent("radio", SEGMENT, 0.0))
    clock.time, clock.seconds = NOON + timedelta(seconds=13.5), 1013.5
    published = publisher.publish(status(SourceState.STALLED, "no audio", since=1010.25))
    assert published.latency == 3.25
    off = NOON + timedelta(seconds=10.25)
    live, stalled = published.states
    assert (live.start, live.end, live.is_open, live.state) == (NOON, off, False, "live")
    assert (stalled.start, stalled.end, stalled.is_open) == (off, clock.time, True)
    assert (stalled.number, stalled.state, stalled.reason) == (2, "stalled", "no audio")
    (segment,) = published.segments
    assert (segment.end, segment.is_open) == (off, False)


def test_a_state_with_another_detail_goes_on(publisher: Publisher, clock: FakeClock) -> None:
    publisher.publish(status(SourceState.RECONNECTING, "refused"))
    clock.time = NOON + timedelta(seconds=4)
    (same,) = publisher.publish(status(SourceState.RECONNECTING, "refused")).states
    assert (same.number, same.start, same.end, same.is_open) == (1, NOON, clock.time, True)
    (ended,) = publisher.publish(status(SourceState.ENDED)).states
    assert (ended.number, ended.end, ended.is_open) == (1, clock.time, False)
    assert publisher.publish(status(SourceState.ENDED)).states == ()


def test_an_outage_moves_with_the_system_clock(publisher: Publisher, clock: FakeClock) -> None:
    publisher.publish(status(SourceState.FAILED, "gone"))
    clock.time, clock.ahead = NOON + timedelta(hours=1, seconds=1), 3600.0
    (moved,) = publisher.publish(decision(10.0, "hall")).states
    assert (moved.source, moved.start) == ("radio", NOON + timedelta(hours=1))


def test_a_source_that_failed_ends_when_it_is_removed(
    publisher: Publisher, recorder: Recorder
) -> None:
    publisher.add_source("radio", "media")
    publisher.publish(status(SourceState.FAILED, "gone"))
    publisher.remove_source("radio")
    assert recorder.published[-1].event == SourceStatus("radio", "media", SourceState.ENDED, "")
    assert [placed.is_open for placed in recorder.published[-1].states] == [False]


def test_removing_a_source_ends_its_segments_for_every_sink(
    publisher: Publisher, recorder: Recorder
) -> None:
    publisher.add_source("radio", "media")
    publisher.publish(decision(10.0))
    publisher.publish(PipelineEvent("radio", SEGMENT, 0.0))
    assert recorder.sources == [("radio", "media")]
    publisher.remove_source("radio")
    assert recorder.sources == []
    assert [(each.number, each.is_open, each.final) for each in recorder.ended] == [
        (1, False, True)
    ]


def test_the_clocks_offset_changes_when_the_clock_is_set_and_not_in_suspend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall, clocks = [1e9], {time.CLOCK_BOOTTIME: 500.0}
    monkeypatch.setattr(time, "time", lambda: wall[0])
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    before = Clock().offset()
    wall[0] += 3600
    clocks[time.CLOCK_BOOTTIME] += 3600
    assert Clock().offset() == before
    wall[0] += 86_400
    assert Clock().offset() == before + 86_400
