"""Segments in clock time, put together from the frames of the protocol.

Frames tell positions: seconds of sound since the source's first sample. A live source that was cut
off for a while goes on counting where it stopped, so every prediction sets the source's clock anew.
A source that is started again, after a fault or with other settings, counts from zero.

When the clock is set, what may still change moves with it: nothing was heard in the time that it
skips. A machine that slept is another matter, a pause like any other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from streamer.sinks.messages import timestamp

LEAST_STEP_SECONDS = 0.5
"""Less than this is no setting of the clock, but two clocks that were not read at one moment."""


@dataclass(slots=True)
class Stretch:
    """A segment in clock time."""

    source: str
    number: int
    """Unique within the source, unlike the `id` of a frame: that begins again with the source."""
    start: datetime
    end: datetime
    """While it is open, when it was last heard."""
    is_open: bool
    """Whether its end is still to come."""
    final: bool
    """Whether it can no longer change."""
    segment: Mapping[str, Any]
    """The last frame about it."""

    def to_dict(self) -> dict[str, Any]:
        """Return what the HTTP pages tell of a segment."""
        return {
            "source": self.source,
            "start": timestamp(self.start),
            "end": None if self.is_open else timestamp(self.end),
            "state": self.segment["state"],
            "genre": self.segment["genre"],
            "confidence": self.segment["confidence"],
            "title": self.segment["title"],
        }


@dataclass(slots=True)
class _SourceTimeline:
    """The clock of one source, and its segments that may still change."""

    zero: datetime | None = None
    """When position 0 was, if there had been no pause."""
    position: float = 0.0
    """Of the last prediction."""
    zero_before: datetime | None = None
    """The same as `zero` before the last prediction: what was heard until then keeps its time."""
    position_before: float = -1.0
    """Of the prediction before the last."""
    earlier: int = 0
    """Segments before the source was last started again."""
    highest: int = 0
    live: dict[int, Stretch] = field(default_factory=dict)

    def hear(self, position: float, heard: datetime) -> None:
        self.position_before, self.zero_before = self.position, self.zero
        self.position, self.zero = position, heard - timedelta(seconds=position)

    def move(self, step: timedelta) -> None:
        """Let all that may still change be later, because the clock was set."""
        if self.zero is not None:
            self.zero += step
        if self.zero_before is not None:
            self.zero_before += step
        for stretch in self.live.values():
            stretch.start += step
            stretch.end += step

    def began_at(self, position: float) -> datetime:
        """Return when a position was heard; if there was a pause at it, after the pause."""
        since_zero = timedelta(seconds=position)
        if self.zero is None:
            self.zero = datetime.now(UTC) - since_zero
        if self.zero_before is not None and position < self.position_before:
            return self.zero_before + since_zero
        return self.zero + since_zero

    def ended_at(self, position: float) -> datetime:
        """Return when a position was heard; if there was a pause at it, before the pause."""
        if self.zero_before is not None and position == self.position_before:
            return self.zero_before + timedelta(seconds=position)
        return self.began_at(position)


class Timeline:
    """The segments of all sources that may still change, in clock time."""

    def __init__(self) -> None:
        self._sources: dict[str, _SourceTimeline] = {}
        self._offset: float | None = None

    def hear(self, prediction: Mapping[str, Any], offset: float | None = None) -> list[Stretch]:
        """Take a prediction; return the segments that it makes longer or, rarely, cuts off.

        Parameters
        ----------
        prediction
            The frame.
        offset
            What `clock_offset` was when the frame was made, in seconds; None: as it is now.
        """
        self._follow_clock(clock_offset() if offset is None else offset)
        name, position = prediction["source"], prediction["position"]
        cut = self.cut_off(name) if position < self._of(name).position else []
        source = self._of(name)
        heard = datetime.fromisoformat(prediction["time"])
        source.hear(position, heard)
        longer = [stretch for stretch in source.live.values() if stretch.is_open]
        for stretch in longer:
            stretch.end = max(stretch.start, heard)
        return cut + longer

    def place(self, segment: Mapping[str, Any]) -> Stretch:
        """Take a segment frame; return the segment in clock time."""
        source = self._of(segment["source"])
        number = source.earlier + segment["id"]
        known = source.live.pop(number, None)
        if known is not None and known.segment["start"] == segment["start"]:
            start = known.start
        else:
            start = source.began_at(segment["start"])
        is_open = segment["end"] is None
        last = max(source.position, segment["start"]) if is_open else segment["end"]
        end = source.ended_at(last)
        stretch = Stretch(
            segment["source"], number, start, max(start, end), is_open, segment["final"], segment
        )
        source.highest = max(source.highest, number)
        if not stretch.final:
            source.live[number] = stretch
        return stretch

    def live(self, source: str) -> list[Stretch]:
        """Return the segments of a source that may still change, oldest first."""
        return sorted(self._of(source).live.values(), key=lambda stretch: stretch.number)

    def cut_off(self, source: str) -> list[Stretch]:
        """Begin a source again; return the segments that it did not end."""
        cut = self.live(source)
        for stretch in cut:
            stretch.is_open, stretch.final = False, True
        highest = self._of(source).highest
        self._sources[source] = _SourceTimeline(earlier=highest, highest=highest)
        return cut

    def _follow_clock(self, offset: float) -> None:
        """Move what may still change if the clock was set since the last prediction."""
        step = 0.0 if self._offset is None else offset - self._offset
        if self._offset is None or abs(step) >= LEAST_STEP_SECONDS:
            self._offset = offset
            for source in self._sources.values():
                source.move(timedelta(seconds=step))

    def _of(self, source: str) -> _SourceTimeline:
        return self._sources.setdefault(source, _SourceTimeline())


def clock_offset() -> float:
    """Return by how many seconds the clock is ahead of one that nobody sets.

    That one goes on while the machine sleeps, so this changes when the clock is set, and only then.
    """
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
