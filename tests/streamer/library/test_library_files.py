from __future__ import annotations

import os

import pytest

from streamer.library.files import find_files
from streamer.system.commandline import UserError


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def test_audio_of_folders_is_found_once_and_in_order(tmp_path, monkeypatch):
    first = touch(tmp_path / "a" / "1.MP3")
    second = touch(tmp_path / "b" / "2.flac")
    for name in ("a/cover.jpg", "a/.12.1.mp3", ".hidden/3.mp3"):
        touch(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    named = touch(tmp_path / "radio.recording")
    paths = [named, str(tmp_path), "b", "b/2.flac"]
    assert find_files(paths, print) == [named, first, second]


def test_links_to_folders_are_not_followed_in_a_circle(tmp_path):
    song = touch(tmp_path / "a" / "1.mp3")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert find_files([str(tmp_path)], print) == [song]


def test_pipes_in_folders_are_left_out_and_broken_links_are_not(tmp_path):
    song = touch(tmp_path / "1.mp3")
    os.mkfifo(tmp_path / "2.mp3")
    broken = tmp_path / "3.mp3"
    broken.symlink_to(broken)
    assert find_files([str(tmp_path)], print) == [song, str(broken)]


def test_a_folder_without_audio_is_named(tmp_path):
    with pytest.raises(UserError, match="there are no audio files in this folder"):
        find_files([str(tmp_path)], print)
