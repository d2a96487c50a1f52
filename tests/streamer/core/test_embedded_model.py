"""The embedded model on real music, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from streamer import Classifier, Decision
from streamer.core.pipeline import ColumnPipeline
from streamer.core.spectrogram import from_levels
from trainer.pictures import read_picture

PROGRAM = [sys.executable, "-m", "streamer"]
HOP_SECONDS = 3.0
"""Time between two decisions about a track, of which only the last one counts."""
SECTION_SECONDS = 13.0
"""Length of each piece of the demo clip; see tests/tools/render_demo.py."""


@pytest.fixture(scope="module")
def tracks(shared: Path) -> list[Path]:
    """Return the recordings of the validation list, on which the model was not trained."""
    listed = (shared / "gtzan" / "splits" / "fault_filtered_valid.txt").read_text().split()
    found = [shared / "gtzan" / "audio" / name.split(".")[0] / f"{name}.flac" for name in listed]
    return [path for path in found if path.is_file()]


def last_predictions(frames: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return each source's last prediction."""
    messages = [json.loads(frame) for frame in frames]
    return {m["source"]: m for m in messages if m["type"] == "prediction"}


def most_probable(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=lambda label: probabilities[label])


@pytest.fixture(scope="module")
def by_audio(tracks: list[Path], gtzan_model: Path) -> dict[str, dict[str, Any]]:
    """Return the last prediction of every track."""
    sources = [part for path in tracks for part in ("--source", f"{path.stem}={path}")]
    done = subprocess.run(
        [*PROGRAM, "--fast", "--json", "--hop-seconds", str(HOP_SECONDS), *sources],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return last_predictions(done.stdout.splitlines())


@pytest.mark.shared
def test_the_last_decision_is_right_for_most_validation_tracks(
    tracks: list[Path], by_audio: dict[str, dict[str, Any]]
) -> None:
    assert len(by_audio) == len(tracks) == 49
    genres = {name: last["genre"] for name, last in by_audio.items()}
    right = [name for name, genre in genres.items() if name.split(".")[0] == genre]
    assert len(right) / len(tracks) >= 0.6, genres


@pytest.mark.shared
def test_pictures_of_most_tracks_get_the_genre_of_their_audio(
    shared: Path, by_audio: dict[str, dict[str, Any]]
) -> None:
    classifier = Classifier.load(threads=2)
    same = 0
    for name, prediction in by_audio.items():
        picture = shared / "gtzan" / "spectrograms" / name.split(".")[0] / f"{name}.png"
        columns = from_levels(read_picture(picture), classifier.contract.spectrogram.top_db)
        pipeline = ColumnPipeline(classifier, hop_seconds=HOP_SECONDS)
        events = pipeline.feed(columns, level_dbfs=-20.0)
        last = [event for event in events if isinstance(event, Decision)][-1]
        same += most_probable(last.probabilities) == most_probable(prediction["probabilities"])
    # Of pictures one network answers, of audio both.
    assert same / len(by_audio) >= 0.75


def test_three_of_the_five_demo_pieces_are_recognised_before_they_end(
    demo_clip: Path, gtzan_model: Path
) -> None:
    done = subprocess.run(
        [*PROGRAM, "--fast", "--json", "--source", "demo"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    predictions = [message for message in messages if message["type"] == "prediction"]
    assert len(predictions) > 55
    ends = {round(message["position"]): message["genre"] for message in predictions}
    last = [ends[round(SECTION_SECONDS * number) - 2] for number in range(1, 5)]
    assert last == ["classical", "jazz", None, "disco"]
    assert messages[-1]["type"] == "source"
    assert messages[-1]["state"] == "ended"
