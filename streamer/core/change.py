"""Detecting that other sound has begun, before it is known what it is.

A window says what is heard only when most of it is new: 3 to 5 s after a cut. That something has
changed can be heard within a second or two.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Columns, SpectrogramSpec, band_mels

WEIGHTS = Path(__file__).parents[1] / "models" / "changes.npz"
"""What `python -m trainer.changes` has learnt."""

GRID = SpectrogramSpec()
"""Bands and columns of the network. Those of other spectrograms are converted to it."""

PAST_COLUMNS, LEAST_COLUMNS = GRID.frames_in(15.0), GRID.frames_in(5.0)
"""Most and least sound that the network hears; a change is at its end."""

AUDIBLE_DB = 60.0
"""What is further below the loudest band of a column counts as this far below it."""

COEFFICIENTS = 32
"""Cepstral coefficients that describe a column."""

SCALE_DB = 40.0
"""Size of a coefficient that the network sees as 1."""

NEW_COLUMNS = (3, 6, 10, 15, 21)
"""Lengths at the end whose sound is compared with what was before: 0.2 to 1.6 s."""

NEAR_COLUMNS = 13
"""How much of what was before them is also compared with for itself: 1 s."""

LEAST_VARIANCE = 1e-3
"""Added to the variance of each feature: steady tones have hardly any."""

AGE_COLUMNS = 10.0
"""Columns since a change that the network tells as 1."""

THRESHOLD = 2.25
"""Log-odds of a change above which it is told. Found on the valid tracks of GTZAN: see
trainer/EXPERIMENTS.md."""

CERTAIN = 3.5
"""Log-odds from which on a change is as good as certain. Found in the same way."""

MARGIN_COLUMNS = 2
"""Counted as new although they may be from before the change: so little does a window no harm, and
half of the windows after a change are whole a second sooner."""

Array = NDArray[np.float32]


class ChangeDetector:
    """Detects changes of the sound in the spectrogram of one source.

    A small network, `judge`, hears the last seconds and tells whether their end is other sound.
    """

    def __init__(self, spec: SpectrogramSpec) -> None:
        self._basis = cepstral_basis(spec)
        self._columns_each = GRID.hop_seconds / spec.hop_seconds
        """Columns of the source's spectrogram for one of the network's."""
        self.restart()

    def restart(self) -> None:
        """Forget all sound so far."""
        self._cepstra = np.empty((0, COEFFICIENTS), np.float32)
        self._seen = 0
        self._taken = 0
        self.columns_since: int | None = None
        """Columns after the latest change; None if there was none since the restart."""
        self.certain = False
        """Whether the latest change is as good as certain."""

    def update(self, columns: Columns) -> bool:
        """Take the next columns, shape (n_mels, k), in absolute dB; return whether it changed."""
        if self.columns_since is not None:
            self.columns_since += columns.shape[1]
        cepstra = cepstra_of(self._next_of_grid(columns), self._basis)
        self._cepstra = np.concatenate([self._cepstra, cepstra])[-PAST_COLUMNS:]
        if not len(cepstra) or len(self._cepstra) < LEAST_COLUMNS:
            return False
        change, age = judge(self._cepstra, _weights())
        if change <= THRESHOLD:
            return False
        new = int(np.clip(round(age * AGE_COLUMNS), NEW_COLUMNS[0], NEW_COLUMNS[-1]))
        self.certain = change >= CERTAIN
        # What was before the change is no longer compared with.
        self._cepstra = self._cepstra[-new:]
        self.columns_since = round((new + MARGIN_COLUMNS) * self._columns_each)
        return True

    def _next_of_grid(self, columns: Columns) -> Columns:
        """Return those of the columns that lie closest to the network's next ones."""
        places = []
        while (place := round(self._taken * self._columns_each)) < self._seen + columns.shape[1]:
            places.append(place - self._seen)
            self._taken += 1
        self._seen += columns.shape[1]
        return columns[:, places]


