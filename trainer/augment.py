"""Augmentation of log-mel windows with the effects of microphones, rooms and radios.

Everything works on windows of shape (n_mels, frames) in dB. Filters are sums in dB and mixtures are
sums of power, so equalisers, band limits, reverberation and noise need no audio.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import (
    Columns,
    SpectrogramSpec,
    band_mels,
    hz_to_mel,
    relative_to_peak,
)

Random = np.random.Generator


def _strength(default: Any, least: float, most: float) -> Any:
    return field(default=default, metadata={"range": (least, most)})


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Strength of the augmentation; 0 turns an effect off.

    Raises
    ------
    ValueError
        If a strength is outside its range in `RANGES`; the message names strength, value and range.
    """

    stretch: float = _strength(0.08, 0, 0.5)
    """Largest relative change of tempo."""
    band_shift: int = _strength(3, 0, 64)
    """Largest shift along the mel axis, in bands."""
    equaliser_db: float = _strength(5.0, 0, 40)
    """Largest standard deviation of a random smooth frequency response, in dB."""
    band_limit: float = _strength(0.2, 0, 1)
    """Probability of a low-pass between 3 and 9 kHz, and of a high-pass below 300 Hz."""
    reverberation: float = _strength(0.2, 0, 1)
    """Probability of reverberation with an RT60 of 0.2 to 1.2 s."""
    noise: float = _strength(0.25, 0, 1)
    """Probability of background noise."""
    noise_snr_db: tuple[float, float] = _strength((0.0, 30.0), -100, 100)
    """Range of the ratio of music to background noise, in dB."""
    level_db: float = _strength(20.0, 0, 100)
    """Largest reduction of the range above the floor, as in a quiet recording, in dB."""
    masks: int = _strength(2, 0, 100)
    """Number of masks along each axis."""
    mask_frames: float = _strength(0.15, 0, 1)
    """Longest time mask, as a share of the window."""
    mask_bands: int = _strength(16, 0, 1000)
    """Widest band mask, in bands."""
    mixup: float = _strength(0.3, 0, 100)
    """Parameter of the Beta distribution for mixing two windows and their labels."""
    change: float = _strength(0.0, 0, 1)
    """Probability that a window begins with another recording; its label is that of its end."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not least <= number <= most:
                    raise ValueError(f"{name} must be from {least} to {most}, not {number:g}")
        lower, upper = self.noise_snr_db
        if lower > upper:
            raise ValueError(f"noise_snr_db must be a range, not from {lower:g} to {upper:g}")


RANGES: dict[str, tuple[float, float]] = {
    each.name: each.metadata["range"] for each in fields(Augmentation)
}
"""Least and greatest value of every strength, in its unit."""

NONE = Augmentation(0, 0, 0, 0, 0, 0, (0, 0), 0, 0, 0, 0, 0, 0)
"""No augmentation."""


def decibels(power: NDArray[np.floating]) -> Columns:
    """Return `10 log10(power)`, at least -120."""
    return np.asarray(10 * np.log10(np.maximum(power, 1e-12)), np.float32)


def add_power(first_db: Columns, second_db: Columns) -> Columns:
    """Return the level of the sum of two uncorrelated sounds, in dB."""
    return decibels(10 ** (first_db / 10) + 10 ** (second_db / 10))


def mean_power_db(window_db: Columns) -> float:
    """Return the mean power of a window, in dB."""
    return float(10 * np.log10(np.mean(10 ** (window_db / 10))))


def shift_bands(window_db: Columns, bands: int, floor_db: float) -> Columns:
    """Shift a window along the mel axis, upwards if `bands` > 0; the gap is set to the floor."""
    shifted = np.roll(window_db, bands, axis=0)
    shifted[slice(bands) if bands >= 0 else slice(bands, None)] = floor_db
    return shifted


def equalise(window_db: Columns, random: Random, deviation_db: float) -> Columns:
    """Add a random frequency response, interpolated between six points on the mel axis."""
    gains = random.normal(0, deviation_db, 6)
    n_mels = len(window_db)
    curve = np.interp(np.arange(n_mels), np.linspace(0, n_mels - 1, 6), gains)
    return np.asarray(window_db + curve[:, None], np.float32)


def limit_band(window_db: Columns, spec: SpectrogramSpec, low_hz: float, high_hz: float) -> Columns:
    """Attenuate the bands outside `low_hz` to `high_hz` by 4 dB per band."""
    mels = band_mels(spec)
    low, high = hz_to_mel(np.array([low_hz, high_hz]))
    width = mels[1] - mels[0]
    outside = np.maximum(0, np.maximum(low - mels, mels - high)) / width
    return np.asarray(window_db - 4 * outside[:, None], np.float32)


def reverberate(
    window_db: Columns, spec: SpectrogramSpec, decay_seconds: float, wet_db: float
) -> Columns:
    """Add reverberation: the power of each column decays by 60 dB in `decay_seconds` (RT60)."""
    power = 10 ** (window_db / 10)
    keep = 10 ** (-6 * spec.hop_seconds / decay_seconds)
    tail = np.zeros_like(power)
    for frame in range(1, power.shape[1]):
        tail[:, frame] = keep * (tail[:, frame - 1] + power[:, frame - 1])
    return decibels(power + 10 ** (wet_db / 10) * tail)


def coloured_noise(
    random: Random, spec: SpectrogramSpec, frames: int, slope_db: float, hum: bool = False
) -> Columns:
    """Return a log-mel window of stationary Gaussian noise, dB around 0, with or without mains hum.

    The power of a mel band is the sum of the squares of its Fourier bins, and therefore gamma
    distributed with as many degrees of freedom as the band has bins. `slope_db` is the change of
    level from the lowest to the highest band: with Slaney's norm about 0 is white, -25 pink and
    -50 brown noise.
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
    """Return noise with a random slope, sometimes with hum, shape (n_mels, frames), in dB."""
    slope_db, hum = random.uniform(-60, 10), bool(random.random() < 0.25)
    return equalise(coloured_noise(random, spec, frames, slope_db, hum), random, 3.0)


