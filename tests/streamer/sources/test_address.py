from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamer.sources.address import ascii_url, default_name, is_url, split_name


@pytest.mark.parametrize(
    ("text", "name", "location"),
    [
        ("radio=https://host/live?a=b", "radio", "https://host/live?a=b"),
        ("https://host/live?a=b", None, "https://host/live?a=b"),
        ("song.flac", None, "song.flac"),
        ("my kitchen=song.flac", "my kitchen", "song.flac"),
        ("stdin=-", "stdin", "-"),
        (" radio =song.flac", "radio", "song.flac"),
        ("./a=b.flac", None, "./a=b.flac"),
        ("sysdefault:CARD=PCH", None, "sysdefault:CARD=PCH"),
        ("=song.flac", None, "=song.flac"),
        ("radio=", None, "radio="),
    ],
)
def test_a_name_stands_before_the_first_equals_sign(
    text: str, name: str | None, location: str
) -> None:
    assert split_name(text) == (name, location)


def test_an_existing_file_with_an_equals_sign_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.flac").touch()
    assert split_name("a=b.flac") == (None, "a=b.flac")


def test_a_url_longer_than_any_path_can_have_a_name() -> None:
    url = "https://host/live?signature=" + "y" * 5000
    assert split_name(f"radio={url}") == ("radio", url)


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("/music/My Song.flac", "My Song"),
        ("file:///music/My%20Song.flac", "My Song"),
        ("http://me:secret@host:8000/live.mp3?token=1", "host:8000/live.mp3"),
        ("http://host/", "host"),
        ("udp://@239.0.0.1:1234", "239.0.0.1:1234"),
    ],
)
def test_a_source_without_a_name_is_named_after_its_location(location: str, name: str) -> None:
    assert default_name(location) == name


@pytest.mark.parametrize(
    ("location", "name"),
    [
        (b"/music/caf\xe9.wav", "caf?"),
        (b"file:///music/caf\xe9.wav", "caf?"),
        (b"file:///music/caf%E9.wav", "caf\N{REPLACEMENT CHARACTER}"),
        (b"http://host/caf\xe9", "host/caf?"),
    ],
)
def test_bytes_that_are_not_utf_8_are_replaced_in_a_default_name(
    location: bytes, name: str
) -> None:
    assert default_name(os.fsdecode(location)) == name


def test_bytes_that_are_not_utf_8_are_replaced_in_a_name_but_not_in_its_location() -> None:
    location = os.fsdecode(b"caf\xe9.wav")
    assert split_name(os.fsdecode(b"caf\xe9=caf\xe9.wav")) == ("caf?", location)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        (b"http://host", "http://host"),
        (b"http://host/a%20b?c=d", "http://host/a%20b?c=d"),
        (b"http://me:secret@host:8000/a b", "http://me:secret@host:8000/a%20b"),
        (b"http://[::1]:8000/live", "http://[::1]:8000/live"),
        (b"http://host/caf\xe9", "http://host/caf%E9"),
        (b"udp://@:1234", "udp://@:1234"),
    ],
)
def test_a_url_is_requested_in_ascii_and_otherwise_unchanged(url: bytes, asked: str) -> None:
    assert ascii_url(os.fsdecode(url)) == asked


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http:///live", "it names no host"),
        ("https://:8000/live", "it names no host"),
        ("http://host:99999/live", "Port out of range"),
    ],
)
def test_an_impossible_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ascii_url(url)


def test_a_drive_letter_is_no_scheme() -> None:
    assert not is_url(r"C:\music\song.flac")
    assert is_url("rtsp://host/")
