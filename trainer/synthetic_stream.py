"""A made-up radio programme whose truth is known to the second, and how it is played.

Songs follow each other in a seeded order; between two there is a hard cut, a gap of silence or a
sound that is not music. After the last song all such sounds follow each other: a room without
music. It is played through the daemon's own pipeline, from audio as samples and from pictures as
columns.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.decision import Decision, State
from streamer.core.model import Classifier
from streamer.core.pipeline import Event, Pipeline
from streamer.core.spectrogram import SpectrogramSpec, from_levels
from trainer.audio import AudioError, read_audio
from trainer.pictures import read_picture
from trainer.tracks import DatasetError, Skipped, Track

SILENT_GAPS = 0.25
"""Share of the changes with silence between the songs."""

SOUND_GAPS = 0.25
"""Share of the changes with a sound that is not music between the songs."""

CLIP_SECONDS = 10.0
"""Longest part of a sound that is not music which is played at once."""

PICTURE_DBFS = -20.0
"""Level of the songs where they are pictures, which know no level."""

SILENT_DB = -100.0
"""Columns of silence, in dB relative to the loudest cell of the songs."""


@dataclass(frozen=True, slots=True)
class Item:
    """One stretch of the programme."""

    state: State
    """MUSIC, SILENCE or NOT_MUSIC."""
    genre: str | None
    name: str
    start: float
    """Seconds since the programme began."""
    end: float

    @property
    def seconds(self) -> float:
        """Length."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Programme:
    """What is played, item by item."""

    items: list[Item]
    blocks: list[NDArray[np.float32]]
    """One an item: mono samples `(n,)` at the grid's rate, or from pictures columns
    `(n_mels, k)` in dB."""
    skipped: list[Skipped]


def make_programme(
    tracks: Sequence[Track],
    background: Sequence[Track],
    spec: SpectrogramSpec,
    *,
    seed: int = 0,
    gap_seconds: float = 4.0,
) -> Programme:
    """Join tracks in a seeded order, with known change points.

    Parameters
    ----------
    tracks, background : sequence of Track
        Songs, and clips that are not music; all audio or all pictures.
    spec : SpectrogramSpec
        The grid.
    seed : int
        Decides order and gaps.
    gap_seconds : float
        Length of a silence.

    Raises
    ------
    DatasetError
        If audio and pictures are mixed or no track can be read.
    """
    if len({track.is_picture for track in [*tracks, *background]}) > 1:
        raise DatasetError(
            "--data and --background must both be audio or both be pictures in a stream test"
        )
    chance = random.Random(seed)
    pictures = tracks[0].is_picture
    step = spec.hop_seconds if pictures else 1 / spec.sample_rate
    items: list[Item] = []
    blocks: list[NDArray[np.float32]] = []
    skipped: list[Skipped] = []
    clips = itertools.cycle(chance.sample(background, len(background))) if background else None
    order = chance.sample(tracks, len(tracks))
    position = 0.0

    def add(state: State, track: Track | None) -> None:
        nonlocal position
        try:
            block = (
                _content(track, spec, pictures) if track else _silence(spec, gap_seconds, pictures)
            )
        except (AudioError, DatasetError) as error:
            assert track is not None
            skipped.append(Skipped(track.path, str(error)))
            return
        if state is State.NOT_MUSIC:
            block = block[..., : round(CLIP_SECONDS / step)]
        start = position
        position += block.shape[-1] * step
        genre = track.genre if track and state is State.MUSIC else None
        items.append(Item(state, genre, track.name if track else "silence", start, position))
        blocks.append(block)

    for number, track in enumerate(order):
        if number:
            draw = chance.random()
            if draw < SILENT_GAPS:
                add(State.SILENCE, None)
            elif clips and draw < SILENT_GAPS + SOUND_GAPS:
                add(State.NOT_MUSIC, next(clips))
        add(State.MUSIC, track)
    for clip in chance.sample(background, len(background)):
        add(State.NOT_MUSIC, clip)
    if not any(item.state is State.MUSIC for item in items):
        raise DatasetError(f"none of the {len(tracks)} tracks can be read: {skipped[0].reason}")
    return Programme(items, blocks, skipped)


def _content(track: Track, spec: SpectrogramSpec, pictures: bool) -> NDArray[np.float32]:
    if pictures:
        return from_levels(read_picture(track.path), spec.top_db)
    return read_audio(track.path, spec.sample_rate)


def _silence(spec: SpectrogramSpec, seconds: float, pictures: bool) -> NDArray[np.float32]:
    if pictures:
        return np.full((spec.n_mels, spec.frames_in(seconds)), SILENT_DB, np.float32)
    return np.zeros(round(seconds * spec.sample_rate), np.float32)


def play(
    classifier: Classifier, programme: Programme, *, hop_seconds: float = 1.0
) -> Iterator[list[Decision]]:
    """Play a programme through the daemon's pipeline; yield the decisions item by item."""
    pipeline = Pipeline(classifier, hop_seconds=hop_seconds)
    spec = classifier.contract.spectrogram
    levels = _column_levels(programme, spec) if programme.blocks[0].ndim == 2 else None
    for block in programme.blocks:
        if levels is None:
            yield _decisions(pipeline.feed(block, spec.sample_rate))
        else:
            columns = zip(np.hsplit(block, block.shape[1]), levels, strict=False)
            yield _decisions(
                event for column, level in columns for event in pipeline.feed_columns(column, level)
            )
    yield _decisions(pipeline.finish())


def _column_levels(programme: Programme, spec: SpectrogramSpec) -> Iterator[float]:
    """Return the level of the last second at each column: it fades as silence fills that second."""
    loud = np.concatenate(
        [
            np.full(block.shape[1], item.state is not State.SILENCE)
            for item, block in zip(programme.items, programme.blocks, strict=True)
        ]
    )
    second = spec.frames_in(1.0)
    share = np.convolve(loud, np.ones(second) / second)[: len(loud)]
    return iter((PICTURE_DBFS + 10 * np.log10(np.maximum(share, 1e-9))).tolist())


def _decisions(events: Iterable[Event]) -> list[Decision]:
    return [event for event in events if isinstance(event, Decision)]
