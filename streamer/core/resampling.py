"""Conversion of audio of any sample rate and number of channels to mono at the model's rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import ArrayLike

from streamer.core.spectrogram import Samples

FULL_SCALE = 1 - 2**-15
"""Magnitude from which a sample counts as clipped: the largest value of 16-bit audio."""


@dataclass(frozen=True, slots=True)
class MonoSamples:
    """Mono samples, and how many values of all channels had to be corrected."""

    samples: Samples
    """Shape (n,), in [-1, 1]."""
    nan_samples: int
    """Values that were NaN or infinite and became 0."""
    clipped_samples: int
    """Values at or beyond full scale, which were limited to it."""


def mix_down(samples: ArrayLike) -> MonoSamples:
    """Return the mean of the channels, with values that are not finite or out of range corrected.

    Parameters
    ----------
    samples : floating point, shape (n,) or (n, channels)
        Full scale at 1; NaN, infinity and values beyond full scale are allowed.

    Raises
    ------
    TypeError
        If the samples are not floating point, because the scale of integers is not known.
    ValueError
        If the shape is another.

    Examples
    --------
    >>> mix_down(np.array([[0.5, 0.0], [np.nan, 0.5]])).samples.tolist()
    [0.25, 0.25]
    """
    block = np.asarray(samples)
    if not np.issubdtype(block.dtype, np.floating):
        raise TypeError(
            f"samples must be floating point with full scale at 1, not {block.dtype}: "
            "divide 16-bit integers by 32768"
        )
    if block.ndim not in (1, 2) or (block.ndim == 2 and not block.shape[1]):
        raise ValueError(f"samples must have shape (n,) or (n, channels), not {block.shape}")
    finite = np.isfinite(block)
    nan_samples = block.size - int(np.count_nonzero(finite))
    if nan_samples:
        block = np.where(finite, block, 0)
    clipped_samples = int(np.count_nonzero(np.abs(block) >= FULL_SCALE))
    if clipped_samples:
        block = np.clip(block, -1, 1)
    if block.ndim == 2:
        # Channel by channel: the order in which `mean` adds, and so its rounding, depends on shape.
        total = block[:, 0].astype(np.float64)
        for channel in range(1, block.shape[1]):
            total += block[:, channel]
        block = total / block.shape[1]
    return MonoSamples(block.astype(np.float32), nan_samples, clipped_samples)


class Resampler:
    """Change the sample rate of one continuous stretch of mono audio (libsoxr, high quality).

    What comes out is aligned with what goes in and depends on the samples alone, never on the
    pieces in which they come. It equals `soxr.resample` of the whole stretch, with which the
    training data is made, to the last bit. A rate (Hz) that is not positive raises `ValueError`.

    Examples
    --------
    >>> halver = Resampler(44100, 22050)
    >>> first = halver.push(np.zeros(44100, np.float32))
    >>> len(first) + len(halver.flush())
    22050
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        for rate in (source_rate, target_rate):
            if rate < 1:
                raise ValueError(f"a sample rate must be positive, not {rate}")
        self.source_rate = source_rate
        self.held_seconds = 0.0
        """Seconds of sound that were pushed but not returned yet."""
        self._target_rate = target_rate
        self._stream: soxr.ResampleStream | None = None
        if source_rate != target_rate:
            self._stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32")

    def push(self, samples: Samples) -> Samples:
        """Take the next samples, shape (n,); return those at the other rate that are complete.

        Less than 0.1 s is held back.
        """
        return self._resample(samples, last=False)

    def flush(self) -> Samples:
        """End the stretch; return the rest of it. Nothing may be pushed afterwards."""
        return self._resample(np.empty(0, np.float32), last=True)

    def _resample(self, samples: Samples, *, last: bool) -> Samples:
        if self._stream is None:
            return samples
        complete = np.asarray(self._stream.resample_chunk(samples, last), np.float32)
        self.held_seconds += len(samples) / self.source_rate - len(complete) / self._target_rate
        return complete
