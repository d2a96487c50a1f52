"""Training data: tracks as levels, and the batches of windows that are cut from them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Columns, SpectrogramSpec, from_levels, relative_to_peak
from trainer.augment import NONE, Augmentation, augment, insert_change, mixup, random_noise
from trainer.pictures import Levels, read_picture
from trainer.tracks import DatasetError, Track

NOT_MUSIC = "not_music"
"""Label of all background clips."""

SYNTHETIC_SHARE = 0.35
"""Share of the background windows that are synthetic noise instead of a recording."""

PREFETCHED_BATCHES = 4

MEMORY_BYTES = 2**29
"""Pictures that are kept in memory; those beyond are read when they are used, which takes a
millisecond or two. GTZAN is a tenth of it."""


@dataclass(frozen=True, slots=True)
class Song:
    """One track in memory."""

    name: str
    label: int
    """Index into the labels."""
    levels: Levels
    """uint8, shape (n_mels, frames), row 0 the lowest band."""


@dataclass(frozen=True, slots=True)
class StoredSong:
    """One track whose picture is read each time that its levels are used."""

    name: str
    label: int
    path: Path

    @property
    def levels(self) -> Levels:
        """As in `Song`."""
        return read_picture(self.path)


AnySong = Song | StoredSong


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one training step."""

    windows: Columns
    """float32, shape (batch, n_mels, frames), dB relative to each window's loudest cell."""
    targets: NDArray[np.float32]
    """float32, shape (batch, classes), rows sum to 1."""
    weights: NDArray[np.float32]
    """float32, shape (batch,), mean 1 over the music of an epoch; rare genres weigh more."""


def labels_of(tracks: Iterable[Track], background: bool) -> list[str]:
    """Return the labels of a training: the genres, sorted, and `not_music` with a background."""
    genres = sorted({track.genre for track in tracks})
    if not background:
        return genres
    if NOT_MUSIC in genres:
        raise DatasetError(
            f"the genre {NOT_MUSIC} has the name of the label of --background: rename its folder, "
            "or move what it holds into the background folder"
        )
    return [*genres, NOT_MUSIC]


def load_songs(tracks: Sequence[Track], labels: Sequence[str]) -> list[AnySong]:
    """Read the pictures of tracks whose genres are among the labels, as far as memory is for them.

    A corpus may be larger than the memory: see `MEMORY_BYTES`.
    """
    index = {label: number for number, label in enumerate(labels)}
    songs: list[AnySong] = []
    used = 0
    for track in tracks:
        label = index[track.genre]
        if used >= MEMORY_BYTES:
            songs.append(StoredSong(track.name, label, track.path))
            continue
        songs.append(Song(track.name, label, read_picture(track.path)))
        used += songs[-1].levels.nbytes
    return songs


