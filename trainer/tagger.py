"""The network that hears tags, run on tracks and on windows of sound."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Samples
from streamer.system.console import silenced_stderr
from trainer.degradation import EVERY
from trainer.interruption import Interruption
from trainer.musicnn import MIN_SAMPLES, SPEC, pieces_of_track
from trainer.tags import Tags

SAMPLE_RATE = SPEC.sample_rate
"""Rate of the samples that the tagger takes, in Hz."""

BATCH = 32
"""Pieces or windows in one call of the network."""


@functools.cache
def load_tagger() -> Tagger:
    """Return the tagger of this process; the first call takes some seconds."""
    return Tagger()


class Tagger:
    """MusiCNN with its weights; see `load_tagger`."""

    def __init__(self) -> None:
        # Ctrl-C within TensorFlow's import would become an ImportError.
        with silenced_stderr(), Interruption() as interruption:
            from trainer.musicnn.network import build_tagger

            self._network = build_tagger()
            interruption.check()

    def tags_of_track(self, samples: Samples, every: int = 1) -> Tags:
        """Return the tags of a track's pieces of 3 s, one a second; see `pieces_of_track`.

        A recording shorter than a piece is repeated to fill one.

        Parameters
        ----------
        samples : float32, shape (n,)
            Mono audio at `SAMPLE_RATE`, full scale 1.
        every : int
            Take only every so manieth piece.
        """
        if len(samples) < MIN_SAMPLES:
            samples = np.resize(samples, MIN_SAMPLES)
        return self.tags(pieces_of_track(samples)[::every])

    def tags_of_copies(self, copies: Sequence[Samples]) -> Tags:
        """Return the tags of degraded copies of a track, of pieces that do not overlap."""
        return np.concatenate([self.tags_of_track(copy, EVERY) for copy in copies])

    def tags(self, audio: NDArray[np.float32]) -> Tags:
        """Return the tags of windows of sound, shape (n, samples), as the daemon hears them."""
        starts = range(0, len(audio), BATCH)
        batches = (np.ascontiguousarray(audio[start : start + BATCH]) for start in starts)
        answers = [np.asarray(self._network.predict_on_batch(batch)) for batch in batches]
        return np.concatenate(answers).astype(np.float32)
