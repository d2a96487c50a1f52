"""Pictures: the contract's grid and levels, from any audio, made once and only again if need be."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.model import band_noise
from support.songs import SUFFIXES, write_audio, write_songs

from streamer.core.spectrogram import SpectrogramSpec, from_levels, log_mel, relative_to_peak
from trainer.audio import AudioError, read_audio
from trainer.discovery import find_tracks
from trainer.pictures import read_picture, read_spec, write_picture
from trainer.prepare import cache_folder, levels_of, prepare
from trainer.tracks import DatasetError

SPEC = SpectrogramSpec()


def states(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("*/*")}


def test_a_picture_has_the_highest_band_on_top_and_comes_back_with_the_lowest_first(
    tmp_path: Path,
) -> None:
    levels = np.arange(128, dtype=np.uint8)[:, None] * np.ones((1, 50), np.uint8)
    write_picture(tmp_path / "a.png", levels)
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.mode, picture.size) == ("L", (50, 128))
        assert picture.getpixel((0, 0)) == 127
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), levels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_what_only_calls_itself_a_picture_is_run_by_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/it-ran\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "a.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 128\n%%EndComments\nshowpage\n"
        '%ImageData: 100 128 8 1 0 1 1 "x"\n%%EOF\n'
    )
    with pytest.raises(DatasetError, match="damaged picture"):
        read_picture(tmp_path / "a.png")
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "damaged picture"), (b"\x89PNG\r\n\x1a\nnonsense", "damaged picture")],
)
def test_what_is_no_picture_is_said_to_be_damaged(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match=reason):
        read_picture(tmp_path / "a.png")


def test_a_coloured_picture_is_no_spectrogram(tmp_path: Path) -> None:
    Image.new("RGB", (50, 128)).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="not an 8-bit grey picture but mode RGB"):
        read_picture(tmp_path / "a.png")


@pytest.mark.filterwarnings("error")
def test_a_picture_of_hours_on_a_fine_grid_is_read_as_any_other(tmp_path: Path) -> None:
    Image.new("L", (1_400_000, 128), 7).save(tmp_path / "a.png", compress_level=1)
    assert read_picture(tmp_path / "a.png").shape == (128, 1_400_000)


def test_a_header_that_claims_more_than_memory_holds_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", np.zeros((128, 50), np.uint8))
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 2**30, 2**20)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match="too large: 1073741824 x 1048576 cells"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("rate", "channels"), [(22050, 1), (48000, 2), (8000, 1)])
def test_every_format_gives_the_samples_that_went_in(
    tmp_path: Path, suffix: str, rate: int, channels: int
) -> None:
    samples = band_noise("low", 5, rate)
    song = write_audio(tmp_path / f"a{suffix}", np.repeat(samples[:, None], channels, axis=1), rate)
    heard = read_audio(song, 22050)
    assert heard.dtype == np.float32
    assert len(heard) == pytest.approx(5 * 22050, abs=3000)
    assert heard.std() == pytest.approx(samples.std(), rel=0.2)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_hold_what_the_daemon_hears(tmp_path: Path, suffix: str) -> None:
    """Within half a dB on the mean, whatever decoder and resampler either of them uses."""
    from streamer.sources import make_source
    from streamer.sources.base import SourceEnded

    song = write_audio(tmp_path / f"a{suffix}", band_noise("noise", 6, 44100), 44100)
    heard = []
    source = make_source(str(song), fast=True)
    source.open()
    try:
        while True:
            block = source.read(60)
            if block is not None:
                heard.append(block)
    except SourceEnded:
        pass
    finally:
        source.close()
    columns = _columns_in_the_daemon([block.samples for block in heard], heard[0].sample_rate)
    ours = log_mel(read_audio(song, SPEC.sample_rate), SPEC)
    frames = min(columns.shape[1], ours.shape[1])
    difference = np.abs(
        relative_to_peak(columns[:, :frames], 80) - relative_to_peak(ours[:, :frames], 80)
    )
    assert frames > 70
    assert difference.mean() < 0.5


def _columns_in_the_daemon(blocks: list[np.ndarray], rate: int) -> np.ndarray:  # type: ignore[type-arg]
    from streamer.core.resampling import Resampler, mix_down

    resampler = Resampler(rate, SPEC.sample_rate)
    samples = [resampler.push(mix_down(block).samples) for block in blocks]
    return log_mel(np.concatenate([*samples, resampler.flush()]), SPEC)


def test_a_picture_is_the_spectrogram_within_half_a_level(tmp_path: Path) -> None:
    song = write_audio(tmp_path / "a.flac", band_noise("middle", 5))
    wanted = relative_to_peak(log_mel(read_audio(song, 22050), SPEC), 80)
    got = from_levels(levels_of(song, SPEC), 80)
    assert got.max() == 0
    assert np.abs(got - wanted).max() <= 80 / 255 / 2 + 1e-3


def bad_files(folder: Path) -> dict[str, str]:
    """Write every kind of file that cannot be used; return a word of each one's reason."""
    whole = write_audio(folder / "whole.flac", band_noise("low", 5)).read_bytes()
    (folder / "whole.flac").unlink()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_text("this is no audio at all\n" * 100)
    (folder / "words.m4a").write_text("this is no audio at all\n" * 100)
    (folder / "empty.mp3").touch()
    (folder / "._low.00000.wav").write_bytes(b"\x00\x05\x16\x07")
    write_audio(folder / "short.wav", band_noise("low", 2))
    write_audio(folder / "silent.wav", np.zeros(5 * 22050, np.float32))
    return {
        "cut.flac": "damaged",
        "text.wav": "damaged or not audio",
        "words.m4a": "damaged or not audio",
        "empty.mp3": "empty file",
        "._low.00000.wav": "AppleDouble",
        "short.wav": "too short: 2.0 s",
        "silent.wav": "silent",
    }


