from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.sources.address import ascii_url, default_name, is_url, split_name
from streamer.system.urls import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://host/live", "http://host/live"),
        ("http://me:secret@host:8000/live", "http://host:8000/live"),
        ("http://me:sec/ret@host:8000/live", "http://host:8000/live"),
        ("http://me:sec?ret@host/live", "http://host/live"),
        ("http://me:s@cret@host/live", "http://host/live"),
        ("no http://me:sec ret@host/live: refused", "no http://host/live: refused"),
        ("http://me:sec<ret>@host/live", "http://host/live"),
        ('["a=http://host:80", "b=http://me:secret@c/"]', '["a=http://host:80", "b=http://c/"]'),
        ("https://host/a?token=secret", "https://host/a?…"),
        ("https://host/a#secret", "https://host/a#…"),
        ("https://host/@user/stream", "https://host/@user/stream"),
        ("http://host:8000/@user/stream", "http://host:8000/@user/stream"),
        ("https://host/user@name/stream", "https://host/user@name/stream"),
        ("http://me:secret@host:8000/user@name", "http://host:8000/user@name"),
        ("https://proxy/http://me:secret@host/live", "https://proxy/http://host/live"),
        ("https://proxy/http://me:secret@host/a?b: no", "https://proxy/http://host/a?…: no"),
        ("rtsp://cam:secret@10.0.0.1:554/1?k=secret: refused", "rtsp://10.0.0.1:554/1?…: refused"),
        ("a http://u:secret@b/ and https://c/?secret", "a http://b/ and https://c/?…"),
    ],
)
def test_credentials_and_queries_are_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


@settings(deadline=None)
@given(st.text(st.characters(categories=["L", "N"]), min_size=8), st.sampled_from("/?#:@!$&= <>"))
def test_no_password_is_shown_whatever_is_in_it(letters: str, mark: str) -> None:
    password = f"{letters}{mark}{letters}"
    assert letters not in redact(f"cannot open http://me:{password}@host.example:8000/live: no")


def test_a_long_text_of_a_server_is_redacted_at_once() -> None:
    def processor_seconds(length: int) -> float:
        started = time.process_time()
        for text in ("a." * length, "http://host/?" + "." * length + "x", "a://a:" * length):
            redact(text)
        return time.process_time() - started

    # The square of sixteen is 256.
    assert processor_seconds(32_000) < 64 * processor_seconds(2_000)


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


def test_a_file_that_exists_needs_no_name_for_its_equals_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.flac").touch()
    assert split_name("a=b.flac") == (None, "a=b.flac")


def test_a_signed_url_longer_than_any_path_has_a_name() -> None:
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
def test_a_name_is_unicode_though_its_location_need_not_be(location: bytes, name: str) -> None:
    assert default_name(os.fsdecode(location)) == name


def test_a_name_that_is_given_is_unicode_and_its_location_is_left_as_it_is() -> None:
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
def test_a_url_is_asked_for_in_ascii_and_otherwise_as_it_is(url: bytes, asked: str) -> None:
    assert ascii_url(os.fsdecode(url)) == asked


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http:///live", "it names no host"),
        ("https://:8000/live", "it names no host"),
        ("http://host:99999/live", "Port out of range"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ascii_url(url)


def test_a_drive_letter_is_no_scheme() -> None:
    assert not is_url(r"C:\music\song.flac")
    assert is_url("rtsp://host/")
