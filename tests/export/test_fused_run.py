"""A run with a second network becomes one file with both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support.run

pytest.importorskip("onnx")
pytest.importorskip("keras")
pytest.importorskip("tf2onnx")

from export.cli import main
from streamer.core.model import Classifier, golden_audio, golden_spectrogram
from trainer.musicnn import TAGS
from trainer.musicnn.network import build_tagger
from trainer.run import HEAD_FILE, TagHead

FUSION = {
    "tagger": "musicnn",
    "spectrogram_weight": 0.56,
    "audio_weight": 0.44,
    "audio_seconds": 4.0,
}
CLASSES = len(support.run.LABELS)


def random_head() -> TagHead:
    random = np.random.default_rng(4)
    weights = random.normal(0, 0.3, (CLASSES, len(TAGS))).astype(np.float32)
    return TagHead(weights, random.normal(0, 0.3, CLASSES).astype(np.float32))


def write_head(folder: Path, **arrays: Any) -> None:
    head = random_head()
    with (folder / HEAD_FILE).open("wb") as file:
        np.savez(file, **{"weights": head.weights, "bias": head.bias, **arrays})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = support.run.write_run(
        tmp_path_factory.mktemp("runs") / "fused", support.run.tiny_network(), fusion=FUSION
    )
    write_head(run)
    file = run / "model.onnx"
    assert main([str(run), "--out", str(file), "--weights", "float32"]) == 0
    return file


def test_the_file_says_what_both_networks_of_the_run_say(file: Path) -> None:
    classifier = Classifier.load(file)
    contract = classifier.contract
    assert contract.audio
    assert contract.fusion
    assert (contract.contract_version, contract.fusion.tags) == (2, TAGS)
    assert (contract.audio.samples, contract.audio.min_samples) == (64000, 48000)
    windows = golden_spectrogram(contract.spectrogram, 65, seed=3)
    audio = golden_audio(contract.audio, 64000, seed=3)
    answers = classifier.answers(windows, audio)
    tags = np.asarray(build_tagger()(audio, training=False))
    np.testing.assert_allclose(answers.tags, tags, atol=1e-4)
    heard = random_head().logits(answers.tags)
    np.testing.assert_allclose(answers.audio_logits, heard, atol=1e-3)
    both = 0.56 * answers.spectrogram_logits + 0.44 * answers.audio_logits
    np.testing.assert_allclose(answers.logits, both, atol=1e-5)
    assert np.ptp(answers.spectrogram_logits) > 0


def test_inspect_describes_both_networks(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Model        fused 1 (contract 2)"
    assert (
        "Tagger       musicnn: 50 tags of the last 4 s of audio (at least 3 s), mono, 16000 Hz"
        in lines
    )
    assert "Fusion       0.56 of the logits of the spectrogram, 0.44 of those of the tags" in lines


def _cut_short(run: Path) -> None:
    (run / HEAD_FILE).write_bytes((run / HEAD_FILE).read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / HEAD_FILE).unlink(), " cannot be read ("),
        (_cut_short, " cannot be read ("),
        (lambda run: write_head(run, bias=np.zeros(3)), " has shapes (10, 50) and (3,) and 10 "),
        (lambda run: write_head(run, bias=np.full(CLASSES, np.nan)), " holds NaN or infinity: "),
        (lambda run: write_head(run, weights=np.array(["a"])), " cannot be read ("),
    ],
    ids=["missing", "cut short", "another shape", "NaN", "text"],
)
def test_a_damaged_head_is_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    run = support.run.write_run_file(tmp_path / "run", fusion=FUSION)
    (run / "model.keras").touch()
    write_head(run)
    damage(run)
    assert main([str(run), "--out", str(tmp_path / "model.onnx")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"genre-export: {run / HEAD_FILE}{message}")
    assert line.endswith(f"make it again with genre-train fuse {run}")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tagger", "vgg", "fusion.tagger must be 'musicnn', not 'vgg'"),
        ("audio_weight", -1, "fusion.audio_weight must be greater than or equal to 0, not -1"),
        ("audio_weight", 1e9, "fusion.audio_weight must be less than or equal to 100, not"),
        ("audio_seconds", 1.0, "fusion.audio_seconds must be greater than or equal to 3, not 1.0"),
    ],
)
def test_an_impossible_fusion_is_refused_with_its_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, value: object, message: str
) -> None:
    run = support.run.write_run_file(tmp_path / "run", fusion={**FUSION, field: value})
    (run / "model.keras").touch()
    write_head(run)
    assert main([str(run), "--out", str(tmp_path / "model.onnx")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"genre-export: {run / 'run.json'}: {message}")


def test_a_run_of_one_network_makes_a_file_of_contract_1(tiny_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.onnx"
    assert main([str(tiny_run), "--out", str(file)]) == 0
    contract = Classifier.load(file).contract
    assert json.loads(json.dumps(contract.to_metadata()))["contract"] == 1
