"""Stretches of a source over which the same thing was heard, put together from decisions."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from streamer.core.smoothing import Probabilities


class State(enum.StrEnum):
    """What is heard, in the words of the protocol."""

    MUSIC = "music"
    SILENCE = "silence"
    NOT_MUSIC = "not_music"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a source over which the same thing was heard.

    Sent when it begins, again when it is revised, and a last time, `final`, when it can no longer
    change. Segments of a source follow each other without gap or overlap.
    """

    id: int
    """Counts up from 1 within a source."""
    start: float
    """Seconds since the source's first sample: the end of the segment before, or 0."""
    end: float | None
    """Seconds since the source's first sample; None while open."""
    state: State
    """What was heard."""
    genre: str | None
    """The genre while `state` is MUSIC, else None."""
    confidence: float
    """Mean confidence of the decisions for this state and genre, weighted by their hops."""
    title: str | None
    """Title that the source announced, if any."""
    final: bool
    """True exactly once, when the segment is sent for the last time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One decision, as far as segments are concerned."""

    position: float
    """End of the hop, in seconds."""
    hop_seconds: float
    """Length of the hop."""
    state: State
    """What was decided."""
    genre: str | None
    """The genre while `state` is MUSIC, else None."""
    confidence: float
    """Confidence of the decision."""
    title: str | None
    """Title in force."""
    break_position: float | None
    """Where a new segment must begin: silence began or ended, the title changed, the sound broke
    off. None where one thing may have gone over into another."""
    label: int | None
    """Which of the model's labels is claimed; None in silence and while uncertain."""
    scores: Probabilities | None
    """The window's log-probabilities, shape (labels,); None if no window was classified."""


@dataclass(slots=True)
class _Stretch:
    """A segment in the making."""

    id: int
    start: float
    verdict: Verdict
    """The first one for this state and genre."""
    title: str | None
    after_break: bool
    """Whether it began with a break, or else went over from the segment before."""
    weight: float = 0.0
    weighted_confidence: float = 0.0

    def add(self, verdict: Verdict) -> None:
        self.weight += verdict.hop_seconds
        self.weighted_confidence += verdict.hop_seconds * verdict.confidence

    def rename(self, verdict: Verdict) -> None:
        """Take another state and genre, from the beginning."""
        self.verdict = verdict
        self.title = verdict.title
        self.weight = self.weighted_confidence = 0.0
        self.add(verdict)

    def says(self, verdict: Verdict) -> bool:
        return (self.verdict.state, self.verdict.genre) == (verdict.state, verdict.genre)

    def segment(self, end: float | None, *, final: bool = False) -> Segment:
        return Segment(
            id=self.id,
            start=self.start,
            end=end,
            state=self.verdict.state,
            genre=self.verdict.genre,
            confidence=min(1.0, self.weighted_confidence / self.weight),
            title=self.title,
            final=final,
        )


