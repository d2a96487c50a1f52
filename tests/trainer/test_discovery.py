"""Finding the tracks of data folders and the clips of background folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.pictures import write_pictures

from trainer.discovery import find_background, find_data_folder, find_tracks
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
    assert [(entry.path.name, entry.genre) for entry in skipped] == [
        ("loose.wav", ""),
        ("x.txt", ""),
    ]


def test_songs_in_album_folders_are_tracks_of_their_genre(tmp_path: Path) -> None:
    touch(tmp_path, "jazz/Live/CD 1/01.mp3", "jazz/Live/CD 2/01.mp3", "jazz/single.opus")
    touch(tmp_path, "rock/First/01.flac", "rock/.trash/02.flac")
    tracks, skipped = find_tracks(tmp_path)
    assert [(track.genre, track.name) for track in tracks] == [
        ("jazz", "jazz/Live__CD 1__01"),
        ("jazz", "jazz/Live__CD 2__01"),
        ("jazz", "jazz/single"),
        ("rock", "rock/First__01"),
    ]
    assert not skipped


def test_a_linked_album_is_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "jazz/album/01.mp3")
    (tmp_path / "jazz" / "album" / "again").symlink_to(tmp_path / "jazz")
    touch(tmp_path / "elsewhere", "02.mp3")
    (tmp_path / "rock").mkdir()
    (tmp_path / "rock" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "rock" / "gone.mp3").symlink_to("nowhere.mp3")
    tracks, skipped = find_tracks(tmp_path)
    assert {"jazz/album__01", "rock/linked__02"} <= {track.name for track in tracks}
    assert [entry.reason for entry in skipped] == ["a link to a file that is not there"]


def test_what_is_not_taken_is_listed(tmp_path: Path) -> None:
    touch(tmp_path, "jazz/a.wav", "jazz/album/cover.jpg", "jazz/album/b.wav", "jazz/.DS_Store")
    touch(tmp_path, "loose.mp3", "notes.txt", "covers/one.jpg")
    _, skipped = find_tracks(tmp_path)
    listed = {str(entry.path.relative_to(tmp_path)): entry.reason for entry in skipped}
    assert listed.pop("jazz/album/cover.jpg").startswith("not audio (.aac .aif")
    assert listed == {"loose.mp3": "lies in no genre's folder", "covers": "no tracks in it"}


def test_the_folder_of_genres_in_gtzans_archive_is_found(tmp_path: Path) -> None:
    data = tmp_path / "archive" / "Data"
    touch(data, "genres_original/blues/blues.00000.wav", "genres_original/rock/rock.00000.wav")
    touch(data, "images_original/blues/blues00000.png", "features_30_sec.csv")
    for folder in (tmp_path, data, data / "genres_original"):
        assert find_data_folder(folder) == data / "genres_original"
    pictures = write_pictures(tmp_path / "other" / "pictures")
    assert find_data_folder(tmp_path / "other") == pictures


def test_genres_with_albums_are_no_folders_of_genres(tmp_path: Path) -> None:
    touch(tmp_path, "jazz/Live/01.mp3", "jazz/Greatest Hits/01.mp3", "rock/Greatest Hits/01.mp3")
    touch(tmp_path, "rock/Debut/01.mp3", "rock/Unplugged/01.mp3")
    assert find_data_folder(tmp_path) == tmp_path


def test_several_folders_of_genres_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "train/jazz/a.mp3", "train/rock/a.mp3", "test/jazz/b.mp3", "test/rock/b.mp3")
    with pytest.raises(DatasetError, match="several folders of genres") as error:
        find_data_folder(tmp_path)
    assert f"{tmp_path / 'test'}, {tmp_path / 'train'}; give one of them" in str(error.value)


def test_drawings_of_spectrograms_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "blues").mkdir()
    Image.new("RGBA", (432, 288)).save(tmp_path / "blues" / "blues00000.png")
    with pytest.raises(DatasetError, match="holds pictures of 432 x 288 without") as error:
        find_tracks(tmp_path)
    assert "such as drawings with axes: give the folder of the audio" in str(error.value)


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
