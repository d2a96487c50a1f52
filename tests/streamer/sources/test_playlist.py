from __future__ import annotations

import codecs
import os
import time
from pathlib import Path

import pytest

from streamer.sources import playlist


def test_the_entries_of_an_m3u_are_its_lines_without_comments() -> None:
    text = "\ufeff#EXTM3U\r\n#EXTINF:-1,A radio\r\nhttp://a/live\r\n\r\n  song.mp3 \r\n"
    assert playlist.entries(text) == ["http://a/live", "song.mp3"]


@pytest.mark.parametrize("header", ["[playlist]", "\ufeff\r\n[Playlist]\r"])
def test_the_entries_of_a_pls_are_sorted_by_number(header: str) -> None:
    text = f"{header}\nFile10=http://c/\nfile2 = http://b/ \nTitle2=x\nFile1=http://a/\nVersion=2\n"
    assert playlist.entries(text) == ["http://a/", "http://b/", "http://c/"]


def test_reading_a_playlist_takes_no_quadratic_time() -> None:
    def processor_seconds(length: int) -> float:
        started = time.process_time()
        for text in ("\n" * length + "x", "File1=a" + " " * length + "b", "File1" + " " * length):
            playlist.entries(f"[playlist]\n{text}")
        return time.process_time() - started

    # Quadratic time would be 256 times as long.
    assert processor_seconds(32_000) < 64 * processor_seconds(2_000)


def test_an_hls_playlist_is_distinguished_from_a_list_of_songs() -> None:
    assert playlist.is_hls("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n1.ts\n")
    assert not playlist.is_hls("#EXTM3U\n#EXTINF:123,A song\nsong.mp3\n")


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("live.mp3", "http://host/radio/live.mp3"),
        ("/live.mp3", "http://host/live.mp3"),
        ("https://other/live", "https://other/live"),
        ("rtsp://other/live", "rtsp://other/live"),
        ("file:///etc/passwd", None),
        ("http://[oops/x", None),
        ("concat:/etc/passwd", None),
    ],
)
def test_a_playlist_from_the_network_refers_only_to_the_network(
    entry: str, found: str | None
) -> None:
    urls = playlist.network_entries(entry, "http://host/radio/list.m3u")
    assert urls == ([found] if found else [])


def test_a_long_playlist_from_the_network_is_cut() -> None:
    text = "file:///etc/passwd\n" + "".join(f"{number}\n" for number in range(100_000))
    found = playlist.network_entries(text, "http://host/list.m3u")
    assert found == [f"http://host/{number}" for number in range(9_999)]


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ("Süd.mp3".encode(), None),
        ("Süd.mp3".encode("utf-8-sig"), None),
        ("Süd.mp3".encode("utf-16"), None),
        (codecs.BOM_UTF16_BE + "Süd.mp3".encode("utf-16-be"), None),
        ("Süd.mp3".encode("utf-16-le"), None),
        ("Süd.mp3".encode("utf-16-be"), None),
        ("Süd.mp3".encode("latin-1"), None),
        ("Süd.mp3".encode("cp850"), "cp850"),
        ("Süd.mp3".encode("latin-1"), "no-such-charset"),
    ],
)
def test_the_encoding_of_a_playlist_is_found_out(body: bytes, charset: str | None) -> None:
    assert playlist.decode_text(body, charset) == "Süd.mp3"


@pytest.mark.parametrize(
    ("entry", "file"),
    [
        ("a%20b.mp3", b"a b.mp3"),
        ("a%20b.mp3", b"a%20b.mp3"),
        ("deep\\s\u00fcd.mp3", "deep/s\u00fcd.mp3".encode()),
        ("s\u00fcd.mp3", b"s\xfcd.mp3"),
        ("100%.mp3", b"100%.mp3"),
    ],
)
def test_an_entry_is_the_file_that_exists(tmp_path: Path, entry: str, file: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + file))
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert playlist.local_entries(f"{entry}\nhttp://host/a%20b", tmp_path) == [
        str(path),
        "http://host/a%20b",
    ]


def test_a_missing_entry_keeps_its_name(tmp_path: Path) -> None:
    assert playlist.local_entries("a%20b.mp3", tmp_path) == [f"{tmp_path}/a%20b.mp3"]
