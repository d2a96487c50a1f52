"""Segments in clock time, from the positions that decisions and segments carry.

A position is the duration of sound since the source's first sample. A live source that is
interrupted continues counting where it stopped, so every decision sets the source's time of
position 0 anew. A source that is restarted, after a fault or with other settings, counts from zero.

When the system clock is set, segments that may still change move with it, since no sound belongs to
the time that the clock skipped. The time that a machine was suspended is a pause instead.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from streamer.core.decision import Decision
from streamer.core.events import PlacedSegment
from streamer.core.segments import Segment

MIN_CLOCK_STEP_SECONDS = 0.5
"""A smaller change of the clock's offset comes from reading two clocks one after the other."""


class ClockSteps:
    """Detects that the system clock was set, from how far it is ahead of one that never is."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def step(self, offset: float) -> timedelta | None:
        """Take the offset in seconds; return by how much the clock was set, None if it was not."""
        before = offset if self._offset is None else self._offset
        if self._offset is not None and abs(offset - before) < MIN_CLOCK_STEP_SECONDS:
            return None
        self._offset = offset
        return timedelta(seconds=offset - before) or None


@dataclass(slots=True)
class _SourceTimeline:
    """The time of one source's position 0, and its segments that may still change."""

    zero: datetime | None = None
    """When position 0 would have been, had there been no pause; None before the first decision."""
    position: float = 0.0
    """Of the latest decision, in seconds."""
    previous_zero: datetime | None = None
    """`zero` before the latest decision; it holds for positions before that decision's hop."""
    previous_position: float = -1.0
    """Of the decision before the latest, in seconds."""
    sound_end: datetime | None = None
    """When the sound ended, until a decision after the interruption."""
    sound_end_in_hop: datetime | None = None
    """When the sound ended within the hop of the latest decision, None if it did not."""
    id_offset: int = 0
    """Number of the last segment before the source was restarted."""
    last_number: int = 0
    live: dict[int, PlacedSegment] = field(default_factory=dict)

    def decide(self, position: float, time: datetime) -> list[PlacedSegment]:
        """Set the clock by a decision; return the open segments, which it lengthens."""
        self.previous_position, self.previous_zero = self.position, self.zero
        self.position, self.zero = position, time - timedelta(seconds=position)
        self.sound_end_in_hop, self.sound_end = self.sound_end, None
        longer = [
            replace(placed, end=max(placed.start, time))
            for placed in self.live.values()
            if placed.is_open
        ]
        self.live.update((placed.number, placed) for placed in longer)
        return longer

    def interrupt(self, time: datetime) -> list[PlacedSegment]:
        """End the open segments at `time`; return them."""
        if self.sound_end is None:
            self.sound_end = time
        ended = [
            replace(placed, end=max(placed.start, time), is_open=False)
            for placed in self.live.values()
            if placed.is_open
        ]
        self.live.update((placed.number, placed) for placed in ended)
        return ended

    def place(self, source: str, segment: Segment, time: datetime) -> PlacedSegment:
        """Return a segment in clock time; it replaces its earlier revision."""
        start_position = _whole_ms(segment.start)
        if self.zero is None:
            self.zero = time - timedelta(seconds=start_position)
        number = self.id_offset + segment.id
        end_position = max(self.position, start_position)
        if segment.end is not None:
            end_position = _whole_ms(segment.end)
        # What starts where there was a pause starts after it; what ends there ends before it.
        start = self._time_of(start_position, start_position < self.previous_position)
        end = self._time_of(end_position, end_position <= self.previous_position)
        if self.sound_end_in_hop and end_position < self.position:
            # A decision may have come long after the sound that it is about.
            before = self._time_of(end_position, True)
            end = min(before, self.sound_end_in_hop)
        elif self.sound_end and segment.end is not None:
            end = min(end, self.sound_end)
        known = self.live.pop(number, None)
        if known is not None and _whole_ms(known.segment.start) == start_position:
            start = known.start
        placed = PlacedSegment(
            source, number, start, max(start, end), segment.end is None, segment.final, segment
        )
        self.last_number = max(self.last_number, number)
        if not placed.final:
            self.live[number] = placed
        return placed

    def move(self, step: timedelta) -> list[PlacedSegment]:
        """Follow a step of the system clock; return the segments that moved."""
        if self.zero is not None:
            self.zero += step
        if self.sound_end is not None:
            self.sound_end += step
        if self.sound_end_in_hop is not None:
            self.sound_end_in_hop += step
        if self.previous_zero is not None:
            self.previous_zero += step
        for number, placed in self.live.items():
            self.live[number] = replace(placed, start=placed.start + step, end=placed.end + step)
        return list(self.live.values())

    def _time_of(self, position: float, before_pause: bool) -> datetime:
        zero = self.previous_zero if before_pause and self.previous_zero else self.zero
        assert zero is not None
        return zero + timedelta(seconds=position)


class Timeline:
    """The segments of all sources that may still change, in clock time."""

    def __init__(self) -> None:
        self._sources: defaultdict[str, _SourceTimeline] = defaultdict(_SourceTimeline)
        self._clock = ClockSteps()

    def update(
        self, source: str, event: Decision | Segment, time: datetime, clock_offset: float
    ) -> tuple[PlacedSegment, ...]:
        """Take the next event of a source, emitted at `time` (with a time zone).

        `clock_offset` is by how many seconds the system clock is ahead of one that is never set and
        keeps counting while the machine is suspended. Returns the segments that moved with the
        system clock, then those that the event begins, changes, lengthens or, when the source was
        restarted, cuts off.
        """
        moved = self._follow_clock(clock_offset)
        changed: list[PlacedSegment] = []
        if isinstance(event, Decision):
            position = _whole_ms(event.position)
            if position < self._sources[source].position:
                changed += self.cut_off(source)
            changed += self._sources[source].decide(position, time)
        else:
            changed.append(self._sources[source].place(source, event, time))
        keys = {(placed.source, placed.number) for placed in changed}
        return (*(each for each in moved if (each.source, each.number) not in keys), *changed)

    def interrupt(self, source: str, time: datetime) -> tuple[PlacedSegment, ...]:
        """End the open segments of a source whose sound ended at `time`; return them.

        They may still change, and remain ended when the sound continues.
        """
        return tuple(self._sources[source].interrupt(time))

    def cut_off(self, source: str) -> tuple[PlacedSegment, ...]:
        """Restart a source; return the segments that it did not end, which are final now."""
        ended = self._sources[source]
        number = ended.last_number
        self._sources[source] = _SourceTimeline(id_offset=number, last_number=number)
        return tuple(
            replace(placed, is_open=False, final=True) for _, placed in sorted(ended.live.items())
        )

    def _follow_clock(self, offset: float) -> list[PlacedSegment]:
        if not (step := self._clock.step(offset)):
            return []
        return [placed for source in self._sources.values() for placed in source.move(step)]


def _whole_ms(seconds: float) -> float:
    """Round a position, since one boundary may come from different floating-point sums."""
    return round(seconds, 3)
