"""Numbers the events of all listeners, places their segments in clock time, and feeds the sinks."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from streamer.core.decision import Decision
from streamer.core.events import (
    PlacedSegment,
    PlacedState,
    Published,
    Sink,
    SourceKind,
    SourceState,
    SourceStatus,
    SpectrogramColumns,
)
from streamer.core.source_states import SourceStates
from streamer.core.timeline import Timeline
from streamer.engine.listener import ListenerEvent


class Clock:
    """The clocks of the system; tests replace it."""

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return `time.monotonic()`, in seconds."""
        return time.monotonic()

    def offset(self) -> float:
        """Return by how many seconds the system clock is ahead of one that is never set.

        It changes only when the system clock is set, not while the machine is suspended.
        """
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class Publisher:
    """Publishes the events of all sources to every sink; to be used by one thread at a time."""

    def __init__(self, sinks: Iterable[Sink], clock: Clock | None = None) -> None:
        self._sinks = tuple(sinks)
        self._clock = clock or Clock()
        self._timeline = Timeline()
        self._states = SourceStates()
        self._decisions: defaultdict[str, int] = defaultdict(int)

    def publish(self, event: ListenerEvent, *, sequence: int | None = None) -> Published:
        """Hand an event of a listener to every sink, and return it as they get it.

        `sequence` is the number of a decision that was counted elsewhere.
        """
        now = self._clock.now()
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)
        if sequence is None:
            sequence = self._decisions[event.source]
        offset = self._clock.offset()
        states = self._states.follow_clock(offset)
        if isinstance(event, SourceStatus):
            latency = 0.0 if event.since is None else self._clock.monotonic() - event.since
            segments, changed = self._change_state(event, now, latency)
            states = (*(each for each in states if each.source != event.source), *changed)
            published = Published(event.source, sequence, now, latency, event, segments, states)
        else:
            latency = self._clock.monotonic() - event.end_time
            segments = (
                ()
                if isinstance(event.event, SpectrogramColumns)
                else self._timeline.update(event.source, event.event, now, offset)
            )
            published = Published(
                event.source, sequence, now, latency, event.event, segments, states
            )
            self._decisions[event.source] += isinstance(event.event, Decision)
        for sink in self._sinks:
            sink.publish(published)
        return published

    def _change_state(
        self, status: SourceStatus, now: datetime, latency: float
    ) -> tuple[tuple[PlacedSegment, ...], tuple[PlacedState, ...]]:
        """Return the segments that end with a state, and the stretches of states that change."""
        since = now - timedelta(milliseconds=round(latency * 1000))
        segments: tuple[PlacedSegment, ...] = ()
        if status.state is not SourceState.LIVE:
            segments = self._timeline.interrupt(status.source, since)
        return segments, self._states.change(status, since, now)

    def add_source(self, name: str, kind: SourceKind) -> None:
        """Announce a source that is new, or is started again with other settings."""
        for sink in self._sinks:
            sink.add_source(name, kind)

    def remove_source(self, name: str) -> None:
        """Announce that a source is gone; its numbering continues if it comes back.

        Of a source that had failed, whose listener emits nothing more, this is also the end.
        """
        if (kind := self._states.kind(name)) is not None:
            self.publish(SourceStatus(name, kind, SourceState.ENDED, ""))
        segments = self._timeline.cut_off(name)
        for sink in self._sinks:
            sink.remove_source(name, segments)
