"""Tracks in memory, and the batches of windows that are cut from them."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Columns, SpectrogramSpec, from_levels, relative_to_peak
from trainer.augment import NONE, Augmentation, change_over, mix, random_noise, resample_time, vary
from trainer.pictures import Levels, read_picture
from trainer.tracks import DatasetError, Track

NOT_MUSIC = "not_music"
"""Label of everything in a background folder."""

SYNTHETIC_SHARE = 0.35
"""Share of the background windows that are made noise instead of a recording."""

PREFETCHED_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Song:
    """One track in memory."""

    name: str
    label: int
    """Index into the labels."""
    levels: Levels
    """uint8, shape (n_mels, frames), row 0 the lowest band."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one training step sees."""

    windows: Columns
    """float32, shape (batch, n_mels, frames), dB relative to each window's loudest cell."""
    targets: NDArray[np.float32]
    """float32, shape (batch, classes), shares that sum to 1."""
    weights: NDArray[np.float32]
    """float32, shape (batch,), mean 1 over an epoch."""


def labels_of(tracks: Iterable[Track], background: bool) -> list[str]:
    """Return the labels of a training: its genres by name, and `not_music` last with a background.

    Raises
    ------
    DatasetError
        If a genre has the name of the background's label.
    """
    genres = sorted({track.genre for track in tracks})
    if not background:
        return genres
    if NOT_MUSIC in genres:
        raise DatasetError(
            f"the genre {NOT_MUSIC} has the name of the label of --background: rename its folder, "
            "or move what it holds into the background folder"
        )
    return [*genres, NOT_MUSIC]


def load_songs(tracks: Sequence[Track], labels: Sequence[str]) -> list[Song]:
    """Read the pictures of `tracks`; labels are their genres."""
    index = {label: number for number, label in enumerate(labels)}
    return [Song(track.name, index[track.genre], read_picture(track.path)) for track in tracks]


def repeated(levels: Levels, frames: int) -> Levels:
    """Return a recording of at least `frames` columns, repeating a shorter one."""
    times = -(-frames // levels.shape[1])
    return np.tile(levels, (1, times)) if times > 1 else levels


def even_windows(song: Song, spec: SpectrogramSpec, frames: int, count: int) -> Columns:
    """Cut windows at even distances over a whole song.

    Returns
    -------
    float32, shape (k, n_mels, frames)
        dB relative to each window's loudest cell; k is at most `count`, less for a short song.
    """
    levels = repeated(song.levels, frames)
    last = levels.shape[1] - frames
    starts = np.unique(np.linspace(0, last, count).round().astype(int))
    windows = np.stack([levels[:, start : start + frames] for start in starts])
    return relative_to_peak(from_levels(windows, spec.top_db), spec.top_db)


class TrainingWindows:
    """Random windows of the training songs, epoch by epoch, the same for the same seed.

    Parameters
    ----------
    songs : sequence of Song
        Music.
    background : sequence of Song
        Recordings of the class `not_music`, also mixed under the music, each as often as it is
        long; may be empty.
    not_music : int or None
        Index of that class; None trains genres alone.
    classes : int
        Number of labels.
    spec, frames
        Grid and length of a window.
    batch : int
        Windows in a batch.
    windows_per_song : int
        Windows of each song in an epoch.
    background_share : float
        Share of an epoch's windows that are not music.
    augmentation : Augmentation
        How strongly windows are varied.
    seed : int
        Decides everything.
    """

    def __init__(
        self,
        songs: Sequence[Song],
        background: Sequence[Song],
        not_music: int | None,
        classes: int,
        *,
        spec: SpectrogramSpec,
        frames: int,
        batch: int,
        windows_per_song: int = 2,
        background_share: float = 0.1,
        augmentation: Augmentation = NONE,
        seed: int = 0,
    ) -> None:
        self.songs = songs
        self.background = background
        self.not_music = not_music
        self.classes = classes
        self.spec = spec
        self.frames = frames
        self.batch = batch
        lengths = np.array([song.levels.shape[1] for song in background], float)
        self._background_shares = lengths / lengths.sum()
        self.augmentation = augmentation
        self.seed = seed
        music = windows_per_song * len(songs)
        self.music_windows = music
        self.other_windows = (
            round(music * background_share / (1 - background_share)) if not_music is not None else 0
        )
        self._drawn = np.concatenate(
            [np.arange(music) % max(1, len(songs)), np.full(self.other_windows, -1)]
        )
        """What an epoch's windows are of: numbers of songs, or -1 for another sound."""
        counts = Counter(song.label for song in songs)
        self._weights = np.ones(classes, np.float32)
        for label, count in counts.items():
            self._weights[label] = len(songs) / (len(counts) * count)

    @property
    def steps(self) -> int:
        """Batches in an epoch; windows that fill no batch are left for another epoch."""
        return max(1, (self.music_windows + self.other_windows) // self.batch)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of one epoch, prepared ahead by a thread."""
        return _ahead(self._batches(number))

    def _batches(self, number: int) -> Iterator[Batch]:
        random = np.random.default_rng([self.seed, number])
        order = np.resize(random.permutation(self._drawn), self.steps * self.batch)
        for chosen in order.reshape(self.steps, self.batch):
            windows = np.empty((self.batch, self.spec.n_mels, self.frames), np.float32)
            labels = np.empty(self.batch, int)
            for place, song in enumerate(chosen):
                windows[place], labels[place] = self._window(song, random)
            targets = np.eye(self.classes, dtype=np.float32)[labels]
            weights = targets @ self._weights
            windows, targets = mix(windows, targets, random, self.augmentation.mixup)
            yield Batch(windows, targets, weights)

    def _window(self, song: int, random: np.random.Generator) -> tuple[Columns, int]:
        window, label = self._sound(song, random)
        if random.random() < self.augmentation.change:
            earlier, _ = self._sound(random.choice(self._drawn), random)
            window = change_over(window, earlier, random, self.spec)
        noise = self._other_sound(random) if random.random() < self.augmentation.noise else None
        return vary(window, random, self.spec, self.augmentation, noise), label

    def _sound(self, song: int, random: np.random.Generator) -> tuple[Columns, int]:
        """Return a window of a song and its label; of another sound for a negative number."""
        if song >= 0:
            chosen = self.songs[song]
            return self._cut(chosen, random), chosen.label
        assert self.not_music is not None
        return self._other_sound(random), self.not_music

    def _other_sound(self, random: np.random.Generator) -> Columns:
        if not self.background or random.random() < SYNTHETIC_SHARE:
            return random_noise(random, self.spec, self.frames)
        chosen = random.choice(len(self.background), p=self._background_shares)
        return self._cut(self.background[chosen], random)

    def _cut(self, song: Song, random: np.random.Generator) -> Columns:
        stretch = self.augmentation.stretch
        wanted = round(self.frames * (1 + random.uniform(-stretch, stretch)))
        levels = repeated(song.levels, wanted)
        start = int(random.integers(levels.shape[1] - wanted + 1))
        cut = from_levels(levels[:, start : start + wanted], self.spec.top_db)
        return resample_time(cut, self.frames)


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Run an iterator in a thread, a few items ahead; an error there is raised here."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(PREFETCHED_BATCHES)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="windows", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
