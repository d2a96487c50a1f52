"""Training windows: reproducible and balanced."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from support.model import band_noise
from support.pictures import SPEC, write_pictures
from support.songs import write_audio

from trainer import dataset
from trainer.augment import NONE, Augmentation
from trainer.dataset import (
    Song,
    StoredSong,
    TrainingWindows,
    even_windows,
    load_songs,
)
from trainer.discovery import find_background, find_tracks
from trainer.prepare import prepare
from trainer.splits import divide_background, sounds_to_learn_from


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def windows(folder: Path, **changes: object) -> TrainingWindows:
    tracks, _ = find_tracks(folder)
    songs = load_songs(tracks, ["rows", "steps"])
    settings: dict[str, object] = {
        "spec": SPEC,
        "frames": 39,
        "batch": 4,
        "augmentation": Augmentation(),
        "seed": 3,
    }
    background = changes.pop("background", [Song("dog", 2, songs[0].levels[:, :20])])
    return TrainingWindows(songs, background, 2, 3, **{**settings, **changes})  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_epoch_and_another_epoch_differs(folder: Path) -> None:
    first = list(windows(folder).epoch(0))
    again = list(windows(folder).epoch(0))
    other = list(windows(folder).epoch(1))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.windows, two.windows)
        np.testing.assert_array_equal(one.targets, two.targets)
    assert not np.array_equal(first[0].windows, other[0].windows)


def test_pictures_beyond_the_memory_for_them_are_read_when_they_are_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = list(windows(folder).epoch(0))
    monkeypatch.setattr(dataset, "MEMORY_BYTES", 3 * 40 * 200)
    source = windows(folder)
    kinds = [type(song) for song in source.songs]
    assert set(kinds[:3]) == {Song}
    assert set(kinds[-3:]) == {StoredSong}
    for one, two in zip(source.epoch(0), in_memory, strict=True):
        np.testing.assert_array_equal(one.windows, two.windows)
        np.testing.assert_array_equal(one.targets, two.targets)


def test_an_epoch_has_the_stated_number_of_batches_of_one_shape(folder: Path) -> None:
    source = windows(folder)
    batches = list(source.epoch(0))
    assert len(batches) == source.steps
    assert {batch.windows.shape for batch in batches} == {(4, 40, 39)}


def test_every_song_is_used_equally_often_in_an_epoch(folder: Path) -> None:
    source = windows(folder, augmentation=Augmentation(mixup=0), background_share=0.0, batch=6)
    targets = np.concatenate([batch.targets for batch in source.epoch(0)])
    np.testing.assert_array_equal(targets.sum(axis=0), [12, 12, 0])


def test_a_window_across_a_song_change_has_the_label_of_its_end(folder: Path) -> None:
    low, high = np.zeros((2, 40, 200), np.uint8)
    low[:20], high[20:] = 255, 255
    songs = [Song("low", 0, low), Song("high", 1, high)]
    source = TrainingWindows(
        songs,
        [],
        None,
        2,
        spec=SPEC,
        frames=39,
        batch=4,
        windows_per_song=100,
        augmentation=dataclasses.replace(NONE, change=0.5),
    )
    begins = {True: 0, False: 0}
    for batch in source.epoch(0):
        for window, target in zip(batch.windows, batch.targets, strict=True):
            at_begin, at_end = window[20:, [0, -1]].mean(axis=0) > window[:20, [0, -1]].mean(axis=0)
            assert at_end == target.argmax()
            begins[bool(at_begin == at_end)] += 1
    # Half of the windows contain a change, half of these one to the other song.
    assert begins[False] / sum(begins.values()) == pytest.approx(0.25, abs=0.1)


def test_a_rare_genre_weighs_more(folder: Path) -> None:
    tracks, _ = find_tracks(folder)
    songs = load_songs(tracks, ["rows", "steps"])[:8]
    source = TrainingWindows(songs, [], None, 2, spec=SPEC, frames=39, batch=4)
    weights = {
        int(target.argmax()): float(weight)
        for batch in source.epoch(0)
        for target, weight in zip(batch.targets, batch.weights, strict=True)
    }
    assert weights == {0: pytest.approx(8 / (2 * 6)), 1: pytest.approx(8 / (2 * 2))}


def test_an_epoch_that_is_closed_early_leaves_no_thread(folder: Path) -> None:
    before = set(threading.enumerate())
    epoch = windows(folder).epoch(0)
    next(epoch)
    assert set(threading.enumerate()) - before
    epoch.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before  # those of other tests may end


def test_an_error_in_the_thread_is_raised_in_the_training(folder: Path) -> None:
    source = windows(folder)
    source.songs = [Song("broken", 0, np.zeros((3, 50), np.uint8))] * 12
    with pytest.raises(ValueError, match=r"broadcast|shape"):
        list(source.epoch(0))


def test_even_windows_span_the_song_and_repeat_a_short_one() -> None:
    levels = np.tile(np.arange(90, dtype=np.uint8), (40, 1))
    cut = even_windows(Song("long", 0, levels), SPEC, 39, 3)
    assert cut.shape == (3, 40, 39)
    assert (cut.max(axis=(1, 2)) == 0).all()
    short = even_windows(Song("short", 0, levels[:, :20]), SPEC, 39, 3)
    assert short.shape[2] == 39


def test_whole_background_clips_are_held_back(folder: Path) -> None:
    train, valid = divide_background(find_background(folder)[0])
    names = {clip.name for clip in train}, {clip.name for clip in valid}
    assert not names[0] & names[1]
    assert len(train) == 10
    assert len(valid) == 2


def test_the_same_sounds_are_held_back_as_audio(tmp_path: Path) -> None:
    for number in range(10):
        write_audio(tmp_path / "audio" / f"{number}.wav", band_noise("low", 3, seed=number))
    pictures = prepare(tmp_path / "audio", tmp_path / "out", SPEC, background=True, tags=False)
    train, _ = divide_background(find_background(pictures.folder)[0])
    assert len(train) == 8
    names = [clip.name for clip in sounds_to_learn_from(tmp_path / "audio")]
    assert names == [clip.name for clip in train]


def test_background_clips_are_used_in_proportion_to_their_length(folder: Path) -> None:
    low, high = np.zeros((40, 900), np.uint8), np.zeros((40, 100), np.uint8)
    low[:20], high[20:] = 255, 255
    source = windows(
        folder,
        background=[Song("long", 2, low), Song("short", 2, high)],
        background_share=0.9,
        augmentation=NONE,
    )
    is_long = [
        window[:20].mean() > window[20:].mean()
        for number in range(20)
        for batch in source.epoch(number)
        for window, target in zip(batch.windows, batch.targets, strict=True)
        # Not music and not synthetic noise, which fills all bands.
        if target[2] and abs(window[:20].mean() - window[20:].mean()) > 70
    ]
    assert len(is_long) > 500
    assert np.mean(is_long) == pytest.approx(0.9, abs=0.04)
