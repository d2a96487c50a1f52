"""Degradations of audio, and the evaluation of a model on each of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from support.model import band_noise, make_model
from support.pictures import write_pictures
from support.run import RUN
from support.songs import write_audio, write_songs

from streamer.system.files import write_json
from trainer.cli import main
from trainer.degradation import (
    degradations,
    degraded_copies,
    level,
    noise,
    response,
    reverberation,
    speed,
)
from trainer.report import write_report
from trainer.robustness import RobustnessResult, write_robustness
from trainer.tags import COPIES
from trainer.tracks import Track

RATE = 22050


def changed(
    degrade: Callable[..., NDArray[np.float32]], samples: NDArray[np.float32], *options: object
) -> NDArray[np.float32]:
    return degrade(samples, RATE, np.random.default_rng(0), *options)


def tone(frequency: float, seconds: float = 2.0) -> NDArray[np.float32]:
    return np.float32(0.3) * np.sin(
        2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE, dtype=np.float32
    )


def rms_db(samples: NDArray[np.float32]) -> float:
    return float(10 * np.log10((samples.astype(float) ** 2).mean()))


def loudest_frequency(samples: NDArray[np.float32]) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / RATE)[spectrum.argmax()])


def test_a_level_change_is_in_decibels_and_clips_at_full_scale() -> None:
    song = tone(440)
    assert rms_db(changed(level, song, -20)) == pytest.approx(rms_db(song) - 20, abs=0.01)
    assert np.abs(changed(level, song, 20)).max() == 1


@pytest.mark.parametrize(("frequency", "gain"), [(100, 9), (1000, 0), (8000, -9), (400, 0)])
def test_a_response_applies_the_gain_of_each_frequency(frequency: float, gain: float) -> None:
    song = tone(frequency)
    after = changed(response, song, {100: 9, 400: 0, 2000: 0, 8000: -9})
    assert rms_db(after) - rms_db(song) == pytest.approx(gain, abs=0.1)


@pytest.mark.parametrize("limit", [4000, 8000])
def test_a_band_limit_removes_what_is_above_it(limit: int) -> None:
    degradation = degradations()[f"nothing above {limit // 1000} kHz"]
    below, above = tone(0.9 * limit), tone(1.1 * limit)
    assert rms_db(changed(degradation, below)) == pytest.approx(rms_db(below), abs=0.1)
    assert rms_db(changed(degradation, above)) < rms_db(above) - 60


def test_reverberation_decays_by_60_db_in_its_rt60() -> None:
    click = np.zeros(2 * RATE, np.float32)
    click[0] = 1
    ringing = changed(reverberation, click, 0.5, 0)
    early, late = (
        ringing[round(at * RATE) : round((at + 0.05) * RATE)] for at in (0.02, 0.02 + 0.25)
    )
    assert rms_db(late) - rms_db(early) == pytest.approx(-30, abs=2)


def test_noise_has_the_given_ratio_to_the_music(tmp_path: Path) -> None:
    song = band_noise("middle", 4)
    rain = Track("rain", "rain", write_audio(tmp_path / "rain.wav", band_noise("high", 3)))
    drop = Track("drop", "rain", write_audio(tmp_path / "drop.wav", band_noise("high", 1)))
    for sounds in ((), (rain, drop)):
        mixture = changed(noise, song, 10, sounds)
        assert rms_db(song) - rms_db(mixture - song) == pytest.approx(10, abs=0.01)
        assert np.abs(changed(noise, song, -40, sounds)).max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["MP3 64", "MP3 32", "Opus 64", "Opus 32"])
def test_a_codec_keeps_pitch_and_level_but_not_the_samples(name: str) -> None:
    degradation = degradations()[f"{name} kbit/s"]
    song = tone(440) + changed(level, band_noise("high", 2), -20)
    after = changed(degradation, song)
    assert len(after) / len(song) == pytest.approx(1, abs=0.05)
    assert loudest_frequency(after) == pytest.approx(440, abs=2)
    assert rms_db(after) == pytest.approx(rms_db(song), abs=1.5)
    assert not np.allclose(after[: len(song)], song[: len(after)], atol=1e-3)


def test_a_higher_speed_raises_the_pitch_and_shortens_the_track() -> None:
    song = tone(1000)
    assert loudest_frequency(changed(speed, song, 1.05)) == pytest.approx(1050, abs=2)
    assert len(changed(speed, song, 1.05)) == pytest.approx(len(song) / 1.05, abs=2)


def test_each_track_has_other_degraded_copies_and_always_the_same() -> None:
    music = tone(440)
    copies = degraded_copies(music, RATE, [1])
    again, others = degraded_copies(music, RATE, [1]), degraded_copies(music, RATE, [2])
    assert len(copies) == COPIES
    assert all(len(copy) == len(music) for copy in copies)
    assert all(np.array_equal(*pair) for pair in zip(copies, again, strict=True))
    assert not any(np.array_equal(*pair) for pair in zip(copies, others, strict=True))


def share_of(samples: NDArray[np.float32], frequency: float) -> float:
    """Return the amplitude at a frequency, relative to that of the loudest one."""
    spectrum = np.abs(np.fft.rfft(samples))
    return float(spectrum[round(frequency * len(samples) / RATE)] / spectrum.max())


def test_one_of_nine_degraded_copies_is_heard_with_a_recorded_sound(tmp_path: Path) -> None:
    music = tone(440)
    whistle = Track("whistle", "noise", write_audio(tmp_path / "whistle.wav", tone(3010, 4)))
    copies = degraded_copies(music, RATE, [1], 9, [whistle])
    assert sum(share_of(copy, 3010) > 0.05 for copy in copies) == 1
    without = degraded_copies(music, RATE, [1], 8)
    assert max(share_of(copy, 3010) for copy in without) < 0.05


def test_a_sound_that_is_silent_for_as_long_as_the_music_leaves_it_as_it_is(tmp_path: Path) -> None:
    samples = np.concatenate([np.zeros(3 * RATE, np.float32), tone(3000)])
    late = Track("late", "noise", write_audio(tmp_path / "late.wav", samples))
    mixture = changed(noise, tone(440), 0, [late])
    assert np.array_equal(mixture, tone(440))


def test_a_model_file_is_evaluated_on_every_degradation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "thirds.onnx")
    songs = write_songs(tmp_path / "songs", tracks=5, seconds=6)
    out = tmp_path / "found"
    options = ["--data", str(songs), "--split", "all", "--out", str(out)]
    assert main(["robustness", str(model), *options]) == 0
    table = pd.read_csv(out / "robustness_all.csv").set_index("way")
    assert list(table.index) == list(degradations())
    assert table.loc["clean", "accuracy"] == 1
    assert table.loc["level -20 dB", "same_as_clean"] == 1
    # The third above 5 kHz is all that the genre "high" has.
    assert table.loc["nothing above 4 kHz", "accuracy"] <= 2 / 3
    shown = capsys.readouterr().out
    assert re.search(r"^nothing above 4 kHz +\d+\.\d% +.* to .*%", shown, flags=re.MULTILINE)
    assert "all tracks of" in shown


def test_pictures_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "thirds.onnx")
    pictures = write_pictures(tmp_path / "pictures", genres=("low", "high"))
    options = ["--data", str(pictures), "--split", "all"]
    assert main(["robustness", str(model), *options]) == 2
    assert capsys.readouterr().err.startswith("genre-train: ")


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """Return a run without data and network, with the results for two degradations."""
    run = tmp_path / "run"
    settings = {"data": str(tmp_path / "gone"), "out": "run"}
    run.mkdir()
    made = {"versions": {}, "git": None}
    write_json(run / "run.json", {**RUN, **made, "settings": settings})
    ways = [
        RobustnessResult("clean", 40, 0.75, 0.6, 0.85, 0.8, 0.04, 1.0, 0.025),
        RobustnessResult("a tunnel", 40, 0.5, 0.35, 0.65, 1.2, 0.09, 0.6, 0.175),
    ]
    write_robustness(ways, run / "evaluation", "valid", "by hand")
    return run


def test_the_report_shows_every_degradation(evaluated: Path) -> None:
    page = write_report(evaluated).read_text()
    assert "a tunnel" in page
    assert "50.0%" in page
    assert "17.5%" in page
    assert "Split: by hand" in page
    assert len(pd.read_csv(evaluated / "report" / "robustness_valid.csv")) == 2


@pytest.mark.parametrize(
    "name", ["evaluation/robustness_valid.json", "evaluation/metrics.json", "history.csv"]
)
def test_a_report_on_a_damaged_file_is_one_line_that_names_it(
    evaluated: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = evaluated / name
    path.write_text("")
    assert main(["report", str(evaluated)]) == 2
    assert capsys.readouterr().err == (
        f"genre-train: {path} is damaged or gone: evaluate again, or delete it\n"
    )
