from __future__ import annotations

import time

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
