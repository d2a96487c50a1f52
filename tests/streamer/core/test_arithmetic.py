"""A file with quantised activations is computed with 8-bit integers or in float32."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.model import make_model
from support.waiting import LONGEST_WAIT_SECONDS

import streamer.core.model
from streamer.core.arithmetic import Arithmetic
from streamer.core.model import Classifier, ModelError, golden_spectrogram
from streamer.core.runtime import measure


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "rounded.onnx", tolerance=0.5)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return make_model(tmp_path / "plain.onnx")


class Machine:
    """A processor of which it is given how long it computes."""

    def __init__(self, **milliseconds: float) -> None:
        self.milliseconds = milliseconds
        self.measured = 0

    def __call__(self, predictions: Mapping[Arithmetic, Callable[[], Any]]) -> dict[str, float]:
        self.measured += 1
        assert all(predict().shape == (1, 3) for predict in predictions.values())
        return {name: self.milliseconds[name] for name in predictions}


def change(path: Path, **golden: Any) -> Path:
    """Write another file with other golden fields."""
    proto = onnx.load(path)
    metadata = json.loads(proto.metadata_props[0].value)
    metadata["golden"].update(golden)
    proto.metadata_props[0].value = json.dumps(metadata)
    changed = path.with_name("changed.onnx")
    changed.write_bytes(proto.SerializeToString())
    return changed


def test_float32_answers_as_if_nothing_were_quantised(model: Path, plain: Path) -> None:
    exact, rounded = (Classifier.load(model, arithmetic=name) for name in ("float32", "int8"))
    assert (exact.arithmetic, rounded.arithmetic) == ("float32", "int8")
    for seed in range(5):
        window = golden_spectrogram(exact.contract.spectrogram, 65, seed)
        expected = Classifier.load(plain).logits(window)
        np.testing.assert_array_equal(exact.logits(window), expected)
        assert 0 < np.abs(rounded.logits(window) - expected).max() < 0.1


@pytest.mark.parametrize(
    ("int8", "float32", "chosen"),
    [(10, 30, "int8"), (10, 12, "int8"), (10, 11.9, "float32"), (30, 10, "float32")],
)
def test_integers_are_chosen_if_they_are_faster_by_a_fifth(
    model: Path, monkeypatch: pytest.MonkeyPatch, int8: float, float32: float, chosen: str
) -> None:
    monkeypatch.setattr(streamer.core.model, "measure", Machine(int8=int8, float32=float32))
    classifier = Classifier.load(model)
    assert classifier.arithmetic == chosen
    assert classifier.milliseconds == {"int8": int8, "float32": float32}
    assert classifier.inference_seconds == classifier.milliseconds[classifier.arithmetic] / 1000


def test_a_process_measures_a_file_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(int8=1, float32=2)
    monkeypatch.setattr(streamer.core.model, "measure", machine)
    first = Classifier.load(model)
    machine.milliseconds = {"int8": 2, "float32": 1}
    again = Classifier.load(model)
    assert (again.arithmetic, again.milliseconds) == ("int8", first.milliseconds)
    assert again.inference_seconds == first.inference_seconds == 0.001
    assert machine.measured == 1
    assert Classifier.load(change(model)).arithmetic == "float32"
    assert machine.measured == 2


def test_a_named_arithmetic_is_not_measured(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(streamer.core.model, "measure", machine)
    for name in ("int8", "float32"):
        classifier = Classifier.load(model, arithmetic=name)
        assert classifier.arithmetic == name
        assert 0 < classifier.inference_seconds < LONGEST_WAIT_SECONDS
    assert machine.measured == 0


def test_integers_that_answer_too_differently_are_not_used(model: Path) -> None:
    strict = change(model, tolerance=0.001)
    classifier = Classifier.load(strict)
    assert (classifier.arithmetic, classifier.milliseconds) == ("float32", {})
    with pytest.raises(ModelError, match=r"\(a logit differs by 0\.0\d+, 0\.001 is allowed\)"):
        Classifier.load(strict, arithmetic="int8")


def test_the_tolerance_holds_for_integers_alone(model: Path) -> None:
    logits = Classifier.load(model).contract.golden.logits
    shifted = change(model, logits=[logit + 0.1 for logit in logits])
    assert Classifier.load(shifted, arithmetic="int8").arithmetic == "int8"
    for arithmetic in ("float32", "auto"):
        with pytest.raises(ModelError, match=r"\(a logit differs by 0\.1, 0\.02 is allowed\)"):
            Classifier.load(shifted, arithmetic=arithmetic)


def test_a_file_without_a_tolerance_is_computed_with_integers_alone(model: Path) -> None:
    window = golden_spectrogram(Classifier.load(model).contract.spectrogram, 65)
    logits = Classifier.load(model, arithmetic="int8").logits(window)[0].tolist()
    earlier = change(model, logits=logits)
    proto = onnx.load(earlier)
    metadata = json.loads(proto.metadata_props[0].value)
    del metadata["golden"]["tolerance"]
    proto.metadata_props[0].value = json.dumps(metadata)
    earlier.write_bytes(proto.SerializeToString())
    assert Classifier.load(earlier).arithmetic == "int8"
    with pytest.raises(ModelError) as caught:
        Classifier.load(earlier, arithmetic="float32")
    assert str(caught.value) == (
        f"model {earlier} can be computed in int8 alone, not in float32: leave arithmetic at auto, "
        "or export it again"
    )


def test_a_file_without_quantised_activations_is_refused_for_int8(plain: Path) -> None:
    assert Classifier.load(plain).arithmetic == "float32"
    with pytest.raises(ModelError, match="can be computed in float32 alone, not in int8: leave"):
        Classifier.load(plain, arithmetic="int8")


def test_an_unknown_arithmetic_is_refused(plain: Path) -> None:
    with pytest.raises(ValueError, match="arithmetic must be auto, int8 or float32, not 'fast'"):
        Classifier.load(plain, arithmetic="fast")  # type: ignore[arg-type]


def test_both_arithmetics_are_measured_alternately() -> None:
    order: list[str] = []
    times = measure({"int8": lambda: order.append("int8"), "float32": lambda: order.append("f")})
    assert order == ["int8", "f"] * 2
    assert set(times) == {"int8", "float32"}
    assert min(times.values()) >= 0
