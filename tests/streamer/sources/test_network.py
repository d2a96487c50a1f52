"""Network streams: HTTP, HLS, RTSP and UDP. Radios with a real server are in test_radio.py."""

from __future__ import annotations

import base64
import gzip
import itertools
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.certificate import make_certificate
from support.listening import read_all, read_one
from support.radio import end, free_port, need
from support.waiting import LONGEST_WAIT_SECONDS, wait_until
from support.web import Conversation, files_at, scripted

from streamer.sources import AudioBlock, SourceError, http_status, make_source, media
from streamer.sources.media import MediaSource
from streamer.system.fair_semaphore import FairSemaphore

OK = "HTTP/1.1 200 OK"
RTSP_SERVER = Path(__file__).parents[2] / "support" / "rtsp.py"


@pytest.fixture(scope="module")
def mp3(tmp_path_factory: pytest.TempPathFactory, demo_clip: Path) -> bytes:
    """Return four seconds of MP3."""
    need("ffmpeg")
    return _ffmpeg("-i", str(demo_clip), "-t", "4", "-b:a", "64k", "-f", "mp3", "-")


def _ffmpeg(*arguments: str) -> bytes:
    return subprocess.run(
        ["ffmpeg", "-v", "error", *arguments], check=True, stdout=subprocess.PIPE
    ).stdout


def seconds(blocks: list[AudioBlock]) -> float:
    return sum(block.seconds for block in blocks)


def read_until_error(source: MediaSource) -> tuple[list[AudioBlock], SourceError]:
    blocks: list[AudioBlock] = []
    source.open()
    try:
        return blocks, error_of(source, blocks)
    finally:
        source.close()


