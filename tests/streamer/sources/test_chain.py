"""Recordings that follow one another in one file or connection, with a real Icecast for radios."""

from __future__ import annotations

import functools
import itertools
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.listening import Log, read_all, read_one, running
from support.radio import Radio, need
from support.waiting import LONGEST_WAIT_SECONDS
from support.web import Conversation, scripted

from streamer.core.decision import Decision, Segment
from streamer.core.events import SourceState
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline
from streamer.engine.listener import Listener
from streamer.sources import AudioBlock, SourceError, http_file, make_source
from streamer.sources.chain import Chain
from streamer.sources.media import MediaSource
from streamer.sources.pcm import PipeSource

SECONDS = 3.0
"""Length of each link."""


@functools.cache
def link(
    codec: str, rate: int, channels: int, title: str, container: str = "ogg", depth: str = "s16"
) -> bytes:
    need("ffmpeg")
    read = ["-f", "lavfi", "-i", f"anoisesrc=d={SECONDS}:a=0.3:r={rate}"]
    encoder = ["-ac", str(channels), "-c:a", codec]
    if codec == "flac":
        encoder += ["-sample_fmt", depth]
    tags = ["-metadata:s:a", f"title={title}", "-metadata", f"title={title}"]
    return subprocess.run(
        ["ffmpeg", "-v", "error", *read, *encoder, *tags, "-f", container, "-"],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout


CHANGES = [
    ("libvorbis", (22050, 1), (44100, 1)),
    ("libvorbis", (44100, 1), (44100, 2)),
    ("libvorbis", (22050, 1), (44100, 2)),
    ("libopus", (48000, 1), (48000, 2)),
    ("libopus", (48000, 2), (48000, 1)),
    ("flac", (22050, 1), (44100, 1)),
    ("flac", (44100, 1), (44100, 2)),
    ("flac", (22050, 1), (48000, 2)),
]
"""Codec, and rate and channels before and after; Opus always has 48 kHz."""


def heard(blocks: list[AudioBlock]) -> list[tuple[int, int, str | None, float]]:
    """Return rate, channels, title and length of each stretch of equal blocks."""
    stretches: list[tuple[int, int, str | None, float]] = []
    for block in blocks:
        kind = (block.sample_rate, block.samples.shape[1], block.title)
        if stretches and stretches[-1][:3] == kind:
            stretches[-1] = (*kind, stretches[-1][3] + block.seconds)
        else:
            stretches.append((*kind, block.seconds))
    return stretches


def expected(*stretches: tuple[int, int, str | None]) -> object:
    return [(*kind, pytest.approx(SECONDS, abs=0.1)) for kind in stretches]


@pytest.mark.parametrize(("codec", "first", "second"), CHANGES)
def test_a_chained_file_is_heard_whole_with_its_titles(
    tmp_path: Path, codec: str, first: tuple[int, int], second: tuple[int, int]
) -> None:
    chain = link(codec, *first, "One") + link(codec, *second, "Two") + link(codec, *first, "Three")
    (tmp_path / "a.ogg").write_bytes(chain)
    blocks = read_all(make_source(str(tmp_path / "a.ogg"), fast=True))
    assert heard(blocks) == expected((*first, "One"), (*second, "Two"), (*first, "Three"))
    assert not any(block.discontinuity for block in blocks)


@pytest.mark.parametrize(
    ("container", "first", "second"),
    [
        (
            "flac",
            ("flac", 44100, 2, "One", "flac", "s16"),
            ("flac", 44100, 2, "Two", "flac", "s32"),
        ),
        ("flac", ("flac", 22050, 1, "One", "flac"), ("flac", 48000, 2, "Two", "flac", "s32")),
        ("webm", ("libopus", 48000, 1, "One", "webm"), ("libopus", 48000, 2, "Two", "webm")),
        ("mka", ("flac", 22050, 1, "One", "matroska"), ("libvorbis", 44100, 2, "Two", "matroska")),
        ("ogg", ("libvorbis", 44100, 2, "One"), ("libopus", 48000, 1, "Two")),
    ],
)
def test_every_format_that_can_be_concatenated_may_change_in_it(
    tmp_path: Path, container: str, first: tuple[str, int, int], second: tuple[str, int, int]
) -> None:
    path = tmp_path / f"a.{container}"
    path.write_bytes(link(*first) + link(*second))
    blocks = read_all(make_source(str(path), fast=True))
    assert heard(blocks) == expected((*first[1:3], "One"), (*second[1:3], "Two"))


def test_concatenated_flac_files_have_all_their_samples(tmp_path: Path) -> None:
    links = [link("flac", 44100, 1, "", "flac"), link("flac", 44100, 1, "", "flac", "s32")]
    (tmp_path / "a.flac").write_bytes(b"".join(links))
    samples = [
        block.samples for block in read_all(make_source(str(tmp_path / "a.flac"), fast=True))
    ]
    wanted = []
    for number, data in enumerate(links):
        (tmp_path / f"{number}.flac").write_bytes(data)
        with av.open(str(tmp_path / f"{number}.flac")) as container:
            frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        whole = np.concatenate(frames, axis=1)[0]
        wanted.append((whole / -float(np.iinfo(whole.dtype).min)).astype(np.float32))
    np.testing.assert_array_equal(np.concatenate(samples)[:, 0], np.concatenate(wanted))


def test_a_link_without_tags_has_no_title(tmp_path: Path) -> None:
    untitled = link("libvorbis", 44100, 2, "")
    (tmp_path / "a.ogg").write_bytes(link("libvorbis", 22050, 1, "One") + untitled)
    blocks = read_all(make_source(str(tmp_path / "a.ogg"), fast=True))
    assert [title for _, _, title, _ in heard(blocks)] == ["One", ""]


def test_a_link_that_cannot_be_decoded_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = bytearray(link("libvorbis", 44100, 1, "Two"))
    broken[28:60] = bytes(32)
    chain = link("libvorbis", 22050, 1, "One") + broken + link("libvorbis", 44100, 2, "Three")
    (tmp_path / "a.ogg").write_bytes(chain)
    blocks = read_all(make_source(str(tmp_path / "a.ogg"), fast=True))
    assert heard(blocks) == expected((22050, 1, "One"), (44100, 2, "Three"))
    assert "a part that cannot be decoded is left out" in caplog.text


def test_a_chain_is_decoded_from_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    path.write_bytes(link("libopus", 48000, 1, "One") + link("libopus", 48000, 2, "Two"))
    with path.open("rb") as pipe:
        blocks = read_all(PipeSource(fast=True, pipe=pipe))
    assert heard(blocks) == expected((48000, 1, "One"), (48000, 2, "Two"))


def test_decisions_go_on_counting_over_a_change(tmp_path: Path, classifier: Classifier) -> None:
    chain = link("libvorbis", 22050, 1, "One") * 2 + link("libvorbis", 44100, 2, "Two") * 2
    (tmp_path / "a.ogg").write_bytes(chain)
    log = Log()
    source = make_source(str(tmp_path / "a.ogg"), fast=True)
    with running(Listener(source, lambda: Pipeline(classifier), log)) as listener:
        log.wait_for_states(SourceState.LIVE, SourceState.ENDED)
    events = [event.event for event in log.pipeline_events]
    positions = [event.position for event in events if isinstance(event, Decision)]
    np.testing.assert_allclose(np.diff(positions), 1.0, atol=0.5)
    assert positions[-1] == pytest.approx(4 * SECONDS, abs=1.0)
    assert (listener.reconnects, listener.crashes) == (0, 0)


def test_a_chained_file_on_a_web_server_is_resumed_where_the_connection_broke() -> None:
    chain = link("libvorbis", 22050, 1, "One") + link("libvorbis", 44100, 2, "Two")

    def play_a_third(client: Conversation) -> None:
        start = int(client.headers.get("range", "bytes=0-")[6:-1])
        rest = chain[start:]
        length = ["Content-Type: audio/ogg", f"Content-Length: {len(rest)}"]
        status = "HTTP/1.1 206 Partial Content" if start else "HTTP/1.1 200 OK"
        client.answer(status, *length, body=rest[: len(chain) // 3 + 1])

    with scripted(play_a_third) as url:
        source = make_source(f"{url}/a.ogg", fast=True)
        blocks = read_all(source)
    assert heard(blocks) == expected((22050, 1, "One"), (44100, 2, "Two"))
    assert not source.live


def test_a_chained_file_that_cannot_be_resumed_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_file, "RETRY_SECONDS", (0.0, 0.0))
    chain = link("libvorbis", 22050, 1, "One")

    def play_half(client: Conversation) -> None:
        length = f"Content-Length: {len(chain)}"
        client.answer("HTTP/1.1 200 OK", length, body=chain[: len(chain) // 2])

    with scripted(play_half) as url:
        source = MediaSource(f"{url}/a.ogg", fast=True)
        with pytest.raises(SourceError) as caught:
            read_all(source)
    assert str(caught.value) == f"{url}/a.ogg: the connection broke and cannot be resumed"


@contextmanager
def feeding(
    station: Radio, links: Iterator[bytes], mount: str = "live"
) -> Iterator[threading.Event]:
    """Send links to Icecast in one connection, as a source client does that changes its song."""
    stopped = threading.Event()
    station.wait_until_free(mount)
    connection = socket.create_connection(("127.0.0.1", station.port))
    connection.sendall(
        b"PUT /"
        + mount.encode()
        + b" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic c291cmNlOnNlY3JldA==\r\n"
        b"Content-Type: application/ogg\r\n\r\n"
    )

    def send() -> None:
        for data in links:
            for start in range(0, len(data), 4096):
                if stopped.is_set():
                    return
                connection.sendall(data[start : start + 4096])
                # Icecast drops listeners that are far behind.
                stopped.wait(SECONDS * 4096 / len(data) / 6)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield stopped
    finally:
        stopped.set()
        thread.join(LONGEST_WAIT_SECONDS)
        connection.close()


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory, demo_clip: Path) -> Iterator[Radio]:
    need("icecast2")
    station = Radio(tmp_path_factory.mktemp("icecast"), demo_clip)
    try:
        station.start_server()
        yield station
    finally:
        station.stop_server()


@pytest.mark.parametrize(("codec", "first", "second"), CHANGES)
def test_a_radio_whose_song_changes_rate_or_channels_plays_on(
    station: Radio, codec: str, first: tuple[int, int], second: tuple[int, int]
) -> None:
    formats = {"One": first, "Two": second, "Three": first}

    def songs() -> Iterator[bytes]:
        while True:
            yield from (link(codec, *formats[title], title) for title in formats)

    list(zip(formats, songs(), strict=False))  # made before the radio plays them
    with feeding(station, songs()):
        station.wait_for_mount()
        source = make_source(station.url, fast=True)
        source.open()
        blocks: list[AudioBlock] = []
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while len(heard(blocks)) < 5 and time.monotonic() < deadline:
            blocks.append(read_one(source))
        source.close()
    stretches = heard(blocks)[1:4]
    assert {title for *_, title, _ in stretches} == set(formats)
    for rate, channels, title, seconds in stretches:
        assert (rate, channels) == formats[str(title)]
        assert seconds == pytest.approx(SECONDS, abs=0.1)
    assert not any(block.discontinuity for block in blocks)


def test_a_radio_that_falls_back_to_another_source_goes_on_counting(
    station: Radio, classifier: Classifier
) -> None:
    first = link("libvorbis", 22050, 1, "One")
    second = link("libvorbis", 44100, 2, "Two")
    log = Log()
    with feeding(station, itertools.repeat(second), "backup"):
        with feeding(station, itertools.repeat(first)):
            station.wait_for_mount()
            source = MediaSource(station.url, fast=True)
            listener = Listener(source, lambda: Pipeline(classifier), log)
            listener.start()
            # Icecast may have begun with the other one, while this one was not there yet.
            log.wait(lambda: "One" in titles(log), "the title of the first source")
            count = len(decisions(log))
            log.wait(lambda: len(decisions(log)) >= count + 5, "decisions about the first source")
        log.wait(lambda: len(titles(log) & {"Two"}) > 0, "the title of the other source")
        count = len(decisions(log))
        log.wait(lambda: len(decisions(log)) >= count + 5, "decisions about the other source")
        listener.stop(LONGEST_WAIT_SECONDS)
    assert titles(log) == {"One", "Two"}
    positions = [decision.position for decision in decisions(log)]
    assert max(np.diff(positions)) <= 1.5
    assert (listener.reconnects, listener.crashes) == (0, 0)
    assert log.states == [SourceState.CONNECTING, SourceState.LIVE, SourceState.ENDED]


def decisions(log: Log) -> list[Decision]:
    events = [event.event for event in log.pipeline_events]
    return [event for event in events if isinstance(event, Decision)]


def titles(log: Log) -> set[str | None]:
    events = [event.event for event in log.pipeline_events]
    return {event.title for event in events if isinstance(event, Segment)}


def links_of(chain: bytes, receive: Callable[[int], bytes]) -> list[bytes]:
    """Return the bytes of each link, without decoding them."""
    stream = Chain(receive, "chain")
    links: list[bytes] = []
    while True:
        links.append(b"")
        while data := stream.read(1000):
            links[-1] += data
        if not stream._advance():
            return links


@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=20), kind=st.integers(0, 2))
def test_the_pieces_in_which_a_chain_arrives_make_no_difference(
    sizes: list[int], kind: int
) -> None:
    codec, container = [("libvorbis", "ogg"), ("flac", "flac"), ("libopus", "webm")][kind]
    wanted = [link(codec, 48000, channels, "One", container) for channels in (1, 2, 1)]
    wanted = [data[:20000] if container == "flac" else data for data in wanted]
    chain = b"".join(wanted)
    position, count = 0, 0

    def receive(size: int) -> bytes:
        nonlocal position, count
        piece = chain[position : position + min(size, sizes[count % len(sizes)])]
        position, count = position + len(piece), count + 1
        return piece

    assert links_of(chain, receive) == wanted


def test_an_error_of_the_connection_is_raised_after_what_arrived() -> None:
    data = link("libvorbis", 22050, 1, "One")
    pieces = iter([data[: len(data) // 2]])

    def receive(size: int) -> bytes:
        for piece in pieces:
            return piece
        raise SourceError("host: no data for 10 s")

    chain = Chain(receive, "host")
    blocks: list[AudioBlock] = []
    with pytest.raises(SourceError, match=r"^host: no data for 10 s$"):
        blocks.extend(chain.blocks())
    assert sum(block.seconds for block in blocks) > 1.0


def test_a_radio_that_stops_to_send_audio_prints_no_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    audio = link("aac", 44100, 2, "One", "mpegts")

    def play_then_send_zeros(client: Conversation) -> None:
        client.answer("HTTP/1.1 200 OK", "Content-Type: video/mp2t", body=audio)
        while not client.closing.wait(0.05):
            client.send(bytes(1000))

    with scripted(play_then_send_zeros) as url:
        source = MediaSource(f"{url}/live", fast=True, inactivity_seconds=2.0)
        with pytest.raises(SourceError, match="no audio that can be decoded for 2 s"):
            read_all(source)
    assert capfd.readouterr().err == ""
