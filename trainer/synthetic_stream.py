"""A synthetic radio stream with known ground truth, played through the daemon's pipeline.

Songs follow each other in a random order. Between two songs there is a hard cut, a silent gap or a
clip that is not music. After the last song all clips follow each other, as in a room without
music. Audio is played as samples, pictures as columns, and their tags beside them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamer.core.decision import Decision, DecisionSettings, State
from streamer.core.decision_settings import Effort
from streamer.core.model import Classifier
from streamer.core.pipeline import ColumnPipeline, Event, Pipeline
from streamer.core.spectrogram import SpectrogramSpec
from trainer.audio import AudioError, read_audio
from trainer.evaluate import columns_of
from trainer.second_network import HOP_SECONDS, PIECE_SECONDS, SecondNetwork
from trainer.tags import Tags, read_tags, tags_file
from trainer.tracks import DatasetError, Skipped, Track

SILENT_GAPS = 0.25
"""Share of the song changes with silence between the songs."""

CLIP_GAPS = 0.25
"""Share of the song changes with a background clip between the songs."""

CLIP_SECONDS = 10.0
"""Longest part of a background clip that is played."""

PICTURE_DBFS = -20.0
"""Level of songs that are pictures, which do not store their level."""

SILENT_DB = -100.0
"""Columns of silence, in dB relative to the loudest cell of the songs."""


@dataclass(frozen=True, slots=True)
class TrueSegment:
    """Ground truth of one stretch of a stream."""

    state: State
    """MUSIC, SILENCE or NOT_MUSIC."""
    genre: str | None
    """Genre while `state` is MUSIC, else None."""
    name: str
    """Name of the track, or `silence`."""
    start: float
    """Seconds since the start of the stream."""
    end: float

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class SyntheticStream:
    """The content of a stream and its ground truth."""

    segments: list[TrueSegment]
    blocks: list[NDArray[np.float32]]
    """One per segment: mono samples of shape (n,) at the grid's sample rate, or columns of shape
    (n_mels, k) in dB."""
    skipped: list[Skipped]
    tags: list[Tags | None] = field(default_factory=list)
    """One per segment: the tags of a picture's pieces; None where there are none."""


def make_stream(
    tracks: Sequence[Track],
    background: Sequence[Track],
    spec: SpectrogramSpec,
    *,
    seed: int = 0,
    gap_seconds: float = 4.0,
) -> SyntheticStream:
    """Join songs and background clips, all audio or all pictures, to a stream.

    The seed decides the order and the gaps; silent ones are `gap_seconds` long. DatasetError is
    raised if audio and pictures are mixed or no track can be read.
    """
    if len({track.is_picture for track in [*tracks, *background]}) > 1:
        raise DatasetError(
            "--data and --background must both be audio or both be pictures in a stream test"
        )
    chance = random.Random(seed)
    pictures = tracks[0].is_picture
    step = spec.hop_seconds if pictures else 1 / spec.sample_rate
    stream = SyntheticStream([], [], [])

    def add(
        state: State,
        genre: str | None,
        name: str,
        block: NDArray[np.float32],
        tags: Tags | None = None,
    ) -> None:
        start = stream.segments[-1].end if stream.segments else 0.0
        end = start + block.shape[-1] * step
        stream.segments.append(TrueSegment(state, genre, name, start, end))
        stream.blocks.append(block)
        stream.tags.append(tags)

    def add_track(state: State, track: Track) -> None:
        try:
            block = (
                columns_of(track, spec) if pictures else read_audio(track.path, spec.sample_rate)
            )
            file = tags_file(track.path)
            tags = read_tags(file) if pictures and file.is_file() else None
        except (AudioError, DatasetError) as error:
            stream.skipped.append(Skipped(track.path, str(error)))
        else:
            if state is State.MUSIC:
                add(state, track.genre, track.name, block, tags)
            else:
                add(state, None, track.name, block[..., : round(CLIP_SECONDS / step)], tags)

    clips = itertools.cycle(chance.sample(background, len(background))) if background else None
    for number, track in enumerate(chance.sample(tracks, len(tracks))):
        if number:
            draw = chance.random()
            if draw < SILENT_GAPS:
                add(State.SILENCE, None, "silence", _silence(spec, gap_seconds, pictures))
            elif clips and draw < SILENT_GAPS + CLIP_GAPS:
                add_track(State.NOT_MUSIC, next(clips))
        add_track(State.MUSIC, track)
    for clip in chance.sample(background, len(background)):
        add_track(State.NOT_MUSIC, clip)
    if not any(segment.state is State.MUSIC for segment in stream.segments):
        reason = stream.skipped[0].reason
        raise DatasetError(f"none of the {len(tracks)} tracks can be read: {reason}")
    return stream


