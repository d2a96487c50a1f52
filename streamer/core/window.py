"""The window of log-mel columns that the model classifies."""

from __future__ import annotations

import numpy as np

from streamer.core.contract import ModelContract
from streamer.core.spectrogram import Columns, LogMelStream, Samples, relative_to_peak


class Window:
    """The latest log-mel columns of one source, at most as many as the model was trained on.

    Positions are numbers of samples, at the model's rate, since the source's first one.
    """

    filled_at: int
    """Position from which on there are enough columns for the model."""

    def __init__(self, contract: ModelContract) -> None:
        self._spec = contract.spectrogram
        self._min_frames = contract.min_frames
        self._max_frames = contract.window_frames
        self.restart(0)

    def restart(self, origin: int) -> None:
        """Drop all columns; the first new one is centred on position `origin`."""
        spec = self._spec
        self._stream = LogMelStream(spec)
        self._columns = np.empty((spec.n_mels, 0), np.float32)
        self.filled_at = origin + spec.n_fft // 2 + (self._min_frames - 1) * spec.hop_length

    def render(self, samples: Samples) -> Columns:
        """Return the columns that the next samples complete, without appending them."""
        return self._stream.push(samples)

    def append(self, columns: Columns) -> None:
        """Append columns, shape (n_mels, k); drop the oldest ones beyond the window's length."""
        self._columns = np.concatenate([self._columns, columns], axis=1)[:, -self._max_frames :]

    def relative_to_peak(self) -> Columns | None:
        """Return the window as the model takes it, or None while it has too few columns.

        Shape (n_mels, frames), dB relative to the loudest cell, in `[-top_db, 0]`.
        """
        if self._columns.shape[1] < self._min_frames:
            return None
        return relative_to_peak(self._columns, self._spec.top_db)
