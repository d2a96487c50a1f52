"""The command that the documents propose for a small set, on real music."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from trainer.cli import main
from trainer.splits import fault_filtered_names

pytest.importorskip("keras")

GENRES = ("blues", "classical", "disco", "metal")
CLIPS = 6
SECONDS = 10
COMMAND = "--weights gtzan --head-epochs 12 --epochs 0"
QUICK = "--tagger none --windows-per-song 1 --window-seconds 3"
"""One network instead of two, and a third of the sound in each epoch."""


def test_the_documents_and_the_training_propose_the_same_command() -> None:
    root = Path(__file__).parents[2] / "trainer"
    assert COMMAND in (root / "README.md").read_text()
    assert COMMAND in (root / "fit" / "display.py").read_text()


@pytest.mark.shared
def test_four_genres_of_six_clips_are_learnt_far_above_chance(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # None of them was trained on by the network that the training starts from.
    unknown = set(fault_filtered_names()["valid"])
    music, run = tmp_path / "music", tmp_path / "run"
    for genre in GENRES:
        clips = sorted((shared / "gtzan" / "audio" / genre).glob("*.flac"))
        (music / genre).mkdir(parents=True)
        for clip in [clip for clip in clips if clip.stem in unknown][:CLIPS]:
            sound, rate = soundfile.read(clip)
            soundfile.write(music / genre / clip.name, sound[: SECONDS * rate], rate)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    status = main(["--data", str(music), "--out", str(run), *COMMAND.split(), *QUICK.split()])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert f"all {len(GENRES) * CLIPS} tracks are in the valid list" in printed.out
    metrics = json.loads((run / "run.json").read_text())["metrics"]
    sets = [metrics["valid"], metrics["test"]]
    assert [result["tracks"] for result in sets] == [len(GENRES)] * 2
    assert sum(result["accuracy_track"] for result in sets) / 2 > 0.6  # by chance 0.25
