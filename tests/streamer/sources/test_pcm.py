"""Standard input: raw samples and containers through real pipes."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.daemon import COMMAND, daemon
from support.listening import read_all, read_one
from support.radio import need

from streamer.sources import SourceEnded, SourceError, make_source
from streamer.sources.pcm import PipeSource


def pipe_with(data: bytes, piece: int) -> BinaryIO:
    """Return the reading end of a pipe into which `data` is written in pieces."""
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
            for start in range(0, len(data), piece):
                pipe.write(data[start : start + piece])

    threading.Thread(target=write, daemon=True).start()
    return open(reading, "rb")  # noqa: PTH123 - a descriptor


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(-32768, 32767), min_size=1, max_size=4000),
    channels=st.integers(1, 8),
    rate=st.integers(8000, 192000),
    piece=st.integers(1, 5000),
)
def test_raw_samples_are_read_in_pieces_of_any_size(
    values: list[int], channels: int, rate: int, piece: int
) -> None:
    written = np.array(values, "<i2")
    with pipe_with(written.tobytes(), piece) as pipe:
        source = PipeSource(rate=rate, channels=channels, fast=True, pipe=pipe)
        blocks = read_all(source)
    whole = len(written) // channels
    samples = [block.samples for block in blocks]
    assert all(block.sample_rate == rate for block in blocks)
    assert sum(map(len, samples)) == whole
    if whole:
        expected = written[: whole * channels].reshape(-1, channels).astype(np.float32) / 32768
        np.testing.assert_array_equal(np.concatenate(samples), expected)


@pytest.mark.parametrize("container", ["wav", "flac", "mp3", "ogg", "matroska", "mpegts", "wv"])
def test_a_container_is_decoded_from_a_pipe(demo_clip: Path, container: str) -> None:
    need("ffmpeg")
    encoder = subprocess.Popen(
        ["ffmpeg", "-v", "error", "-i", str(demo_clip), "-t", "3", "-f", container, "-"],
        stdout=subprocess.PIPE,
    )
    with encoder:
        blocks = read_all(PipeSource(fast=True, pipe=encoder.stdout))
    assert sum(block.seconds for block in blocks) == pytest.approx(3.0, abs=0.1)
    assert max(np.abs(block.samples).max() for block in blocks) > 0.05


def test_the_error_of_raw_samples_without_a_format_names_the_options() -> None:
    with pipe_with(bytes(range(256)) * 400, 4096) as pipe:
        source = PipeSource(fast=True, pipe=pipe)
        with pytest.raises(SourceError, match="--rate and --channels") as caught:
            read_all(source)
    assert caught.value.permanent


def test_a_concat_script_in_a_pipe_opens_no_file(
    demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private.opus").write_bytes(demo_clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    with pipe_with(b"ffconcat version 1.0\nfile private.opus\n", 4096) as pipe:
        source = PipeSource(fast=True, pipe=pipe)
        with pytest.raises(SourceError, match="not audio that FFmpeg can read"):
            read_all(source)


def test_an_empty_pipe_is_an_error_unless_it_is_raw() -> None:
    with pipe_with(b"", 1) as pipe, pytest.raises(SourceError):
        read_all(PipeSource(fast=True, pipe=pipe))
    with pipe_with(b"", 1) as pipe:
        assert read_all(PipeSource(rate=8000, channels=1, fast=True, pipe=pipe)) == []


def test_a_closed_standard_input_is_refused_in_one_line(tmp_path: Path) -> None:
    closed = ("sh", "-c", 'exec "$0" "$@" <&-', *COMMAND)
    with daemon(tmp_path, "--source", "-", command=closed) as running:
        assert running.wait() == 2
    assert running.log == "genre-stream: standard input is closed; send sound into it\n"


@pytest.mark.parametrize("rate", [None, 8000])
def test_a_pipe_that_cannot_be_read_is_an_error_of_one_line(rate: int | None) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "rb") as pipe, pytest.raises(SourceError) as caught:  # noqa: PTH123
        read_all(PipeSource(rate=rate, fast=True, pipe=pipe))
    assert str(caught.value) == "standard input cannot be read: Bad file descriptor"
    assert caught.value.permanent


def test_a_fast_pipe_is_played_in_real_time() -> None:
    with pipe_with(bytes(2 * 8000), 16000) as pipe:
        blocks = read_all(PipeSource(rate=8000, channels=1, pipe=pipe))
    assert blocks[-1].end_time - blocks[0].end_time == pytest.approx(
        1.0 - blocks[0].seconds, abs=0.005
    )


def test_closing_wakes_the_reader_of_an_idle_pipe() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, open(writing, "wb", buffering=0) as end:  # noqa: PTH123
        source = PipeSource(rate=8000, channels=1, pipe=pipe)
        source.open()
        assert source.read(0.05) is None
        threading.Timer(0.2, source.close).start()
        with pytest.raises(SourceEnded):
            read_one(source)
        end.write(bytes(2))


def test_a_dash_is_standard_input() -> None:
    assert make_source("-").name == "stdin"
    source = make_source("desk=-", rate=16000, channels=1)
    assert (source.name, source.kind, source.live) == ("desk", "pcm", False)


CONTAINERS = [
    ("FLAC", "flac", "flac"),
    ("WAV", "pcm_s16le", "wav"),
    ("Ogg", "libvorbis", "ogg"),
    ("MP3", "libmp3lame", "mp3"),
    ("Matroska", "flac", "matroska"),
    ("AIFF", "pcm_s16be", "aiff"),
    ("AU", "pcm_s16be", "au"),
    ("CAF", "pcm_s16le", "caf"),
    ("WavPack", "wavpack", "wv"),
]


@pytest.mark.parametrize(("name", "codec", "container"), CONTAINERS)
@pytest.mark.parametrize("piece", [1, 4096])
def test_a_container_is_detected_where_raw_samples_are_announced(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    codec: str,
    container: str,
    piece: int,
) -> None:
    need("ffmpeg")
    tone = ["-f", "lavfi", "-i", "sine=d=1:r=22050"]
    file = tmp_path / "tone"
    encode = ["ffmpeg", "-v", "error", *tone, "-c:a", codec, "-f", container, str(file)]
    subprocess.run(encode, check=True)
    data = file.read_bytes()
    with pipe_with(data[:20] if piece == 1 else data, piece) as pipe:
        source = PipeSource(rate=44100, channels=2, fast=True, pipe=pipe)
        if piece == 1:
            with pytest.raises(SourceError):
                read_all(source)
        else:
            blocks = read_all(source)
            assert {block.sample_rate for block in blocks} == {22050}
            assert sum(block.seconds for block in blocks) == pytest.approx(1.0, abs=0.1)
    assert (
        f"stdin: standard input holds {name} audio and not raw samples; rate and channels are "
        "taken from it"
    ) in caplog.messages
