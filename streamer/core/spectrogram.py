"""Log-mel spectrograms of whole clips and of audio that arrives in pieces.

The trainer's pictures and the daemon's windows both come from this module, so the network is
trained on the same spectrogram that it later classifies.
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
    """The parameters of a log-mel spectrogram.

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
        """Check types and ranges."""
        for field in dataclasses.fields(self):
            value, whole = getattr(self, field.name), isinstance(field.default, int)
            is_number = isinstance(value, int if whole else int | float)
            in_range = is_number and (value >= 1 if whole else math.isfinite(value))
            if not in_range or isinstance(value, bool):
                rule = "a positive integer" if whole else "a finite number"
                raise SpecError(f"spectrogram {field.name} must be {rule}, not {value!r}")
        edges = f"spectrogram fmin {self.fmin} and fmax {self.fmax}"
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise SpecError(
                f"{edges} must satisfy 0 <= fmin < fmax <= {self.sample_rate / 2:g} "
                "(half the sample rate)"
            )
        if self.fmax - self.fmin < self.sample_rate / self.n_fft:
            raise SpecError(
                f"{edges} are closer than one Fourier bin ({self.sample_rate / self.n_fft:g} Hz); "
                "raise n_fft"
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
        """Make a spec from a mapping with exactly its fields; otherwise raises `SpecError`."""
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


def band_mels(spec: SpectrogramSpec) -> NDArray[np.float64]:
    """Return the centre of every band, in mels."""
    return _edge_mels(spec)[1:-1]


def _edge_mels(spec: SpectrogramSpec) -> NDArray[np.float64]:
    """Return the edges of the bands, in mels: each band reaches from one to the next but one."""
    low, high = hz_to_mel(np.array([spec.fmin, spec.fmax]))
    return np.linspace(low, high, spec.n_mels + 2)


def mel_filterbank(spec: SpectrogramSpec) -> NDArray[np.float32]:
    """Return triangular mel filters of equal area (Slaney norm), shape `(n_mels, 1 + n_fft // 2)`.

    Multiply a power spectrum with it. Equal to `librosa.filters.mel`.
    """
    bins = np.linspace(0, spec.sample_rate / 2, 1 + spec.n_fft // 2)
    edges = mel_to_hz(_edge_mels(spec))
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (upper - lower)
    return np.asarray(filters, np.float32)


@functools.lru_cache(maxsize=8)
def _hann(n_fft: int) -> NDArray[np.float32]:
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return np.asarray(window, np.float32)


BANDS_AT_ONCE = 16
"""Neighbouring mel bands computed by one product. OpenBLAS divides products of a few more among
threads, which takes longer."""


@functools.lru_cache(maxsize=8)
def _filter_blocks(spec: SpectrogramSpec) -> list[tuple[slice, slice, NDArray[np.float32]]]:
    """Return the filterbank in blocks of `BANDS_AT_ONCE` bands, without most of its zeros.

    A block: a slice of bands, the slice of Fourier bins with weight in any of them, and the filters
    between the two, shape (bins, bands), with the bins of a band side by side: OpenBLAS multiplies
    a tenth faster than with the bands of a bin side by side.
    """
    filters = mel_filterbank(spec)
    blocks = []
    for first in range(0, spec.n_mels, BANDS_AT_ONCE):
        bands = slice(first, min(spec.n_mels, first + BANDS_AT_ONCE))
        used = np.flatnonzero(filters[bands].any(axis=0))
        # Bands narrower than a Fourier bin may have no bin at all: take one of weight 0.
        bins = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1)
        blocks.append((bands, bins, np.ascontiguousarray(filters[bands, bins]).T))
    return blocks


def _mel(power: NDArray[np.float32], spec: SpectrogramSpec) -> NDArray[np.float32]:
    """Map power spectra (k, bins) to mel bands (k, n_mels).

    One spectrum at a time: how a product of several is rounded depends on how many there are and on
    each one's place, and a replay, which renders more columns at once, must equal the live run to
    the last bit.
    """
    mel = np.empty((len(power), spec.n_mels), np.float32)
    for bands, bins, filters in _filter_blocks(spec):
        np.matmul(power[:, None, bins], filters, out=mel[:, None, bands])
    return mel


def _columns(samples: Samples, count: int, spec: SpectrogramSpec) -> Columns:
    """Return `count` columns of absolute dB; column k starts at sample `k * hop_length`."""
    window = _hann(spec.n_fft)
    power_db = np.empty((spec.n_mels, count), np.float32)
    # A view of overlapping frames; `sliding_window_view` costs as much as the filters.
    strides = (spec.hop_length * samples.itemsize, samples.itemsize)
    frames = np.ndarray((count, spec.n_fft), np.float32, samples, strides=strides)
    for start in range(0, count, BLOCK_COLUMNS):
        block = frames[start : start + BLOCK_COLUMNS] * window
        # In double precision: numpy's transform of float32 takes as long, and twice as long if its
        # buffers happen to lie 4 KiB apart.
        transform = np.fft.rfft(block.astype(np.float64)).astype(np.complex64)
        power = np.square(transform.real)
        power += np.square(transform.imag)
        mel = _mel(power, spec)
        np.log10(np.maximum(mel, np.float32(AMIN), out=mel), out=mel)
        np.multiply(mel.T, 10, out=power_db[:, start : start + len(block)])
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
        dB relative to a power of 1; row 0 is the lowest band. Apply `relative_to_peak` before
        giving it to a model.

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

    Column k is centred on sample `k * hop_length` and is returned as soon as its last sample has
    come. Columns equal those of `log_mel`, except that the last ones of a clip, which overlap the
    zeros beyond its end, are not returned.
    """

    def __init__(self, spec: SpectrogramSpec) -> None:
        self.spec = spec
        self._pending = np.zeros(spec.n_fft // 2, np.float32)
        self._skip = 0

    def push(self, samples: Samples) -> Columns:
        """Take the next samples, shape (n,), mono at the spec's rate; n may be 0.

        Returns the columns that they complete, shape (n_mels, k), in absolute dB; k may be 0.
        """
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
        # With a hop longer than the transform, samples between two columns are skipped.
        self._skip = max(0, used - len(pending))
        self._pending = pending[used:].copy()
        return columns


def relative_to_peak(power_db: Columns, top_db: float) -> Columns:
    """Express dB relative to the loudest cell, floored at `-top_db`: the input of a model.

    Takes and returns shape (..., n_mels, frames); leading axes are separate windows.
    """
    peak = power_db.max(axis=(-2, -1), keepdims=True)
    return np.asarray(np.maximum(power_db - peak, np.float32(-top_db)), np.float32)


def to_levels(relative_db: Columns, top_db: float) -> NDArray[np.uint8]:
    """Convert dB in `[-top_db, 0]` to picture levels: `round(255 * (dB + top_db) / top_db)`."""
    levels = np.rint(255 * (np.clip(relative_db, -top_db, 0) + top_db) / top_db)
    return np.asarray(levels, np.uint8)


def from_levels(levels: NDArray[np.uint8], top_db: float) -> Columns:
    """Convert picture levels to dB in `[-top_db, 0]`; the inverse of `to_levels`."""
    return levels.astype(np.float32) * np.float32(top_db / 255) - np.float32(top_db)
