"""Conversion of mono audio of any sample rate to another one."""

from __future__ import annotations

import numpy as np
import soxr

from streamer.core.spectrogram import Samples

PIECE_SAMPLES = 2048
"""Samples given to libsoxr at once: it keeps buffers as long as the longest piece that it got."""


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
        pieces = []
        for start in range(0, len(samples), PIECE_SAMPLES) or [0]:
            end = start + PIECE_SAMPLES
            piece, is_end = samples[start:end], last and end >= len(samples)
            pieces.append(self._stream.resample_chunk(piece, is_end))
        complete = np.concatenate(pieces, dtype=np.float32)
        self.held_seconds += len(samples) / self.source_rate - len(complete) / self._target_rate
        return complete