def insert_change(
    window_db: Columns, earlier_db: Columns, random: Random, spec: SpectrogramSpec
) -> Columns:
    """Return a window across a song change, which begins with another recording.

    At least the last second is from `window_db`; the level of the part from `earlier_db` is changed
    by up to 6 dB.
    """
    frames = window_db.shape[1]
    length = int(random.integers(1, max(1, frames - spec.frames_in(1.0)) + 1))
    changed = window_db.copy()
    changed[:, :length] = earlier_db[:, frames - length :] + random.uniform(-6, 6)
    return changed


def augment(
    window_db: Columns,
    random: Random,
    spec: SpectrogramSpec,
    strength: Augmentation,
    noise_db: Columns | None = None,
) -> Columns:
    """Return a window with random effects, in dB relative to its loudest cell (before masks).

    The background noise has the window's shape; by default it is synthetic.
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
        level = mean_power_db(window_db) - mean_power_db(noise_db)
        snr_db = random.uniform(*strength.noise_snr_db)
        window_db = add_power(window_db, noise_db + (level - snr_db))
    if random.random() < strength.band_limit:
        window_db = limit_band(window_db, spec, 0, random.uniform(3000, 9000))
    if random.random() < strength.band_limit:
        window_db = limit_band(window_db, spec, random.uniform(50, 300), spec.fmax)
    if strength.level_db and random.random() < 0.5:
        # In a quiet recording the noise floor is nearer to the music.
        reduction = random.uniform(0, strength.level_db)
        window_db = np.maximum(window_db - window_db.max() - reduction, floor)
    return mask(relative_to_peak(window_db, spec.top_db).astype(np.float32), random, strength)


def mask(window_db: Columns, random: Random, strength: Augmentation) -> Columns:
    """Set random ranges of columns and bands to the window's mean.

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


def mixup(
    windows: Columns, targets: NDArray[np.float32], random: Random, alpha: float
) -> tuple[Columns, NDArray[np.float32]]:
    """Mix every window of a batch, and its target, with another one; shares are beta distributed.

    Source: H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    if not alpha:
        return windows, targets
    share = random.beta(alpha, alpha, len(windows)).astype(np.float32)
    share = np.maximum(share, 1 - share)
    other = random.permutation(len(windows))
    windows = share[:, None, None] * windows + (1 - share)[:, None, None] * windows[other]
    targets = share[:, None] * targets + (1 - share)[:, None] * targets[other]
    return windows, targets
