"""The hop and the effort of a source: as configured, or less while the machine cannot keep up."""

from __future__ import annotations

from collections import deque
from statistics import fmean, median

from streamer.core.decision_settings import Effort

FULL = 0.9
"""The hop grows when the work fills more than this share of it."""
FULL_WHILE_BEHIND = 0.5
"""The same while there is a backlog to work off."""
TARGET = 0.7
"""Share of the hop that the work fills after a change."""
TARGET_WHILE_BEHIND = 0.4
"""The same while there is a backlog; below `FULL_WHILE_BEHIND`, so that the hop settles."""
FITS_AGAIN = 0.85
"""The hop becomes the shortest one again when the work fills less than this share of that one."""
IDLE = 0.4
"""The hop shrinks when the work fills less than this share of it."""
IDLE_WHILE_SAVING = 0.2
"""The effort is full again when the work fills less than this share of the hop: of four windows at
least one is classified, so that with all four the work still fits."""
MEASURED_DECISIONS = 5
"""Number of decisions over which the work is measured."""
MEASURED_WHILE_SAVING = 20
"""The same with the effort "saving", where one decision takes much more work than the next."""
EXPECTED_SHARE = 0.5
"""Share of the work that "saving" is expected to leave, until it is measured."""
FIRST_DECISIONS = 10
"""Decisions with the effort "saving" after which its work is measured: the first windows of a
source cannot be repeated."""
SETTLING_DECISIONS = 10
"""Decisions after a change of the effort during which neither it nor the hop changes again."""
TRIAL_DECISIONS = 20
"""Decisions at a hop that has grown after which the shortest one is tried with the effort "saving",
if it may fit: in longer hops fewer windows can be repeated. Twice as many after each trial."""
LONGEST_HOP_SECONDS = 30.0
LATE_HOPS = 4.0
"""How far decisions fall behind, in hops, until it is certain that the machine is too slow, however
little the work may seem: other programs may have the processors."""
LATE_DECISIONS = 40
"""Decisions in which they have to fall behind so far."""
BACKLOG_SECONDS = 5.0
"""A source that is later than this (and than three hops) has a backlog."""


class HopPacing:
    """Measures the work of one source and chooses a hop that it fits into; uses no clock.

    `shortest` is the hop to use while the machine keeps up, in seconds. Where the `effort` is None
    it is chosen, too: `first` to begin with, "full" while the work fits. The hop grows only after
    the effort is "saving".
    """

    def __init__(
        self, shortest: float, effort: Effort | None = "full", *, first: Effort = "full"
    ) -> None:
        self.hop_seconds = self.shortest = shortest
        self.effort: Effort = effort or first
        self._may_save = effort is None
        self._settling = 0
        """Decisions after which the work of all sources is what effort and hop make it."""
        self._until_trial = self._trial_decisions = TRIAL_DECISIONS
        self._unmeasured = FIRST_DECISIONS if self.effort == "saving" else 0
        """Decisions after which the work of "saving" is measured."""
        self.work_seconds: float | None = None
        """Work of one decision: the mean of the last ones without the longest, so that, summed over
        many sources, frequent long decisions count, but not single ones. None at first, and what
        "saving" is expected to leave until it is measured."""
        self._late: deque[float] = deque(maxlen=LATE_DECISIONS)
        """By how much longer than a hop each decision took, since none waited for less than one."""
        self._was_late = False
        """Whether the hop grew for that reason, which the work does not tell."""
        self._begin()

    def record(self, work: float) -> None:
        """Record how many seconds a decision and the audio before it took, without waiting."""
        self._work.append(work)
        if len(self._work) > 1:  # the first decision may set things up
            share = EXPECTED_SHARE if self._unmeasured else 1.0
            self.work_seconds = share * fmean(sorted(self._work)[:-1])
        if self._unmeasured:
            self._unmeasured -= 1
            if not self._unmeasured:
                self._work.clear()

    def record_time(self, lag: float, interval: float) -> None:
        """Record how late a decision was, and how long after the one before, in seconds.

        A source that waits, such as a file, is played more slowly where decisions take longer than
        the hop, so it may never be much too late.
        """
        if lag <= self.hop_seconds:
            self._late.clear()
        else:
            self._late.append(min(interval, 2 * self.hop_seconds) - self.hop_seconds)

    def adjust(self, lag: float, round_seconds: float = 0.0) -> float:
        """Return the hop to use from now on.

        `lag` is the time in seconds since the last sample that was decided about. `round_seconds`
        is that of `Scheduler`; it counts at once, since a single hiccup hardly changes a sum over
        many sources, while of the source's own work the median counts.
        """
        if self._settling:
            self._settling -= 1
            return self.hop_seconds
        measured = len(self._work) == self._work.maxlen
        usual = fmean if self.effort == "saving" else median
        work = max(usual(self._work) if measured else 0.0, round_seconds)
        if late := sum(self._late) > LATE_HOPS * self.hop_seconds:
            work = max(work, self.hop_seconds + fmean(self._late))
        behind = lag > max(BACKLOG_SECONDS, 3 * self.hop_seconds)
        full, target = (FULL_WHILE_BEHIND, TARGET_WHILE_BEHIND) if behind else (FULL, TARGET)
        if work > full * self.hop_seconds:
            self._was_late |= late
            if self._may_save and self.effort == "full":
                self._set_effort("saving")
                work *= EXPECTED_SHARE
            if work > full * self.hop_seconds:
                self._change(max(work / target, self.hop_seconds))
        elif measured and not behind:
            self._use_less(work)
        return self.hop_seconds

    def _use_less(self, work: float) -> None:
        """Shorten the hop, or classify all windows again, if the work leaves room for it."""
        if self._was_late or self.hop_seconds > self.shortest:
            self._until_trial -= 1
        if self._until_trial <= 0 and (self._was_late or self._may_fit(work)):
            self._trial_decisions *= 2
            self._until_trial = self._trial_decisions
            self._was_late = False
            if self.hop_seconds > self.shortest:
                self._settling = SETTLING_DECISIONS
                self._change(self.shortest)
        elif self._was_late:
            pass  # only a trial tells whether other programs still have the processors
        elif self.hop_seconds > self.shortest:
            if work < FITS_AGAIN * self.shortest:
                self._change(self.hop_seconds / 2)
            elif work < IDLE * self.hop_seconds:
                self._change(max(work / TARGET, self.hop_seconds / 2))
        elif self._may_save and work < IDLE_WHILE_SAVING * self.hop_seconds:
            self._set_effort("full")

    def _may_fit(self, work: float) -> bool:
        """Return whether work may fit into the shortest hop where more windows are repeated."""
        return self.effort == "saving" and work * EXPECTED_SHARE < FITS_AGAIN * self.shortest

    def _begin(self) -> None:
        """Measure anew: a decision with another hop or effort takes other work."""
        count = MEASURED_WHILE_SAVING if self.effort == "saving" else MEASURED_DECISIONS
        self._work: deque[float] = deque(maxlen=count)

    def _set_effort(self, effort: Effort) -> None:
        if effort == self.effort:
            return
        self.effort = effort
        self._settling = SETTLING_DECISIONS
        self._late.clear()
        self._unmeasured = FIRST_DECISIONS if effort == "saving" else 0
        self._begin()

    def _change(self, hop_seconds: float) -> None:
        hop_seconds = min(max(hop_seconds, self.shortest), LONGEST_HOP_SECONDS)
        if hop_seconds != self.hop_seconds:
            self.hop_seconds = hop_seconds
            self._late.clear()
            self._begin()
