"""How well a network does on the tracks that are held back from training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Columns
from trainer.dataset import AnySong, even_windows
from trainer.fit.data import TrainingData
from trainer.fit.devices import predict as logits_of
from trainer.metrics import track_probabilities

TRACKS_AT_ONCE = 512
"""Tracks whose windows are in memory together."""
WINDOWS_PER_TRACK = 2
"""Windows of each track that are evaluated after an epoch."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Results on the validation tracks."""

    accuracy: float
    """Share of music tracks whose mean probabilities are highest at their genre."""
    nll: float
    """Mean negative log-likelihood of the music tracks, in nats."""
    not_music: float | None
    """Share of background sounds classified as `not_music`; None without them."""

    def better_than(self, other: Validation | None, genres: int) -> bool:
        """Compare by accuracy, then by likelihood.

        Background sounds count as one more class beside the `genres`, so that a network which takes
        speech for hip-hop does not win by half a per cent of the music.
        """
        return other is None or self._score(genres) > other._score(genres)

    def _score(self, genres: int) -> tuple[float, float]:
        if self.not_music is None:
            return self.accuracy, -self.nll
        return (genres * self.accuracy + self.not_music) / (genres + 1), -self.nll


def _predict(
    network: keras.Model,
    tracks: Sequence[Columns],
    batch: int,
    progress: Callable[[float], None],
) -> NDArray[np.float32]:
    """Return the logits of the windows of tracks; see `validate`."""
    windows = np.concatenate(tracks)
    done = len(tracks) / math.ceil(len(windows) / batch)
    return logits_of(network, windows, batch, lambda: progress(done))


def validate(
    network: keras.Model,
    data: TrainingData,
    frames: int,
    batch: int,
    progress: Callable[[float], None],
) -> Validation:
    """Evaluate a network on windows of `frames` columns, `batch` at a time.

    After each batch `progress` is called with the number of tracks that it stands for.
    """

    def predict(songs: Sequence[AnySong]) -> NDArray[np.float64]:
        logits: list[NDArray[np.float32]] = []
        counts: list[int] = []
        # The windows of all tracks together would take several times as much memory as the tracks.
        for start in range(0, len(songs), TRACKS_AT_ONCE):
            windows = [
                even_windows(song, data.spec, frames, WINDOWS_PER_TRACK)
                for song in songs[start : start + TRACKS_AT_ONCE]
            ]
            counts += [len(own) for own in windows]
            logits.append(_predict(network, windows, batch, progress))
        owner = np.repeat(np.arange(len(songs)), counts)
        return track_probabilities(np.concatenate(logits), owner)

    probabilities = predict(data.valid)
    truth = np.array([song.label for song in data.valid])
    likelihood = probabilities[np.arange(len(truth)), truth]
    not_music = None
    if data.background_valid:
        sounds = predict(data.background_valid)
        not_music = float(np.mean(sounds.argmax(axis=1) == data.not_music))
    return Validation(
        accuracy=float(np.mean(probabilities.argmax(axis=1) == truth)),
        nll=float(-np.mean(np.log(np.maximum(likelihood, 1e-12)))),
        not_music=not_music,
    )
