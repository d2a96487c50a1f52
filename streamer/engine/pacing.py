"""The hop of a source: as configured, or longer while the machine cannot keep up."""

from __future__ import annotations

from collections import deque
from statistics import fmean, median

FULL = 0.9
"""The hop grows when the work fills more than this share of it."""
FULL_WHILE_BEHIND = 0.5
"""The same while there is a backlog to work off."""
TARGET = 0.7
"""Share of the hop that the work fills after a change."""
TARGET_WHILE_BEHIND = 0.4
"""The same while there is a backlog; below `FULL_WHILE_BEHIND`, so that the hop settles."""
IDLE = 0.4
"""The hop shrinks when the work fills less than this share of it."""
MEASURED_DECISIONS = 5
"""Number of decisions over which the work is measured."""
LONGEST_HOP_SECONDS = 30.0
BACKLOG_SECONDS = 5.0
"""A source that is later than this (and than three hops) has a backlog."""


class HopPacing:
    """Measures the work of one source and chooses a hop that it fits into; uses no clock.

    `shortest` is the hop to use while the machine keeps up, in seconds.
    """

    def __init__(self, shortest: float) -> None:
        self.hop_seconds = self.shortest = shortest
        self.work_seconds: float | None = None
        """Work of one decision: the mean of the last ones without the longest, so that, summed over
        many sources, frequent long decisions count, but not single ones. None at first."""
        self._work: deque[float] = deque(maxlen=MEASURED_DECISIONS)

    def record(self, work: float) -> None:
        """Record how many seconds a decision and the audio before it took, without waiting."""
        self._work.append(work)
        if len(self._work) > 1:  # the first decision may set things up
            self.work_seconds = fmean(sorted(self._work)[:-1])

    def adjust(self, lag: float, round_seconds: float = 0.0) -> float:
        """Return the hop to use from now on.

        `lag` is the time in seconds since the last sample that was decided about. `round_seconds`
        is that of `Scheduler`; it counts at once, since a single hiccup hardly changes a sum over
        many sources, while of the source's own work the median counts.
        """
        measured = len(self._work) == MEASURED_DECISIONS
        work = max(median(self._work) if measured else 0.0, round_seconds)
        behind = lag > max(BACKLOG_SECONDS, 3 * self.hop_seconds)
        full, target = (FULL_WHILE_BEHIND, TARGET_WHILE_BEHIND) if behind else (FULL, TARGET)
        if work > full * self.hop_seconds:
            self._change(max(work / target, self.hop_seconds))
        elif measured and work < IDLE * self.hop_seconds and not behind:
            self._change(max(work / TARGET, self.hop_seconds / 2))
        return self.hop_seconds

    def _change(self, hop_seconds: float) -> None:
        hop_seconds = min(max(hop_seconds, self.shortest), LONGEST_HOP_SECONDS)
        if hop_seconds != self.hop_seconds:
            self.hop_seconds = hop_seconds
            self._work.clear()  # a decision about a hop of another length takes other work
