"""Variations of log-mel windows: what microphones, rooms and radios do to a song.

Everything works on `(n_mels, frames)` windows in dB. Sounds add in power, filters add in dB, so
an equaliser, a band limit, a room and a noise need no audio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Columns, SpectrogramSpec, hz_to_mel, relative_to_peak

Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How strongly training windows are varied; every strength 0 is no variation."""

    stretch: float = 0.08
    """Largest change of tempo, as a share."""
    band_shift: int = 3
    """Largest shift along the mel axis, in bands."""
    equaliser_db: float = 5.0
    """Largest standard deviation of a smooth random frequency response, in dB."""
    band_limit: float = 0.2
    """Probability of a low-pass between 3 and 9 kHz, and of a high-pass below 300 Hz."""
    reverberation: float = 0.2
    """Probability of a room with a reverberation time of 0.2 to 1.2 s."""
    noise: float = 0.25
    """Probability of background noise."""
    noise_snr_db: tuple[float, float] = (0.0, 30.0)
    """Range of the ratio of music to background noise, in dB."""
    level_db: float = 20.0
    """Largest level shift down towards the recording's floor, in dB."""
    masks: int = 2
    """Masks along each axis."""
    mask_frames: float = 0.15
    """Longest time mask, as a share of the window."""
    mask_bands: int = 16
    """Widest band mask, in bands."""
    mixup: float = 0.3
    """Parameter of the Beta distribution that mixes two windows and their labels; 0 is off."""
    change: float = 0.0
    """Probability that a window begins with another recording and tells of the later one."""

    def __post_init__(self) -> None:
        """Refuse what no window can be varied by.

        Raises
        ------
        ValueError
            With one sentence that names the strength, its value and its range.
        """
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not least <= number <= most:
                    raise ValueError(f"{name} must be from {least} to {most}, not {number:g}")
        lower, upper = self.noise_snr_db
        if lower > upper:
            raise ValueError(f"noise_snr_db must be a range, not from {lower:g} to {upper:g}")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Augmentation:
        """Read the strengths as they stand in `run.json`, which has lists for tuples."""
        return cls(**{**fields, "noise_snr_db": tuple(fields["noise_snr_db"])})


RANGES: dict[str, tuple[float, float]] = {
    "stretch": (0, 0.5),
    "band_shift": (0, 64),
    "equaliser_db": (0, 40),
    "band_limit": (0, 1),
    "reverberation": (0, 1),
    "noise": (0, 1),
    "noise_snr_db": (-100, 100),
    "level_db": (0, 100),
    "masks": (0, 100),
    "mask_frames": (0, 1),
    "mask_bands": (0, 1000),
    "mixup": (0, 100),
    "change": (0, 1),
}
"""Least and highest value of every strength, in its unit."""


NONE = Augmentation(0, 0, 0, 0, 0, 0, (0, 0), 0, 0, 0, 0, 0, 0)
"""No variation at all."""


def decibels(power: NDArray[np.floating]) -> Columns:
    """Return `10 log10(power)`, at least -120."""
    return np.asarray(10 * np.log10(np.maximum(power, 1e-12)), np.float32)


def add_power(first_db: Columns, second_db: Columns) -> Columns:
    """Return the level of two unrelated sounds heard together, in dB."""
    return decibels(10 ** (first_db / 10) + 10 ** (second_db / 10))


def loudness(window_db: Columns) -> float:
    """Return the mean power of a window, in dB."""
    return float(10 * np.log10(np.mean(10 ** (window_db / 10))))


def resample_time(columns_db: Columns, frames: int) -> Columns:
    """Stretch or squeeze `(n_mels, k)` columns to `frames` columns by linear interpolation."""
    count = columns_db.shape[1]
    if count == frames:
        return columns_db
    at = np.linspace(0, count - 1, frames)
    left = np.minimum(at.astype(int), count - 2)
    share = (at - left).astype(np.float32)
    stretched = columns_db[:, left] * (1 - share) + columns_db[:, left + 1] * share
    return np.asarray(stretched, np.float32)


def shift_bands(window_db: Columns, bands: int, floor_db: float) -> Columns:
    """Move a window along the mel axis, upwards for positive `bands`, filling with the floor."""
    if not bands:
        return window_db
    shifted = np.full_like(window_db, floor_db)
    if bands > 0:
        shifted[bands:] = window_db[:-bands]
    else:
        shifted[:bands] = window_db[-bands:]
    return shifted


