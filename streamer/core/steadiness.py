"""Telling from a source's last windows and newest columns that its next window says the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Columns

LEAST_AGREEMENT = 0.7
"""Least share of their probability that two successive windows have in common in steady sound."""
LARGEST_DISTANCE_DB = 13.0
"""Largest distance of the new columns' spectrum from that of the window before, in steady sound."""
MOST_REPEATS = 3
"""Hops in a row that may repeat a window. All these were found on streams of the validation tracks
of GTZAN: see trainer/EXPERIMENTS.md."""


class Steadiness:
    """Tells when the last window of one source may stand for the next one.

    Positions are numbers of samples; a window is `window_samples` long. A window may be repeated if
    it filled its whole length, agreed with the one classified before it, and the spectrum of the
    new columns is that of the window. No sound is left out: the next window that is classified
    begins where the last one ended, or before.
    """

    def __init__(self, window_samples: int) -> None:
        self._window_samples = window_samples
        self.restart()

    def restart(self) -> None:
        """Forget all windows so far."""
        self._last: NDArray[np.float32] | None = None
        self._steady = False
        self._classified_at = 0
        self._repeats = 0

    def repeat(
        self, end: int, hop: int, window: Columns, new: Columns
    ) -> NDArray[np.float32] | None:
        """Return the probabilities that stand for the window that ends at `end`, or None.

        Parameters
        ----------
        end, hop : int
            Where the hop ends, and its length.
        window, new : shape (n_mels, k)
            The columns of the window before the hop, and those of the hop, in absolute dB.
        """
        is_steady = (
            self._steady
            and self._repeats < MOST_REPEATS
            and end + hop - self._classified_at <= self._window_samples
            and spectral_distance(window, new) <= LARGEST_DISTANCE_DB
        )
        self._repeats += is_steady
        return self._last if is_steady else None

    def classified(self, end: int, probabilities: NDArray[np.float32], *, whole: bool) -> None:
        """Take the probabilities of the window that ends at `end`; `whole` if it was full."""
        self._steady = (
            whole
            and self._last is not None
            and float(np.minimum(self._last, probabilities).sum()) >= LEAST_AGREEMENT
        )
        self._last = probabilities
        self._classified_at = end
        self._repeats = 0


def spectral_distance(first: Columns, second: Columns) -> float:
    """Return the distance of two mean spectra in dB: RMS over the bands; infinite if one is empty.

    It includes the level, which differs between songs.

    Examples
    --------
    >>> spectral_distance(np.array([[0.0], [0.0]]), np.array([[1.0], [7.0]]))
    5.0
    """
    if not first.shape[1] or not second.shape[1]:
        return float("inf")
    difference = second.mean(axis=1, dtype=np.float64) - first.mean(axis=1, dtype=np.float64)
    return float(np.sqrt(np.mean(difference**2)))
