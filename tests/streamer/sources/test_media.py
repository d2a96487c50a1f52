"""Files: formats, damage, pacing. Network streams are in test_radio.py and test_network.py."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import threading
import time
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.listening import read_all, read_one
from support.radio import need
from support.songs import write_audio
from support.waiting import LONGEST_WAIT_SECONDS, wait_until

from streamer.sources import SourceEnded, SourceError, factory, make_source
from streamer.sources.decoding import decode, open_container
from streamer.sources.media import MediaSource


def noise(seconds: float, rate: int, channels: int) -> NDArray[np.int16]:
    frames = round(seconds * rate)
    return np.random.default_rng(rate + channels).integers(
        -20000, 20000, (frames, channels), dtype=np.int16
    )


def write_wav(path: Path, samples: NDArray[np.int16], rate: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def encode(path: Path, codec: str, rate: int = 48000, tags: dict[str, str] | None = None) -> Path:
    """Write two seconds of a stereo tone with `codec`."""
    with av.open(str(path), "w") as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "stereo"
        time_axis = np.arange(2 * rate) / rate
        tone = (0.5 * np.sin(2 * np.pi * 440 * time_axis)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, "stereo", rate, stream.frame_size or None)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_samples_of_every_rate_and_channel_count_are_unchanged(
    tmp_path: Path, rate: int, channels: int
) -> None:
    written = noise(0.35, rate, channels)
    path = write_wav(tmp_path / "noise.wav", written, rate)
    blocks = read_all(make_source(str(path), fast=True))
    assert {block.sample_rate for block in blocks} == {rate}
    samples = np.concatenate([block.samples for block in blocks])
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, written.astype(np.float32) / 32768)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.flac", "flac"),
        ("a.mp3", "libmp3lame"),
        ("a.wv", "wavpack"),
        ("a.opus", "libopus"),
        ("a.m4a", "aac"),
        ("a.mka", "pcm_f32le"),
        ("a.mka", "pcm_u8"),
        ("a.mka", "pcm_s24le"),
        ("a.mka", "pcm_f64le"),
    ],
)
def test_every_format_decodes_to_the_tone_that_was_encoded(
    tmp_path: Path, name: str, codec: str
) -> None:
    blocks = read_all(make_source(str(encode(tmp_path / name, codec)), fast=True))
    samples = np.concatenate([block.samples for block in blocks])
    assert samples.shape[1] == 2
    assert len(samples) / blocks[0].sample_rate == pytest.approx(2.0, abs=0.15)
    middle = samples[len(samples) // 4 : len(samples) // 2]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.03)


def test_the_title_is_made_from_the_tags(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.flac", "flac", tags={"ARTIST": "Ärzte", "TITLE": "Lied"})
    assert {block.title for block in read_all(make_source(str(path), fast=True))} == {
        "Ärzte - Lied"
    }


def test_control_characters_are_removed_from_tags(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.flac", "flac", tags={"TITLE": "One\n \x1b[31mline\x07"})
    assert {block.title for block in read_all(make_source(str(path), fast=True))} == {
        "One [31mline"
    }


def test_tags_that_are_not_utf_8_get_replacement_characters(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.flac", "flac", tags={"TITLE": "caf#"})
    path.write_bytes(path.read_bytes().replace(b"caf#", b"caf\xe9"))
    assert {block.title for block in read_all(make_source(str(path), fast=True))} == {"caf\ufffd"}


@pytest.mark.parametrize("codec", ["libvorbis", "libopus", "flac"])
def test_a_new_song_in_an_ogg_stream_changes_the_title(
    tmp_path: Path, demo_clip: Path, codec: str
) -> None:
    need("ffmpeg")
    chain = b""
    for title in ("One", "Two"):
        song = ["-i", str(demo_clip), "-t", "2", "-metadata:s:a", f"title={title}", "-c:a", codec]
        chain += subprocess.run(
            ["ffmpeg", "-v", "error", *song, "-f", "ogg", "-"], check=True, stdout=subprocess.PIPE
        ).stdout
    (tmp_path / "a.ogg").write_bytes(chain)
    blocks = read_all(make_source(str(tmp_path / "a.ogg"), fast=True))
    assert sum(block.seconds for block in blocks) == pytest.approx(4.0, abs=0.1)
    titles = [block.title for block in blocks]
    assert titles == sorted(titles, key=str)
    assert set(titles) == {"One", "Two"}


def test_a_video_stream_is_ignored(tmp_path: Path, demo_clip: Path) -> None:
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container, av.open(str(demo_clip)) as clip:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width, picture.height = 64, 64
        sound = container.add_stream_from_template(clip.streams.audio[0])
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
        container.mux(picture.encode(frame))
        for packet in clip.demux(clip.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = sound
                container.mux(packet)
        container.mux(picture.encode(None))
    blocks = read_all(make_source(str(path), fast=True))
    assert sum(block.seconds for block in blocks) == pytest.approx(65, abs=0.2)


def failure(path: Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read_all(MediaSource(str(path), fast=True))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return caught.value


def test_a_missing_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing\.wav: no such file") as caught:
        make_source(str(tmp_path / "nothing.wav"))
    assert caught.value.permanent


def test_an_impossible_path_is_refused_in_one_sentence(tmp_path: Path) -> None:
    endless = tmp_path / ("x" * 300)
    with pytest.raises(SourceError) as caught:
        make_source(f"long={endless}")
    assert str(caught.value) == f"{endless}: file name too long; check the path"
    assert caught.value.permanent


def test_a_file_that_was_removed_is_an_error(tmp_path: Path) -> None:
    error = failure(tmp_path / "gone.wav")
    assert "no such file" in str(error)
    assert error.permanent


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    assert "the file is empty" in str(failure(tmp_path / "empty.wav"))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a directory" in str(failure(tmp_path))
    with pytest.raises(SourceError, match="this is a folder") as caught:
        make_source(str(tmp_path))
    assert caught.value.permanent


@pytest.mark.parametrize("name", ["text.wav", "text.mp3", "text.ogg", "text"])
def test_a_text_file_of_any_name_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is a text about music.\n" * 500)
    assert failure(tmp_path / name).permanent


def test_a_picture_has_no_audio(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.png"), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8, 8, "rgb24"
        frame = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), "rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert "no audio" in str(failure(tmp_path / "a.png"))


def test_a_header_without_samples_is_an_error(tmp_path: Path) -> None:
    write_wav(tmp_path / "header.wav", np.zeros((0, 1), np.int16), 44100)
    assert failure(tmp_path / "header.wav").permanent


def test_only_the_damaged_part_of_a_file_is_lost(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp3", "libmp3lame")
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 500] = bytes(500)
    path.write_bytes(damaged)
    blocks = read_all(make_source(str(path), fast=True))
    assert sum(block.seconds for block in blocks) > 1.5


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_damage_raises_anything_but_a_source_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = encode(tmp_path_factory.mktemp("damage") / "a.flac", "flac")
    damaged = bytearray(path.read_bytes())
    for _ in range(20):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged[: data.draw(st.integers(1, len(damaged)))])
    with contextlib.suppress(SourceError):
        read_all(make_source(str(path), fast=True))


def test_a_file_is_played_in_real_time(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "noise.wav", noise(1.5, 8000, 1), 8000)
    blocks = read_all(make_source(str(path)))
    end_times = [block.end_time for block in blocks]
    durations = [block.seconds for block in blocks]
    # End times depend on the samples, not on when a block was read.
    np.testing.assert_allclose(np.diff(end_times), durations[1:], atol=1e-6)
    assert time.monotonic() >= end_times[-1] >= end_times[0] + 1.3


def test_a_late_reader_does_not_delay_the_end_times(tmp_path: Path) -> None:
    source = make_source(str(write_wav(tmp_path / "n.wav", noise(2, 8000, 1), 8000)))
    source.open()
    first = read_one(source)
    time.sleep(0.5)
    late = [read_one(source) for _ in range(4)]
    source.close()
    assert late[-1].end_time - first.end_time == pytest.approx(sum(block.seconds for block in late))
    assert not any(block.discontinuity or block.dropped for block in late)


def test_a_loop_starts_again_with_a_discontinuity(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "noise.wav", noise(0.25, 8000, 1), 8000)
    once = len(read_all(make_source(str(path), fast=True)))
    source = make_source(str(path), fast=True, loop=True)
    source.open()
    blocks = [read_one(source) for _ in range(3 * once)]
    source.close()
    discontinuities = [index for index, block in enumerate(blocks) if block.discontinuity]
    assert discontinuities == [once, 2 * once]
    np.testing.assert_array_equal(blocks[0].samples, blocks[once].samples)


def test_a_source_can_be_opened_again(tmp_path: Path) -> None:
    source = make_source(str(write_wav(tmp_path / "n.wav", noise(0.3, 8000, 1), 8000)), fast=True)
    first, second = read_all(source), read_all(source)
    assert sum(len(block.samples) for block in first) == sum(len(b.samples) for b in second)
    assert not first[0].discontinuity
    assert second[0].discontinuity


def test_a_source_can_be_closed_twice_and_ends_then(tmp_path: Path) -> None:
    source = make_source(str(write_wav(tmp_path / "n.wav", noise(5, 8000, 1), 8000)))
    source.open()
    read_one(source)
    source.close()
    source.close()
    with pytest.raises(SourceEnded):
        source.read(0.0)


def test_opening_and_closing_leaks_no_thread_and_no_file(tmp_path: Path) -> None:
    def count() -> tuple[int, int]:
        names = [thread.name for thread in threading.enumerate()]
        return names.count("source leaky"), len(list(Path("/proc/self/fd").iterdir()))

    path = write_wav(tmp_path / "n.wav", noise(5, 8000, 1), 8000)
    source = make_source(f"leaky={path}")
    before = count()
    for number in range(50):
        source.open()
        if number % 2:
            read_one(source)
        source.close()
    wait_until(
        lambda: all(now <= then for now, then in zip(count(), before, strict=True)),
        f"no more threads and files than {before}",
    )


def test_an_impossible_sample_rate_is_an_error(tmp_path: Path) -> None:
    rate = 2**31 - 1
    song = write_wav(tmp_path / "fast.wav", noise(1.0, 8000, 1), rate)
    with pytest.raises(SourceError) as caught:
        read_all(make_source(str(song), fast=True))
    assert str(caught.value) == (
        f"{song}: a sample rate of {rate} Hz with 1 channels is not possible; the audio is damaged"
    )
    assert caught.value.permanent


def test_a_playlist_of_files_is_played_in_order(tmp_path: Path) -> None:
    for name, rate in [("a", 8000), ("b", 16000)]:
        write_wav(tmp_path / f"{name}.wav", noise(0.2, rate, 1), rate)
    entries = ["#EXTM3U", "a.wav", "missing.wav", "http://[oops/x", "file://[oops/x", "b.wav", ""]
    (tmp_path / "list.m3u").write_text("\n".join(entries))
    blocks = read_all(make_source(str(tmp_path / "list.m3u"), fast=True))
    assert [block.sample_rate for block in blocks] == [8000, 8000, 16000, 16000]
    assert [block.discontinuity for block in blocks] == [False, False, True, False]


def test_an_empty_playlist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.pls").write_text("[playlist]\n")
    assert "names nothing" in str(failure(tmp_path / "list.pls"))


def test_a_playlist_that_lists_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.m3u").write_text("list.m3u\n")
    assert "too many playlists" in str(failure(tmp_path / "list.m3u"))


def test_the_demo_is_a_source_of_its_own_kind() -> None:
    source = make_source("demo", fast=True)
    assert (source.name, source.kind) == ("demo", "demo")
    assert sum(block.seconds for block in read_all(source)) == pytest.approx(65, abs=0.1)


def test_the_demo_plays_in_a_loop_unless_it_is_read_as_fast_as_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_wav(tmp_path / "clip.wav", noise(0.3, 8000, 1), 8000)
    monkeypatch.setattr(factory, "DEMO_CLIP", clip)
    assert sum(
        block.seconds for block in read_all(make_source("demo", fast=True))
    ) == pytest.approx(0.3)
    source = make_source("demo")
    source.open()
    try:
        heard = 0.0
        while heard < 0.9:
            block = source.read(LONGEST_WAIT_SECONDS)
            assert block is not None
            heard += block.seconds
    finally:
        source.close()


def wav_bytes(samples: NDArray[np.int16], rate: int, size: int) -> bytes:
    """Return a mono WAV file whose header says that it has `size` bytes of samples."""
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16
    )
    return head + struct.pack("<4sI", b"data", size) + samples.tobytes()


def heard_seconds(path: Path) -> float:
    return sum(block.seconds for block in read_all(make_source(str(path), fast=True)))


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("odd", [b"", b"\0"])
def test_a_wav_file_that_is_still_written_is_heard_to_its_present_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int, odd: bytes
) -> None:
    path = tmp_path / "growing.wav"
    samples = noise(5.0, 8000, 1)
    # More than is read ahead.
    path.write_bytes(wav_bytes(samples[:32000], 8000, size))
    source = MediaSource(str(path), fast=True)
    source.open()
    blocks = [read_one(source)]
    with path.open("ab") as file:
        file.write(samples[32000:].tobytes() + odd)
    with contextlib.suppress(SourceEnded):
        while True:
            blocks.append(read_one(source))
    source.close()
    assert sum(block.seconds for block in blocks) == pytest.approx(5.0, abs=0.01)
    assert not caplog.records


@pytest.mark.parametrize("odd", [b"", b"\0"])
def test_a_wav_file_that_grows_after_it_was_read_to_its_end_is_heard(
    tmp_path: Path, odd: bytes
) -> None:
    path = tmp_path / "growing.wav"
    samples = noise(5.0, 8000, 1)
    # Opening reads all of it, so that FFmpeg returns an empty packet before what follows.
    path.write_bytes(wav_bytes(samples[:8000], 8000, 0xFFFFFFFF))
    with open_container(path) as container:
        with path.open("ab") as file:
            file.write(samples[8000:].tobytes() + odd)
        heard = sum(block.seconds for block in decode(container, "growing"))
    assert heard == pytest.approx(5.0)


@pytest.mark.parametrize("said", [1.0, 10.0])
def test_a_wrong_length_in_the_header_of_a_wav_file_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: float
) -> None:
    path = tmp_path / "wrong.wav"
    path.write_bytes(wav_bytes(noise(4.0, 8000, 1), 8000, round(said * 16000)))
    expected = {
        1.0: "its header says 1.0 s, so 3.0 s after that are not heard; to correct it: "
        "ffmpeg -ignore_length 1 -i OLD.wav NEW.wav",
        10.0: "the file is not complete: it ends after 4.0 s, its header says 10.0 s",
    }
    for _ in range(2):
        assert heard_seconds(path) == pytest.approx(min(said, 4.0), abs=0.01)
    assert caplog.messages == [f"{path}: {expected[said]}"]


def test_a_wav_file_that_was_allocated_in_advance_ends_at_once(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(1.0, 8000, 1), 8000)
    os.truncate(path, 4 << 30)  # sparse
    assert heard_seconds(path) == pytest.approx(1.0)


def test_chunks_after_the_samples_of_a_wav_file_are_no_problem(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tagged.wav"
    chunks = b"id3 " + struct.pack("<I", 50_001) + bytes(50_002) + b"LIST\x04\0\0\0INFO"
    path.write_bytes(wav_bytes(noise(1.0, 8000, 1), 8000, 16000) + chunks)
    assert heard_seconds(path) == pytest.approx(1.0, abs=0.01)
    assert not caplog.records


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg", "aiff"])
def test_a_truncated_file_is_heard_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    path = write_audio(tmp_path / f"a.{suffix}", noise(4.0, 22050, 1) / np.float32(32768))
    whole = path.read_bytes()
    assert heard_seconds(path) == pytest.approx(4.0, abs=0.2)
    assert not caplog.records
    path.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        assert 1.0 < heard_seconds(path) < 2.5
    (told,) = [text for text in caplog.messages if "the file is not complete" in text]
    assert told.endswith("its end is cut off" if suffix == "ogg" else "its header says 4.0 s")


def test_an_appended_wav_file_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_wav(tmp_path / "two.wav", noise(2.0, 8000, 1), 8000)
    path.write_bytes(path.read_bytes() * 2)
    assert heard_seconds(path) == pytest.approx(2.0)
    assert "its header says 2.0 s, so 2.0 s after that are not heard" in caplog.text


def test_a_named_pipe_is_played_as_a_file(tmp_path: Path) -> None:
    song = write_wav(tmp_path / "a.wav", noise(1.0, 8000, 1), 8000).read_bytes()
    os.mkfifo(tmp_path / "pipe.wav")
    writer = threading.Thread(target=(tmp_path / "pipe.wav").write_bytes, args=(song,), daemon=True)
    writer.start()
    assert heard_seconds(tmp_path / "pipe.wav") == pytest.approx(1.0)
    writer.join(LONGEST_WAIT_SECONDS)


def test_a_damaged_part_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = encode(tmp_path / "a.m4a", "aac")
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 1000] = b"\xff" * 1000
    path.write_bytes(damaged)
    for _ in range(2):
        assert 1.5 < heard_seconds(path) <= 2.0
    assert caplog.messages.count(f"{path}: audio that cannot be decoded is left out") == 1


def test_an_entry_that_is_left_out_of_a_playlist_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_wav(tmp_path / "a.wav", noise(0.2, 8000, 1), 8000)
    (tmp_path / "list.m3u").write_text("missing.wav\na.wav\n")
    source = make_source(str(tmp_path / "list.m3u"), fast=True)
    for _ in range(2):
        assert len(read_all(source)) == 2
    missing = tmp_path / "missing.wav"
    assert caplog.messages == [
        f"list: an entry of the playlist is left out: {missing}: no such file or directory"
    ]


def test_the_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_wav(tmp_path / "a.wav", noise(0.2, 8000, 1), 8000)
    for text in ("~/a.wav", "hall=~/a.wav"):
        assert len(read_all(make_source(text, fast=True))) == 2
    with pytest.raises(SourceError, match=r"^~nobody-here/a\.wav: no such file"):
        make_source("~nobody-here/a.wav")
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "~b.wav", noise(0.2, 8000, 1), 8000)
    assert len(read_all(make_source("~b.wav", fast=True))) == 2


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg", "wav"])
def test_a_followed_file_is_heard_as_it_grows(tmp_path: Path, suffix: str) -> None:
    sound = noise(8.0, 22050, 1) / np.float32(32768)
    whole = write_audio(tmp_path / f"whole.{suffix}", sound).read_bytes()
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    source = make_source(str(path), fast=True, follow=True)
    source.open()
    heard = 0.0
    while heard < 1.0:
        heard += read_one(source).seconds
    with path.open("ab") as file:
        file.write(whole[len(whole) // 2 :])
    # FFmpeg holds about two seconds of FLAC back.
    while heard < 4.5:
        heard += read_one(source).seconds
    source.close()


def test_a_followed_file_that_is_replaced_is_heard_from_its_beginning(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(5.0, 8000, 1), 8000)
    source = make_source(str(path), fast=True, follow=True)
    source.open()
    first = [read_one(source)]
    write_wav(tmp_path / "b.wav", noise(5.0, 16000, 2), 16000).replace(path)
    while (block := read_one(source)).sample_rate == 8000:
        first.append(block)
    assert sum(block.seconds for block in first) == pytest.approx(5.0)
    assert block.discontinuity
    source.close()


def test_closing_wakes_a_source_that_follows_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp3").touch()
    source = make_source(f"follower={tmp_path / 'empty.mp3'}", follow=True)
    source.open()
    assert source.read(0.05) is None
    source.close()
    names = [thread.name for thread in threading.enumerate()]
    wait_until(lambda: "source follower" not in thread_names(), f"the end of a thread of {names}")


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]
