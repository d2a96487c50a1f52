"""Preparing pictures of audio: all of them once, and only changed ones again."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from support.fleet import ray_nodes
from support.model import band_noise
from support.songs import SUFFIXES, write_audio, write_songs
from support.waiting import LONGEST_WAIT_SECONDS, wait_until

from streamer.core.mixing import Mixer
from streamer.core.resampling import Resampler
from streamer.core.spectrogram import SpectrogramSpec, from_levels, log_mel, relative_to_peak
from streamer.sources import make_source
from streamer.sources.base import SourceEnded
from trainer.audio import read_audio
from trainer.cli import main
from trainer.discovery import find_tracks
from trainer.pictures import read_picture, read_spec, write_picture
from trainer.prepare import cache_folder, levels_of, prepare
from trainer.tagger import SAMPLE_RATE, load_tagger
from trainer.tags import COPIES, degraded_file, read_tags, tags_file
from trainer.tracks import DatasetError

SPEC = SpectrogramSpec()
REPOSITORY = Path(__file__).parents[2]


def states(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("*/*")}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_agree_with_the_columns_of_the_daemon(tmp_path: Path, suffix: str) -> None:
    """Within half a dB on the mean, since decoders and resamplers may differ."""
    song = write_audio(tmp_path / f"a{suffix}", band_noise("noise", 6, 44100), 44100)
    blocks = []
    source = make_source(str(song), fast=True)
    source.open()
    try:
        while True:
            block = source.read(60)
            if block is not None:
                blocks.append(block)
    except SourceEnded:
        pass
    finally:
        source.close()
    columns = daemon_columns([block.samples for block in blocks], blocks[0].sample_rate)
    ours = log_mel(read_audio(song, SPEC.sample_rate), SPEC)
    frames = min(columns.shape[1], ours.shape[1])
    difference = np.abs(
        relative_to_peak(columns[:, :frames], 80) - relative_to_peak(ours[:, :frames], 80)
    )
    assert frames > 70
    assert difference.mean() < 0.5


def daemon_columns(blocks: list[np.ndarray], rate: int) -> np.ndarray:  # type: ignore[type-arg]
    resampler = Resampler(rate, SPEC.sample_rate)
    mixer = Mixer()
    samples = [resampler.push(mixer.mix(block, resampler.source_rate)) for block in blocks]
    return log_mel(np.concatenate([*samples, resampler.flush()]), SPEC)


@pytest.mark.parametrize("suffix", [".flac", ".mka"])
def test_a_song_out_of_phase_is_trained_on_as_it_is_heard(tmp_path: Path, suffix: str) -> None:
    left = band_noise("middle", 5)
    path = write_audio(tmp_path / "stereo.flac", np.stack([left, -left], axis=1))
    if suffix != ".flac":
        with av.open(str(path)) as song, av.open(str(tmp_path / "a.mka"), "w") as copy:
            stream = copy.add_stream_from_template(song.streams.audio[0])
            for packet in song.demux(song.streams.audio[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    copy.mux(packet)
        path = tmp_path / "a.mka"
    samples = read_audio(path, 22050)
    np.testing.assert_allclose(samples[30000:], left[30000:], atol=1e-4)
    assert np.abs(samples[:22050]).max() < 1e-4


def test_a_picture_is_the_spectrogram_within_half_a_level(tmp_path: Path) -> None:
    song = write_audio(tmp_path / "a.flac", band_noise("middle", 5))
    wanted = relative_to_peak(log_mel(read_audio(song, 22050), SPEC), 80)
    got = from_levels(levels_of(song, SPEC), 80)
    assert got.max() == 0
    assert np.abs(got - wanted).max() <= 80 / 255 / 2 + 1e-3


def bad_files(folder: Path) -> dict[str, str]:
    """Write every kind of unusable file; return a part of the reason by name."""
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


def test_all_formats_become_pictures_and_bad_files_are_skipped(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", suffixes=SUFFIXES)
    expected = bad_files(songs / "low")
    done = prepare(songs, tmp_path / "pictures", SPEC, tags=False)
    assert (done.made, done.kept) == (18, 0)
    reasons = {entry.path.name: entry.reason for entry in done.skipped}
    assert set(reasons) == set(expected)
    for name, reason in expected.items():
        assert reason in reasons[name]
        assert "\n" not in reasons[name]
    assert read_spec(done.folder) == SPEC
    tracks, skipped = find_tracks(done.folder)
    assert len(tracks) == 18
    assert {entry.path.name for entry in skipped} == set(expected)
    for track in tracks:
        mels, columns = read_picture(track.path).shape
        assert mels == 128
        assert columns == pytest.approx(6 * 22050 / 1711, abs=3)


def test_a_cluster_makes_the_pictures_and_tags_of_this_machine(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=2, seconds=4.0)
    (songs / "low" / "broken.wav").write_bytes(b"RIFF")
    here = prepare(songs, tmp_path / "here", SPEC)
    with ray_nodes(1, processors=2, connect=False) as nodes:
        there = prepare(songs, tmp_path / "there", SPEC, address=nodes.address)
    assert (there.made, there.tagged, there.skipped) == (here.made, here.tagged, here.skipped)
    files = [path.relative_to(here.folder) for path in sorted(here.folder.glob("*/*"))]
    assert len(files) == 6 * 3
    for file in files:
        assert (here.folder / file).read_bytes() == (there.folder / file).read_bytes()


def test_only_changed_tracks_are_made_again(tmp_path: Path) -> None:
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
    assert set(before) - set(after) == files_of("high/high.00001")
    assert {name for name in after if after[name] != before[name]} == files_of("low/low.00002")
    assert (changed.tagged, again.tagged) == (1, 0)


def files_of(track: str) -> set[str]:
    return {f"{track}.png", f"{track}.tags.npy", f"{track}.degraded.npy"}


def test_tags_are_those_of_the_decoded_track(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=2)
    write_audio(songs / "high" / "longer.ogg", band_noise("high", 8, 44100), 44100)
    done = prepare(songs, tmp_path / "pictures", SPEC)
    assert done.tagged == 7
    tagger = load_tagger()
    for name, pieces in (("low/low.00000.wav", 4), ("high/longer.ogg", 6)):
        picture = (done.folder / name).with_suffix(".png")
        tags = read_tags(tags_file(picture))
        wanted = tagger.tags_of_track(read_audio(songs / name, SAMPLE_RATE))
        assert tags.shape == (pieces, 50)
        assert np.abs(tags - wanted).max() < 1e-6
        degraded = read_tags(degraded_file(picture))
        assert degraded.shape == (COPIES * -(-pieces // 3), 50)
        assert np.abs(degraded[0] - tags[0]).max() > 0.01


def test_degraded_copies_are_heard_with_the_sounds_of_a_background(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=2)
    for number in range(5):
        write_audio(tmp_path / "sounds" / f"{number}.wav", band_noise("high", 3, seed=number))
    plain = prepare(songs, tmp_path / "plain", SPEC).folder
    options = ["--data", str(songs), "--out", str(tmp_path / "pictures")]
    assert main(["prepare", *options, "--background", str(tmp_path / "sounds")]) == 0
    degraded = [
        np.concatenate([read_tags(file) for file in sorted(folder.glob("low/*.degraded.npy"))])
        for folder in (plain, tmp_path / "pictures")
    ]
    assert np.abs(degraded[0] - degraded[1]).max() > 0.01


def test_tags_are_added_to_pictures_that_stay(tmp_path: Path) -> None:
    songs, out = write_songs(tmp_path / "songs", tracks=2), tmp_path / "pictures"
    prepare(songs, out, SPEC, tags=False)
    before = states(out)
    assert all(name.endswith(".png") for name in before)
    done = prepare(songs, out, SPEC)
    assert (done.made, done.kept, done.tagged) == (0, 6, 6)
    after = states(out)
    assert {name: after[name] for name in before} == before
    assert len(after) == 18


def test_a_truncated_file_of_tags_is_made_again(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=2)
    out = prepare(songs, tmp_path / "pictures", SPEC).folder
    damaged = out / "low" / "low.00000.tags.npy"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    done = prepare(songs, out, SPEC)
    assert (done.made, done.tagged) == (0, 1)
    assert damaged.read_bytes() == whole


def test_a_picture_made_again_without_tags_loses_the_old_ones(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=2)
    out = prepare(songs, tmp_path / "pictures", SPEC).folder
    write_audio(songs / "low" / "low.00001.wav", band_noise("low", 7, seed=99))
    done = prepare(songs, out, SPEC, tags=False)
    assert (done.made, done.kept, done.tagged) == (1, 5, 0)
    assert not (out / "low" / "low.00001.tags.npy").exists()
    assert (out / "low" / "low.00000.tags.npy").exists()


def test_a_truncated_picture_is_made_again(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=2)
    out = prepare(songs, tmp_path / "pictures", SPEC, tags=False).folder
    damaged = out / "low" / "low.00000.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    again = prepare(songs, out, SPEC, tags=False)
    assert (again.made, again.kept) == (1, 5)
    assert damaged.read_bytes() == whole


def test_another_grid_makes_all_pictures_again(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=5)
    prepare(songs, tmp_path / "pictures", SPEC, tags=False)
    finer = dataclasses.replace(SPEC, hop_length=512, n_mels=64)
    done = prepare(songs, tmp_path / "pictures", finer, tags=False)
    assert done.made == 15
    assert read_spec(done.folder) == finer
    tracks, _ = find_tracks(done.folder)
    assert read_picture(tracks[0].path).shape == (64, 1 + 6 * 22050 // 512)


GATED_PREPARE = """
import signal, sys, time
from pathlib import Path
from trainer import prepare
from trainer.cli import main

