"""Segments: stretches of a source with the same state and genre, made from its decisions."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from streamer.core.smoothing import Probabilities


class State(enum.StrEnum):
    """What is playing, as named in the protocol."""

    MUSIC = "music"
    SILENCE = "silence"
    NOT_MUSIC = "not_music"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a source with one state, genre and title.

    Emitted when it begins, again when it is revised, and a last time, with `final`, when it can no
    longer change. Segments of a source follow each other without gap or overlap.
    """

    id: int
    """Counts up from 1 within a source."""
    start: float
    """Seconds since the source's first sample: the end of the segment before, or 0."""
    end: float | None
    """Seconds since the source's first sample; None while open."""
    state: State
    genre: str | None
    """The genre while `state` is MUSIC, else None."""
    confidence: float
    """Mean confidence of the decisions for this state and genre, weighted by their hops."""
    title: str | None
    """Title that the source announced, if any."""
    final: bool
    """True when the segment is emitted for the last time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a segment needs to know of one `Decision`, whose fields the first five are."""

    position: float
    hop_seconds: float
    state: State
    genre: str | None
    confidence: float
    title: str | None
    """Title in force."""
    break_position: float | None
    """Where a new segment must begin, as in `Observation.boundary`; None where the label may have
    changed gradually."""
    label: int | None
    """Which of the model's labels is claimed; None in silence and while uncertain."""
    scores: Probabilities | None
    """The window's log-probabilities, shape (labels,); None if no window was classified."""
    carried: bool = False
    """Whether the label is kept from before a new title, as in `Decision.carried`."""


