"""How fast audio becomes spectrogram pictures without tags, compared to librosa in one process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
from support.model import band_noise
from support.songs import write_audio

from streamer.core.spectrogram import SpectrogramSpec
from trainer.prepare import prepare

SONGS = 120
SECONDS = 30
MIN_SPEED = 0.5
"""Lowest speed relative to librosa, which starts no processes and writes no files.

Where librosa takes 20 ms a track this is 40 s for 1,000 tracks; 3 minutes are allowed.
"""


def transform_with_librosa(song: Path, spec: SpectrogramSpec) -> None:
    samples, _ = librosa.load(song, sr=spec.sample_rate)
    power = librosa.feature.melspectrogram(
        y=samples,
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        hop_length=spec.hop_length,
        n_mels=spec.n_mels,
    )
    librosa.power_to_db(power, ref=np.max)


@pytest.mark.benchmark
def test_preparing_takes_at_most_twice_as_long_as_librosa(
    tmp_path: Path, measured: Callable[[str], None]
) -> None:
    spec = SpectrogramSpec()
    song = write_audio(tmp_path / "song.flac", band_noise("noise", SECONDS))
    for genre in ("low", "high"):
        (tmp_path / "songs" / genre).mkdir(parents=True)
    for number in range(SONGS):
        genre = ("low", "high")[number % 2]
        os.link(song, tmp_path / "songs" / genre / f"{number}.flac")
    transform_with_librosa(song, spec)
    began = time.perf_counter()
    for _ in range(SONGS // 8):
        transform_with_librosa(song, spec)
    librosa_seconds = (time.perf_counter() - began) * 8
    began = time.perf_counter()
    done = prepare(tmp_path / "songs", tmp_path / "pictures", spec, tags=False)
    prepare_seconds = time.perf_counter() - began
    speed = librosa_seconds / prepare_seconds
    assert done.made == SONGS
    measured(
        f"{SONGS} tracks of {SECONDS} s: librosa in one process {librosa_seconds:.1f} s, "
        f"prepare {prepare_seconds:.1f} s ({speed:.1f} times as fast; "
        f"{1000 * prepare_seconds / SONGS:.0f} s for 1,000)"
    )
    assert speed >= MIN_SPEED
