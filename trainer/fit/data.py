"""What a training uses: its labels, its tracks and background sounds, and how they are divided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from streamer.core.spectrogram import SpectrogramSpec
from trainer.dataset import NOT_MUSIC, AnySong, labels_of, load_songs
from trainer.discovery import check_genres, find_background, find_tracks
from trainer.exported import read_exported
from trainer.fit_settings import FitSettings, earlier_run, model_file
from trainer.pictures import read_spec
from trainer.run import BackgroundLists, Run, RunError, TrackLists, leak_notes, read_run
from trainer.splits import divide_background, split_tracks
from trainer.tracks import DatasetError, Skipped, Track


@dataclass(frozen=True, slots=True)
class Division:
    """Names of what a run trains on, validates on and is tested on."""

    labels: tuple[str, ...]
    """Genres by name, and `not_music` last if there is a background."""
    split: TrackLists
    background: BackgroundLists
    trained_on_before: tuple[str, ...]
    """Tracks that the initial weights were trained on."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Tracks and background sounds of a training, in memory."""

    spec: SpectrogramSpec
    """Grid of all pictures."""
    division: Division | Run
    """A new division, or the run that is continued, which keeps its own."""
    not_music: int | None
    """Index of the label of the background sounds; None without a background."""
    train: list[AnySong]
    valid: list[AnySong]
    background_train: list[AnySong]
    background_valid: list[AnySong]


def load_data(settings: FitSettings, run: Run | None) -> TrainingData:
    """Load the data of a training.

    A `run` that is continued keeps its division: files that were added since are not used.

    Raises
    ------
    DatasetError
        If the data cannot be used.
    RunError
        If the earlier run cannot be read, or tracks of the continued run are gone.
    """
    spec = read_spec(settings.data)
    folder = settings.background
    if folder and read_spec(folder) != spec:
        raise DatasetError(
            f"--background {folder}: its pictures have another grid than {settings.data}; prepare "
            "both with the same --hop-ms, --n-fft and --mels"
        )
    tracks, skipped = find_tracks(settings.data)
    sounds = find_background(folder)[0] if folder else []
    division = run or divide(settings, tracks, skipped, sounds)
    lists, background = division.split, division.background
    sounds = [replace(sound, genre=NOT_MUSIC) for sound in sounds]
    train, valid, _ = (
        _named(tracks, names, settings.data) for names in (lists.train, lists.valid, lists.test)
    )
    other = [_named(sounds, names, folder) for names in (background.train, background.valid)]
    songs = [load_songs(each, division.labels) for each in (train, valid, *other)]
    # Without a background, a genre of that name is music like any other.
    not_music = division.labels.index(NOT_MUSIC) if folder else None
    return TrainingData(spec, division, not_music, *songs)


def divide(
    settings: FitSettings,
    tracks: Sequence[Track],
    skipped: Sequence[Skipped],
    sounds: Sequence[Track],
) -> Division:
    """Divide tracks and sounds for a new run; raise as `load_data`."""
    before = _trained_before(settings.weights)
    check_genres(tracks, skipped)
    split = split_tracks(
        tracks, settings.split, seed=settings.seed, exclude_faults=settings.exclude_faults
    )
    if not split.train or not split.valid:
        raise DatasetError(
            f"{settings.data}: the split {split.name} leaves {len(split.train)} tracks to train on "
            f"and {len(split.valid)} to validate on; both need some"
        )
    trained = {track.genre for track in split.train}
    if untrained := sorted({track.genre for track in tracks} - trained):
        raise DatasetError(
            f"{settings.data}: the split {split.name} leaves no track of {', '.join(untrained)} to "
            "train on; give another --split, or keep only the folders of genres to be learnt"
        )
    train, valid, test = (_names(members) for members in split.sets().values())
    where = f"{settings.weights}, where this run starts"
    notes = (*split.notes, *leak_notes([*valid, *test], before or (), where))
    if before is None:
        notes += (f"{settings.weights} does not tell its tracks: an accuracy on those is too high",)
    if settings.train_on != "train":
        train = (*train, *valid)
        notes += ("the valid list was trained on: its figures are no measure of unknown music",)
    lists = TrackLists(split.name, split.protocol, notes, tuple(split.missing), train, valid, test)
    labels = tuple(labels_of(tracks, settings.background is not None))
    background = BackgroundLists(*map(_names, divide_background(sounds)))
    return Division(labels, lists, background, tuple(sorted(before or ())))


def _trained_before(weights: str) -> frozenset[str] | None:
    """Return the tracks that initial weights were trained on; None if that is not known."""
    if earlier := earlier_run(weights):
        return read_run(earlier).trained_tracks
    path = model_file(weights)
    return read_exported(path).trained_tracks if path else frozenset()


def _names(tracks: Iterable[Track]) -> tuple[str, ...]:
    return tuple(track.name for track in tracks)


def _named(tracks: Sequence[Track], names: Sequence[str], folder: Path | None) -> list[Track]:
    """Return the tracks of these names; raise RunError if some are gone."""
    by_name = {track.name: track for track in tracks}
    if gone := [name for name in names if name not in by_name]:
        more = ", ..." if len(gone) > 3 else ""
        raise RunError(
            f"{len(gone)} of the tracks that this run began with are not in {folder} any more "
            f"({', '.join(gone[:3])}{more}): put them back or start a new run"
        )
    return [by_name[name] for name in names]
