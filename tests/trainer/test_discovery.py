"""Finding the tracks of data folders and the clips of background folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from support.pictures import write_pictures

from trainer.discovery import find_background, find_tracks
from trainer.pictures import write_picture
from trainer.tracks import DatasetError, is_picture_folder


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"something")


def test_tracks_are_found_in_one_folder_per_genre(tmp_path: Path) -> None:
    touch(tmp_path, "Drum & Bass/a.mp3", "Drum & Bass/b.FLAC", "fado/fado.00001.au", "fado/x.txt")
    touch(tmp_path, "loose.wav", ".hidden/a.wav", "__MACOSX/a.wav")
    tracks, skipped = find_tracks(tmp_path)
    assert [track.name for track in tracks] == ["Drum & Bass/a", "Drum & Bass/b", "fado.00001"]
    assert [track.genre for track in tracks] == ["Drum & Bass", "Drum & Bass", "fado"]
    assert not skipped


def test_empty_and_appledouble_files_are_skipped_with_their_reason(tmp_path: Path) -> None:
    touch(tmp_path, "pop/good.wav", "pop/._good.wav")
    (tmp_path / "pop" / "nothing.wav").touch()
    tracks, skipped = find_tracks(tmp_path)
    assert [track.name for track in tracks] == ["pop/good"]
    assert {entry.path.name: entry.reason for entry in skipped} == {
        "._good.wav": "AppleDouble file of macOS, not audio",
        "nothing.wav": "empty file",
    }


def test_names_that_are_not_utf8_are_skipped_and_printed_with_escapes(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "fado/good.wav", os.fsdecode(b"fado/can\xe7\xe3o.wav"))
    touch(tmp_path, os.fsdecode(b"m\xfasica/good.wav"))
    tracks, skipped = find_tracks(tmp_path)
    assert [track.name for track in tracks] == ["fado/good"]
    lines = [f"{entry.path.relative_to(tmp_path)}: {entry.reason}" for entry in skipped]
    assert [line.partition(": ")[0] for line in lines] == [
        r"fado/can\xe7\xe3o.wav",
        r"m\xfasica/good.wav",
    ]
    assert all("not UTF-8" in line and "rename it" in line for line in lines)
    clips, lost = find_background(tmp_path)
    assert [clip.name for clip in clips] == ["fado/good"]
    assert {entry.path for entry in lost} == {entry.path for entry in skipped}


def test_the_second_file_of_one_name_is_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "pop/song.mp3", "pop/song.wav", "rock/song.wav")
    tracks, skipped = find_tracks(tmp_path)
    assert [track.name for track in tracks] == ["pop/song", "rock/song"]
    assert [entry.reason for entry in skipped] == ["has the same name as song.mp3"]


def test_damaged_short_and_wrongly_sized_pictures_are_skipped(
    tmp_path: Path,
) -> None:
    folder = write_pictures(tmp_path, frames=90)
    levels = np.zeros((40, 90), np.uint8)
    write_picture(folder / "rows" / "short.png", levels[:, :20])
    write_picture(folder / "rows" / "low.png", levels[:30])
    whole = (folder / "rows" / "rows.00000.png").read_bytes()
    (folder / "rows" / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert is_picture_folder(folder)
    tracks, skipped = find_tracks(folder)
    assert len(tracks) == 12
    reasons = {entry.path.name: entry.reason for entry in skipped}
    assert set(reasons) == {"short.png", "low.png", "cut.png"}
    assert reasons["short.png"].startswith("too short: 1.6 s, at least 3 s")
    assert reasons["low.png"] == "30 rows instead of the 40 bands of spectrogram.json"
    assert reasons["cut.png"].startswith("damaged picture")


def test_the_files_that_prepare_skipped_are_reported_with_its_pictures(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path)
    skipped_by_prepare = {"skipped": [{"path": "/music/rows/a.au", "reason": "damaged audio"}]}
    (folder / "prepared.json").write_text(json.dumps(skipped_by_prepare))
    _, skipped = find_tracks(folder)
    assert [(str(entry.path), entry.reason) for entry in skipped] == [
        ("/music/rows/a.au", "damaged audio")
    ]


def test_pictures_of_background_clips_are_checked(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, genres=("rain",))
    write_picture(folder / "rain" / "low.png", np.zeros((30, 90), np.uint8))
    whole = (folder / "rain" / "rain.00000.png").read_bytes()
    (folder / "rain" / "cut.png").write_bytes(whole[: len(whole) // 2])
    clips, skipped = find_background(folder)
    assert len(clips) == 6
    reasons = {entry.path.name: entry.reason for entry in skipped}
    assert set(reasons) == {"low.png", "cut.png"}
    assert reasons["low.png"] == "30 rows instead of the 40 bands of spectrogram.json"
    assert reasons["cut.png"].startswith("damaged picture")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: folder / "nowhere", "no such data folder"),
        (lambda folder: folder, "no tracks in .*one folder a genre"),
    ],
)
def test_a_folder_without_tracks_is_refused(tmp_path: Path, make, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DatasetError, match=sentence):
        find_tracks(make(tmp_path))


def test_background_clips_are_found_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "rain.ogg", "animals/dog.wav", "animals/birds/owl.mp3", "animals/._dog.wav")
    clips, skipped = find_background(tmp_path)
    assert [clip.name for clip in clips] == ["animals/birds__owl", "animals/dog", "background/rain"]
    assert len(skipped) == 1