def band_mels(spec: SpectrogramSpec) -> NDArray[np.float64]:
    """Return the centre of every band, in mels."""
    low, high = hz_to_mel(np.array([spec.fmin, spec.fmax]))
    return np.linspace(low, high, spec.n_mels + 2)[1:-1]


def equalise(window_db: Columns, random: Random, deviation_db: float) -> Columns:
    """Apply a smooth random frequency response through six points along the mel axis."""
    gains = random.normal(0, deviation_db, 6)
    n_mels = len(window_db)
    curve = np.interp(np.arange(n_mels), np.linspace(0, n_mels - 1, 6), gains)
    return np.asarray(window_db + curve[:, None], np.float32)


def limit_band(window_db: Columns, spec: SpectrogramSpec, low_hz: float, high_hz: float) -> Columns:
    """Attenuate bands outside `low_hz` to `high_hz` by 4 dB a band, like a steep filter."""
    mels = band_mels(spec)
    low, high = hz_to_mel(np.array([low_hz, high_hz]))
    width = mels[1] - mels[0]
    outside = np.maximum(0, np.maximum(low - mels, mels - high)) / width
    return np.asarray(window_db - 4 * outside[:, None], np.float32)


def reverberate(
    window_db: Columns, spec: SpectrogramSpec, decay_seconds: float, wet_db: float
) -> Columns:
    """Let every column ring on: power falls by 60 dB in `decay_seconds` (RT60)."""
    power = 10 ** (window_db / 10)
    keep = 10 ** (-6 * spec.hop_seconds / decay_seconds)
    tail = np.zeros_like(power)
    for frame in range(1, power.shape[1]):
        tail[:, frame] = keep * (tail[:, frame - 1] + power[:, frame - 1])
    return decibels(power + 10 ** (wet_db / 10) * tail)


def coloured_noise(
    random: Random, spec: SpectrogramSpec, frames: int, slope_db: float, hum: bool = False
) -> Columns:
    """Return what stationary noise looks like in a log-mel window.

    The power of a mel band of Gaussian noise is a sum of the squares of its Fourier bins, so it is
    gamma distributed with as many degrees of freedom as the band has bins.

    Parameters
    ----------
    random : numpy.random.Generator
        Where chance comes from.
    spec : SpectrogramSpec
        The grid.
    frames : int
        Number of columns.
    slope_db : float
        Change of level from the lowest to the highest band, in dB: about 0 is white under Slaney's
        norm, -25 pink, -50 brown.
    hum : bool
        Whether mains hum and its harmonics lie over the noise.

    Returns
    -------
    float32, shape (n_mels, frames)
        dB around 0.
    """
    bins = np.clip(np.geomspace(2, 24, spec.n_mels), 1, None)[:, None]
    power = random.gamma(bins, 1 / bins, (spec.n_mels, frames))
    window = 10 * np.log10(power) + np.linspace(0, slope_db, spec.n_mels)[:, None]
    if hum:
        mains = random.choice([50.0, 60.0]) * np.arange(1, 13)
        mels = band_mels(spec)
        for number, mel in enumerate(hz_to_mel(mains)):
            band = int(np.argmin(np.abs(mels - mel)))
            window[band] += max(0.0, random.uniform(10, 40) - 2 * number)
    return window.astype(np.float32)


def random_noise(random: Random, spec: SpectrogramSpec, frames: int) -> Columns:
    """Return noise of a random colour, sometimes with hum, `(n_mels, frames)` in dB."""
    noise = coloured_noise(
        random, spec, frames, random.uniform(-60, 10), hum=bool(random.random() < 0.25)
    )
    return equalise(noise, random, 3.0)


def change_over(
    window_db: Columns, earlier_db: Columns, random: Random, spec: SpectrogramSpec
) -> Columns:
    """Return a window as it is soon after a change: first something else, then what plays now.

    Parameters
    ----------
    window_db, earlier_db : float32, shape (n_mels, frames)
        What plays now and what played before, dB relative to the loudest cell of each recording.
    random : numpy.random.Generator
        Where chance comes from.
    spec : SpectrogramSpec
        The grid.

    Returns
    -------
    float32, same shape
        At least the last second is of `window_db`; the levels of the two differ by up to 6 dB.
    """
    frames = window_db.shape[1]
    latest = max(1, frames - spec.frames_in(1.0))
    begin = int(random.integers(1, latest + 1))
    changed = window_db.copy()
    changed[:, :begin] = earlier_db[:, frames - begin :] + random.uniform(-6, 6)
    return changed


