from __future__ import annotations

import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.model import band_noise
from support.songs import write_audio
from support.web import files_at

import streamer
from streamer.core.model import Classifier
from streamer.engine.replay import events


def write_song(path: Path, rate: int = 44100) -> Path:
    """Write ten seconds of low and then of high sound, in stereo."""
    sound = np.concatenate([band_noise("low", 10, rate), band_noise("high", 10, rate)])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.repeat(sound[:, None], 2, axis=1) * 32767).astype("<i2").tobytes())
    return path


def test_a_recording_replays_to_the_same_decisions_every_time(model: Path, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav")
    first = list(streamer.replay(song, model=model))
    assert [repr(d) for d in streamer.replay(str(song), model=model)] == [repr(d) for d in first]
    assert len(first) == 18
    assert (first[0].genre, first[-1].genre) == ("low", "high")


def test_a_loaded_model_replays_many_recordings(model: Path, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav")
    classifier = Classifier.load(model)
    expected = [repr(decision) for decision in streamer.replay(song, model=model)]
    for _ in range(2):
        replayed = streamer.replay(song, model=classifier)
        assert [repr(decision) for decision in replayed] == expected


def test_a_replay_equals_the_samples_fed_by_hand(model: Path, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav", 22050)
    with wave.open(str(song)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    pipeline = streamer.Pipeline(Classifier.load(model))
    by_hand = pipeline.feed(samples / np.float32(32768), 22050) + pipeline.finish()
    assert repr(list(events(song, streamer.Pipeline(Classifier.load(model))))) == repr(by_hand)


def test_a_replay_takes_less_time_than_the_recording(model: Path, tmp_path: Path) -> None:
    song = write_audio(tmp_path / "song.wav", np.zeros(300 * 8000, np.float32), 8000)
    began = time.monotonic()
    assert len(list(streamer.replay(song, model=model))) == 298
    assert time.monotonic() - began < 300


def test_a_recording_has_its_title(model: Path, tmp_path: Path) -> None:
    song = tmp_path / "song.flac"
    with soundfile.SoundFile(song, "w", 22050, 1) as file:
        file.title, file.artist = "Song", "Artist"
        file.write(band_noise("low", 5, 22050))
    segments = [
        e
        for e in events(song, streamer.Pipeline(Classifier.load(model)))
        if isinstance(e, streamer.Segment)
    ]
    assert {segment.title for segment in segments} == {"Artist - Song"}


def open_files() -> set[Path]:
    """Return the files that this process has open."""
    return {each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}


@pytest.mark.parametrize("kind", ["chain", "container"])
def test_a_file_is_decoded_by_the_caller_and_closed_when_the_replay_is_abandoned(
    model: Path, tmp_path: Path, demo_clip: Path, kind: str
) -> None:
    song = demo_clip if kind == "chain" else write_song(tmp_path / "song.wav")
    before = set(threading.enumerate())
    replayed = streamer.replay(song, model=model)
    next(replayed)
    assert set(threading.enumerate()) <= before  # those of other tests may end
    assert song in open_files()
    replayed.close()
    assert song not in open_files()


def test_an_abandoned_replay_of_a_network_stream_leaves_no_thread(
    model: Path, demo_clip: Path
) -> None:
    before = set(threading.enumerate())
    with files_at(demo_clip.parent) as url:
        replayed = streamer.replay(f"{url}/{demo_clip.name}", model=model)
        next(replayed)
        begun = {each for each in threading.enumerate() if each.name.startswith("source ")} - before
        assert begun
        replayed.close()
        for thread in begun:
            thread.join(60)
            assert not thread.is_alive()


def test_hop_and_settings_may_be_given(model: Path, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav")
    settings = streamer.DecisionSettings(silence_dbfs=0.0)
    decisions = list(streamer.replay(song, model=model, settings=settings, hop_seconds=0.25))
    assert {decision.state for decision in decisions} == {streamer.State.SILENCE}
    assert len(decisions) == 69


def test_an_equals_sign_in_a_path_is_part_of_it(model: Path, tmp_path: Path) -> None:
    song = write_song(tmp_path / "take=2.wav")
    assert list(streamer.replay(song, model=model))


def test_events_include_segments(model: Path, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.wav")
    segments = [
        e
        for e in events(song, streamer.Pipeline(Classifier.load(model)))
        if isinstance(e, streamer.Segment)
    ]
    assert [(s.genre, s.final) for s in segments[-1:]] == [("high", True)]
    assert segments[-1].end == pytest.approx(20, abs=1e-3)


def test_a_missing_recording_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(streamer.SourceError, match=r"nothing\.mp3"):
        next(streamer.replay(tmp_path / "nothing.mp3", model=model))


def test_a_recording_without_audio_is_named(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("This is not audio. " * 100)
    with pytest.raises(streamer.SourceError, match=r"text\.wav"):
        next(streamer.replay(text, model=model))


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(streamer.ModelError, match=r"none\.onnx"):
        next(streamer.replay("demo", model=tmp_path / "none.onnx"))


def test_the_demo_can_be_replayed(model: Path, demo_clip: Path) -> None:
    expected = [repr(decision) for decision in streamer.replay(demo_clip, model=model)]
    assert [repr(decision) for decision in streamer.replay("demo", model=model)] == expected
    assert len(expected) > 30


def python(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return run.stdout.strip()


def test_importing_the_package_imports_no_heavy_library() -> None:
    heavy = ("numpy", "av", "onnxruntime")
    code = f"import sys, streamer; print([m for m in {heavy} if m in sys.modules])"
    assert python(code) == "[]"


def test_the_library_imports_no_training_framework() -> None:
    heavy = ("tensorflow", "keras", "librosa", "matplotlib", "pandas", "scipy", "trainer", "export")
    code = (
        "import sys, streamer; [getattr(streamer, n) for n in streamer.__all__]; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert python(code) == "[]"


def test_public_names_are_importable_and_no_others() -> None:
    for name in streamer.__all__:
        assert getattr(streamer, name).__name__ == name
        assert name in dir(streamer)
    with pytest.raises(AttributeError, match="module 'streamer' has no attribute 'nothing'"):
        streamer.nothing  # noqa: B018


def test_replay_stays_a_function_once_its_module_is_imported() -> None:
    code = "import streamer.engine.replay, streamer; print(callable(streamer.replay))"
    assert python(code) == "True"
