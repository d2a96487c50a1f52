"""From the log-mel columns of one source to decisions: window, model, decider."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from streamer.core.decision import Decider, Decision, Observation, Segment
from streamer.core.decision_settings import DecisionSettings
from streamer.core.events import SpectrogramColumns
from streamer.core.model import Classifier
from streamer.core.silence import SilenceGate
from streamer.core.spectrogram import Columns, to_levels
from streamer.core.window import Window

LEAST_PEAK_DB = 0.0
"""Lowest reference of the spectrogram that is displayed, in absolute dB; it keeps the noise of a
quiet room dark. Ordinary music peaks 10 to 40 dB above it."""

Event = Decision | Segment | SpectrogramColumns


class ColumnPipeline:
    """Turn the columns of one source's spectrogram, with its level, into decisions and segments.

    `Pipeline` renders samples and calls `decide` once a hop. Where there is a spectrogram without
    samples, such as a picture, `feed` takes its columns; decisions then fall at whole columns.
    Positions are numbers of samples, at the model's rate, since the source's first one.
    Parameters and errors are those of `Pipeline`.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        settings: DecisionSettings | None = None,
        hop_seconds: float = 1.0,
        spectrogram: bool = False,
    ) -> None:
        contract = classifier.contract
        settings = settings or DecisionSettings.from_mapping(contract.decision)
        self.window = Window(contract)
        self.gate = SilenceGate(settings, contract.spectrogram.sample_rate)
        self.inferences = 0
        self.inference_seconds = 0.0
        self.decided_at = 0
        """Position of the last decision; 0 before the first one."""
        self._classifier = classifier
        self._spec = contract.spectrogram
        self._max_frames = contract.window_frames
        self.hop_seconds = hop_seconds
        self._decider = Decider(
            contract.labels, contract.not_music, settings, contract.window_seconds
        )
        self._peaks = np.empty(0, np.float32) if spectrogram else None
        self._first_decision = self.window.filled_at
        self._fed: list[Columns] = []

    @property
    def hop_seconds(self) -> float:
        """Seconds from one decision to the next. May be changed at any time."""
        return self._hop_seconds

    @hop_seconds.setter
    def hop_seconds(self, seconds: float) -> None:
        if not 0 < seconds < float("inf"):
            raise ValueError(f"hop_seconds must be a positive number, not {seconds!r}")
        self._hop_seconds = seconds
        self.hop_samples = max(1, round(seconds * self._spec.sample_rate))

    @property
    def next_decision(self) -> int:
        """Position at which the next decision is due."""
        if not self.decided_at:
            return self._first_decision
        due, filled = self.decided_at + self.hop_samples, self.window.filled_at
        # The hop that comes closest to where the window is full ends exactly there.
        if self.decided_at < filled and abs(due - filled) <= self.hop_samples / 2:
            due = filled
        return due

    @property
    def _fed_until(self) -> int:
        return self.decided_at + len(self._fed) * self._spec.hop_length

    def feed(self, columns: Columns, level_dbfs: float) -> list[Event]:
        """Take the next columns, shape (n_mels, k), in absolute dB, and the level of their sound.

        Returns the events that these columns complete, as `Pipeline.feed` does.
        """
        events: list[Event] = []
        for column in np.hsplit(columns, columns.shape[1]):
            self._fed.append(column)
            end = self._fed_until
            if end >= self.next_decision:
                boundary = self.decided_at if self.gate.update_level(level_dbfs) else None
                hop, self._fed = np.concatenate(self._fed, axis=1), []
                events += self.decide(end, hop, boundary=boundary)
        return events

    def decide(
        self,
        end: int,
        columns: Columns,
        *,
        title: str | None = None,
        restart: bool = False,
        boundary: int | None = None,
    ) -> list[Event]:
        """Decide about a hop that ends at position `end`, after its level was given to the gate.

        Its columns have shape (n_mels, k), in absolute dB. The other parameters are those of
        `Observation`, but `boundary` is a position.
        """
        rate = self._spec.sample_rate
        length = end - self.decided_at if self.decided_at else min(end, self.hop_samples)
        silent = self.gate.silent
        observation = Observation(
            position=end / rate,
            hop_seconds=length / rate,
            level_dbfs=self.gate.level_dbfs,
            silent=silent,
            window_probabilities=None if silent else self._classify(columns),
            title=title,
            restart=restart,
            boundary=None if boundary is None else boundary / rate,
        )
        if silent:
            self.window.restart(end)
        self.decided_at = end
        decision, segments = self._decider.update(observation)
        events: list[Event] = [decision, *segments]
        if self._peaks is not None and columns.shape[1]:
            peaks = np.concatenate([self._peaks, columns.max(axis=0)])[-self._max_frames :]
            reference = np.float32(max(float(peaks.max()), LEAST_PEAK_DB))
            levels = to_levels(columns - reference, self._spec.top_db)
            events.append(SpectrogramColumns(observation.position, levels))
            self._peaks = peaks
        return events

    def finish(self, end: int | None = None) -> list[Segment]:
        """End the source at `end`, or where it was fed to; return what becomes final."""
        return self._decider.finish((end or self._fed_until) / self._spec.sample_rate)

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