class SegmentTracker:
    """Put verdicts together to segments.

    A verdict that differs from the last one opens a segment. Verdicts lag behind the sound, by
    half a window and by the inertia of the smoothing, so the boundary is put where the single
    windows, taken one by one, change sides. For `look_back_seconds` after the change it may still
    move; until then the segment before is sent with its `end`, but not as `final`.

    Parameters
    ----------
    window_seconds : float
        Length of a window.
    look_back_seconds : float
        How far back a boundary is sought, and how long it may still move.
    """

    def __init__(self, *, window_seconds: float, look_back_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._look_back_seconds = look_back_seconds
        self._next_id = 1
        self._closing: _Stretch | None = None
        self._open: _Stretch | None = None
        self._verdicts: list[Verdict] = []
        self._settled_at = 0.0

    def update(self, verdict: Verdict) -> list[Segment]:
        """Take the next verdict; return the segments that it begins, revises or ends."""
        if self._open is None:
            return self._begin(verdict, 0.0)
        if verdict.break_position is not None:
            return self._break(self._open, verdict, verdict.break_position)
        self._remember(verdict)
        if self._open.says(verdict):
            return self._go_on(self._open, verdict)
        return self._change(self._open, verdict)

    def finish(self, position: float) -> list[Segment]:
        """End the open segment at `position`, in seconds; return what becomes final."""
        if self._open is None:
            return []
        ended = self._settle()
        ended.append(self._open.segment(max(position, self._open.start), final=True))
        self._open = None
        return ended

    def _begin(self, verdict: Verdict, start: float) -> list[Segment]:
        self._verdicts = [verdict]
        return [self._start(verdict, start, after_break=True)]

    def _start(self, verdict: Verdict, start: float, *, after_break: bool) -> Segment:
        self._open = _Stretch(self._next_id, start, verdict, verdict.title, after_break)
        self._next_id += 1
        self._open.add(verdict)
        return self._open.segment(None)

    def _break(self, opened: _Stretch, verdict: Verdict, position: float) -> list[Segment]:
        if position <= opened.start:
            settled = self._settle()
            opened.rename(verdict)
            opened.after_break = True
            self._verdicts = [verdict]
            return [*settled, opened.segment(None)]
        ended = [*self._settle(), opened.segment(position, final=True)]
        return ended + self._begin(verdict, position)

    def _go_on(self, opened: _Stretch, verdict: Verdict) -> list[Segment]:
        opened.add(verdict)
        sent = self._move_boundary(opened, verdict)
        if opened.title != verdict.title:
            opened.title = verdict.title
            sent = [segment for segment in sent if segment.id != opened.id]
            sent.append(opened.segment(None))
        if self._closing and verdict.position >= self._settled_at:
            sent = [segment for segment in sent if segment.id != self._closing.id]
            sent = self._settle() + sent
        return sent

    def _change(self, opened: _Stretch, verdict: Verdict) -> list[Segment]:
        if self._was_on_the_way(opened, verdict):
            opened.rename(verdict)
            moved = self._move_boundary(opened, verdict)
            return moved or [opened.segment(None)]
        ended = self._settle()
        self._closing = opened
        self._settled_at = verdict.position + self._look_back_seconds
        start = self._boundary(opened, verdict)
        return [*ended, opened.segment(start), self._start(verdict, start, after_break=False)]

    def _was_on_the_way(self, opened: _Stretch, verdict: Verdict) -> bool:
        """Tell whether the open stretch was no more than the hesitation before `verdict`."""
        if opened.verdict.state is not State.UNCERTAIN:
            return False
        if opened.after_break:
            young = verdict.position - opened.start <= self._look_back_seconds
            # Not if the first windows after the break did speak for uncertainty.
            labels = opened.verdict.label, verdict.label
            return young and _best_split(self._verdicts, *labels) == 0
        if self._closing is None or self._closing.says(verdict):
            return False
        # A window that straddles a change shows both sides of it.
        return verdict.position - opened.verdict.position <= self._window_seconds

    def _move_boundary(self, opened: _Stretch, verdict: Verdict) -> list[Segment]:
        if self._closing is None:
            return []
        start = self._boundary(self._closing, verdict)
        if start == opened.start:
            return []
        opened.start = start
        return [self._closing.segment(start), opened.segment(None)]

    def _boundary(self, before: _Stretch, verdict: Verdict) -> float:
        """Return where `before` went over into what `verdict` says, in seconds."""
        # What was heard earlier, even the same as now, is no part of it.
        verdicts = [v for v in self._verdicts if v.position >= before.verdict.position]
        split = _best_split(verdicts, before.verdict.label, verdict.label)
        first = verdicts[min(split, len(verdicts) - 1)]
        # A window speaks for its middle; the change lies between this one's and the last one's.
        middle = first.position - (first.hop_seconds + self._window_seconds) / 2
        latest = verdict.position - verdict.hop_seconds
        return max(min(middle, latest), min(before.start + verdict.hop_seconds, latest))

    def _settle(self) -> list[Segment]:
        """End the closing segment for good; return it, if there is one."""
        if self._closing is None or self._open is None:
            return []
        ended = self._closing.segment(self._open.start, final=True)
        self._closing = None
        return [ended]

    def _remember(self, verdict: Verdict) -> None:
        self._verdicts.append(verdict)
        oldest = verdict.position - self._look_back_seconds
        if self._closing is not None:
            # Counted from the change: a boundary moves for better reasons than that time passes.
            oldest = self._settled_at - 2 * self._look_back_seconds
        while self._verdicts[0].position < oldest:
            del self._verdicts[0]


def _best_split(verdicts: list[Verdict], before: int | None, after: int | None) -> int:
    """Return k such that the first k windows fit one label, and the others another, best.

    Of equally good ones the smallest. Windows without scores fit both alike.
    """
    gain = [0.0 if v.scores is None else _gain(v.scores, before, after) for v in verdicts]
    gain_from = np.cumsum([0.0, *reversed(gain)])[::-1]
    return int(np.argmax(gain_from))


def _gain(scores: Probabilities, before: int | None, after: int | None) -> float:
    """Return by how much a window fits `after` better than `before`.

    None is being uncertain: anything but the other label.
    """
    if before is None:
        return 0.0 if after is None else -_gain(scores, after, None)
    other = np.delete(scores, before).max() if after is None else scores[after]
    return float(other - scores[before])