pictures, gate = Path(sys.argv[-1]), Path(__file__).with_name("gate")
make_picture = prepare._make_picture

def make_picture_and_wait(*arguments):
    reason = make_picture(*arguments)
    while len(list(pictures.glob("*/[!.]*.png"))) >= 3 and not gate.exists():
        time.sleep(0.01)
    return reason

def interrupt(*_):
    gate.touch()
    raise KeyboardInterrupt

if __name__ == "__main__":
    prepare._make_picture = make_picture_and_wait
    signal.signal(signal.SIGINT, interrupt)
    sys.exit(main(sys.argv[1:]))
"""
"""genre-train, whose worker processes wait at three pictures until it is interrupted."""


def start_gated_prepare(folder: Path, songs: Path, out: Path) -> subprocess.Popen[str]:
    """Start `genre-train prepare`; return when it has made three pictures and waits."""
    script = folder / "gated_prepare.py"
    script.write_text(GATED_PREPARE)
    process = subprocess.Popen(
        [sys.executable, script, "prepare", "--tagger", "none", "--data", songs, "--out", out],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    latest = time.monotonic() + LONGEST_WAIT_SECONDS
    while len(list(out.glob("*/[!.]*.png"))) < 3:
        assert time.monotonic() < latest
        time.sleep(0.01)
    return process


def test_ctrl_c_ends_a_preparation_in_one_line(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs")
    process = start_gated_prepare(tmp_path, songs, tmp_path / "pictures")
    # A terminal sends it to the worker processes as well.
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=LONGEST_WAIT_SECONDS)
    assert process.returncode == 1
    assert error.splitlines()[-1] == "genre-train: interrupted; what is done is kept"
    assert "Traceback" not in error


def session_of(leader: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(folder.name))
    return found


def test_the_processes_of_a_preparation_end_when_it_is_killed(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs")
    process = start_gated_prepare(tmp_path, songs, tmp_path / "pictures")
    assert len(session_of(process.pid)) > 1
    try:
        process.kill()
        wait_until(lambda: not session_of(process.pid), "the end of its processes")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_killed_preparation_continues_where_it_stopped(tmp_path: Path) -> None:
    songs, out = write_songs(tmp_path / "songs"), tmp_path / "pictures"
    process = start_gated_prepare(tmp_path, songs, out)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=LONGEST_WAIT_SECONDS)
    made = len(list(out.glob("*/[!.]*.png")))
    assert 3 <= made < 18
    assert not (out / "spectrogram.json").exists()
    done = prepare(songs, out, SPEC, tags=False)
    assert (done.kept, done.made) == (made, 18 - made)
    assert len(find_tracks(out)[0]) == 18


def test_the_remains_of_an_interrupted_write_are_removed(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=2)
    partial = tmp_path / "pictures" / "low" / ".123.low.00000.png"
    partial.parent.mkdir(parents=True)
    partial.touch()
    done = prepare(songs, tmp_path / "pictures", SPEC, tags=False)
    assert (done.made, done.removed) == (6, 1)
    assert not partial.exists()


def test_pictures_from_elsewhere_are_not_overwritten(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=5)
    (tmp_path / "pictures" / "low").mkdir(parents=True)
    write_picture(tmp_path / "pictures" / "low" / "mine.png", np.zeros((128, 80), np.uint8))
    with pytest.raises(DatasetError, match=r"mine\.png was not made by prepare"):
        prepare(songs, tmp_path / "pictures", SPEC)


def test_the_data_folder_is_refused_as_the_picture_folder(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", tracks=5)
    with pytest.raises(DatasetError, match="is the data folder itself"):
        prepare(songs, songs, SPEC)


def test_background_clips_become_pictures_by_their_first_folder(tmp_path: Path) -> None:
    for name in ("rain.wav", "animals/dog.ogg", "animals/birds/owl.flac"):
        write_audio(tmp_path / "sounds" / name, band_noise("noise", 4))
    done = prepare(tmp_path / "sounds", tmp_path / "pictures", SPEC, background=True)
    assert (done.made, done.tagged) == (3, 3)
    assert not list(done.folder.glob("*/*.degraded.npy"))
    assert {str(path.relative_to(done.folder)) for path in done.folder.glob("*/*.png")} == {
        "background/rain.png",
        "animals/dog.png",
        "animals/birds__owl.png",
    }


def test_a_name_too_long_for_a_picture_is_skipped(tmp_path: Path) -> None:
    longest = "n" * 242
    write_audio(tmp_path / "sounds" / "rain" / f"{longest}.wav", band_noise("noise", 4))
    write_audio(tmp_path / "sounds" / "rain" / longest / "a.wav", band_noise("noise", 4))
    done = prepare(tmp_path / "sounds", tmp_path / "pictures", SPEC, background=True, tags=False)
    assert done.made == 1
    assert [path.name for path in done.folder.glob("*/*.png")] == [f"{longest}.png"]
    (skipped,) = done.skipped
    assert skipped.path.name == "a.wav"
    assert skipped.reason == f"its name is too long for a picture ({'n' * 40}...): shorten it"


def test_the_cache_folder_depends_on_data_and_grid(
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


@pytest.mark.shared
def test_pictures_of_gtzan_agree_with_the_published_ones(shared: Path) -> None:
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