@functools.lru_cache(maxsize=8)
def cepstral_basis(spec: SpectrogramSpec) -> Array:
    """Return the map from levels in dB to cepstral coefficients, shape (n_mels, COEFFICIENTS).

    That is a discrete cosine transform of levels at the network's bands, which are interpolated;
    beyond the spectrogram's own bands they are as at its edges.
    """
    bands = np.arange(GRID.n_mels)
    angles = np.outer(bands + 0.5, np.arange(COEFFICIENTS)) * np.pi / GRID.n_mels
    cosines = np.cos(angles) * np.sqrt(2 / GRID.n_mels)
    cosines[:, 0] /= np.sqrt(2)
    own, wanted = band_mels(spec), band_mels(GRID)
    between = np.stack([np.interp(wanted, own, row) for row in np.eye(spec.n_mels)])
    return np.asarray(between @ cosines / SCALE_DB, np.float32)


def cepstra_of(columns: Columns, basis: Array) -> Array:
    """Return the cepstra of columns in dB, shape (n_mels, k), as (k, COEFFICIENTS)."""
    audible = np.maximum(columns, columns.max(axis=0, keepdims=True, initial=-np.inf) - AUDIBLE_DB)
    return np.asarray(audible.T @ basis, np.float32)


def judge(cepstra: Array, weights: Mapping[str, Array]) -> tuple[float, float]:
    """Tell whether the end of cepstra, shape (columns, COEFFICIENTS), is other sound.

    Two convolutions over time make features of the columns, less their mean. The means of the
    features over the last columns, of each of `NEW_COLUMNS` lengths, are compared with those of all
    sound before, of the second before and of the most similar part before, in units of how much
    means over as many columns usually vary. What they tell is joined by two further layers.

    Returns
    -------
    change : float
        Log-odds of a change within the last `NEW_COLUMNS` columns.
    age : float
        How long ago it was if there was one, in `AGE_COLUMNS`.
    """
    features = cepstra - cepstra.mean(axis=0)
    features = np.maximum(_convolved(features, weights, "first"), 0)
    features = _convolved(features, weights, "second")
    count = len(features)
    sums = np.concatenate([np.zeros_like(features[:1]), features.cumsum(axis=0)])

    told = []
    for length in NEW_COLUMNS:
        before, step = count - length, max(1, length // 3)
        new = (sums[count] - sums[before]) / length
        usual = sums[before] / before
        near = (sums[before] - sums[before - NEAR_COLUMNS]) / NEAR_COLUMNS
        parts = (sums[length : before + 1 : step] - sums[: before - length + 1 : step]) / length
        spread = np.sqrt(np.square(parts - usual).mean(axis=0) + LEAST_VARIANCE)
        nearest = np.square((parts - new) / spread).mean(axis=1).min()
        distances = np.concatenate(
            [np.abs(new - usual) / spread, np.abs(new - near) / spread, [nearest]]
        )
        told.append(np.maximum(_dense(np.log1p(distances), weights, f"compare_{length}"), 0))
    joined = np.maximum(_dense(np.concatenate(told), weights, "join"), 0)
    change, age = _dense(joined, weights, "tell").tolist()
    return change, age


def _convolved(features: Array, weights: Mapping[str, Array], layer: str) -> Array:
    """Return a convolution over time, with zeros beyond both ends."""
    kernel = weights[f"{layer}/kernel"]
    beyond = len(kernel) - 1
    padded = np.pad(features, ((beyond // 2, beyond // 2), (0, 0)))
    filtered = sum(padded[at : at + len(features)] @ each for at, each in enumerate(kernel))
    return np.asarray(filtered + weights[f"{layer}/bias"])


def _dense(values: Array, weights: Mapping[str, Array], layer: str) -> Array:
    return np.asarray(values @ weights[f"{layer}/kernel"] + weights[f"{layer}/bias"])


@functools.cache
def _weights() -> Mapping[str, Array]:
    with np.load(WEIGHTS) as file:
        return {name: np.asarray(file[name], np.float32) for name in file.files}