@dataclass(slots=True)
class _OpenSegment:
    """A segment that may still change."""

    id: int
    start: float
    verdict: Verdict
    """The first one for this state and genre."""
    title: str | None
    after_break: bool
    """Whether it began at a `break_position`, not by a gradual change."""
    weight: float = 0.0
    weighted_confidence: float = 0.0

    def add(self, verdict: Verdict) -> None:
        self.weight += verdict.hop_seconds
        self.weighted_confidence += verdict.hop_seconds * verdict.confidence

    def relabel(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.title = verdict.title
        self.weight = self.weighted_confidence = 0.0
        self.add(verdict)

    def matches(self, verdict: Verdict) -> bool:
        return (self.verdict.state, self.verdict.genre) == (verdict.state, verdict.genre)

    def segment(self, end: float | None, *, final: bool = False) -> Segment:
        if final and self.verdict.carried:
            # It ended before anything of its own was classified.
            return Segment(self.id, self.start, end, State.UNCERTAIN, None, 0.0, self.title, True)
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
    """Join verdicts to segments.

    A verdict that differs from the last one opens a segment. Verdicts lag behind the sound by half
    a window and by the delay of the smoothing, so the boundary is placed where the unsmoothed
    windows change from fitting the old label better to fitting the new one. For
    `look_back_seconds` after the change it may still move; until then the segment before is
    emitted with its `end`, but not as `final`.
    """

    def __init__(self, window_seconds: float, look_back_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._look_back_seconds = look_back_seconds
        self._next_id = 1
        self._closing: _OpenSegment | None = None
        self._open: _OpenSegment | None = None
        self._verdicts: list[Verdict] = []
        self._final_at = 0.0

    def update(self, verdict: Verdict) -> list[Segment]:
        """Take the next verdict; return the segments that it begins, revises or ends."""
        if self._open is None:
            return [self._start(verdict, 0.0, after_break=True)]
        if verdict.break_position is not None:
            return self._break(self._open, verdict, verdict.break_position)
        self._keep(verdict)
        if self._open.matches(verdict):
            return self._extend(self._open, verdict)
        return self._change(self._open, verdict)

    def finish(self, position: float) -> list[Segment]:
        """End the open segment at `position`, in seconds; return the segments that become final."""
        if self._open is None:
            return []
        end = max(position, self._open.start)
        ended = [*self._finalise(), self._open.segment(end, final=True)]
        self._open = None
        return ended

    def _start(self, verdict: Verdict, start: float, *, after_break: bool) -> Segment:
        if after_break:
            self._verdicts = [verdict]
        self._open = _OpenSegment(self._next_id, start, verdict, verdict.title, after_break)
        self._next_id += 1
        self._open.add(verdict)
        return self._open.segment(None)

    def _break(self, opened: _OpenSegment, verdict: Verdict, position: float) -> list[Segment]:
        ended = self._finalise()
        if position > opened.start:
            ended.append(opened.segment(position, final=True))
            return [*ended, self._start(verdict, position, after_break=True)]
        opened.relabel(verdict)
        opened.after_break = True
        self._verdicts = [verdict]
        return [*ended, opened.segment(None)]

    def _extend(self, opened: _OpenSegment, verdict: Verdict) -> list[Segment]:
        if opened.verdict.carried and not verdict.carried:
            opened.relabel(verdict)
        else:
            opened.add(verdict)
        emitted = {segment.id: segment for segment in self._move_boundary(opened, verdict)}
        if opened.title != verdict.title:
            opened.title = verdict.title
            emitted[opened.id] = opened.segment(None)
        if verdict.position >= self._final_at:
            emitted |= {segment.id: segment for segment in self._finalise()}
        return [segment for _, segment in sorted(emitted.items())]

    def _change(self, opened: _OpenSegment, verdict: Verdict) -> list[Segment]:
        if self._was_transition(opened, verdict):
            opened.relabel(verdict)
            return self._move_boundary(opened, verdict) or [opened.segment(None)]
        ended = self._finalise()
        self._closing = opened
        self._final_at = verdict.position + self._look_back_seconds
        start = self._boundary(opened, verdict)
        return [*ended, opened.segment(start), self._start(verdict, start, after_break=False)]

    def _was_transition(self, opened: _OpenSegment, verdict: Verdict) -> bool:
        """Return whether the open segment was only the transition to `verdict`.

        It was if nothing was known of it yet: its label was carried over, or uncertain.
        """
        if opened.verdict.carried:
            return True
        if opened.verdict.state is not State.UNCERTAIN:
            return False
        if opened.after_break:
            recent = verdict.position - opened.start <= self._look_back_seconds
            # Not if the first windows after the break fit being uncertain better.
            labels = opened.verdict.label, verdict.label
            return recent and _best_split(self._verdicts, *labels) == 0
        if self._closing is None or self._closing.matches(verdict):
            return False
        # For the length of a window, both sides of a change are in it.
        return verdict.position - opened.verdict.position <= self._window_seconds

    def _move_boundary(self, opened: _OpenSegment, verdict: Verdict) -> list[Segment]:
        if self._closing is None:
            return []
        start = self._boundary(self._closing, verdict)
        if start == opened.start:
            return []
        opened.start = start
        return [self._closing.segment(start), opened.segment(None)]

    def _boundary(self, before: _OpenSegment, verdict: Verdict) -> float:
        """Return where `before` changed into the label of `verdict`, in seconds."""
        # Earlier windows, even those that fit the new label, are not part of the change.
        verdicts = [v for v in self._verdicts if v.position >= before.verdict.position]
        split = _best_split(verdicts, before.verdict.label, verdict.label)
        first = verdicts[min(split, len(verdicts) - 1)]
        # The change lies between the middle of this window and that of the one before.
        middle = first.position - (first.hop_seconds + self._window_seconds) / 2
        latest = verdict.position - verdict.hop_seconds
        return max(min(middle, latest), min(before.start + verdict.hop_seconds, latest))

    def _finalise(self) -> list[Segment]:
        """Make the closing segment final; return it, if there is one."""
        if self._closing is None or self._open is None:
            return []
        ended = self._closing.segment(self._open.start, final=True)
        self._closing = None
        return [ended]

    def _keep(self, verdict: Verdict) -> None:
        self._verdicts.append(verdict)
        oldest = verdict.position - self._look_back_seconds
        if self._closing is not None:
            # Counted from the change, so that a boundary does not move because verdicts expire.
            oldest = self._final_at - 2 * self._look_back_seconds
        while self._verdicts[0].position < oldest:
            del self._verdicts[0]


def _best_split(verdicts: list[Verdict], before: int | None, after: int | None) -> int:
    """Return the smallest k for which the first k windows fit `before` and the others `after` best.

    Windows without scores fit both equally.
    """
    gain = [0.0 if v.scores is None else _gain(v.scores, before, after) for v in verdicts]
    gain_from = np.cumsum([0.0, *reversed(gain)])[::-1]
    return int(np.argmax(gain_from))


def _gain(scores: Probabilities, before: int | None, after: int | None) -> float:
    """Return by how much a window fits `after` better than `before`, as a log-likelihood ratio.

    None stands for being uncertain and is scored as the best of the labels but the other one.
    """
    if before is None:
        return 0.0 if after is None else -_gain(scores, after, None)
    other = np.delete(scores, before).max() if after is None else scores[after]
    return float(other - scores[before])
