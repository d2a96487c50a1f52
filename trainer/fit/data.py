"""What a training uses: its labels, its tracks and background sounds, and how they are divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from streamer.core.spectrogram import SpectrogramSpec
from trainer.dataset import NOT_MUSIC, Song, labels_of, load_songs
from trainer.discovery import check_genres, find_background, find_tracks
from trainer.fit.settings import FitSettings
from trainer.pictures import read_spec
from trainer.run import BackgroundLists, Run, RunError, TrackLists, leak_notes, read_run
from trainer.splits import Split, divide_background, split_tracks
from trainer.tracks import DatasetError, Track


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Tracks and background sounds of a training, in memory."""

    spec: SpectrogramSpec
    """Grid of all pictures."""
    labels: list[str]
    """Genres by name, and `not_music` last if there is a background."""
    split: Split
    """Division of the tracks."""
    train: list[Song]
    valid: list[Song]
    background_train: list[Song]
    background_valid: list[Song]
    trained_on_before: frozenset[str]
    """Tracks that the initial weights come from, by name."""

    @property
    def not_music(self) -> int | None:
        """Index of the label of the background sounds; None without a background."""
        return self.labels.index(NOT_MUSIC) if NOT_MUSIC in self.labels else None

    @property
    def genres(self) -> int:
        """Number of genres that are trained on."""
        return len({song.label for song in self.train})

    def track_lists(self) -> TrackLists:
        """Return the division by names, as a run records it."""
        split = self.split
        names = {part: tuple(track.name for track in own) for part, own in split.sets().items()}
        return TrackLists(
            name=split.name,
            protocol=split.protocol,
            notes=tuple(split.notes),
            missing=tuple(split.missing),
            **names,
        )

    def background_lists(self) -> BackgroundLists:
        """Return the division of the background sounds by names."""
        return BackgroundLists(
            train=tuple(song.name for song in self.background_train),
            valid=tuple(song.name for song in self.background_valid),
        )


def load_data(settings: FitSettings, earlier: Path | None) -> TrainingData:
    """Divide and load the data of a new run.

    Parameters
    ----------
    settings : FitSettings
        Names the folders, the split and the seed.
    earlier : Path or None
        Folder of the run whose weights the training starts from.

    Raises
    ------
    DatasetError
        If the data cannot be used.
    RunError
        If the earlier run cannot be read.
    """
    spec = read_spec(settings.data)
    before = read_run(earlier).trained_tracks if earlier else frozenset()
    _check_background_grid(settings, spec)
    tracks, skipped = find_tracks(settings.data)
    check_genres(tracks, skipped)
    split = split_tracks(
        tracks, settings.split, seed=settings.seed, exclude_faults=settings.exclude_faults
    )
    _check_split(split, tracks, settings.data)
    held_back = [track.name for track in [*split.valid, *split.test]]
    leaks = leak_notes(held_back, before, f"{settings.weights}, where this run starts")
    split = replace(split, notes=[*split.notes, *leaks])
    labels = labels_of(tracks, settings.background is not None)
    background: tuple[Sequence[Track], Sequence[Track]] = ((), ())
    if settings.background:
        background = divide_background(find_background(settings.background)[0])
    return _loaded(spec, labels, split, background, before)


def reload_data(settings: FitSettings, run: Run) -> TrainingData:
    """Load the data of a run that is continued, divided as when it began.

    Files that were added to the folders since then are not used.

    Raises
    ------
    DatasetError
        If the data cannot be used.
    RunError
        If tracks or sounds of the run are gone.
    """
    spec = read_spec(settings.data)
    _check_background_grid(settings, spec)
    lists = run.split
    tracks, _ = find_tracks(settings.data)
    train, valid, test = (
        _named(tracks, names, settings.data) for names in (lists.train, lists.valid, lists.test)
    )
    split = Split(
        train,
        valid,
        test,
        name=lists.name,
        protocol=lists.protocol,
        missing=list(lists.missing),
        notes=list(lists.notes),
    )
    background: tuple[Sequence[Track], Sequence[Track]] = ((), ())
    if folder := settings.background:
        sounds, _ = find_background(folder)
        background = (
            _named(sounds, run.background.train, folder),
            _named(sounds, run.background.valid, folder),
        )
    return _loaded(spec, list(run.labels), split, background, frozenset(run.trained_on_before))


def _loaded(
    spec: SpectrogramSpec,
    labels: list[str],
    split: Split,
    background: tuple[Sequence[Track], Sequence[Track]],
    before: frozenset[str],
) -> TrainingData:
    background_train, background_valid = (
        load_songs([replace(sound, genre=NOT_MUSIC) for sound in sounds], labels)
        for sounds in background
    )
    return TrainingData(
        spec,
        labels,
        split,
        load_songs(split.train, labels),
        load_songs(split.valid, labels),
        background_train,
        background_valid,
        before,
    )


def _check_split(split: Split, tracks: Sequence[Track], folder: Path) -> None:
    if not split.train or not split.valid:
        raise DatasetError(
            f"{folder}: the split {split.name} leaves {len(split.train)} tracks to train on and "
            f"{len(split.valid)} to validate on; both need some"
        )
    trained = {track.genre for track in split.train}
    if untrained := sorted({track.genre for track in tracks} - trained):
        raise DatasetError(
            f"{folder}: the split {split.name} leaves no track of {', '.join(untrained)} to train "
            "on; give another --split, or keep only the folders of genres to be learnt"
        )


def _check_background_grid(settings: FitSettings, spec: SpectrogramSpec) -> None:
    if settings.background and read_spec(settings.background) != spec:
        raise DatasetError(
            f"--background {settings.background}: its pictures have another grid than "
            f"{settings.data}; prepare both with the same --hop-ms, --n-fft and --mels"
        )


def _named(tracks: Sequence[Track], names: Sequence[str], folder: Path) -> list[Track]:
    """Return the tracks of these names; raise RunError if some are gone."""
    by_name = {track.name: track for track in tracks}
    if gone := [name for name in names if name not in by_name]:
        more = ", ..." if len(gone) > 3 else ""
        raise RunError(
            f"{len(gone)} of the tracks that this run began with are not in {folder} any more "
            f"({', '.join(gone[:3])}{more}): put them back or start a new run"
        )
    return [by_name[name] for name in names]
