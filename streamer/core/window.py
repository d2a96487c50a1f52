"""The windows that the model classifies: log-mel columns and, for a second network, audio."""

from __future__ import annotations

import math

import numpy as np

from streamer.core.contract import AudioInput, ModelContract
from streamer.core.resampling import Resampler
from streamer.core.spectrogram import Columns, LogMelStream, Samples, relative_to_peak


class Window:
    """The latest log-mel columns of one source, at most as many as the model was trained on.

    Positions are numbers of samples, at the model's rate, since the source's first one.
    """

    filled_at: int
    """Position from which on there is enough sound for the model."""
    columns: Columns
    """Shape (n_mels, frames), in absolute dB."""

    def __init__(self, contract: ModelContract, least_samples: int = 0) -> None:
        self._spec = contract.spectrogram
        self._least_samples = least_samples
        self._min_frames = contract.min_frames
        self._max_frames = contract.window_frames
        self.restart(0)

    def restart(self, origin: int) -> None:
        """Drop all columns; the first new one is centred on position `origin`."""
        spec = self._spec
        self._stream = LogMelStream(spec)
        self.columns = np.empty((spec.n_mels, 0), np.float32)
        columns = spec.n_fft // 2 + (self._min_frames - 1) * spec.hop_length
        self.filled_at = origin + max(columns, self._least_samples)

    def render(self, samples: Samples) -> Columns:
        """Return the columns that the next samples complete, without appending them."""
        return self._stream.push(samples)

    def append(self, columns: Columns) -> None:
        """Append columns, shape (n_mels, k); drop the oldest ones beyond the window's length."""
        self.columns = np.concatenate([self.columns, columns], axis=1)[:, -self._max_frames :]

    def relative_to_peak(self, latest: int | None = None) -> Columns | None:
        """Return the window as the model takes it, or None while it has too few columns.

        Shape (n_mels, frames), dB relative to the loudest cell, in `[-top_db, 0]`. With `latest`,
        only so many columns at its end.
        """
        if self.columns.shape[1] < self._min_frames:
            return None
        columns = self.columns if latest is None else self.columns[:, -latest:]
        return relative_to_peak(columns, self._spec.top_db)


class AudioWindow:
    """The latest audio of one source, at the rate of the network that hears it.

    Positions are numbers of samples at `position_rate`, since the source's first one. Audio is
    resampled by itself, in stretches of one rate of the source, from what the other window is
    rendered from as well. What lies before a position depends on the samples alone, not on the
    pieces in which they come.

    Parameters
    ----------
    audio : AudioInput
        What the network wants.
    position_rate : int
        Rate of the model's spectrogram, Hz.
    """

    def __init__(self, audio: AudioInput, position_rate: int) -> None:
        self.least_samples = math.ceil(audio.min_samples * position_rate / audio.sample_rate)
        """Distance of two positions between which there is enough audio for the network."""
        self._rate = audio.sample_rate
        self._position_rate = position_rate
        self._length = audio.samples
        self._least = audio.min_samples
        self._resampler: Resampler | None = None
        # Numbers of samples of the audio since the source's first one.
        self._start = 0
        self._dropped = 0
        self._audio = np.empty(0, np.float32)
        self._new: list[Samples] = []
        """Samples after those of `_audio`, joined once a decision."""
        self._available = 0
        self._stretch = (0, 0)
        """Where the stretch begins: position, and number of samples of the audio."""

    def begin(self, source_rate: int, position: int) -> None:
        """Begin a stretch of another rate, in Hz, at `position`."""
        self._stretch = position, self._available
        self._resampler = Resampler(source_rate, self._rate)

    def push(self, samples: Samples) -> None:
        """Take the next samples of the stretch, mono at the source's rate."""
        if self._resampler:
            self._append(self._resampler.push(samples))

    def end_stretch(self) -> None:
        """Take the samples that the resampler holds back."""
        if self._resampler:
            self._append(self._resampler.flush())
            self._resampler = None

    def restart(self, position: int) -> None:
        """Leave out what lies before `position` from now on."""
        self._start = math.floor(self._at(position))

    def reaches(self, position: int) -> bool:
        """Return whether all audio before `position` is there, or no more of it will come."""
        return self._resampler is None or self._available >= math.ceil(self._at(position))

    def before(self, position: int, hop: int) -> Samples:
        """Return the audio before `position`, as much as there is of what the network wants.

        Shape (n,). Older audio is dropped, and what will be too old `hop` samples of the position
        later; a decision that comes sooner nevertheless hears less, but enough for the network.
        """
        self._audio = np.concatenate([self._audio, *self._new])
        self._new = []
        end = math.ceil(self._at(position))
        kept = max(end - self._length, self._start)
        window = self._audio[max(0, kept - self._dropped) : max(0, end - self._dropped)]
        next_end = math.floor(self._at(position + hop))
        first = min(next_end - self._length, end - self._least)
        drop = min(max(0, first - self._dropped), len(self._audio))
        # A copy, since a view would keep what is dropped in memory.
        self._audio = self._audio[drop:].copy()
        self._dropped += drop
        return window

    def _append(self, samples: Samples) -> None:
        self._new.append(samples)
        self._available += len(samples)

    def _at(self, position: int) -> float:
        begin, audio = self._stretch
        return audio + (position - begin) * self._rate / self._position_rate
