"""Synthetic speech clips from the installed synthesisers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from trainer.cli import main
from trainer.discovery import find_background
from trainer.pictures import read_picture
from trainer.speech import TEXTS, installed_voices, speak
from trainer.tracks import MIN_SECONDS

needs_synthesiser = pytest.mark.skipif(
    not installed_voices(), reason="no speech synthesiser is installed"
)


@needs_synthesiser
def test_every_installed_voice_speaks_usable_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voices = installed_voices()
    clips = tmp_path / "sounds" / "voices"
    assert main(["speak", "--out", str(clips), "--clips", str(len(voices))]) == 0
    assert f"{len(voices)} clips of {len(voices)} voices" in capsys.readouterr().out
    assert {path.name.rpartition(".0")[0] for path in clips.iterdir()} == {
        voice.name for voice in voices
    }
    for path in clips.iterdir():
        samples, rate = soundfile.read(path)
        assert MIN_SECONDS <= len(samples) / rate <= 5
        assert np.abs(samples).max() > 0.02, path
    pictures = tmp_path / "pictures"
    options = ["--sounds", "--data", str(tmp_path / "sounds"), "--out", str(pictures)]
    assert main(["prepare", *options]) == 0
    prepared, skipped = find_background(pictures)
    assert len(prepared) == len(voices)
    assert not skipped
    # Syllables and pauses make the level vary.
    for track in prepared[:10]:
        loudness = read_picture(track.path).mean(axis=0)
        assert np.ptp(loudness) > 40


@needs_synthesiser
def test_the_speech_depends_on_the_seed_alone(tmp_path: Path) -> None:
    voices = [voice for voice in installed_voices() if voice.name.startswith("espeak-ng-en")][:2]
    if not voices:
        pytest.skip("espeak-ng is not installed")
    clips_of = {}
    for folder, seed in (("one", 1), ("again", 1), ("other", 2)):
        paths = speak(tmp_path / folder, 2, voices, seed=seed)
        clips_of[folder] = sorted(path.read_bytes() for path in paths)
    assert clips_of["one"] == clips_of["again"]
    assert clips_of["one"] != clips_of["other"]


@needs_synthesiser
def test_a_clip_that_cannot_be_written_is_an_error_and_keeps_the_others(
    tmp_path: Path,
) -> None:
    voice = installed_voices()[0]
    (tmp_path / f"{voice.name}.00001.wav").mkdir()
    with pytest.raises(OSError, match=r"wav: cannot be written \(Is a directory\)"):
        speak(tmp_path, 2, [voice])
    (clip,) = (path for path in tmp_path.iterdir() if path.is_file())
    assert clip.name == f"{voice.name}.00000.wav"
    assert len(soundfile.read(clip)[0])


def test_every_text_has_enough_words_to_shuffle() -> None:
    for language, text in TEXTS.items():
        assert len(set(text.split())) >= 15, language


def test_without_a_synthesiser_the_error_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("espeak-ng") is None
    assert main(["speak", "--out", str(tmp_path / "voices")]) == 2
    assert capsys.readouterr().err == (
        "genre-train: no speech synthesiser found; install espeak-ng, flite or festival with "
        "voices\n"
    )


@needs_synthesiser
def test_a_voice_that_fails_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "espeak-ng"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no such voice >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:/bin:/usr/bin")
    monkeypatch.setattr("trainer.speech.FLITE_VOICES", ())
    monkeypatch.setattr("trainer.speech.FESTIVAL_LANGUAGES", {})
    assert main(["speak", "--out", str(tmp_path / "voices"), "--clips", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("genre-train: voice espeak-ng-")
    assert error.endswith("failed: no such voice\n")