def vary(
    window_db: Columns,
    random: Random,
    spec: SpectrogramSpec,
    strength: Augmentation,
    noise_db: Columns | None = None,
) -> Columns:
    """Return one random variation of a window, relative to its loudest cell.

    Parameters
    ----------
    window_db : float32, shape (n_mels, frames)
        dB in [-top_db, 0].
    random : numpy.random.Generator
        Where chance comes from.
    spec : SpectrogramSpec
        The grid.
    strength : Augmentation
        How much of everything.
    noise_db : float32, shape (n_mels, frames), optional
        A background sound; synthetic noise is used where it is not given.

    Returns
    -------
    float32, same shape
        dB in [-top_db, 0], loudest cell 0 (before masks).
    """
    floor = -spec.top_db
    if strength.band_shift:
        shift = int(random.integers(-strength.band_shift, strength.band_shift + 1))
        window_db = shift_bands(window_db, shift, floor)
    if strength.equaliser_db:
        window_db = equalise(window_db, random, strength.equaliser_db * random.random())
    if random.random() < strength.reverberation:
        window_db = reverberate(window_db, spec, random.uniform(0.2, 1.2), random.uniform(-12, 0))
    if random.random() < strength.noise:
        if noise_db is None:
            noise_db = random_noise(random, spec, window_db.shape[1])
        level = loudness(window_db) - loudness(noise_db) - random.uniform(*strength.noise_snr_db)
        window_db = add_power(window_db, noise_db + level)
    if random.random() < strength.band_limit:
        window_db = limit_band(window_db, spec, 0, random.uniform(3000, 9000))
    if random.random() < strength.band_limit:
        window_db = limit_band(window_db, spec, random.uniform(50, 300), spec.fmax)
    if strength.level_db and random.random() < 0.5:
        # The floor of a quiet recording lies nearer to its music.
        window_db = np.maximum(
            window_db - window_db.max() - random.uniform(0, strength.level_db), floor
        )
    return mask(relative_to_peak(window_db, spec.top_db).astype(np.float32), random, strength)


def mask(window_db: Columns, random: Random, strength: Augmentation) -> Columns:
    """Cover random stretches of time and bands with the window's mean.

    Source: D. Park et al., "SpecAugment", Interspeech 2019, without the time warping.
    """
    if not strength.masks:
        return window_db
    window_db = window_db.copy()
    n_mels, frames = window_db.shape
    fill = window_db.mean()
    for _ in range(strength.masks):
        length = int(random.integers(0, max(1, round(strength.mask_frames * frames)) + 1))
        start = int(random.integers(0, frames - length + 1))
        window_db[:, start : start + length] = fill
        width = int(random.integers(0, strength.mask_bands + 1))
        lowest = int(random.integers(0, max(1, n_mels - width + 1)))
        window_db[lowest : lowest + width] = fill
    return window_db


def mix(
    windows: Columns, targets: NDArray[np.float32], random: Random, alpha: float
) -> tuple[Columns, NDArray[np.float32]]:
    """Mix every window of a batch and its target with another one's.

    Source: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.

    Parameters
    ----------
    windows : float32, shape (batch, n_mels, frames)
        dB.
    targets : float32, shape (batch, classes)
        Label shares.
    random : numpy.random.Generator
        Where chance comes from.
    alpha : float
        Parameter of the Beta distribution; 0 leaves the batch as it is.

    Returns
    -------
    windows, targets
        As given, mixed.
    """
    if not alpha:
        return windows, targets
    share = random.beta(alpha, alpha, len(windows)).astype(np.float32)
    share = np.maximum(share, 1 - share)
    other = random.permutation(len(windows))
    windows = share[:, None, None] * windows + (1 - share)[:, None, None] * windows[other]
    targets = share[:, None] * targets + (1 - share)[:, None] * targets[other]
    return windows, targets