def repeated(levels: Levels, frames: int) -> Levels:
    """Repeat a recording, if need be, so that it has at least `frames` columns."""
    times = -(-frames // levels.shape[1])
    return np.tile(levels, (1, times)) if times > 1 else levels


def resample_time(columns_db: Columns, frames: int) -> Columns:
    """Interpolate columns linearly along time, from shape (n_mels, k) to (n_mels, frames)."""
    count = columns_db.shape[1]
    if count == frames:
        return columns_db
    at = np.linspace(0, count - 1, frames)
    left = np.minimum(at.astype(int), count - 2)
    share = (at - left).astype(np.float32)
    stretched = columns_db[:, left] * (1 - share) + columns_db[:, left + 1] * share
    return np.asarray(stretched, np.float32)


def even_windows(song: AnySong, spec: SpectrogramSpec, frames: int, count: int) -> Columns:
    """Cut up to `count` windows at even distances from a song, fewer from a short one.

    The result has the shape (windows, n_mels, frames), in dB relative to each window's loudest
    cell.
    """
    levels = repeated(song.levels, frames)
    last = levels.shape[1] - frames
    starts = np.unique(np.linspace(0, last, count).round().astype(int))
    windows = np.stack([levels[:, start : start + frames] for start in starts])
    return relative_to_peak(from_levels(windows, spec.top_db), spec.top_db)


@dataclass
class TrainingWindows:
    """Random training windows by epoch, reproducible for a seed."""

    songs: Sequence[AnySong]
    background: Sequence[AnySong]
    """Recordings of the class `not_music`, which are also mixed with the music. Each is used in
    proportion to its length. May be empty."""
    not_music: int | None
    """Index of that class; None without it."""
    classes: int
    _: KW_ONLY
    spec: SpectrogramSpec
    frames: int
    """Columns of a window."""
    batch: int
    windows_per_song: int = 2
    """Windows of each song in an epoch."""
    background_share: float = 0.1
    """Share of an epoch's windows that are not music."""
    augmentation: Augmentation = NONE
    seed: int = 0

    def __post_init__(self) -> None:
        """Choose the contents of an epoch's windows and weigh the labels."""
        lengths = np.array([song.levels.shape[1] for song in self.background], float)
        self._background_shares = lengths / lengths.sum()
        music = self.windows_per_song * len(self.songs)
        self._contents = np.arange(music) % max(1, len(self.songs))
        """Contents of an epoch's windows: indices of songs, or -1 for background."""
        if self.not_music is not None:
            other = round(music * self.background_share / (1 - self.background_share))
            self._contents = np.append(self._contents, np.full(other, -1))
        counts = Counter(song.label for song in self.songs)
        self._weights = np.ones(self.classes, np.float32)
        for label, count in counts.items():
            self._weights[label] = len(self.songs) / (len(counts) * count)

    @property
    def steps(self) -> int:
        """Number of batches in an epoch; the windows of an incomplete batch are left out."""
        return max(1, len(self._contents) // self.batch)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of one epoch, prepared ahead in a thread."""
        return _prefetch(self._batches(number))

    def _batches(self, number: int) -> Iterator[Batch]:
        random = np.random.default_rng([self.seed, number])
        order = np.resize(random.permutation(self._contents), self.steps * self.batch)
        for chosen in order.reshape(self.steps, self.batch):
            windows = np.empty((self.batch, self.spec.n_mels, self.frames), np.float32)
            labels = np.empty(self.batch, int)
            for index, content in enumerate(chosen):
                windows[index], labels[index] = self._window(content, random)
            targets = np.eye(self.classes, dtype=np.float32)[labels]
            weights = targets @ self._weights
            windows, targets = mixup(windows, targets, random, self.augmentation.mixup)
            yield Batch(windows, targets, weights)

    def _window(self, content: int, random: np.random.Generator) -> tuple[Columns, int]:
        window, label = self._cut_content(content, random)
        if random.random() < self.augmentation.change:
            earlier, _ = self._cut_content(random.choice(self._contents), random)
            window = insert_change(window, earlier, random, self.spec)
        noise = self._cut_background(random) if random.random() < self.augmentation.noise else None
        return augment(window, random, self.spec, self.augmentation, noise), label

    def _cut_content(self, content: int, random: np.random.Generator) -> tuple[Columns, int]:
        """Cut a random window and return it with its label; `content` as in `_contents`."""
        if content >= 0:
            song = self.songs[content]
            return self._cut(song, random), song.label
        assert self.not_music is not None
        return self._cut_background(random), self.not_music

    def _cut_background(self, random: np.random.Generator) -> Columns:
        if not self.background or random.random() < SYNTHETIC_SHARE:
            return random_noise(random, self.spec, self.frames)
        chosen = random.choice(len(self.background), p=self._background_shares)
        return self._cut(self.background[chosen], random)

    def _cut(self, song: AnySong, random: np.random.Generator) -> Columns:
        stretch = self.augmentation.stretch
        wanted = round(self.frames * (1 + random.uniform(-stretch, stretch)))
        levels = repeated(song.levels, wanted)
        start = int(random.integers(levels.shape[1] - wanted + 1))
        cut = from_levels(levels[:, start : start + wanted], self.spec.top_db)
        return resample_time(cut, self.frames)


def _prefetch(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Run an iterator in a thread, a few items ahead; its errors are raised here."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="windows")
    try:
        pending = deque(pool.submit(next, batches, None) for _ in range(PREFETCHED_BATCHES))
        while (batch := pending.popleft().result()) is not None:
            pending.append(pool.submit(next, batches, None))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