def test_a_folder_of_mixed_formats_with_every_bad_file_becomes_pictures(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", suffixes=SUFFIXES)
    expected = bad_files(songs / "low")
    done = prepare(songs, tmp_path / "pictures", SPEC)
    assert (done.made, done.kept) == (18, 0)
    reasons = {entry.path.name: entry.reason for entry in done.skipped}
    assert set(reasons) == set(expected)
    for name, word in expected.items():
        assert word in reasons[name]
        assert "\n" not in reasons[name]
    assert read_spec(done.folder) == SPEC
    tracks, skipped = find_tracks(done.folder)
    assert len(tracks) == 18
    assert {entry.path.name for entry in skipped} == set(expected)
    for track in tracks:
        mels, columns = read_picture(track.path).shape
        assert mels == 128
        assert columns == pytest.approx(6 * 22050 / 1711, abs=3)


def test_only_what_changed_is_made_again(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs")
    out = tmp_path / "pictures"
    prepare(songs, out, SPEC)
    before = states(out)
    again = prepare(songs, out, SPEC)
    assert (again.made, again.kept) == (0, 18)
    assert states(out) == before
    write_audio(songs / "low" / "low.00002.wav", band_noise("low", 7, seed=99))
    (songs / "high" / "high.00001.wav").unlink()
    os.utime(songs / "middle" / "middle.00000.wav", (0, 0))
    changed = prepare(songs, out, SPEC)
    assert (changed.made, changed.kept, changed.removed) == (1, 16, 1)
    after = states(out)
    assert set(before) - set(after) == {"high/high.00001.png"}
    assert {name for name in after if after[name] != before[name]} == {"low/low.00002.png"}


def test_a_picture_that_is_damaged_behind_its_origin_is_made_again(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=2)
    out = prepare(songs, tmp_path / "pictures", SPEC).folder
    damaged = out / "low" / "low.00000.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    again = prepare(songs, out, SPEC)
    assert (again.made, again.kept) == (1, 5)
    assert damaged.read_bytes() == whole


def test_another_grid_makes_all_pictures_again(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=5)
    prepare(songs, tmp_path / "pictures", SPEC)
    finer = dataclasses.replace(SPEC, hop_length=512, n_mels=64)
    done = prepare(songs, tmp_path / "pictures", finer)
    assert done.made == 15
    assert read_spec(done.folder) == finer
    tracks, _ = find_tracks(done.folder)
    assert read_picture(tracks[0].path).shape == (64, 1 + 6 * 22050 // 512)


def start_preparing(songs: Path, out: Path, pictures: int) -> subprocess.Popen[str]:
    """Start `genre-train prepare`; return when it has made some pictures."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", "prepare", "--data", songs, "--out", out],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    latest = time.monotonic() + 120
    while len(list(out.glob("*/*.png"))) < pictures and time.monotonic() < latest:
        time.sleep(0.002)
    return process


def test_ctrl_c_ends_a_preparation_in_one_line(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=60)
    process = start_preparing(songs, tmp_path / "pictures", 3)
    # As from a terminal: to the processes that read tracks, too.
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("this machine was done before it could be interrupted")
    assert process.returncode == 1
    assert said.splitlines()[-1] == "genre-train: interrupted; what is done is kept"
    assert "Traceback" not in said


def test_a_killed_preparation_leaves_no_half_folder_and_goes_on_where_it_stopped(
    tmp_path: Path,
) -> None:
    songs = write_songs(tmp_path / "songs", tracks=40)
    out = tmp_path / "pictures"
    process = start_preparing(songs, out, 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    made = len(list(out.glob("*/[!.]*.png")))
    if made == 120:
        pytest.skip("this machine was done before it could be killed")
    assert made >= 3
    assert not (out / "spectrogram.json").exists()
    done = prepare(songs, out, SPEC)
    assert done.kept == made
    assert done.made == 120 - made
    assert len(find_tracks(out)[0]) == 120


def test_pictures_from_elsewhere_are_not_overwritten(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=5)
    (tmp_path / "pictures" / "low").mkdir(parents=True)
    write_picture(tmp_path / "pictures" / "low" / "mine.png", np.zeros((128, 80), np.uint8))
    with pytest.raises(DatasetError, match=r"mine\.png was not made by prepare"):
        prepare(songs, tmp_path / "pictures", SPEC)


def test_pictures_do_not_go_between_the_songs(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=5)
    with pytest.raises(DatasetError, match="is the data folder itself"):
        prepare(songs, songs, SPEC)


def test_background_sounds_become_pictures_by_their_first_folder(tmp_path: Path) -> None:
    for name in ("rain.wav", "animals/dog.ogg", "animals/birds/owl.flac"):
        write_audio(tmp_path / "sounds" / name, band_noise("noise", 4))
    done = prepare(tmp_path / "sounds", tmp_path / "pictures", SPEC, background=True)
    assert done.made == 3
    assert {str(path.relative_to(done.folder)) for path in done.folder.glob("*/*.png")} == {
        "background/rain.png",
        "animals/dog.png",
        "animals/birds__owl.png",
    }


def test_a_name_too_long_for_a_picture_stops_no_other(tmp_path: Path) -> None:
    longest = "n" * 251
    write_audio(tmp_path / "sounds" / "rain" / f"{longest}.wav", band_noise("noise", 4))
    write_audio(tmp_path / "sounds" / "rain" / longest / "a.wav", band_noise("noise", 4))
    done = prepare(tmp_path / "sounds", tmp_path / "pictures", SPEC, background=True)
    assert done.made == 1
    assert [path.name for path in done.folder.glob("*/*")] == [f"{longest}.png"]
    (skipped,) = done.skipped
    assert skipped.path.name == "a.wav"
    assert skipped.reason == f"its name is too long for a picture ({'n' * 40}...): shorten it"


def test_a_picture_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match=r"a\.png: cannot be written \(Is a directory\)"):
        write_picture(tmp_path / "a.png", np.zeros((128, 80), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_cache_keeps_folders_and_grids_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    finer = dataclasses.replace(SPEC, hop_length=512)
    folders = {
        cache_folder(data, spec)
        for data in (tmp_path / "a", tmp_path / "b")
        for spec in (SPEC, finer)
    }
    assert len(folders) == 4
    assert all(folder.is_relative_to(tmp_path / "cache") for folder in folders)


def test_infinite_samples_do_not_spoil_a_track(tmp_path: Path) -> None:
    import soundfile

    samples = band_noise("low", 5)
    samples[1000:1010] = [np.nan, np.inf, -np.inf, np.nan, np.inf] * 2
    soundfile.write(tmp_path / "a.wav", samples, 22050, subtype="FLOAT")
    heard = read_audio(tmp_path / "a.wav", 22050)
    assert np.isfinite(heard).all()
    assert np.abs(heard).max() < 1


def claimed_rate(path: Path, rate: int) -> Path:
    """Write another rate into the header of a WAV file."""
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("rate", [1, 100, 2**31 - 1])
def test_a_rate_that_no_sound_has_is_refused_before_it_takes_all_memory(
    tmp_path: Path, rate: int
) -> None:
    song = claimed_rate(write_audio(tmp_path / "a.wav", band_noise("low", 5)), rate)
    with pytest.raises(AudioError, match=f"it claims a rate of {rate} Hz"):
        read_audio(song, 22050)


def test_a_recording_of_more_than_half_a_day_is_refused_with_its_length(tmp_path: Path) -> None:
    import soundfile

    song = tmp_path / "a.flac"
    with soundfile.SoundFile(song, "w", 1000, 1, "PCM_16") as file:
        for _ in range(13):
            file.write(np.zeros(3_600_000, np.int16))
    with pytest.raises(AudioError, match=r"too long: 13\.0 h, at most 12 h; cut it"):
        read_audio(song, 22050)


@pytest.mark.parametrize("rate", [22050, 48000])
@pytest.mark.parametrize("factor", [1e30, 3e38])
@pytest.mark.filterwarnings("error")
def test_levels_that_no_sound_has_are_refused(tmp_path: Path, rate: int, factor: float) -> None:
    import soundfile

    samples = np.repeat(band_noise("low", 5, rate)[:, None], 2, axis=1)
    samples[1000] = factor
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    with pytest.raises(AudioError, match=f"a sample of {factor:.0e}".replace("+", r"\+")):
        read_audio(tmp_path / "a.wav", 22050)


def test_what_no_converter_would_hear_is_silent(tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", band_noise("low", 5) * 1e-20, 22050, subtype="FLOAT")
    with pytest.raises(AudioError, match="silent"):
        read_audio(tmp_path / "a.wav", 22050)


def test_a_film_without_sound_is_told_so(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(AudioError, match="no audio in it"):
        read_audio(tmp_path / "a.m4a", 22050)


@pytest.mark.shared
def test_pictures_of_gtzan_agree_with_those_that_were_published(shared: Path) -> None:
    spec = read_spec(shared / "gtzan" / "spectrograms")
    for track in ("jazz/jazz.00000", "rock/rock.00002", "blues/blues.00003"):
        audio = shared / "gtzan" / "audio" / f"{track}.flac"
        published = shared / "gtzan" / "spectrograms" / f"{track}.png"
        if not (audio.is_file() and published.is_file()):
            continue
        ours, theirs = levels_of(audio, spec), read_picture(published)
        frames = min(ours.shape[1], theirs.shape[1])
        pair = np.corrcoef(ours[:, :frames].ravel(), theirs[:, :frames].ravel())
        assert pair[0, 1] > 0.96


def test_a_spec_that_is_none_is_told_with_its_field(tmp_path: Path) -> None:
    fields = SPEC.to_dict() | {"n_mels": 0}
    (tmp_path / "spectrogram.json").write_text(json.dumps(fields))
    with pytest.raises(DatasetError, match="n_mels must be a positive integer, not 0"):
        read_spec(tmp_path)
    (tmp_path / "spectrogram.json").write_text("{")
    with pytest.raises(DatasetError, match=r"cannot use .*spectrogram\.json"):
        read_spec(tmp_path)
