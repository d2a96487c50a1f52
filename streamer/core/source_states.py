"""The states of sources in clock time: what a history needs to say when a source was off."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import datetime

from streamer.core.events import PlacedState, SourceKind, SourceState, SourceStatus
from streamer.core.timeline import ClockSteps


class SourceStates:
    """The state that each source is in, since when.

    When the system clock is set, stretches that have not ended move with it, as segments do.
    """

    def __init__(self) -> None:
        self._open: dict[str, PlacedState] = {}
        self._kinds: dict[str, SourceKind] = {}
        self._numbers: defaultdict[str, int] = defaultdict(int)
        self._clock = ClockSteps()

    def change(
        self, status: SourceStatus, since: datetime, time: datetime
    ) -> tuple[PlacedState, ...]:
        """Take a status, emitted at `time`, whose state began at `since`.

        Returns the stretch that it ends, and the one that it begins or lengthens. A state with the
        same reason as before continues; nothing follows on the end of a source.
        """
        known = self._open.get(status.source)
        self._kinds[status.source] = status.kind
        if known and (known.state, known.reason) == (status.state, status.reason):
            self._open[status.source] = replace(known, end=max(known.end, time))
            return (self._open[status.source],)
        changed = []
        if known:
            since = max(since, known.start)
            changed.append(replace(known, end=since, is_open=False))
        if status.state is SourceState.ENDED:
            self._open.pop(status.source, None)
            return tuple(changed)
        self._numbers[status.source] += 1
        begun = PlacedState(
            status.source,
            self._numbers[status.source],
            since,
            max(since, time),
            True,
            status.state,
            status.reason,
        )
        self._open[status.source] = begun
        return (*changed, begun)

    def kind(self, source: str) -> SourceKind | None:
        """Return the kind of a source that has not ended, None if it has."""
        return self._kinds[source] if source in self._open else None

    def follow_clock(self, offset: float) -> tuple[PlacedState, ...]:
        """Take by how many seconds the system clock is ahead; return the stretches that moved."""
        step = self._clock.step(offset)
        if not step:
            return ()
        for source, placed in self._open.items():
            self._open[source] = replace(placed, start=placed.start + step, end=placed.end + step)
        return tuple(self._open.values())