def _silence(spec: SpectrogramSpec, seconds: float, pictures: bool) -> NDArray[np.float32]:
    if pictures:
        return np.full((spec.n_mels, spec.frames_in(seconds)), SILENT_DB, np.float32)
    return np.zeros(round(seconds * spec.sample_rate), np.float32)


def play(
    classifier: Classifier,
    stream: SyntheticStream,
    *,
    hop_seconds: float = 1.0,
    effort: Effort = "full",
    settings: DecisionSettings | None = None,
) -> Iterator[list[Decision]]:
    """Play a stream through the daemon's pipeline; `settings` are its, by default the model's own.

    A `TagReader` as the classifier is told the position before each column.

    Yields the decisions of each segment, and those at the end of the stream.
    """
    spec = classifier.contract.spectrogram
    if stream.blocks[0].ndim == 2:
        of_columns = ColumnPipeline(
            classifier, settings=settings, hop_seconds=hop_seconds, effort=effort
        )
        levels = _column_levels(stream, spec)
        fed = 0
        for block in stream.blocks:
            events: list[Event] = []
            for column, level in zip(np.hsplit(block, block.shape[1]), levels, strict=False):
                fed += 1
                if isinstance(classifier, TagReader):
                    classifier.position = fed * spec.hop_seconds
                events += of_columns.feed(column, level)
            yield _decisions(events)
        yield _decisions(of_columns.finish())
        return
    pipeline = Pipeline(classifier, settings=settings, hop_seconds=hop_seconds, effort=effort)
    for block in stream.blocks:
        yield _decisions(pipeline.feed(block, spec.sample_rate))
    yield _decisions(pipeline.finish())


class Recorder(Classifier):
    """A model with two networks that keeps what each of them says of every window."""

    def __init__(self, classifier: Classifier) -> None:
        self.contract = classifier.contract
        self._classifier = classifier
        self.said: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        """Logits of the network of spectrograms and of the second network, oldest first."""

    def logits(
        self, spectrograms: NDArray[np.float32], audio: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the logits of both; see `streamer.core.model.Classifier.logits`."""
        assert audio is not None
        answers = self._classifier.answers(spectrograms, audio)
        self.said.append((answers.spectrogram_logits[0], answers.audio_logits[0]))
        return answers.logits


class TagReader(Recorder):
    """A `Recorder` that reads the tags of a stream of pictures instead of hearing its sound."""

    def __init__(
        self, classifier: Classifier, second: SecondNetwork, stream: SyntheticStream
    ) -> None:
        super().__init__(classifier)
        self.position = 0.0
        """Seconds of the stream that were fed."""
        self._second = second
        self._silences = [each.end for each in stream.segments if each.state is State.SILENCE]
        begins, tags = [], []
        for segment, own in zip(stream.segments, stream.tags, strict=True):
            at = segment.start + HOP_SECONDS * np.arange(0 if own is None else len(own))
            inside = at + PIECE_SECONDS <= segment.end + HOP_SECONDS / 2
            if own is not None:
                begins.append(at[inside])
                tags.append(own[inside])
        self._begins, self._tags = np.concatenate(begins), np.concatenate(tags)

    def logits(
        self, spectrograms: NDArray[np.float32], audio: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the logits of both, from the tags of the pieces in the window.

        No piece spans two songs. Soon after a change, the last whole one stands for those that do.
        """
        seen = self._classifier.logits(spectrograms)
        restart = max((end for end in self._silences if end <= self.position), default=0.0)
        first = max(self.position - self._second.seconds - HOP_SECONDS / 2, restart - 0.1)
        ends = self._begins + PIECE_SECONDS
        chosen = (self._begins >= first) & (ends <= self.position + 0.1)
        if not chosen.any():
            chosen = np.zeros(len(ends), bool)
            chosen[np.abs(ends - self.position).argmin()] = True
        heard = self._second.logits(self._tags[chosen].mean(axis=0, keepdims=True))
        self.said.append((seen[0], heard[0]))
        return self._second.fused(seen, heard)


def _column_levels(stream: SyntheticStream, spec: SpectrogramSpec) -> Iterator[float]:
    """Return the level of the second before each column, in dBFS: it falls as a gap goes on."""
    columns = [block.shape[1] for block in stream.blocks]
    loud = np.repeat([each.state is not State.SILENCE for each in stream.segments], columns)
    second = spec.frames_in(1.0)
    share = np.convolve(loud, np.ones(second) / second)[: len(loud)]
    return iter((PICTURE_DBFS + 10 * np.log10(np.maximum(share, 1e-9))).tolist())


def _decisions(events: Iterable[Event]) -> list[Decision]:
    return [event for event in events if isinstance(event, Decision)]
