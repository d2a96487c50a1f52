"""From the columns of one hop to a decision: window, model, decider."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.decision import Decider, Decision, Observation, Segment
from streamer.core.decision_settings import DecisionSettings
from streamer.core.events import SpectrogramColumns
from streamer.core.model import Classifier
from streamer.core.spectrogram import Columns, to_levels
from streamer.core.window import Window

LEAST_PEAK_DB = 0.0
"""Lowest reference of the spectrogram that is displayed, in absolute dB; it keeps the noise of a
quiet room dark. Ordinary music peaks 10 to 40 dB above it."""

Event = Decision | Segment | SpectrogramColumns


@dataclass(frozen=True, slots=True)
class Hop:
    """The sound between two decisions. Positions are samples, at the model's rate, since the first.

    Whether there is silence and whether the sound was cut is decided before a hop is made.
    """

    end: int
    """Position at which the hop ends."""
    columns: Columns
    """New columns in absolute dB, shape (n_mels, k)."""
    level_dbfs: float
    """Level of the sound."""
    silent: bool
    """Whether the hop is silence; its columns are not classified."""
    title: str | None = None
    """As in `Observation`."""
    restart: bool = False
    """As in `Observation`."""
    boundary: int | None = None
    """As in `Observation`, but as a position."""


class HopClassifier:
    """Classify the window at the end of each hop of one source, and decide.

    Parameters
    ----------
    classifier : Classifier
        The model.
    settings : DecisionSettings
        How decisions are made.
    hop_seconds : float
        Seconds from one decision to the next.
    spectrogram : bool
        Whether the columns of the spectrogram are events, too.

    Raises
    ------
    ValueError
        If `hop_seconds` is not positive.
    """

    def __init__(
        self,
        classifier: Classifier,
        settings: DecisionSettings,
        hop_seconds: float,
        *,
        spectrogram: bool = False,
    ) -> None:
        contract = classifier.contract
        self.window = Window(contract)
        """The columns that are classified next."""
        self.hop_seconds = hop_seconds
        self.inferences = 0
        """Windows classified so far."""
        self.inference_seconds = 0.0
        """Seconds that this took, in all."""
        self.decided_at = 0
        """Position of the last decision; 0 before the first one."""
        self._classifier = classifier
        self._rate = contract.spectrogram.sample_rate
        self._decider = Decider(
            contract.labels, contract.not_music, settings, contract.window_seconds
        )
        self._display = _Display(contract.window_frames, contract.spectrogram.top_db)
        self._spectrogram = spectrogram
        self._first_decision = self.window.filled_at

    @property
    def hop_seconds(self) -> float:
        """Seconds from one decision to the next. May be changed at any time."""
        return self._hop_seconds

    @hop_seconds.setter
    def hop_seconds(self, seconds: float) -> None:
        if not 0 < seconds < float("inf"):
            raise ValueError(f"hop_seconds must be a positive number, not {seconds!r}")
        self._hop_seconds = seconds

    @property
    def hop_samples(self) -> int:
        """Samples from one decision to the next."""
        return max(1, round(self.hop_seconds * self._rate))

    @property
    def next_decision(self) -> int:
        """Position at which the next hop should end."""
        if not self.decided_at:
            return self._first_decision
        due = self.decided_at + self.hop_samples
        filled = self.window.filled_at
        # The hop that comes closest to where the window is full ends exactly there.
        if self.decided_at < filled and abs(due - filled) <= self.hop_samples / 2:
            due = filled
        return due

    def decide(self, hop: Hop) -> list[Event]:
        """Take the next hop; return the decision, its segments and, if asked for, its columns."""
        length = hop.end - self.decided_at if self.decided_at else min(hop.end, self.hop_samples)
        observation = Observation(
            position=hop.end / self._rate,
            hop_seconds=length / self._rate,
            level_dbfs=hop.level_dbfs,
            silent=hop.silent,
            window_probabilities=None if hop.silent else self._classify(hop.columns),
            title=hop.title,
            restart=hop.restart,
            boundary=None if hop.boundary is None else hop.boundary / self._rate,
        )
        if hop.silent:
            self.window.restart(hop.end)
        self.decided_at = hop.end
        decision, segments = self._decider.update(observation)
        events: list[Event] = [decision, *segments]
        if self._spectrogram and hop.columns.shape[1]:
            levels = self._display.levels(hop.columns)
            events.append(SpectrogramColumns(observation.position, levels))
        return events

    def finish(self, end: int) -> list[Segment]:
        """End the source at position `end`; return the segments that become final."""
        return self._decider.finish(end / self._rate)

    def _classify(self, columns: Columns) -> NDArray[np.float32] | None:
        """Append columns to the window; return its probabilities, None while it is too short."""
        self.window.append(columns)
        spectrogram = self.window.relative_to_peak()
        if spectrogram is None:
            return None
        started = time.perf_counter()
        probabilities = np.asarray(self._classifier.predict(spectrogram[None])[0])
        self.inference_seconds += time.perf_counter() - started
        self.inferences += 1
        return probabilities


class _Display:
    """Scales columns to grey levels, relative to the loudest cell of the last window."""

    def __init__(self, window_frames: int, top_db: float) -> None:
        self._window_frames = window_frames
        self._top_db = top_db
        self._peaks = np.empty(0, np.float32)

    def levels(self, columns: Columns) -> NDArray[np.uint8]:
        self._peaks = np.concatenate([self._peaks, columns.max(axis=0)])[-self._window_frames :]
        reference = max(float(self._peaks.max()), LEAST_PEAK_DB)
        return to_levels(columns - np.float32(reference), self._top_db)