def error_of(source: MediaSource, blocks: list[AudioBlock] | None = None) -> SourceError:
    """Read an open source until it breaks."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    try:
        while time.monotonic() < deadline:
            block = source.read(1.0)
            if block is not None and blocks is not None:
                blocks.append(block)
    except SourceError as error:
        return error
    raise AssertionError(f"{source.name} does not break")


def failure(url: str, **settings: float) -> SourceError:
    blocks, error = read_until_error(MediaSource(url, fast=True, **settings))
    assert not blocks
    return error


def playing(body: bytes, *headers: str) -> Callable[[Conversation], None]:
    """Answer with audio; without its length it is a stream."""
    return lambda client: client.answer(OK, "Content-Type: audio/mpeg", *headers, body=body)


def playing_with_titles(
    audio: bytes, *metadata: bytes, content_type: str = "audio/mpeg"
) -> Callable[[Conversation], None]:
    """Answer as a SHOUTcast server, with these metadata after each second of audio."""

    def play(client: Conversation) -> None:
        assert client.headers["icy-metadata"] == "1"
        data = b""
        texts = itertools.chain(metadata, itertools.repeat(b""))
        for start, text in zip(range(0, len(audio), 8000), texts, strict=False):
            data += audio[start : start + 8000]
            if start + 8000 < len(audio):
                blocks = -(-len(text) // 16)
                data += bytes([blocks]) + text.ljust(16 * blocks, b"\0")
        client.answer("ICY 200 OK", "icy-metaint:8000", f"content-type:{content_type}", body=data)

    return play


def first_then(
    first: Callable[[Conversation], None], then: Callable[[Conversation], None]
) -> Callable[[Conversation], None]:
    """Answer the first request in one way and all others in another."""
    scripts = itertools.chain([first], itertools.repeat(then))
    return lambda client: next(scripts)(client)


def test_a_file_on_a_web_server_is_played_to_its_end(tmp_path: Path, mp3: bytes) -> None:
    (tmp_path / "song.mp3").write_bytes(mp3)
    with files_at(tmp_path) as url:
        source = make_source(f"{url}/song.mp3", fast=True)
        assert seconds(read_all(source)) == pytest.approx(4.0, abs=0.15)
    assert not source.live


def test_a_url_may_contain_unicode(tmp_path: Path, mp3: bytes) -> None:
    (tmp_path / "Köln live.mp3").write_bytes(mp3)
    (tmp_path / "list.m3u").write_text("Köln live.mp3")
    with files_at(tmp_path) as url:
        for name in ("Köln live.mp3", "K%C3%B6ln%20live.mp3", "list.m3u"):
            blocks = read_all(make_source(f"{url}/{name}", fast=True))
            assert seconds(blocks) == pytest.approx(4.0, abs=0.15), name


def test_a_password_in_a_url_may_contain_unicode() -> None:
    received: list[str] = []

    def refuse(client: Conversation) -> None:
        received.append(client.headers["authorization"])
        client.answer("HTTP/1.1 404 Not Found")

    with scripted(refuse) as url:
        failure(f"{url.replace('//', '//me:geheimnißvoll@')}/live")
    assert received == ["Basic " + base64.b64encode("me:geheimnißvoll".encode()).decode()]


@pytest.mark.parametrize(
    "url", ["http://[::1/live", "http://a..b/live", "http://a:77777/live", "http:///live"]
)
def test_an_impossible_url_is_refused_before_it_is_opened(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        make_source(f"radio={url}")
    assert str(caught.value).startswith(f"{url}: there can be no such host or port; ")
    assert caught.value.permanent


def test_the_error_of_an_impossible_url_shows_no_password() -> None:
    with pytest.raises(SourceError) as caught:
        make_source("http://me:sec/ret@host/live")
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["list.m3u", "list.pls", "list.M3U8"],
)
def test_a_missing_entry_of_a_playlist_is_skipped(tmp_path: Path, mp3: bytes, name: str) -> None:
    (tmp_path / "song.mp3").write_bytes(mp3)
    entries = ["gone.mp3", "/song.mp3"]
    text = "[playlist]\n" + "".join(f"File{n}={e}\n" for n, e in enumerate(entries, 1))
    if not name.endswith("pls"):
        text = "#EXTM3U\n" + "\n".join(entries)
    (tmp_path / name).write_text(text)
    with files_at(tmp_path) as url:
        blocks = read_all(make_source(f"{url}/{name}", fast=True))
    assert seconds(blocks) == pytest.approx(4.0, abs=0.15)


def test_a_playlist_of_missing_files_is_a_permanent_error(tmp_path: Path) -> None:
    (tmp_path / "list.m3u").write_text("a.mp3\nb.mp3\n")
    with files_at(tmp_path) as url:
        error = failure(f"{url}/list.m3u")
    assert error.permanent
    assert "404" in str(error)


@pytest.mark.parametrize(
    ("status", "permanent"),
    [("404 Not Found", True), ("410 Gone", True), ("403 Forbidden", False), ("503 Busy", False)],
)
def test_only_404_and_410_are_permanent_errors(status: str, permanent: bool) -> None:
    with scripted(lambda client: client.answer(f"HTTP/1.1 {status}")) as url:
        error = failure(f"{url}/live?token=secret")
    assert error.permanent is permanent
    sentence = http_status.describe(int(status.split()[0]))
    assert str(error) == f"{url}/live?…: {sentence}"


def test_the_end_of_a_radio_is_an_error_after_its_last_sample(mp3: bytes) -> None:
    def play_once(client: Conversation) -> None:
        client.answer(OK, "Content-Type: audio/mpeg", body=mp3)

    with scripted(play_once) as url:
        source = MediaSource(f"{url}/live", fast=True)
        blocks, error = read_until_error(source)
    assert source.live
    assert seconds(blocks) == pytest.approx(4.0, abs=0.15)
    assert str(error) == f"{url}/live: the stream has ended"
    assert not error.permanent


def test_a_waiting_radio_does_not_occupy_a_decoding_slot(
    mp3: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(client: Conversation) -> None:
        client.answer(OK, "content-type: audio/mpeg", "icy-name: r", body=mp3)
        client.closing.wait(LONGEST_WAIT_SECONDS)

    slots = FairSemaphore(1)
    monkeypatch.setattr(media, "DECODING_SLOTS", slots)
    with scripted(talk) as url:
        radios = [MediaSource(url) for _ in range(3)]
        try:
            for radio in radios:
                radio.open()
                assert read_one(radio).seconds > 0
        finally:
            for radio in radios:
                radio.close()


def test_a_chunked_stream_is_decoded(mp3: bytes) -> None:
    def play_chunks(client: Conversation) -> None:
        client.answer(OK, "Content-Type: audio/mpeg", "Transfer-Encoding: chunked")
        for start in range(0, len(mp3), 1000):
            chunk = mp3[start : start + 1000]
            client.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        client.send(b"0\r\n\r\n")

    with scripted(play_chunks) as url:
        blocks, _ = read_until_error(MediaSource(f"{url}/live", fast=True))
    assert seconds(blocks) == pytest.approx(4.0, abs=0.15)


def test_a_shoutcast_server_is_decoded_with_its_titles(mp3: bytes) -> None:
    metadata = [b"StreamTitle='It's Caf\xe9';StreamUrl='x';", b"", b"StreamTitle='B';"]
    with scripted(playing_with_titles(mp3, *metadata)) as url:
        blocks, _ = read_until_error(MediaSource(f"{url}/live", fast=True))
    assert seconds(blocks) == pytest.approx(4.0, abs=0.15)
    titles = [block.title for block in blocks]
    assert set(titles) == {"It's Café", "B"}
    change = titles.index("B")
    assert seconds(blocks[:change]) == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize(
    ("metadata", "title"),
    [
        (b"StreamTitle='A';", "A"),
        (b"StreamTitle='A'", "A"),
        (b"StreamTitle='A", "A"),
        (b"StreamTitle='It's; a='b'';StreamUrl='';", "It's; a='b'"),
        (b"StreamTitle='It\x92s';", "It\u2019s"),
        (b"StreamTitle='';StreamUrl='';", ""),
        (b"StreamTitle=' A\r\n \x1b[31mB\0\x07';", "A [31mB"),
    ],
)
def test_titles_are_read_in_every_spelling_of_servers(
    mp3: bytes, metadata: bytes, title: str
) -> None:
    with scripted(playing_with_titles(mp3, metadata)) as url:
        blocks, _ = read_until_error(MediaSource(f"{url}/live", fast=True))
    assert {block.title for block in blocks} == {title}


@pytest.mark.parametrize(
    ("content_type", "titles", "title"),
    [
        ("audio/mpeg", ["Песня".encode("cp1251")], "Песня"),
        ("audio/mpeg", ["Кино - Группа крови".encode("koi8-r")], "Кино - Группа крови"),
        ("audio/mpeg", ["Το Γράμμα".encode("cp1253")], "Το Γράμμα"),  # noqa: RUF001
        ("audio/mpeg", ["Žuža".encode("iso8859-2")], "Žuža"),
        ("audio/mpeg", ["Beyoncé - Déjà Vu".encode("cp1252")], "Beyoncé - Déjà Vu"),
        ("audio/mpeg; charset=koi8-r", ["песня".encode("koi8-r")], "песня"),
        ("audio/mpeg; charset=koi8-r", ["Straße".encode()], "Straße"),
        ("audio/mpeg; charset=no-such", [b"Caf\xe9"], "Café"),
        ("audio/mpeg; charset=iso-8859-1", [b"It\x92s"], "It\u2019s"),
        ("audio/mpeg", [b"Foo &#8217;n&amp; Bar"], "Foo \u2019n& Bar"),
        ("audio/mpeg", [b"R&B - AT&T &copy &#27;[31m"], "R&B - AT&T &copy [31m"),
        ("audio/mpeg", [b" - "], ""),
    ],
)
def test_titles_are_read_in_the_encodings_that_stations_send(
    mp3: bytes, content_type: str, titles: list[bytes], title: str
) -> None:
    metadata = [b"StreamTitle='%s';" % text for text in titles]
    play = playing_with_titles(mp3, *metadata, content_type=content_type)
    with scripted(play) as url:
        blocks, _ = read_until_error(MediaSource(f"{url}/live", fast=True))
    assert {block.title for block in blocks} == {title}


def test_the_charset_of_a_source_is_the_last_word_about_its_titles(mp3: bytes) -> None:
    title = "初恋".encode("shift_jis")
    play = playing_with_titles(mp3, b"StreamTitle='%s';" % title)
    with scripted(play) as url:
        source = make_source(f"{url}/live", fast=True, charset="shift_jis")
        assert isinstance(source, MediaSource)
        blocks, _ = read_until_error(source)
    assert {block.title for block in blocks} == {"初恋"}


def test_titles_of_a_source_are_guessed_together_over_reconnects(mp3: bytes) -> None:
    metadata = [
        b"StreamTitle='%s';" % text.encode("iso8859-2")
        for text in ("Žuža", "Kult - Polska młodzież", "Dvořák - Z Nového světa")
    ]
    played = iter(playing_with_titles(mp3, text) for text in metadata)
    with scripted(lambda client: next(played)(client)) as url:
        source = MediaSource(f"{url}/live", fast=True)
        titles = [read_until_error(source)[0][-1].title for _ in metadata]
    assert titles[-1] == "Dvořák - Z Nového světa"


def test_every_status_of_a_server_has_a_sentence_of_ours() -> None:
    for status in range(100, 1000):
        sentence = http_status.describe(status)
        assert re.fullmatch(rf"the server answered {status}: [a-z][^\n]{{9,}}", sentence)


def test_the_words_of_a_server_are_not_part_of_an_error() -> None:
    status = "HTTP/1.1 503 bad \x1b[31mred\x1b]0;title\x07\x9b1m   day"
    with scripted(lambda client: client.answer(status)) as url:
        reason = "the server answered 503: it is overloaded, full or off the air"
        assert str(failure(f"{url}/live")) == f"{url}/live: {reason}"


@pytest.mark.parametrize("places", [["/live"], ["/other", "/live"]])
def test_a_circle_of_redirects_is_a_permanent_error(places: list[str]) -> None:
    following = itertools.cycle(places)

    def redirect(client: Conversation) -> None:
        client.answer("HTTP/1.1 302 Found", f"Location: {next(following)}", "Content-Length: 0")

    with scripted(redirect) as url:
        error = failure(f"{url}/live")
    assert str(error) == (
        f"{url}/live: the server answered 302: its redirects lead in a circle or nowhere; "
        "give the address of the stream itself"
    )
    assert error.permanent


@pytest.mark.parametrize(
    ("content_type", "body", "sentence"),
    [
        (
            "text/html; charset=utf-8",
            b"<!doctype html><title>Radio</title>",
            "the server sent text/html, not audio; check the address",
        ),
        (
            "application/xspf+xml",
            b"<?xml version='1.0'?><playlist/>",
            "the server sent application/xspf+xml, a playlist of a kind that is not supported; "
            "M3U, PLS and HLS are",
        ),
        ("application/json", b"{}", "the server sent application/json, not audio; check the addr"),
    ],
)
@pytest.mark.parametrize("name", ["live", "list.m3u"])
@pytest.mark.parametrize("with_length", [True, False])
def test_content_that_is_no_audio_is_a_permanent_error_that_names_it(
    content_type: str, body: bytes, sentence: str, name: str, with_length: bool
) -> None:
    if name == "list.m3u" and not body.startswith(b"<"):
        return
    length = (f"Content-Length: {len(body)}",) if with_length else ()

    def answer(client: Conversation) -> None:
        client.answer(OK, f"Content-Type: {content_type}", *length, body=body)

    with scripted(answer) as url:
        error = failure(f"{url}/{name}")
    assert str(error).startswith(f"{url}/{name}: {sentence}")
    assert error.permanent


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"SSH-2.0-server\r\n", "it does not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 99_999, "its answer is not understood"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 999, "its answer is not understood"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "the server answered 204: there is nothing to play"),
    ],
    ids=["another protocol", "a long header", "many headers", "no content"],
)
def test_an_answer_that_is_no_stream_has_a_sentence_of_ours(answer: bytes, sentence: str) -> None:
    with scripted(lambda client: client.send(answer)) as url:
        error = failure(f"{url}/live")
    assert str(error) == f"{url}/live: {sentence}"
    assert not error.permanent


def test_garbage_that_is_said_to_be_audio_is_tried_again() -> None:
    with scripted(lambda client: client.answer(OK, "Content-Type: audio/aac", body=b"x")) as url:
        error = failure(f"{url}/live")
    assert str(error).endswith("; the server says that it is audio/aac")
    assert not error.permanent


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a picture (PNG)"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(99), "a picture (JPEG)"),
        (b"\n<!DOCTYPE html><title>Radio</title>", "a web page"),
        (b"PK\x03\x04" + bytes(99), "a ZIP archive"),
    ],
    ids=["png", "jpeg", "html", "zip"],
)
@pytest.mark.parametrize("with_length", [True, False])
def test_what_is_no_audio_but_is_said_to_be_fails_for_good(
    body: bytes, what: str, with_length: bool
) -> None:
    length = (f"Content-Length: {len(body)}",) if with_length else ()
    with scripted(playing(body, *length)) as url:
        error = failure(f"{url}/live")
    assert str(error) == (
        f"{url}/live: the server sent {what} as audio/mpeg, not audio; check the address"
    )
    assert error.permanent


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("with_length", [True, False])
def test_audio_that_the_server_compresses_is_played(
    mp3: bytes, coding: str, with_length: bool
) -> None:
    body = gzip.compress(mp3) if coding == "gzip" else zlib.compress(mp3)
    length = (f"Content-Length: {len(body)}",) if with_length else ()
    with scripted(playing(body, f"Content-Encoding: {coding}", *length)) as url:
        source = MediaSource(f"{url}/live", fast=True)
        blocks = read_all(source) if with_length else read_until_error(source)[0]
    assert seconds(blocks) == pytest.approx(4.0, abs=0.15)


def test_damaged_compression_is_an_error() -> None:
    body = gzip.compress(bytes(9999))[:20] + b"x" * 99
    with scripted(playing(body, "Content-Encoding: gzip")) as url:
        error = failure(f"{url}/live")
    assert str(error) == f"{url}/live: its compressed answer is damaged"


def through_proxy(monkeypatch: pytest.MonkeyPatch, address: str, url: str) -> SourceError:
    """Return the error of a station that is asked for through a proxy."""
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, address)
    return failure(url)


@pytest.mark.parametrize("url", ["http://radio.invalid/live", "https://radio.invalid/live"])
def test_a_proxy_that_is_down_is_not_told_as_the_stations_fault(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    proxy = f"127.0.0.1:{free_port()}"
    error = through_proxy(monkeypatch, f"http://me:secret@{proxy}", url)
    assert str(error) == f"{url}: the proxy {proxy}: connection refused"
    assert not error.permanent


@pytest.mark.parametrize("address", ["no address", "http://:3128", "socks5://127.0.0.1:1080"])
def test_a_proxy_that_is_not_possible_is_named(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    error = through_proxy(monkeypatch, address, "http://radio.invalid/live")
    assert str(error) == (
        f"http://radio.invalid/live: http_proxy={address} is no address of a proxy; write it as "
        "http://HOST:PORT"
    )
    assert error.permanent


def test_a_proxy_that_does_not_connect_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(client: Conversation) -> None:
        client.answer("HTTP/1.1 403 Forbidden")

    with scripted(refuse) as proxy:
        error = through_proxy(monkeypatch, proxy, "https://radio.invalid/live")
    name = proxy.removeprefix("http://")
    assert str(error) == (
        f"https://radio.invalid/live: the proxy {name} answered 403: it does not allow access"
    )


def test_audio_that_is_said_to_be_text_is_played(mp3: bytes) -> None:
    with scripted(lambda client: client.answer(OK, "Content-Type: text/html", body=mp3)) as url:
        blocks, _ = read_until_error(MediaSource(f"{url}/live", fast=True))
    assert seconds(blocks) == pytest.approx(4.0, abs=0.15)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (
            ["Content-Type: audio/x-mpegurl", "Content-Encoding: gzip"],
            gzip.compress(b"/song.mp3", mtime=0),
        ),
        (["Content-Type: audio/x-mpegurl"], gzip.compress(b"/song.mp3", mtime=0)),
        (
            ["Content-Type: audio/x-mpegurl", "Content-Encoding: deflate"],
            zlib.compress(b"/song.mp3"),
        ),
        (["Content-Type: audio/x-mpegurl"], "/song.mp3".encode("utf-16")),
        (["Content-Type: audio/x-mpegurl"], "#Größe\n/song.mp3".encode("latin-1")),
        (["Content-Type: text/plain"], b"#EXTM3U\n/song.mp3"),
        (["Content-Type: text/html"], b"[playlist]\nFile1=/song.mp3"),
    ],
)
def test_playlists_are_read_in_every_encoding(mp3: bytes, headers: list[str], body: bytes) -> None:
    def answer(client: Conversation) -> None:
        if client.path == "/song.mp3":
            playing(mp3, f"Content-Length: {len(mp3)}")(client)
        else:
            client.answer(OK, *headers, body=body)

    with scripted(answer) as url:
        blocks = read_all(MediaSource(f"{url}/list", fast=True))
    assert seconds(blocks) == pytest.approx(4.0, abs=0.15)


def test_a_damaged_compressed_playlist_is_an_error() -> None:
    body = gzip.compress(b"/song.mp3")[:3] + b"xxxxxxxxxxxxxxxxxx"
    play = lambda client: client.answer(OK, "Content-Type: audio/x-mpegurl", body=body)  # noqa: E731
    with scripted(play) as url:
        error = failure(f"{url}/list")
    assert str(error) == f"{url}/list: the playlist is compressed, and damaged"


def test_hls_whose_playlist_is_compressed_is_played(tmp_path: Path, demo_clip: Path) -> None:
    with hls(tmp_path, demo_clip, live=False) as _:
        folder = tmp_path / "hls" if (tmp_path / "hls").exists() else tmp_path

        def answer(client: Conversation) -> None:
            (file,) = folder.rglob(client.path.strip("/"))
            body, headers = file.read_bytes(), []
            if file.suffix == ".m3u8":
                body = gzip.compress(body)
                headers = ["Content-Encoding: gzip", "Content-Type: application/x-mpegurl"]
            client.answer(OK, f"Content-Length: {len(body)}", *headers, body=body)

        with scripted(answer) as url:
            blocks = read_all(make_source(f"{url}/live.m3u8", fast=True))
    assert seconds(blocks) == pytest.approx(6.0, abs=0.2)


def test_a_key_of_hls_that_is_missing_is_named() -> None:
    text = b'#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-KEY:METHOD=AES-128,URI="k.bin"\n'
    text += b"#EXTINF:6,\n1.ts\n#EXT-X-ENDLIST\n"

    def answer(client: Conversation) -> None:
        if client.path == "/live.m3u8":
            client.answer(OK, "Content-Type: application/x-mpegurl", body=text)
        elif client.path == "/1.ts":
            client.answer(OK, "Content-Length: 188", body=bytes(188))
        else:
            client.answer("HTTP/1.1 404 Not Found")

    with scripted(answer) as url:
        error = failure(f"{url}/live.m3u8")
    assert str(error) == (
        f"the key of the stream cannot be had: {url}/k.bin: "
        "the server answered 404: there is nothing at this address"
    )
    assert error.permanent


@pytest.mark.parametrize("where", ["the headers", "a radio", "a file", "an Ogg file", "a playlist"])
def test_a_server_that_sends_a_byte_at_a_time_times_out(where: str) -> None:
    heads = {
        "the headers": b"HTTP/1.1 200 OK\r\nX: ",
        "a radio": b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n",
        "a file": b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n",
        "an Ogg file": b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\nOgg",
        "a playlist": b"HTTP/1.1 200 OK\r\nContent-Type: audio/x-mpegurl\r\n\r\n",
    }

    def trickle(client: Conversation) -> None:
        client.send(heads[where])
        while not client.closing.wait(0.05):
            client.send(b"S" if where == "an Ogg file" else b"x")

    with scripted(trickle) as url:
        error = failure(f"{url}/live", inactivity_seconds=0.7)
    assert str(error).startswith(f"{url}/live: no ")
    assert "0.7 s" in str(error)
    assert not error.permanent


def test_a_redirect_to_another_host_gets_no_password(mp3: bytes) -> None:
    received: list[tuple[str, str | None]] = []

    def play(client: Conversation) -> None:
        received.append(("target", client.headers.get("authorization")))
        client.answer(OK, "Content-Type: audio/mpeg", body=mp3)

    with scripted(play) as target:

        def redirect(client: Conversation) -> None:
            received.append(("start", client.headers.get("authorization")))
            client.answer("HTTP/1.1 302 Found", f"Location: {target}/live", "Content-Length: 0")

        with scripted(redirect) as start:
            secret = start.replace("http://", "http://me:s%40cret@")
            source = make_source(f"{secret}/go", fast=True)
            assert isinstance(source, MediaSource)
            blocks, error = read_until_error(source)
    assert seconds(blocks) == pytest.approx(4.0, abs=0.15)
    basic = "Basic " + base64.b64encode(b"me:s@cret").decode()
    assert received == [("start", basic), ("target", None)]
    assert "cret" not in str(error) + source.name


@pytest.mark.parametrize("after", ["accepting", "the headers", "some audio"])
def test_a_connection_without_data_times_out(mp3: bytes, after: str) -> None:
    def hang(client: Conversation) -> None:
        if after != "accepting":
            client.answer(OK, "Content-Type: audio/mpeg")
        if after == "some audio":
            client.send(mp3)
        client.closing.wait(LONGEST_WAIT_SECONDS)

    with scripted(hang) as url:
        began = time.monotonic()
        blocks, error = read_until_error(MediaSource(f"{url}/a", fast=True, inactivity_seconds=2.0))
        lasted = time.monotonic() - began
    assert str(error).startswith(f"{url}/a: no ")
    assert str(error).endswith(" 2 s")
    assert not error.permanent
    assert lasted >= 2.0
    assert bool(blocks) is (after == "some audio")


@pytest.mark.parametrize("rest", ["another codec", "zeros", "text"])
def test_a_stream_without_audio_times_out_and_is_closed(mp3: bytes, rest: str) -> None:
    aac = _ffmpeg("-f", "lavfi", "-i", "sine", "-t", "4", "-f", "adts", "-")
    bytes_of = {"another codec": aac, "zeros": bytes(8000), "text": b"<p>back soon</p>\n" * 500}
    hung_up = threading.Event()

    def play(client: Conversation) -> None:
        client.answer(OK, "Content-Type: audio/mpeg", body=mp3)
        try:
            while not client.closing.wait(0.02):
                client.send(bytes_of[rest])
        finally:
            hung_up.set()

    with scripted(play) as url:
        blocks, error = read_until_error(MediaSource(f"{url}/a", fast=True, inactivity_seconds=2.0))
        assert hung_up.wait(LONGEST_WAIT_SECONDS)
    assert seconds(blocks) == pytest.approx(4.0, abs=0.3)
    assert str(error) == f"{url}/a: no audio that can be decoded for 2 s"
    assert not error.permanent


def test_a_stream_of_which_only_the_video_continues_times_out() -> None:
    need("ffmpeg")
    url = f"udp://127.0.0.1:{free_port()}"
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=25"]
    sound = ["-f", "lavfi", "-i", "sine=duration=4"]
    # ffmpeg itself would wait ten seconds for more sound.
    write = ["-max_interleave_delta", "1", "-f", "mpegts", f"{url}?pkt_size=1316"]
    sender = subprocess.Popen(
        ["ffmpeg", "-v", "error", "-re", *picture, *sound, *write], stdin=subprocess.DEVNULL
    )
    try:
        source = MediaSource(url, inactivity_seconds=5.0)
        source.open()
        read_one(source)
        assert str(error_of(source)) == f"{url}: no audio that can be decoded for 5 s"
    finally:
        end(sender)
        source.close()


@pytest.mark.parametrize("place", ["ftp://127.0.0.1:{port}/song.mp3", "file:///etc/passwd"])
def test_a_redirect_to_another_scheme_is_not_followed(place: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        target = place.format(port=listening.getsockname()[1])

        def redirect(client: Conversation) -> None:
            client.answer("HTTP/1.1 302 Found", f"Location: {target}", "Content-Length: 0")

        with scripted(redirect) as url:
            failure(f"{url}/live")
        listening.settimeout(0)
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_a_long_error_of_a_server_is_cut() -> None:
    kind = f"audio/{'no' * 20_000}"
    with scripted(lambda client: client.answer(OK, f"Content-Type: {kind}", body=b"x")) as url:
        error = failure(f"{url}/live")
    assert str(error).endswith("the server says that it is audio/" + "no" * 40 + "…")


def test_a_long_title_is_cut(demo_clip: Path) -> None:
    need("ffmpeg")
    tags = ["-metadata", f"title={'la ' * 20_000}"]
    song = _ffmpeg("-i", str(demo_clip), "-t", "4", *tags, "-f", "ogg", "-c:a", "libvorbis", "-")
    with scripted(playing(song)) as url:
        blocks, _ = read_until_error(MediaSource(f"{url}/live", fast=True))
    title = blocks[0].title
    assert title is not None
    assert title.startswith("la la la")
    assert len(title) <= 500


def hls_of(segment: str) -> bytes:
    lines = ("#EXTM3U", "#EXT-X-TARGETDURATION:8", "#EXTINF:8,", segment, "#EXT-X-ENDLIST", "")
    return "\n".join(lines).encode()


@pytest.mark.parametrize("content_type", ["audio/mpeg", "application/vnd.apple.mpegurl"])
def test_an_hls_playlist_from_the_network_opens_no_local_file(
    tmp_path: Path, mp3: bytes, content_type: str
) -> None:
    file = tmp_path / "private.mp3"
    file.write_bytes(mp3)

    def play(client: Conversation) -> None:
        if client.path == "/live":
            client.answer("HTTP/1.1 302 Found", "Location: /live.m3u8", "Content-Length: 0")
        else:
            client.answer(OK, f"Content-Type: {content_type}", body=hls_of(file.as_uri()))

    with scripted(play) as url:
        error = failure(f"{url}/live")
    assert str(error) == (
        f"{url}/live.m3u8: this is not audio that FFmpeg can read, or it is damaged"
        + ("; the server says that it is audio/mpeg" if content_type == "audio/mpeg" else "")
    )


def test_an_sdp_answer_of_a_server_opens_no_port() -> None:
    port = free_port()
    place = "IN IP4 127.0.0.1"
    session = f"v=0\no=- 0 0 {place}\ns=x\nc={place}\nt=0 0\nm=audio {port} RTP/AVP 0\n"
    with scripted(playing(session.encode())) as url:
        error = failure(f"{url}/live")
    assert str(error).startswith(f"{url}/live: this is not audio that FFmpeg can read, or it is ")


def test_https_needs_a_trusted_certificate(
    tmp_path: Path, mp3: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("openssl")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    address = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*request, *address, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    def play(client: Conversation) -> None:
        client.answer(OK, "Content-Type: audio/mpeg", body=mp3)

    with scripted(play, tls=tls) as url:
        error = failure(f"{url}/live")
        assert f"{url}/live: the server's certificate is not trusted" in str(error)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        blocks, _ = read_until_error(MediaSource(f"{url}/live", fast=True))
    assert seconds(blocks) == pytest.approx(4.0, abs=0.15)


@pytest.mark.parametrize("intruder", [False, True])
def test_every_connection_of_a_file_over_https_must_be_trusted(
    tmp_path: Path, mp3: bytes, monkeypatch: pytest.MonkeyPatch, intruder: bool
) -> None:
    (tmp_path / "trusted").mkdir()
    (tmp_path / "other").mkdir()
    certificate, key = make_certificate(tmp_path / "trusted")
    other = make_certificate(tmp_path / "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    def play(client: Conversation) -> None:
        if intruder:
            tls.load_cert_chain(*other)
        client.answer(OK, "Content-Type: audio/mpeg", f"Content-Length: {len(mp3)}", body=mp3)

    with scripted(play, tls=tls) as url:
        if intruder:
            assert failure(f"{url}/song.mp3").permanent is False
        else:
            blocks = read_all(MediaSource(f"{url}/song.mp3", fast=True))
            assert seconds(blocks) == pytest.approx(4.0, abs=0.15)


def test_the_error_of_an_unknown_host_says_so() -> None:
    error = failure("http://me:secret@radio.invalid/live")
    assert str(error) == "http://radio.invalid/live: the host name cannot be resolved"
    assert not error.permanent


def test_the_error_of_a_closed_port_says_so() -> None:
    error = failure(f"http://127.0.0.1:{free_port()}/live")
    assert str(error).endswith("connection refused")


def test_an_unknown_scheme_is_a_permanent_error() -> None:
    assert failure("gopher2://host/live").permanent


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (("HTTP/1.1 404 Not Found",), "404"),
        ((OK, "Content-Type: audio/x-mpegurl"), "names nothing"),
    ],
)
def test_no_error_of_a_radio_that_has_played_is_permanent(
    mp3: bytes, answer: tuple[str, ...], reason: str
) -> None:
    with scripted(first_then(playing(mp3), lambda client: client.answer(*answer))) as url:
        source = MediaSource(f"{url}/live", fast=True)
        blocks, _ = read_until_error(source)
        assert blocks
        _, error = read_until_error(source)
    assert reason in str(error)
    assert not error.permanent


def test_a_radio_that_answers_with_a_file_is_still_a_radio(mp3: bytes) -> None:
    file = playing(mp3, f"Content-Length: {len(mp3)}")
    with scripted(first_then(playing(mp3), file)) as url:
        source = MediaSource(f"{url}/live", fast=True)
        read_until_error(source)
        blocks, error = read_until_error(source)
    assert seconds(blocks) == pytest.approx(4.0, abs=0.15)
    assert str(error) == f"{url}/live: the stream has ended"
    assert not error.permanent
    assert source.live


def test_a_file_is_resumed_where_the_connection_broke(mp3: bytes) -> None:
    def play_half(client: Conversation) -> None:
        start = int(client.headers.get("range", "bytes=0-")[6:-1])
        rest = mp3[start:]
        length = ["Accept-Ranges: bytes", f"Content-Length: {len(rest)}"]
        if start:
            length.append(f"Content-Range: bytes {start}-{len(mp3) - 1}/{len(mp3)}")
        status = "HTTP/1.1 206 Partial Content" if start else OK
        client.answer(status, *length, body=rest if start else rest[: len(rest) // 2])

    with scripted(play_half) as url:
        blocks = read_all(MediaSource(f"{url}/song.mp3", fast=True))
    assert seconds(blocks) == pytest.approx(4.0, abs=0.15)


@pytest.mark.parametrize("fast", [False, True])
def test_a_file_that_cannot_be_resumed_is_a_permanent_error_if_fast(mp3: bytes, fast: bool) -> None:
    with scripted(playing(mp3[: len(mp3) // 2], f"Content-Length: {len(mp3)}")) as url:
        blocks, error = read_until_error(MediaSource(f"{url}/song.mp3", fast=fast))
    assert seconds(blocks) == pytest.approx(2.0, abs=0.15)
    assert (
        str(error)
        == f"{url}/song.mp3: it cannot be read to its end; the disk or the connection failed"
    )
    assert error.permanent is fast


@contextmanager
def hls(folder: Path, song: Path, *, live: bool) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Serve HLS from a folder that ffmpeg fills; the value is that ffmpeg, and the URL."""
    need("ffmpeg")
    pace = ["-re", "-stream_loop", "-1"] if live else ["-t", "6"]
    kind = [] if live else ["-hls_list_size", "0"]
    read = ["ffmpeg", "-v", "error", *pace, "-i", str(song)]
    write = ["-c:a", "aac", "-b:a", "64k", "-f", "hls", "-hls_time", "1", *kind, "live.m3u8"]
    writer = subprocess.Popen(
        [*read, *write],
        cwd=folder,
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_until((folder / "live.m3u8").exists, "the playlist")
        if not live:
            writer.wait(LONGEST_WAIT_SECONDS)
        with files_at(folder) as url:
            yield writer, f"{url}/live.m3u8"
    finally:
        end(writer)


def test_recorded_hls_is_played_to_its_end(tmp_path: Path, demo_clip: Path) -> None:
    with hls(tmp_path, demo_clip, live=False) as (_, url):
        source = make_source(url, fast=True)
        blocks = read_all(source)
    assert seconds(blocks) == pytest.approx(6.0, abs=0.2)
    assert not source.live


def test_live_hls_is_played_in_real_time(tmp_path: Path, demo_clip: Path) -> None:
    with hls(tmp_path, demo_clip, live=True) as (_, url):
        source = make_source(url)
        source.open()
        blocks = [read_one(source) for _ in range(60)]
        source.close()
    assert source.live
    assert seconds(blocks) > 4.0
    for before, after in itertools.pairwise(blocks):
        # Each block ends at least its own length after the one before.
        assert after.end_time - before.end_time >= after.seconds * 0.99


def test_live_hls_without_new_segments_times_out(tmp_path: Path, demo_clip: Path) -> None:
    with hls(tmp_path, demo_clip, live=True) as (writer, url):
        source = MediaSource(url, inactivity_seconds=1.0)
        source.open()
        read_one(source)
        end(writer)
        error = error_of(source)
        source.close()
    assert str(error).startswith(f"{url}: ")
    assert not error.permanent


@contextmanager
def rtsp_server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    python = Path("/usr/bin/python3")
    bindings = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if not python.exists() or subprocess.run([python, "-c", bindings], stderr=-3).returncode:
        pytest.skip("needs GStreamer's RTSP server; see .ci/apt-packages")
    server = subprocess.Popen([python, RTSP_SERVER], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield server, f"rtsp://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        end(server)


def test_rtsp_is_decoded_and_fails_when_the_server_ends() -> None:
    with rtsp_server() as (server, url):
        source = MediaSource(f"{url}/tone", inactivity_seconds=5.0)
        source.open()
        blocks = [read_one(source) for _ in range(10)]
        assert {block.sample_rate for block in blocks} == {44100}
        assert max(block.samples.max() for block in blocks) == pytest.approx(0.8, abs=0.05)
        end(server)
        error = error_of(source)
        source.close()
    assert source.live
    assert str(error).startswith(f"{url}/tone: ")
    assert not error.permanent


def test_an_unknown_rtsp_path_is_a_permanent_error_without_password() -> None:
    with rtsp_server() as (_, url):
        error = failure(url.replace("rtsp://", "rtsp://me:secret@") + "/nothing")
    assert error.permanent
    assert "secret" not in str(error)
    assert "404" in str(error)


def test_udp_is_decoded_and_times_out(demo_clip: Path) -> None:
    need("ffmpeg")
    url = f"udp://127.0.0.1:{free_port()}"
    read = ["ffmpeg", "-v", "error", "-re", "-i", str(demo_clip)]
    sender = subprocess.Popen(
        [*read, "-c:a", "mp2", "-f", "mpegts", f"{url}?pkt_size=1316"], stdin=subprocess.DEVNULL
    )
    try:
        source = MediaSource(url, inactivity_seconds=5.0)
        source.open()
        blocks = [read_one(source) for _ in range(5)]
    finally:
        end(sender)
    assert source.live
    assert blocks[0].sample_rate == 48000
    assert str(error_of(source)) == f"{url}: no data for 5 s"
    source.close()


def test_the_thread_of_a_closed_stream_ends(mp3: bytes) -> None:
    def drip(client: Conversation) -> None:
        client.answer(OK, "Content-Type: audio/mpeg", body=mp3)
        while not client.closing.wait(0.05):
            client.send(mp3[:1000])

    with scripted(drip) as url:
        source = MediaSource(f"{url}/live", name="dripping")
        source.open()
        read_one(source)
        source.close()
        wait_until(
            lambda: not any("dripping" in thread.name for thread in threading.enumerate()),
            "the end of the thread",
        )


def test_a_waiting_connection_does_not_delay_the_end_of_the_program() -> None:
    program = (
        "import sys; from streamer.sources import make_source; "
        "source = make_source(sys.argv[1]); source.open(); "
        "assert source.read(0.2) is None; source.close(); print('done')"
    )
    released = threading.Event()
    with scripted(lambda client: released.wait(LONGEST_WAIT_SECONDS) and None) as url:
        done = subprocess.run(
            [sys.executable, "-c", program, f"{url}/live"],
            check=True,
            stdout=subprocess.PIPE,
            timeout=LONGEST_WAIT_SECONDS,
        )
        released.set()
    assert done.stdout == b"done\n"
