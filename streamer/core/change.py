"""Detecting that other sound has begun, before it is known what it is.

A window says what is heard only when most of it is new: 3 to 5 s after a cut. That something has
changed can be seen in the spectrogram itself within a second or two.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Columns, SpectrogramSpec

PAST_SECONDS = 15.0
"""How much sound before a change is compared with."""
LEAST_SECONDS = 5.0
"""Least sound in which a change is looked for."""
NEW_SECONDS = (0.7, 1.2, 1.65)
"""How long ago a change may be."""
COEFFICIENTS = 20
"""Cepstral coefficients that describe a column."""
NOISE_VARIANCE = 4.0
"""Added to the variance of each coefficient, in dB squared: steady tones have hardly any."""
USUAL_SECONDS = 15.0
"""Time from which it is learnt how much the sound usually changes."""
RECENT_SECONDS = 1.5
"""The end of this time, in which a change may already have begun."""
LEAST_USUAL = 3
"""Observations needed for it."""
THRESHOLD = 10.0
"""How far above what is usual the log-likelihood ratio of a change must be, per column a second.
Found on the validation tracks of GTZAN: see trainer/EXPERIMENTS.md."""


class ChangeDetector:
    """Detects changes of the sound in the spectrogram of one source.

    The columns of the last seconds are modelled as one normal distribution of their cepstral
    coefficients, or as two, before and after a change; the generalised log-likelihood ratio of the
    two hypotheses, less its median over the last seconds, is compared with `THRESHOLD`. Music that
    alternates between loud and soft raises the median, so it has to change more.

    Source: S. Chen and P. Gopalakrishnan, "Speaker, environment and channel change detection and
    clustering via the Bayesian information criterion", DARPA Broadcast News Workshop, 1998.
    """

    def __init__(self, spec: SpectrogramSpec) -> None:
        self._spec = spec
        self._basis = _cosine_basis(min(COEFFICIENTS, spec.n_mels), spec.n_mels)
        self._past_columns = spec.frames_in(PAST_SECONDS)
        self._least_columns = spec.frames_in(LEAST_SECONDS)
        self._new_columns = [spec.frames_in(seconds) for seconds in NEW_SECONDS]
        self.restart()

    def restart(self) -> None:
        """Forget all sound so far."""
        self._cepstra = np.empty((len(self._basis), 0))
        self._ratios: deque[tuple[float, float]] = deque()
        """Seconds since the restart, and the log-likelihood ratio then, per column a second."""
        self._seconds = 0.0
        self.columns_since: int | None = None
        """Columns after the latest change; None if there was none since the restart."""

    def update(self, columns: Columns) -> bool:
        """Take the next columns, shape (n_mels, k), in absolute dB; return whether it changed."""
        cepstra = self._basis @ columns.astype(np.float64)
        self._cepstra = np.hstack([self._cepstra, cepstra])[:, -self._past_columns :]
        self._seconds += columns.shape[1] * self._spec.hop_seconds
        if self.columns_since is not None:
            self.columns_since += columns.shape[1]
        if self._cepstra.shape[1] < self._least_columns:
            return False
        ratio, new = _largest_log_likelihood_ratio(self._cepstra, self._new_columns)
        ratio *= self._spec.hop_seconds
        latest = self._seconds - RECENT_SECONDS
        usual = [before for seconds, before in self._ratios if seconds <= latest]
        self._ratios.append((self._seconds, ratio))
        while self._ratios[0][0] < latest - USUAL_SECONDS:
            self._ratios.popleft()
        if len(usual) < LEAST_USUAL or ratio - float(np.median(usual)) <= THRESHOLD:
            return False
        # What was before the change is no longer compared with.
        self._cepstra = self._cepstra[:, -new:]
        self.columns_since = new
        return True


def _cosine_basis(count: int, bands: int) -> NDArray[np.float64]:
    """Return the first rows of the orthonormal discrete cosine transform, shape (count, bands)."""
    angles = np.outer(np.arange(count), np.arange(bands) + 0.5) * np.pi / bands
    basis = np.cos(angles) * np.sqrt(2 / bands)
    basis[0] /= np.sqrt(2)
    return np.asarray(basis)


def _largest_log_likelihood_ratio(
    cepstra: NDArray[np.float64], new_columns: list[int]
) -> tuple[float, int]:
    """Return by how much two distributions fit better than one, and the best division.

    Each of `new_columns` is a number of columns at the end that may be those after a change.
    """
    parts = [cepstra, *(cepstra[:, -new:] for new in new_columns)]
    counts = np.array([part.shape[1] for part in parts])
    sums = np.array([part.sum(axis=1) for part in parts])
    products = np.array([part @ part.T for part in parts])
    # Those before the change are all but those after it.
    counts = np.concatenate([counts, counts[0] - counts[1:]])
    sums = np.concatenate([sums, sums[0] - sums[1:]])
    products = np.concatenate([products, products[0] - products[1:]])
    means = sums / counts[:, np.newaxis]
    covariances = products / counts[:, np.newaxis, np.newaxis]
    covariances -= means[:, :, np.newaxis] * means[:, np.newaxis, :]
    covariances += NOISE_VARIANCE * np.eye(len(cepstra))
    likelihoods = counts * np.linalg.slogdet(covariances)[1]
    one, (after, before) = likelihoods[0], np.split(likelihoods[1:], 2)
    ratios = (one - before - after) / 2
    best = int(ratios.argmax())
    return float(ratios[best]), new_columns[best]
