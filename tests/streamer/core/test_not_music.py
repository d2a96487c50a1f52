"""The embedded model claims no genre where there is no music."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from streamer.core.decision import Decision, State
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline

SECONDS = 120
RATE = 22050
MOST_CLAIMED = 0.05

Sound = Iterator[tuple[NDArray[np.float32], int]]


@pytest.fixture(scope="module")
def classifier(gtzan_model: Path) -> Classifier:
    return Classifier.load(gtzan_model)


def noise(*, pink: bool, dbfs: float) -> Sound:
    """Two minutes of noise, white or with equal power in every octave."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(SECONDS * RATE))
    if pink:
        spectrum /= np.sqrt(np.maximum(np.fft.rfftfreq(SECONDS * RATE, 1 / RATE), 20.0))
    samples = np.fft.irfft(spectrum)
    yield np.asarray(samples * 10 ** (dbfs / 20) / samples.std(), np.float32), RATE


def joined(paths: list[Path], seconds_each: float) -> Sound:
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32")
        yield samples[: round(seconds_each * rate)], rate


def decided(classifier: Classifier, sound: Sound) -> list[Decision]:
    pipeline = Pipeline(classifier)
    events = [event for samples, rate in sound for event in pipeline.feed(samples, rate)]
    decisions = [event for event in events if isinstance(event, Decision)]
    assert len(decisions) >= SECONDS - 4
    return decisions


def claimed(decisions: list[Decision]) -> float:
    return sum(decision.genre is not None for decision in decisions) / len(decisions)


def test_near_silence_is_silence(classifier: Classifier) -> None:
    decisions = decided(classifier, noise(pink=False, dbfs=-80))
    assert {decision.state for decision in decisions} == {State.SILENCE}


@pytest.mark.parametrize("dbfs", [-50, -20])
def test_pink_noise_is_no_genre(classifier: Classifier, dbfs: float) -> None:
    assert claimed(decided(classifier, noise(pink=True, dbfs=dbfs))) <= MOST_CLAIMED


@pytest.mark.shared
def test_environmental_sounds_are_no_genre(classifier: Classifier, shared: Path) -> None:
    kinds = sorted((shared / "not_music" / "environment").iterdir())
    # The first sound of every kind, then the second and the third.
    paths = [sorted(kind.iterdir())[index] for index in range(3) for kind in kinds][: SECONDS // 5]
    decisions = decided(classifier, joined(paths, 5))
    assert claimed(decisions) <= MOST_CLAIMED
    silent = [decision for decision in decisions if decision.level_dbfs < -60]
    assert {decision.state for decision in silent} <= {State.SILENCE}


@pytest.mark.shared
def test_speech_is_no_genre(classifier: Classifier, shared: Path) -> None:
    paths = sorted((shared / "not_music" / "speech").glob("*.flac"))
    decisions = decided(classifier, joined(paths, SECONDS / len(paths)))
    assert claimed(decisions) <= MOST_CLAIMED


SPEAKERS = {
    "hu+m2": "Minden emberi lény szabadon születik és egyenlő méltósága és joga van",
    "ro+f5": "Toate ființele umane se nasc libere și egale în demnitate și în drepturi",
    "da+m4": "Alle mennesker er født frie og lige i værdighed og rettigheder",
    "et+m6": "Kõik inimesed sünnivad vabadena ja võrdsetena oma väärikuselt ja õigustelt",
    "eo+f3": "Ĉiuj homoj estas denaske liberaj kaj egalaj laŭ digno kaj rajtoj",
    "hr+m8": "Sva ljudska bića rađaju se slobodna i jednaka u dostojanstvu i pravima",
}
"""Voices of eSpeak NG, in languages that the model was not trained with, and their texts."""


def test_synthetic_speech_in_other_languages_is_no_genre(
    classifier: Classifier, tmp_path: Path
) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    paths = [tmp_path / f"{voice}.wav" for voice in SPEAKERS]
    for path, words in zip(paths, SPEAKERS.values(), strict=True):
        text = ". ".join([words] * 6)
        command = ["espeak-ng", "-v", path.stem, "-s", "150", "-w", str(path), text]
        subprocess.run(command, check=True)
    decisions = decided(classifier, joined(paths, SECONDS / len(paths)))
    assert claimed(decisions) <= MOST_CLAIMED
