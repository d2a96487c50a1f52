"""Log-mel spectrograms: of a whole clip, and column by column as samples arrive.

The trainer's pictures and the daemon's windows both come from this module, so what the network is
trained on and what it is shown later cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Columns = NDArray[np.float32]

AMIN = 1e-10
"""Smallest power that is turned into decibels, as in `librosa.power_to_db`."""

BLOCK_COLUMNS = 256
"""Columns computed at once: bounds the memory of a long clip."""


class SpecError(ValueError):
    """A spectrogram specification that cannot be used; the message names field and value."""


@dataclass(frozen=True, slots=True)
class SpectrogramSpec:
    """Everything that decides what a log-mel spectrogram looks like.

    Hann window, power 2, centred frames with zeros beyond the edges, Slaney mel scale and Slaney
    norm: `librosa.feature.melspectrogram` followed by `librosa.power_to_db`.

    Raises
    ------
    SpecError
        If a field is of the wrong type or out of range.
    """

    sample_rate: int = 22050
    """Samples per second (Hz)."""
    n_fft: int = 2048
    """Length of the Fourier transform and of its Hann window, in samples."""
    hop_length: int = 1711
    """Distance between two columns, in samples."""
    n_mels: int = 128
    """Number of mel bands (rows)."""
    fmin: float = 0.0
    """Lower edge of the lowest band, in Hz."""
    fmax: float = 11025.0
    """Upper edge of the highest band, in Hz; at most half the sample rate."""
    top_db: float = 80.0
    """Range kept below the loudest cell, in dB."""

    def __post_init__(self) -> None:
        """Refuse values no spectrogram can be made with."""
        for field in ("sample_rate", "n_fft", "hop_length", "n_mels"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpecError(f"spectrogram {field} must be a positive integer, not {value!r}")
        for field in ("fmin", "fmax", "top_db"):
            value = getattr(self, field)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not math.isfinite(value)
            ):
                raise SpecError(f"spectrogram {field} must be a finite number, not {value!r}")
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise SpecError(
                f"spectrogram fmin {self.fmin} and fmax {self.fmax} must satisfy "
                f"0 <= fmin < fmax <= {self.sample_rate / 2:g} (half the sample rate)"
            )
        if self.fmax - self.fmin < self.sample_rate / self.n_fft:
            raise SpecError(
                f"spectrogram fmin {self.fmin} and fmax {self.fmax} are closer than one Fourier "
                f"bin ({self.sample_rate / self.n_fft:g} Hz); raise n_fft"
            )
        if self.n_fft % 2:
            raise SpecError(f"spectrogram n_fft must be even, not {self.n_fft}")
        if self.top_db <= 0:
            raise SpecError(f"spectrogram top_db must be positive, not {self.top_db!r}")

    @property
    def hop_seconds(self) -> float:
        """Seconds from one column to the next."""
        return self.hop_length / self.sample_rate

    def frames_in(self, seconds: float) -> int:
        """Return the number of columns that span `seconds` of audio, at least 1."""
        return max(1, math.ceil(seconds / self.hop_seconds))

    def to_dict(self) -> dict[str, int | float]:
        """Return the fields as they stand in `spectrogram.json` and in a model's metadata."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> SpectrogramSpec:
        """Make a spec from a mapping with exactly its fields.

        Raises
        ------
        SpecError
            If a field is missing, unknown, of the wrong type or out of range.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if missing := sorted(names - set(fields)):
            raise SpecError(f"spectrogram lacks {', '.join(missing)}")
        if unknown := sorted(set(fields) - names):
            raise SpecError(f"spectrogram has unknown fields: {', '.join(unknown)}")
        return cls(**fields)  # type: ignore[arg-type]


def hz_to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert Hz to mels on Slaney's scale: linear below 1 kHz, logarithmic above.

    Source: M. Slaney, "Auditory Toolbox", Interval Research Technical Report 1998-010.
    """
    linear = hz * 3 / 200
    logarithmic = 15 + 27 * np.log(np.maximum(hz, 1e-12) / 1000) / np.log(6.4)
    return np.where(hz < 1000, linear, logarithmic)


