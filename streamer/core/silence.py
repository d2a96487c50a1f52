"""Measuring the level of a source, and detecting silence by it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from streamer.core.decision_settings import DecisionSettings
from streamer.core.spectrogram import Samples

LEVEL_SECONDS = 1.0
"""Shortest time over which a level is measured: music has shorter pauses, which must not be taken
for silence when hops are short."""

LEAST_DBFS = -120.0
"""Level reported for digital silence, whose logarithm is infinite; in dBFS."""

EDGES_PER_SECOND = 20
"""Blocks a second in which the edges of silence are searched for; each lasts 50 ms."""


@dataclass(frozen=True, slots=True)
class _Moments:
    """What the level of several hops together follows from."""

    count: int
    mean: float
    power: float
    """Of the samples without their mean."""

    @classmethod
    def of(cls, samples: Samples) -> _Moments:
        if not len(samples):
            return cls(0, 0.0, 0.0)
        mean, power = (float(each(samples, dtype=np.float64)) for each in (np.mean, np.var))
        return cls(len(samples), mean, power)

    def __add__(self, other: _Moments) -> _Moments:
        count = self.count + other.count
        share = other.count / max(1, count)
        distance = other.mean - self.mean
        power = self.power + share * (other.power - self.power)
        power += share * (1 - share) * distance**2
        return _Moments(count, self.mean + share * distance, power)


class SilenceGate:
    """Decide once a hop whether a source is silent, with hysteresis, and locate the edges.

    Positions are numbers of samples since the source's first one.
    """

    def __init__(self, settings: DecisionSettings, sample_rate: int) -> None:
        # Of the last hop.
        self.silent = False
        self.level_dbfs = LEAST_DBFS
        self._settings = settings
        self._level_samples = round(LEVEL_SECONDS * sample_rate)
        self._edge_samples = sample_rate // EDGES_PER_SECOND
        self._hops: deque[_Moments] = deque()
        """Of the latest hops that together are long enough for a level."""
        self._loud_until = 0

    def update(self, hop: Samples, start: int, hop_samples: int) -> int | None:
        """Take the mono samples of the next hop, the first of which is at position `start`.

        The level is measured over as many hops as last for `hop_samples`, or for `LEVEL_SECONDS` if
        that is longer. Returns the position at which silence began or ended, None if neither
        happened.
        """
        self._hops.append(_Moments.of(hop))
        # A hop may be a sample shorter than its time, since it has whole ones.
        span = max(hop_samples, self._level_samples) - len(self._hops)
        while sum(each.count for each in self._hops) - self._hops[0].count >= span:
            self._hops.popleft()
        together = sum(self._hops, start=_Moments(0, 0.0, 0.0))
        changed = self.update_level(_decibels(together.power))
        first, last = loud_extent(hop, self._settings.silence_dbfs, self._edge_samples)
        silence_start = min(start, self._loud_until)
        if last:
            self._loud_until = start + last
        if not changed:
            return None
        return silence_start if self.silent else start + first

    def update_level(self, level_dbfs: float) -> bool:
        """Take the level of the next hop in dBFS; return whether silence began or ended."""
        threshold = self._settings.silence_dbfs
        if self.silent:
            threshold += self._settings.silence_hysteresis_db
        was_silent = self.silent
        self.level_dbfs, self.silent = level_dbfs, level_dbfs < threshold
        return self.silent != was_silent


def level_dbfs(samples: Samples) -> float:
    """Return the level of samples in dBFS: their RMS without their mean, in dB relative to 1.

    A full-scale square wave has 0 dBFS, a full-scale sine -3.01, a constant `LEAST_DBFS`.

    Examples
    --------
    >>> round(level_dbfs(np.array([0.1, -0.1] * 1000, np.float32)), 3)
    -20.0
    """
    return _decibels(_Moments.of(samples).power)


def _decibels(power: float) -> float:
    return max(LEAST_DBFS, 10 * float(np.log10(max(power, 1e-30))))


def loud_extent(samples: Samples, silence_dbfs: float, block: int) -> tuple[int, int]:
    """Return where the first loud block of samples begins and the last one ends; 0, 0 if none is.

    Examples
    --------
    >>> loud_extent(np.array([0, 0, 0, 0, 0.1, -0.1, 0, 0], np.float32), -60.0, block=2)
    (4, 6)
    """
    block = min(block, max(1, len(samples)))
    blocks = samples[: len(samples) // block * block].reshape(-1, block)
    loud = np.flatnonzero(np.var(blocks, axis=1, dtype=np.float64) >= 10 ** (silence_dbfs / 10))
    return (int(loud[0]) * block, (int(loud[-1]) + 1) * block) if len(loud) else (0, 0)
