"""Mixing the channels of a source to one, so that its sound cannot vanish.

The mean of the channels is silent if two of them hold the same sound with opposite signs, as with a
cable or a file that is out of phase, and quiet if all but one of many are silent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamer.core.spectrogram import Samples

FULL_SCALE = 1 - 2**-15
"""Magnitude from which a sample counts as clipped: the largest value of 16-bit audio."""
BLOCKS_PER_SECOND = 10
"""Blocks in which power is measured; how the channels are mixed changes over during one of them."""
POWER_BLOCKS = 10
"""Blocks over which the power of the mix is compared with that of the channels: a second."""
BLOCKS_AT_ONCE = 5
"""Blocks measured by one call of numpy, which bounds the memory that it takes."""
LOST_DB = 10.0
"""What is heard is replaced if it is this much quieter than the loudest channel. Two channels that
have nothing in common lose 3 dB by mixing, a silent one costs 6 dB."""
REGAINED_DB = 7.0
"""The mix is heard again if it is at most this much quieter than the loudest channel."""
LEAST_POWER = 1e-9
"""Mean square of the loudest channel below which nothing changes: noise at -90 dBFS."""
LEAST_OFFSET = 0.1
"""Mean of a hop, as a share of its standard deviation, from which on it is subtracted. In 2,667
seconds of GTZAN it is 0.002 at the median and never over 0.084."""


@dataclass(frozen=True, slots=True)
class MonoSamples:
    """Mono samples, and how many values of all channels had to be corrected."""

    samples: Samples
    """Shape (n,), in [-1, 1]."""
    nan_samples: int
    """Values that were NaN or infinite and became 0."""
    clipped_samples: int
    """Values at or beyond full scale, which were limited to it."""


class Mixer:
    """Mix the channels of one source: their mean, or the loudest one where the mean loses it.

    Where the mean was much quieter than the loudest channel for a second, that channel alone is
    heard, until the mean is loud enough again. It changes over within a tenth of a second, without
    clicks. The result depends on the samples alone, never on the pieces in which they come.

    Examples
    --------
    >>> left = np.sin(np.arange(48000) / 10)
    >>> mixer = Mixer()
    >>> mono = np.concatenate([mixer.mix(np.stack([left, -left], axis=1), 16000) for _ in range(2)])
    >>> [float(np.abs(second).max().round(1)) for second in mono.reshape(6, -1)]
    [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    >>> mixer.fallbacks, mixer.channel
    (1, 0)
    """

    def __init__(self) -> None:
        self.fallbacks = 0
        """Times that one channel took the place of what was heard before."""
        self.channel: int | None = None
        """Index of the channel that is heard alone, or None."""
        self._previous: int | None = None
        self._format = (0, 0)
        self._block_samples = 0
        self._rest: NDArray[np.floating]
        """Samples of the block that is not complete yet."""
        self._powers: NDArray[np.float64]
        """Of each channel and of the mean in the last blocks, shape (blocks, channels + 1)."""

    def correct_and_mix(self, samples: ArrayLike, sample_rate: int) -> MonoSamples:
        """Mix samples of any source, with values that are not finite or out of range corrected.

        Parameters
        ----------
        samples : floating point, shape (n,) or (n, channels)
            Full scale at 1; NaN, infinity and values beyond full scale are allowed.
        sample_rate : int
            Of these samples, in Hz.

        Raises
        ------
        TypeError
            If the samples are not floating point, because the scale of integers is not known.
        ValueError
            If the shape is another.

        Examples
        --------
        >>> samples = np.array([[0.5, 0.0], [np.nan, 0.5]])
        >>> Mixer().correct_and_mix(samples, 44100).samples.tolist()
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
        nan_samples = clipped_samples = 0
        # One look at all values; NaN is not less than anything.
        if block.size and not np.abs(block).max() < FULL_SCALE:
            finite = np.isfinite(block)
            nan_samples = block.size - int(np.count_nonzero(finite))
            if nan_samples:
                block = np.where(finite, block, 0)
            clipped_samples = int(np.count_nonzero(np.abs(block) >= FULL_SCALE))
            if clipped_samples:
                block = np.clip(block, -1, 1)
        return MonoSamples(self.mix(block, sample_rate), nan_samples, clipped_samples)

    def mix(self, samples: NDArray[np.floating], sample_rate: int) -> Samples:
        """Return finite samples, shape (n,) or (n, channels), as mono, shape (n,)."""
        if samples.ndim == 1:
            samples = samples[:, np.newaxis]
        count, channels = samples.shape
        if (sample_rate, channels) != self._format:
            self._start(sample_rate, channels)
        if channels == 1:
            return samples[:, 0].astype(np.float32)
        filled = len(self._rest)
        measured = np.concatenate([self._rest, samples])
        complete = len(measured) // self._block_samples
        self._rest = measured[complete * self._block_samples :].copy()
        heard = [(self._previous, self.channel)]
        for first in range(0, complete, BLOCKS_AT_ONCE):
            end = min(first + BLOCKS_AT_ONCE, complete) * self._block_samples
            heard += self._choose(measured[first * self._block_samples : end])
        if set(heard) == {(self.channel, self.channel)}:
            return _heard(samples, self.channel).astype(np.float32)
        mono = np.empty(count, np.float32)
        done = 0
        for previous, channel in heard:
            piece = samples[done : done + self._block_samples - filled]
            mono[done : done + len(piece)] = self._mix_piece(piece, filled, previous, channel)
            filled = 0
            done += len(piece)
        return mono

    def _start(self, sample_rate: int, channels: int) -> None:
        self._format = (sample_rate, channels)
        self._block_samples = max(1, sample_rate // BLOCKS_PER_SECOND)
        self._rest = np.empty((0, channels), np.float32)
        self._powers = np.empty((0, channels + 1))
        self.channel = self._previous = None

    def _mix_piece(
        self,
        piece: NDArray[np.floating],
        filled: int,
        previous: int | None,
        channel: int | None,
    ) -> NDArray[np.float64]:
        """Mix samples of one block after the first `filled` ones."""
        mixed = _heard(piece, channel)
        if channel == previous:
            return mixed
        share = (np.arange(len(piece)) + filled + 1) / self._block_samples
        before = _heard(piece, previous)
        return before + share * (mixed - before)

    def _choose(self, samples: NDArray[np.floating]) -> list[tuple[int | None, int | None]]:
        """Choose what is heard after each of some whole blocks, from the powers of the last ones.

        Returns what was heard before and what is heard from then on, for each.
        """
        channels = samples.shape[1]
        blocks = samples.reshape(-1, self._block_samples, channels).transpose(0, 2, 1)
        blocks = np.ascontiguousarray(blocks, np.float64)
        mean = _heard(blocks.transpose(0, 2, 1), None)
        powers = np.concatenate([blocks.var(axis=2), mean.var(axis=1)[:, np.newaxis]], axis=1)
        powers = np.concatenate([self._powers, powers])
        self._powers = powers[1 - POWER_BLOCKS :].copy()
        heard = []
        for end in range(len(powers) - len(blocks) + 1, len(powers) + 1):
            self._previous = self.channel
            if end >= POWER_BLOCKS:
                self._choose_from(powers[end - POWER_BLOCKS : end].mean(axis=0))
            heard.append((self._previous, self.channel))
        return heard

    def _choose_from(self, powers: NDArray[np.float64]) -> None:
        """Choose what is heard, from the power of each channel and, last, of their mean."""
        loudest = int(np.argmax(powers[:-1]))
        if powers[loudest] < LEAST_POWER:
            return
        # The last power is that of the mean, and so is the one at index -1.
        below_db = 10 * np.log10(powers[loudest] / np.maximum(powers, 1e-30))
        if self.channel is not None and below_db[-1] <= REGAINED_DB:
            self.channel = None
        elif below_db[-1 if self.channel is None else self.channel] > LOST_DB:
            self.channel = loudest
            self.fallbacks += 1


def _heard(samples: NDArray[np.floating], channel: int | None) -> NDArray[np.float64]:
    """Return one channel, or the mean of all; they are the last axis."""
    if channel is not None:
        return samples[..., channel].astype(np.float64)
    # Channel by channel: the order in which `mean` adds, and so its rounding, depends on shape.
    total = samples[..., 0].astype(np.float64)
    for index in range(1, samples.shape[-1]):
        total += samples[..., index]
    total /= samples.shape[-1]
    return total


def without_offset(samples: Samples) -> Samples:
    """Subtract the mean of samples if it is large enough to be a fault of the sound card.

    A constant would be the loudest cell of the spectrogram, to which all others are relative.

    Examples
    --------
    >>> without_offset(np.array([0.75, 0.25], np.float32)).tolist()
    [0.25, -0.25]
    """
    offset = np.mean(samples, dtype=np.float64)
    if abs(offset) <= LEAST_OFFSET * np.std(samples, dtype=np.float64):
        return samples
    return np.asarray(samples - offset, np.float32)
