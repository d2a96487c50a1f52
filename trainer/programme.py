"""A made-up radio programme whose truth is known to the second, and how it is played.

Songs follow each other in a seeded order; between two there is a hard cut, a gap of silence or a
sound that is not music. It is played through the daemon's own pipeline, from audio as samples and
from pictures as columns.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streamer.decision import Decision, DecisionSettings, State
from streamer.model import Classifier
from streamer.pipeline import Event, Pipeline
from streamer.spectrogram import Columns, LogMelStream, Samples, SpectrogramSpec, from_levels
from trainer.audio import AudioError, read_audio
from trainer.gtzan import DatasetError, Skipped, Track
from trainer.pictures import read_picture

SILENT_GAPS = 0.25
"""Share of the changes with silence between the songs."""

SOUND_GAPS = 0.25
"""Share of the changes with a sound that is not music between the songs."""

PICTURE_LEVEL = 0.1
"""Amplitude of a picture's stand-in samples: -20 dBFS. Pictures know no level."""

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
    """What is played, as samples, and with pictures also as columns."""

    items: list[Item]
    blocks: list[Samples]
    """One an item, mono at the grid's rate."""
    tape: Columns | None
    """Shape (n_mels, k): column k stands for sample `k * hop_length`; None: from the samples."""
    skipped: list[Skipped]


def is_picture(track: Track) -> bool:
    """Tell a picture from audio."""
    return track.path.suffix.lower() == ".png"


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
    if len({is_picture(track) for track in [*tracks, *background]}) > 1:
        raise DatasetError(
            "--data and --background must both be audio or both be pictures in a stream test"
        )
    chance = random.Random(seed)
    pictures = is_picture(tracks[0])
    items: list[Item] = []
    blocks: list[Samples] = []
    columns: list[Columns] = []
    skipped: list[Skipped] = []
    clips = itertools.cycle(chance.sample(background, len(background))) if background else None
    order = chance.sample(tracks, len(tracks))
    position = 0

    def add(state: State, track: Track | None) -> None:
        nonlocal position
        try:
            content, samples = _content(track, spec, gap_seconds, pictures)
        except (AudioError, DatasetError) as error:
            assert track is not None
            skipped.append(Skipped(track.path, str(error)))
            return
        genre = track.genre if track and state is State.MUSIC else None
        start, position = position, position + len(samples)
        name = track.name if track else "silence"
        rate = spec.sample_rate
        items.append(Item(state, genre, name, start / rate, position / rate))
        blocks.append(samples)
        columns.append(content)

    for number, track in enumerate(order):
        if number:
            draw = chance.random()
            if draw < SILENT_GAPS:
                add(State.SILENCE, None)
            elif clips and draw < SILENT_GAPS + SOUND_GAPS:
                add(State.NOT_MUSIC, next(clips))
        add(State.MUSIC, track)
    if not any(item.state is State.MUSIC for item in items):
        raise DatasetError(f"none of the {len(tracks)} tracks can be read: {skipped[0].reason}")
    tape = np.concatenate(columns, axis=1) if pictures else None
    return Programme(items, blocks, tape, skipped)


def _content(
    track: Track | None, spec: SpectrogramSpec, gap_seconds: float, pictures: bool
) -> tuple[Columns, Samples]:
    """Return a track's columns (none for audio) and samples; silence if there is no track."""
    if track is None:
        frames = spec.frames_in(gap_seconds)
        silence = np.full((spec.n_mels, frames), SILENT_DB, np.float32)
        return silence, np.zeros(frames * spec.hop_length, np.float32)
    if pictures:
        columns = from_levels(read_picture(track.path), spec.top_db)
        samples = np.full(columns.shape[1] * spec.hop_length, PICTURE_LEVEL, np.float32)
        samples[::2] *= -1
        return columns, samples
    return np.empty((spec.n_mels, 0), np.float32), read_audio(track.path, spec.sample_rate)


def play(
    classifier: Classifier,
    programme: Programme,
    *,
    settings: DecisionSettings | None = None,
    hop_seconds: float = 1.0,
) -> Iterator[list[Decision]]:
    """Play a programme through the daemon's pipeline; yield the decisions item by item."""
    if programme.tape is None:
        pipeline = Pipeline(classifier, settings=settings, hop_seconds=hop_seconds)
    else:
        pipeline = TapePipeline(
            classifier, programme.tape, settings=settings, hop_seconds=hop_seconds
        )
    rate = classifier.contract.spectrogram.sample_rate
    for samples in programme.blocks:
        yield _decisions(pipeline.feed(samples, rate))
    yield _decisions(pipeline.finish())


def _decisions(events: Sequence[Event]) -> list[Decision]:
    return [event for event in events if isinstance(event, Decision)]


class TapePipeline(Pipeline):
    """The daemon's pipeline with its spectrogram read off a tape of columns.

    Samples still tell time and level; everything else is the same code.
    """

    def __init__(
        self,
        classifier: Classifier,
        tape: Columns,
        *,
        settings: DecisionSettings | None = None,
        hop_seconds: float = 1.0,
    ) -> None:
        self._tape = tape
        super().__init__(classifier, settings=settings, hop_seconds=hop_seconds)

    def _restart_window(self, origin: int) -> None:
        super()._restart_window(origin)
        self._columns = TapeColumns(self._contract.spectrogram, self._tape, origin)


class TapeColumns(LogMelStream):
    """Columns of a tape in the rhythm in which samples would have completed them."""

    def __init__(self, spec: SpectrogramSpec, tape: Columns, origin: int) -> None:
        super().__init__(spec)
        self._tape = tape
        self._first = round(origin / spec.hop_length)
        self._taken = 0

    def push(self, samples: Samples) -> Columns:
        """Take the next samples and return as many columns as they complete."""
        count = super().push(samples).shape[1]
        at = self._first + self._taken + np.arange(count)
        self._taken += count
        return np.asarray(self._tape[:, np.minimum(at, self._tape.shape[1] - 1)])