def mel_to_hz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert mels on Slaney's scale to Hz; the inverse of `hz_to_mel`."""
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))


def _bins_and_edges(spec: SpectrogramSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the frequencies of the Fourier bins, and where each filter begins, peaks and ends."""
    bins = np.linspace(0, spec.sample_rate / 2, 1 + spec.n_fft // 2)
    low, high = hz_to_mel(np.array([spec.fmin, spec.fmax]))
    return bins, mel_to_hz(np.linspace(low, high, spec.n_mels + 2))


@functools.lru_cache(maxsize=8)
def mel_filterbank(spec: SpectrogramSpec) -> NDArray[np.float32]:
    """Return triangular mel filters of equal area (Slaney norm), shape `(n_mels, 1 + n_fft // 2)`.

    Multiply a power spectrum with it. Equal to `librosa.filters.mel`.
    """
    bins, edges = _bins_and_edges(spec)
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (upper - lower)
    read_only = np.asarray(filters, np.float32)
    read_only.setflags(write=False)
    return read_only


@functools.lru_cache(maxsize=8)
def _hann(n_fft: int) -> NDArray[np.float32]:
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return np.asarray(window, np.float32)


@dataclass(frozen=True, slots=True)
class _Slopes:
    """The filterbank without its zeros.

    Between two neighbouring edges one filter falls and the next one rises, so every bin counts in
    two bands at most: two weights a bin, summed from edge to edge.
    """

    used: slice
    """Bins between the first and the last edge."""
    rising: NDArray[np.float32]
    falling: NDArray[np.float32]
    starts: NDArray[np.intp]
    """First of the used bins after each edge but the last, shape (n_mels + 1,)."""
    filled: NDArray[np.float32]
    """1 where there is a bin before the next edge, else 0."""

    def mel(self, power: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map power spectra, shape (k, bins), to mel bands, shape (k, n_mels).

        Each row is summed on its own: a product with the whole filterbank would cost three times
        as much, and round differently with the number of rows, while a replay must equal the
        live run to the last bit.
        """
        power = power[:, self.used]
        rising = np.add.reduceat(power * self.rising, self.starts, axis=1) * self.filled
        falling = np.add.reduceat(power * self.falling, self.starts, axis=1) * self.filled
        return np.asarray(rising[:, :-1] + falling[:, 1:])


@functools.lru_cache(maxsize=8)
def _slopes(spec: SpectrogramSpec) -> _Slopes:
    bins, edges = _bins_and_edges(spec)
    at = np.searchsorted(bins, edges)
    used = np.arange(at[0], at[-1])
    segment = np.searchsorted(at, used, side="right") - 1
    # A row of zeros on either side: the first segment has no falling filter, the last no rising.
    filters = np.pad(mel_filterbank(spec), ((1, 1), (0, 0)))
    return _Slopes(
        used=slice(int(at[0]), int(at[-1])),
        rising=filters[segment + 1, used],
        falling=filters[segment, used],
        starts=np.minimum(at[:-1] - at[0], len(used) - 1),
        filled=(np.diff(at) > 0).astype(np.float32),
    )


def _columns(samples: Samples, count: int, spec: SpectrogramSpec) -> Columns:
    """Return `count` columns of absolute dB; column k starts at sample `k * hop_length`."""
    slopes, window = _slopes(spec), _hann(spec.n_fft)
    power_db = np.empty((spec.n_mels, count), np.float32)
    # A view of overlapping frames; `sliding_window_view` costs as much as the filters.
    step = samples.strides[0]
    frames = np.lib.stride_tricks.as_strided(
        samples, (count, spec.n_fft), (spec.hop_length * step, step), writeable=False
    )
    for start in range(0, count, BLOCK_COLUMNS):
        block = frames[start : min(count, start + BLOCK_COLUMNS)]
        spectrum = np.fft.rfft(block * window)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        mel = slopes.mel(power)
        power_db[:, start : start + len(mel)] = 10 * np.log10(np.maximum(mel, np.float32(AMIN))).T
    return power_db


def log_mel(samples: Samples, spec: SpectrogramSpec) -> Columns:
    """Return the log-mel spectrogram of a whole clip in absolute dB.

    Parameters
    ----------
    samples : float32, shape (n,)
        Mono audio at `spec.sample_rate`, full scale at 1. Must be finite: NaN would spread.
    spec : SpectrogramSpec
        The grid.

    Returns
    -------
    float32, shape (n_mels, 1 + n // hop_length)
        dB relative to a power of 1; row 0 is the lowest band. Apply `relative_to_peak` before it
        is shown to a model.

    Raises
    ------
    ValueError
        If `samples` is empty or not one-dimensional.
    """
    samples = np.ascontiguousarray(samples, np.float32)
    if samples.ndim != 1 or not samples.size:
        raise ValueError(f"samples must have shape (n,) with n >= 1, not {samples.shape}")
    padded = np.pad(samples, spec.n_fft // 2)
    return _columns(padded, 1 + len(samples) // spec.hop_length, spec)


class LogMelStream:
    """The log-mel spectrogram of audio that arrives in pieces of any size.

    Column k is centred on sample `k * hop_length` and is returned as soon as its last sample is
    there, so all columns equal those of `log_mel` but the last ones of a clip, which lean on the
    zeros beyond its end.

    Parameters
    ----------
    spec : SpectrogramSpec
        The grid.
    """

    def __init__(self, spec: SpectrogramSpec) -> None:
        self.spec = spec
        self._pending = np.zeros(spec.n_fft // 2, np.float32)
        self._skip = 0

    def push(self, samples: Samples) -> Columns:
        """Take the next samples and return the columns they complete.

        Parameters
        ----------
        samples : float32, shape (n,)
            Mono audio at the spec's rate; n may be 0.

        Returns
        -------
        float32, shape (n_mels, k)
            Absolute dB; k is 0 while no column is complete.
        """
        if self._skip:
            skipped = min(self._skip, len(samples))
            samples = samples[skipped:]
            self._skip -= skipped
        spec = self.spec
        pending = np.concatenate([self._pending, samples], dtype=np.float32)
        count = max(0, 1 + (len(pending) - spec.n_fft) // spec.hop_length)
        if not count:
            self._pending = pending
            return np.empty((spec.n_mels, 0), np.float32)
        columns = _columns(pending, count, spec)
        used = count * spec.hop_length
        # With a hop longer than the transform, samples between two columns are never looked at.
        self._skip = max(0, used - len(pending))
        self._pending = pending[used:].copy()
        return columns


def relative_to_peak(power_db: Columns, top_db: float) -> Columns:
    """Express dB relative to the loudest cell, floored at `-top_db`.

    Parameters
    ----------
    power_db : float32, shape (..., n_mels, frames)
        Log-mel cells in dB, with any reference. Leading axes are separate windows.
    top_db : float
        Range kept, in dB.

    Returns
    -------
    float32, same shape
        Values in `[-top_db, 0]`: what a model is shown (contract 4.2).
    """
    peak = power_db.max(axis=(-2, -1), keepdims=True)
    return np.asarray(np.maximum(power_db - peak, np.float32(-top_db)), np.float32)


def to_levels(relative_db: Columns, top_db: float) -> NDArray[np.uint8]:
    """Store dB in `[-top_db, 0]` as picture levels: `round(255 * (dB + top_db) / top_db)`."""
    levels = np.rint(255 * (np.clip(relative_db, -top_db, 0) + top_db) / top_db)
    return np.asarray(levels, np.uint8)


def from_levels(levels: NDArray[np.uint8], top_db: float) -> Columns:
    """Read picture levels back as dB in `[-top_db, 0]`; the inverse of `to_levels`."""
    return levels.astype(np.float32) * np.float32(top_db / 255) - np.float32(top_db)
