"""From one window's probabilities to what the listener is told, and to stretches of it.

Pure: no clock, no thread, no socket. Positions come in, decisions go out, so that a recording
replays to exactly the decisions of the live run.

The way of one observation: silence gate -> smoothing over time -> hysteresis -> segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.decision_settings import DecisionSettings, DecisionSettingsError
from streamer.core.segments import Segment, SegmentTracker, State, Verdict
from streamer.core.smoothing import (
    HiddenMarkov,
    MovingAverage,
    NoSmoothing,
    Probabilities,
    Smoother,
    log_floored,
)

__all__ = [
    "Decider",
    "Decision",
    "DecisionSettings",
    "DecisionSettingsError",
    "Observation",
    "Segment",
    "State",
]


@dataclass(frozen=True, slots=True)
class Observation:
    """What one hop of a source brought."""

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
    title: str | None = None
    """Title the source announces for this moment; empty if it announces that there is none, None if
    it says nothing."""
    discontinuity: bool = False
    """The sound broke off within this hop: what came before says nothing about what follows."""
    boundary: float | None = None
    """Where silence began or ended, the title changed or the sound broke off, in seconds since the
    first sample; if one of these is so and nothing is given, at the hop's begin."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the listener is told about one moment of one source."""

    position: float
    """Seconds since the source's first sample, at the end of the window."""
    hop_seconds: float
    """Seconds since the last decision."""
    state: State
    """MUSIC, SILENCE, NOT_MUSIC or UNCERTAIN."""
    genre: str | None
    """One of the model's labels while `state` is MUSIC, else None."""
    confidence: float
    """Probability of what is claimed, 0 to 1: of the genre, or of not being music; the highest of
    all while uncertain; 1 in silence, which is measured."""
    probabilities: Mapping[str, float]
    """Label to probability after smoothing; they sum to 1. All equal in silence."""
    window_probabilities: Mapping[str, float]
    """The same before smoothing; all equal if no window was classified."""
    level_dbfs: float
    """Level of the last hop, as in `Observation`."""


class Titles:
    """What a source says is playing."""

    def __init__(self) -> None:
        self.now: str | None = None
        """The title in force; empty if there is none, None if nothing was said of it."""
        self._song: str | None = None

    def is_cut(self, title: str | None, discontinuity: bool = False) -> bool:
        """Tell whether another song begins with this title, or the sound broke off before it.

        A source that falls silent about titles, or begins to tell them, has not changed songs.
        """
        return discontinuity or (bool(title) and bool(self._song) and title != self._song)

    def take(self, title: str | None, discontinuity: bool = False) -> None:
        """Take what the source says now."""
        if title is not None or discontinuity:
            self.now = title
        if title or discontinuity:
            self._song = title


