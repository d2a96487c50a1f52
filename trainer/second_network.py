"""The second network of a run or a model file: from sound, or its tags, to logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Columns, Samples
from trainer.musicnn import MIN_SAMPLES, PIECE_HOP, SPEC
from trainer.run import FusedTagger, TagHead
from trainer.tags import Tags

Floats = NDArray[np.floating[Any]]

SECONDS = 5.0
"""Most audio that the second network hears before a decision, unless it is told otherwise."""

PIECE_SECONDS = MIN_SAMPLES / SPEC.sample_rate
HOP_SECONDS = PIECE_HOP * SPEC.hop_seconds
"""Length of a piece, and time from one piece to the next."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A track as both networks take it."""

    columns: Columns
    """dB, shape (n_mels, frames)."""
    audio: Samples | None = None
    """Mono at 16 kHz; None if there are only tags, or nothing of it."""
    tags: Tags | None = None
    """Of the track's pieces; None if there is audio, or nothing of it."""

    @property
    def heard(self) -> bool:
        """Whether the second network can say anything about the track."""
        return self.audio is not None or self.tags is not None


@dataclass(frozen=True, slots=True)
class SecondNetwork:
    """Hears tags and maps them to logits, which are added to those of the spectrogram."""

    tags: Callable[[NDArray[np.float32]], Tags]
    """From windows of sound, shape (n, samples), to tags, shape (n, tags)."""
    logits: Callable[[Tags], NDArray[np.float32]]
    """From tags to logits, shape (n, classes)."""
    seconds: float
    """Length of its windows."""
    spectrogram_weight: float
    audio_weight: float
    """Factors of the two networks' logits in those of both."""

    @property
    def pieces(self) -> int:
        """Pieces of 3 s in a window."""
        return 1 + int((self.seconds - PIECE_SECONDS) / HOP_SECONDS)

    def fused(self, spectrogram_logits: Floats, audio_logits: Floats) -> NDArray[np.float32]:
        """Return the logits of both networks together."""
        both = self.spectrogram_weight * spectrogram_logits + self.audio_weight * audio_logits
        return np.asarray(both, np.float32)

    def logits_at(self, recording: Recording, ends: Floats) -> NDArray[np.float32]:
        """Return the logits of the windows of a recording that end at `ends`, in seconds.

        A recording that is shorter than a window is repeated; a window that would begin before the
        recording begins with it.
        """
        if recording.audio is not None:
            return self.logits(self.tags(_windows(recording.audio, ends, self.seconds)))
        assert recording.tags is not None
        return self.logits(tags_at(recording.tags, ends, self.pieces))


def _windows(audio: Samples, ends: Floats, seconds: float) -> NDArray[np.float32]:
    length = round(seconds * SPEC.sample_rate)
    audio = np.resize(audio, max(length, len(audio)))
    last = np.clip(np.round(np.asarray(ends) * SPEC.sample_rate), length, len(audio)).astype(int)
    return np.stack([audio[end - length : end] for end in last])


def tags_at(pieces: Tags, ends: Floats, count: int) -> Tags:
    """Return the tags of windows of `count` pieces that end closest to `ends`, in seconds.

    Parameters
    ----------
    pieces : float32, shape (n, tags)
        Tags of a track's pieces.

    Returns
    -------
    float32, shape (windows, tags)
        The means over the pieces; of a track with fewer pieces, over all of them.
    """
    count = min(count, len(pieces))
    span = PIECE_SECONDS + (count - 1) * HOP_SECONDS
    starts = np.round((np.asarray(ends) - span) / HOP_SECONDS)
    starts = np.clip(starts, 0, len(pieces) - count).astype(int)
    return np.stack([pieces[start : start + count].mean(axis=0) for start in starts])


def from_head(head: TagHead, fusion: FusedTagger) -> SecondNetwork:
    """Return the second network with a head on the tags."""
    from trainer.tagger import load_tagger

    def tags(audio: NDArray[np.float32]) -> Tags:
        return load_tagger().tags(audio)

    return SecondNetwork(
        tags,
        head.logits,
        fusion.audio_seconds,
        fusion.spectrogram_weight,
        fusion.audio_weight,
    )


def from_file(path: Path, fusion: Any, seconds: float) -> SecondNetwork:
    """Return the second network of a model file of contract 2; `fusion` is of its contract."""
    import onnx
    from onnx.utils import Extractor

    from streamer.core.model import AUDIO, AUDIO_LOGITS, TAGS
    from streamer.core.runtime import open_session
    from streamer.system.processors import processors

    extractor = Extractor(onnx.load(path))

    def part(source: str, target: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        graph = extractor.extract_model([source], [target]).SerializeToString()
        session = open_session(graph, processors())

        def run(values: NDArray[np.float32]) -> NDArray[np.float32]:
            (answer,) = session.run([target], {source: np.ascontiguousarray(values, np.float32)})
            return np.asarray(answer, np.float32)

        return run

    hear = part(AUDIO, TAGS)

    def tags(audio: NDArray[np.float32]) -> Tags:
        batches = [audio[start : start + 16] for start in range(0, len(audio), 16)]
        return np.concatenate([hear(batch) for batch in batches])

    return SecondNetwork(
        tags,
        part(TAGS, AUDIO_LOGITS),
        seconds,
        fusion.spectrogram_weight,
        fusion.audio_weight,
    )
