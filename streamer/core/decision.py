"""From the probabilities of successive windows to decisions and segments.

The steps for one observation: smoothing over time, hysteresis, segments. There is no clock here:
positions come in and decisions go out, so a recording replays to the decisions of the live run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.decision_settings import DecisionSettings
from streamer.core.labels import LabelMap
from streamer.core.segments import Segment, SegmentTracker, State, Verdict
from streamer.core.smoothing import (
    AdaptiveMean,
    HiddenMarkov,
    Interpolating,
    MovingAverage,
    Probabilities,
    Smoother,
    log_floored,
)

__all__ = ["Decider", "Decision", "DecisionSettings", "Observation", "Segment", "State"]


@dataclass(frozen=True, slots=True)
class Observation:
    """What was measured in one hop of a source."""

    position: float
    """Seconds since the source's first sample, at the end of the hop."""
    hop_seconds: float
    """Seconds since the last observation."""
    level_dbfs: float
    """RMS of the hop, or of the last second if the hop is shorter, without its mean, in dB relative
    to 1 (a full-scale square wave; a full-scale sine has -3.01 dBFS)."""
    window_probabilities: NDArray[np.floating[Any]] | None = None
    """Calibrated probabilities in the order of the labels, shape (labels,); None if no window was
    classified: in silence, or while the window holds too little sound."""
    repeated: bool = False
    """Whether they are those of a window before, since nothing seems to have changed."""
    title: str | None = None
    """Title in force; empty or None if there is none."""
    silent: bool = False
    """Whether the hop is silence."""
    restart: bool = False
    """Whether another song began or sound is missing within this hop, so that what came before
    says nothing about what follows."""
    interrupted: bool = False
    """Whether `restart` is because sound is missing, not only because another song began."""
    changed: bool = False
    """Whether other sound seems to have begun, as `ChangeDetector` detects it: the smoother may
    begin anew, unless it already could for a change whose outcome is not known yet."""
    cut: bool = False
    """Whether that is as good as certain."""
    whole: bool = False
    """Whether the window is the first one since `changed` that holds no sound from before."""
    boundary: float | None = None
    """Where silence began or ended, the title changed or the sound was interrupted, in seconds
    since the source's first sample: a new segment begins there. None if none of this happened."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is playing at one moment of one source."""

    position: float
    """Seconds since the source's first sample, at the end of the window."""
    hop_seconds: float
    """Seconds since the last decision."""
    state: State
    genre: str | None
    """One of the labels while `state` is MUSIC, else None."""
    confidence: float
    """Probability of what is claimed, 0 to 1: of the genre, or of not being music; the highest of
    all while uncertain; 1 in silence, which is measured."""
    probabilities: Mapping[str, float]
    """Label to probability after smoothing; they sum to 1. All equal in silence."""
    window_probabilities: Mapping[str, float]
    """The same before smoothing; all equal if no window was classified."""
    level_dbfs: float
    """Level of the last hop, as in `Observation`."""
    carried: bool = False
    """Whether state, genre, confidence and probabilities are those from before a new title, since
    no window of the new song could be classified yet."""
    change: bool = False
    """Whether something seems to have changed and it is not yet known what: from when that is
    noticed until the label changes, for a window at most."""
    silence_seconds: float = 0.0
    """How long it has been silent; 0 unless `state` is SILENCE."""
    repeated: bool = False
    """Whether `window_probabilities` are those of a window before, since nothing seemed to have
    changed; only with the effort "saving"."""
    whole: bool = False
    """Whether the window is the first one since a noticed change that holds no sound from before.
    Messages do not tell it."""
    cut: bool = False
    """Whether other sound began within this hop as good as certainly. Messages do not tell it."""