class Decider:
    """Turn what the hops of one source brought into decisions and segments.

    Parameters
    ----------
    labels : sequence of str
        The model's labels in the order of its probabilities, at least 2.
    not_music : str or None
        The label that stands for anything but music, if the model has one.
    settings : DecisionSettings
        How evidence is gathered and when something is claimed.
    window_seconds : float
        Length of the model's window.

    Raises
    ------
    ValueError
        If there are fewer than 2 labels, or `not_music` is not among them.

    Examples
    --------
    >>> decider = Decider(["jazz", "rock"], None, DecisionSettings(), window_seconds=5.0)
    >>> heard = Observation(3.0, 1.0, -20.0, np.array([0.9, 0.1]))
    >>> decision, segments = decider.update(heard)
    >>> decision.state, decision.genre, round(decision.confidence, 2)
    (<State.MUSIC: 'music'>, 'jazz', 0.9)
    >>> decider.finish(4.0)[0].end
    4.0
    """

    def __init__(
        self,
        labels: Sequence[str],
        not_music: str | None,
        settings: DecisionSettings,
        window_seconds: float,
    ) -> None:
        if len(labels) < 2:
            raise ValueError(f"labels must be at least 2, not {list(labels)}")
        if not_music is not None and not_music not in labels:
            raise ValueError(f"not_music {not_music!r} is none of the labels {list(labels)}")
        self.settings = settings
        self._labels = tuple(labels)
        self._not_music = not_music
        self._uniform = np.full(len(labels), 1 / len(labels))
        self._smoother = _smoother(settings, len(labels), window_seconds)
        self._segments = SegmentTracker(
            window_seconds=window_seconds, look_back_seconds=settings.look_back_seconds
        )
        self._position = 0.0
        self._silent = False
        self._titles = Titles()
        self._claimed: int | None = None

    def is_silence(self, level_dbfs: float) -> bool:
        """Tell whether the next hop is silence if it has this level; changes nothing."""
        threshold = self.settings.silence_dbfs
        if self._silent:
            threshold += self.settings.silence_hysteresis_db
        return level_dbfs < threshold

    def update(self, observation: Observation) -> tuple[Decision, list[Segment]]:
        """Take the next hop.

        Parameters
        ----------
        observation : Observation
            What the hop brought. In silence its probabilities are ignored.

        Returns
        -------
        Decision
            What is to be told now.
        list of Segment
            The segments that begin, are revised or end with it, oldest first.

        Raises
        ------
        ValueError
            If the probabilities have another shape than the labels, or are not finite.
        """
        silent = self.is_silence(observation.level_dbfs)
        window = None if silent else self._read(observation.window_probabilities)
        # What goes on may be the same song, but the title does not hold for it.
        untitled = observation.title == "" and bool(self._titles.now)
        cut = self._titles.is_cut(observation.title, observation.discontinuity)
        self._titles.take(observation.title, observation.discontinuity)
        if cut:
            self._restart()
        break_position = None
        if cut or untitled or silent != self._silent:
            began = observation.position - observation.hop_seconds
            break_position = began if observation.boundary is None else observation.boundary
        self._silent = silent
        self._position = observation.position
        decision = self._decide(observation, window)
        verdict = self._verdict(decision, window, break_position)
        return decision, self._segments.update(verdict)

    def finish(self, position: float | None = None) -> list[Segment]:
        """End the source; return the segments that become final.

        Parameters
        ----------
        position : float, optional
            Where the source ended, in seconds; by default where it was last decided.
        """
        return self._segments.finish(self._position if position is None else position)

    def _read(self, window: NDArray[np.floating[Any]] | None) -> Probabilities | None:
        if window is None:
            return None
        read = np.asarray(window, np.float64)
        fits = read.shape == self._uniform.shape and read.min() >= 0
        if not fits or not 0 < read.sum() < np.inf:
            raise ValueError(
                f"window_probabilities must be {len(self._labels)} finite probabilities, not {read}"
            )
        return np.asarray(read / read.sum())

    def _restart(self) -> None:
        """Forget what was believed: what follows has nothing to do with it."""
        self._smoother.restart()
        self._claimed = None

    def _decide(self, observation: Observation, window: Probabilities | None) -> Decision:
        state, genre = State.SILENCE if self._silent else State.UNCERTAIN, None
        belief = told = self._uniform
        if window is None:
            self._restart()
        else:
            told = window
            belief = self._smoother.update(window, observation.hop_seconds)
            self._claimed = self._claim(belief)
            if self._claimed is not None:
                label = self._labels[self._claimed]
                state = State.NOT_MUSIC if label == self._not_music else State.MUSIC
                genre = label if state is State.MUSIC else None
        return Decision(
            position=observation.position,
            hop_seconds=observation.hop_seconds,
            state=state,
            genre=genre,
            confidence=1.0 if self._silent else float(belief.max()),
            probabilities=dict(zip(self._labels, belief.tolist(), strict=True)),
            window_probabilities=dict(zip(self._labels, told.tolist(), strict=True)),
            level_dbfs=observation.level_dbfs,
        )

    def _claim(self, belief: Probabilities) -> int | None:
        """Return the label that is claimed, None while uncertain.

        The most probable one, if it is probable enough and far enough before the next; what was
        claimed before needs less.
        """
        settings = self.settings
        best = int(belief.argmax())
        margin = belief[best] - np.delete(belief, best).max()
        confidence_needed, margin_needed = settings.min_confidence, settings.min_margin
        if best == self._claimed:
            confidence_needed -= settings.confidence_hysteresis
            margin_needed -= settings.margin_hysteresis
        return best if belief[best] >= confidence_needed and margin >= margin_needed else None

    def _verdict(
        self, decision: Decision, window: Probabilities | None, break_position: float | None
    ) -> Verdict:
        return Verdict(
            position=decision.position,
            hop_seconds=decision.hop_seconds,
            state=decision.state,
            genre=decision.genre,
            confidence=decision.confidence,
            title=self._titles.now or None,
            break_position=break_position,
            label=self._claimed,
            scores=None if window is None else log_floored(window),
        )


def _smoother(settings: DecisionSettings, labels: int, window_seconds: float) -> Smoother:
    match settings.smoothing:
        case "hmm":
            return HiddenMarkov(
                labels,
                dwell_seconds=settings.dwell_seconds,
                window_seconds=window_seconds,
                weight=settings.evidence_weight,
            )
        case "ema":
            return MovingAverage(seconds=settings.ema_seconds)
        case "none":
            return NoSmoothing()
