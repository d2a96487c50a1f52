"""How well a network does on the tracks that are held back from training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from trainer.dataset import Song, even_windows
from trainer.fit.data import TrainingData
from trainer.metrics import track_probabilities

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


def validate(network: keras.Model, data: TrainingData, frames: int, batch: int) -> Validation:
    """Evaluate a network on windows of `frames` columns, `batch` at a time."""

    def predict(songs: Sequence[Song]) -> NDArray[np.float64]:
        windows = [even_windows(song, data.spec, frames, WINDOWS_PER_TRACK) for song in songs]
        logits = network.predict(np.concatenate(windows), batch_size=batch, verbose=0)
        owner = np.repeat(np.arange(len(songs)), [len(own) for own in windows])
        return track_probabilities(logits, owner)

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