class Decider:
    """Turn the observations of one source into decisions and segments.

    `labels`, `not_music` and `window_seconds` are those of a `ModelContract`; with `names`,
    decisions are about these instead.
    """

    def __init__(
        self,
        labels: Sequence[str],
        not_music: str | None,
        settings: DecisionSettings,
        window_seconds: float,
        names: LabelMap | None = None,
    ) -> None:
        self._settings = settings
        self._names = names or LabelMap(labels, not_music, {})
        self._model_labels = len(labels)
        self._labels = self._names.labels
        self._not_music = self._names.not_music
        self._uniform = np.full(len(self._labels), 1 / len(self._labels))
        self._window_seconds = window_seconds
        self._smoother = Interpolating(_smoother(settings, self._names, window_seconds))
        self._segments = SegmentTracker(window_seconds, settings.look_back_seconds)
        self._claimed: int | None = None
        self._last_claim: Decision | None = None
        """The latest decision from a window, if it claims a label that a new title may keep."""
        self._silent_since: float | None = None
        self._change = _Change(window_seconds)

    def update(self, observation: Observation) -> tuple[Decision, list[Segment]]:
        """Take the observation of the next hop, whose probabilities are ignored in silence.

        Returns the decision at the end of the hop, and the segments that begin, are revised or end
        with it, oldest first. Raises `ValueError` if the probabilities have another shape than the
        labels, or are not finite.
        """
        window = None if observation.silent else self._read(observation.window_probabilities)
        if observation.restart:
            self._forget()
        elif observation.changed and not self._change.is_open:
            # What was heard says little about what follows; the label stays until it is known.
            self._smoother.forget(certain=observation.cut)
        if observation.silent or observation.interrupted:
            self._last_claim = None
        decision = self._decide(observation, window)
        if self._change.update(observation, (decision.state, decision.genre)):
            decision = replace(decision, change=True)
        verdict = Verdict(
            position=decision.position,
            hop_seconds=decision.hop_seconds,
            state=decision.state,
            genre=decision.genre,
            confidence=decision.confidence,
            title=observation.title or None,
            break_position=observation.boundary,
            label=self._claimed,
            scores=None if window is None else log_floored(window),
            carried=decision.carried,
        )
        return decision, self._segments.update(verdict)

    def finish(self, position: float) -> list[Segment]:
        """End the source at `position`, in seconds; return the segments that become final."""
        return self._segments.finish(position)

    def _read(self, window: NDArray[np.floating[Any]] | None) -> Probabilities | None:
        if window is None:
            return None
        read = np.asarray(window, np.float64)
        fits = read.shape == (self._model_labels,) and read.min() >= 0
        if not fits or not 0 < read.sum() < np.inf:
            raise ValueError(
                f"window_probabilities must be {self._model_labels} finite probabilities, "
                f"not {read}"
            )
        return self._names.apply(np.asarray(read / read.sum()))

    def _forget(self) -> None:
        self._smoother.restart()
        self._claimed = None

    def _decide(self, observation: Observation, window: Probabilities | None) -> Decision:
        state, genre = State.SILENCE if observation.silent else State.UNCERTAIN, None
        silence_seconds = self._measure_silence(observation)
        if window is None:
            self._forget()
            if carried := self._carry_over(observation):
                return carried
            window = belief = self._uniform
        else:
            belief = self._smoother.update(
                window,
                observation.hop_seconds,
                repeated=observation.repeated,
                whole=observation.whole,
            )
            self._claimed = self._claim(belief)
            if self._claimed is not None:
                label = self._labels[self._claimed]
                state = State.NOT_MUSIC if label == self._not_music else State.MUSIC
                genre = label if state is State.MUSIC else None
        decision = Decision(
            position=observation.position,
            hop_seconds=observation.hop_seconds,
            state=state,
            genre=genre,
            confidence=1.0 if observation.silent else float(belief.max()),
            probabilities=dict(zip(self._labels, belief.tolist(), strict=True)),
            window_probabilities=dict(zip(self._labels, window.tolist(), strict=True)),
            level_dbfs=observation.level_dbfs,
            silence_seconds=silence_seconds,
            repeated=observation.repeated,
            whole=observation.whole,
            cut=observation.cut,
        )
        self._last_claim = decision if self._claimed is not None else None
        return decision

    def _carry_over(self, observation: Observation) -> Decision | None:
        """Return a decision with the label from before a new title, None if there is none.

        It holds for two windows at most: a station may announce titles faster than a window fills.
        """
        last = self._last_claim
        if last is None or observation.position > last.position + 2 * self._window_seconds:
            return None
        return replace(
            last,
            position=observation.position,
            hop_seconds=observation.hop_seconds,
            window_probabilities=dict.fromkeys(self._labels, 1 / len(self._labels)),
            level_dbfs=observation.level_dbfs,
            carried=True,
            repeated=False,
            whole=False,
            cut=False,
        )

    def _measure_silence(self, observation: Observation) -> float:
        """Return how long it has been silent, in seconds."""
        if not observation.silent:
            self._silent_since = None
            return 0.0
        if self._silent_since is None or observation.interrupted:
            start = observation.position - observation.hop_seconds
            self._silent_since = start if observation.boundary is None else observation.boundary
        return observation.position - self._silent_since

    def _claim(self, belief: Probabilities) -> int | None:
        """Return the index of the most probable label, None if it is too uncertain to be claimed.

        A label that was claimed before needs a lower probability and lead over the next one.
        """
        settings = self._settings
        best = int(belief.argmax())
        if best in self._names.dropped:
            return None
        margin = belief[best] - np.delete(belief, best).max()
        confidence_needed, margin_needed = settings.min_confidence, settings.min_margin
        if best == self._claimed:
            confidence_needed -= settings.confidence_hysteresis
            margin_needed -= settings.margin_hysteresis
        return best if belief[best] >= confidence_needed and margin >= margin_needed else None


class _Change:
    """Whether a change was noticed whose outcome is not known yet."""

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._noticed_at: float | None = None
        self._label: tuple[State, str | None] | None = None
        """State and genre of the latest decision."""

    @property
    def is_open(self) -> bool:
        """Whether a change was noticed before and its outcome is not known yet."""
        return self._noticed_at is not None

    def update(self, observation: Observation, label: tuple[State, str | None]) -> bool:
        """Take the next observation and the label decided; return whether it may be outdated."""
        before, self._label = self._label, label
        title_changed = observation.restart and not observation.interrupted
        if observation.silent or observation.interrupted:
            self._noticed_at = None
        elif title_changed or (observation.changed and self._noticed_at is None):
            self._noticed_at = observation.position
        elif before is not None and label != before:
            self._noticed_at = None
        if self._noticed_at is None:
            return False
        if observation.position - self._noticed_at >= self._window_seconds:
            self._noticed_at = None
        return self._noticed_at is not None


def _smoother(settings: DecisionSettings, names: LabelMap, window_seconds: float) -> Smoother:
    labels = len(names.labels)
    not_music = None if names.not_music is None else names.labels.index(names.not_music)
    match settings.smoothing:
        case "hmm":
            return HiddenMarkov(
                labels,
                dwell_seconds=settings.dwell_seconds,
                window_seconds=window_seconds,
                weight=settings.evidence_weight,
                not_music=not_music,
            )
        case "adaptive":
            return AdaptiveMean(
                labels,
                memory_seconds=settings.memory_seconds,
                window_seconds=window_seconds,
                not_music=not_music,
            )
        case "ema":
            return MovingAverage(seconds=settings.ema_seconds)
        case "none":
            return Smoother()
