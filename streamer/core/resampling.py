"""Samples of any rate and any number of channels made mono at the model's rate.

What comes out depends on the samples alone, never on the pieces in which they came.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import av
import numpy as np
from av.filter import Graph
from numpy.typing import ArrayLike, NDArray

Samples = NDArray[np.float32]

FULL_SCALE = 1 - 2**-15
"""Magnitude from which a sample counts as clipped: the largest value of 16-bit audio."""

BLOCKS_PER_SECOND = 25
"""Blocks in which a `Resampler` works, which is also what it holds back: 40 ms."""


@dataclass(frozen=True, slots=True)
class MonoSamples:
    """Finite mono samples, and what had to be done for that."""

    samples: Samples
    """Shape (n,), in [-1, 1]."""
    nan_samples: int
    """Values that were NaN or infinite and became 0, over all channels."""
    clipped_samples: int
    """Values at full scale or beyond, over all channels; they were cut to [-1, 1]."""


def mix_down(samples: ArrayLike) -> MonoSamples:
    """Return the plain mean of the channels.

    Parameters
    ----------
    samples : floating point, shape (n,) or (n, channels)
        Full scale at 1; any value is allowed.

    Raises
    ------
    TypeError
        If the samples are not floating point: integers would be taken for huge amplitudes.
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
        # Channel by channel: `mean` adds in an order that depends on the shape.
        total = block[:, 0].astype(np.float64)
        for channel in range(1, block.shape[1]):
            total += block[:, channel]
        block = total / block.shape[1]
    return MonoSamples(block.astype(np.float32), nan_samples, clipped_samples)


class Resampler:
    """Change the rate of one stretch of mono audio, without delay (FFmpeg's swresample).

    Parameters
    ----------
    source_rate, target_rate : int
        Samples per second.

    Raises
    ------
    ValueError
        If a rate is not positive.

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
        self._source_rate = source_rate
        same = source_rate == target_rate
        self._graph = None if same else _resampling_graph(source_rate, target_rate)
        # swresample rounds its place between two samples at the end of every frame, so frames
        # have to be the same however the samples come.
        self._block = max(1, source_rate // BLOCKS_PER_SECOND)
        self._pending = np.empty(0, np.float32)

    def push(self, samples: Samples) -> Samples:
        """Take the next samples, shape (n,); return those at the other rate that are complete."""
        if self._graph is None:
            return samples
        pending = np.concatenate([self._pending, samples])
        whole = len(pending) - len(pending) % self._block
        self._pending = pending[whole:].copy()
        starts = range(0, whole, self._block)
        frames = [self._frame(pending[start : start + self._block]) for start in starts]
        return _passed(self._graph, frames)

    def flush(self) -> Samples:
        """End the stretch; return the rest of it. Nothing may be pushed afterwards."""
        if self._graph is None:
            return np.empty(0, np.float32)
        rest = [self._frame(self._pending)] if len(self._pending) else []
        return _passed(self._graph, [*rest, None])

    def _frame(self, block: Samples) -> av.AudioFrame:
        frame = av.AudioFrame.from_ndarray(block[None, :], format="flt", layout="mono")
        frame.sample_rate = self._source_rate
        return frame


def _resampling_graph(source_rate: int, target_rate: int) -> Graph:
    """Return what `av.AudioResampler` makes, but for its threads: one for each processor."""
    graph = Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add("abuffer", sample_rate=f"{source_rate}", sample_fmt="flt", channel_layout="mono"),
        graph.add("aformat", sample_rates=f"{target_rate}", sample_fmts="flt"),
        graph.add("abuffersink"),
    ).configure()
    return graph


def _passed(graph: Graph, frames: Iterable[av.AudioFrame | None]) -> Samples:
    """Return the samples that are complete once `frames` have come; None is the end."""
    complete = [np.empty(0, np.float32)]
    for frame in frames:
        graph.push(frame)
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                complete.append(graph.pull().to_ndarray()[0])
    return np.concatenate(complete)
