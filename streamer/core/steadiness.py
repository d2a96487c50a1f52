"""Telling from a source's last windows and newest columns that its next window says the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Columns

LEAST_AGREEMENT = 0.7
"""Share of their probability that two successive windows that agree have in common."""
LARGEST_DISTANCE_DB = 14.0
"""Distance of the new columns' spectrum from that of the window before from which sound is new."""
SURE = 0.8
"""Probability of the first label from which a window is sure."""
REPEATS_IF_SURE, REPEATS_IF_UNSURE, REPEATS_IN_DOUBT = 3, 2, 1
"""Hops in a row that may repeat a window: one that agreed with the one classified before it, and is
sure or not, and one that did not agree. All these were found on streams of the validation tracks of
GTZAN: see trainer/EXPERIMENTS.md."""


class Steadiness:
    """Tells when the last window of one source may stand for the next one.

    Positions are numbers of samples; a window is `window_samples` long. A window may be repeated if
    it filled its whole length and the spectrum of the new columns is that of the window, more often
    if it is sure and agreed with the one classified before it. No sound is left out: the next
    window that is classified begins where the last one ended, or before.
    """

    def __init__(self, window_samples: int) -> None:
        self._window_samples = window_samples
        self.restart()

    def restart(self) -> None:
        """Forget all windows so far."""
        self._last: NDArray[np.float32] | None = None
        self._classified_at = 0
        self._repeats_left = 0
        self._is_new = True
        """Whether the last columns sound unlike the window before."""

    def may_repeat(self, end: int, hop: int, window: Columns, new: Columns) -> bool:
        """Return whether the last window may stand for the one that ends at `end`.

        Parameters
        ----------
        end, hop : int
            Where the hop ends, and its length.
        window, new : shape (n_mels, k)
            The columns of the window before the hop, and those of the hop, in absolute dB.
        """
        self._is_new = spectral_distance(window, new) >= LARGEST_DISTANCE_DB
        is_all_heard = end + hop - self._classified_at <= self._window_samples
        return self._repeats_left > 0 and is_all_heard and not self._is_new

    def repeat(self) -> NDArray[np.float32]:
        """Return the probabilities of the last window, to stand for the next one."""
        assert self._last is not None
        self._repeats_left -= 1
        return self._last

    def classified(self, end: int, probabilities: NDArray[np.float32], *, whole: bool) -> None:
        """Take the probabilities of the window that ends at `end`; `whole` if it was full."""
        before, self._last = self._last, probabilities
        self._classified_at = end
        if before is None or not whole:
            self._repeats_left = 0
        elif float(np.minimum(before, probabilities).sum()) >= LEAST_AGREEMENT:
            is_sure = float(probabilities.max()) >= SURE
            self._repeats_left = REPEATS_IF_SURE if is_sure else REPEATS_IF_UNSURE
        else:
            self._repeats_left = 0 if self._is_new else REPEATS_IN_DOUBT


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
