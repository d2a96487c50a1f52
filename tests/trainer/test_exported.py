"""Weights that are read back from a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support.model
import support.run
from numpy.typing import NDArray
from support.pictures import write_pictures

onnx = pytest.importorskip("onnx")
keras = pytest.importorskip("keras")
pytest.importorskip("tf2onnx")

import export.cli  # noqa: E402
from export.second_network import tagger_to_onnx, with_second_network  # noqa: E402
from streamer.core.contract import Fusion  # noqa: E402
from streamer.core.model import DEFAULT_MODEL, Classifier, golden_spectrogram  # noqa: E402
from streamer.core.runtime import open_session  # noqa: E402
from trainer.exported import read_exported  # noqa: E402
from trainer.fit.data import load_data  # noqa: E402
from trainer.fit_settings import FitSettings  # noqa: E402
from trainer.network import (  # noqa: E402
    BACKBONE,
    NetworkError,
    build_image_network,
    with_preprocessing,
)
from trainer.run import TagHead  # noqa: E402


@pytest.fixture(scope="module")
def embedded() -> Any:
    return build_image_network(Classifier.load().contract.labels, weights="gtzan", dropout=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with a few thousand weights, whose labels are not GTZAN's."""
    network = support.run.tiny_network()
    return support.run.write_run(tmp_path_factory.mktemp("runs") / "tiny", network)


def exported(run: Path, out: Path, precision: str = "float32") -> Path:
    command = [str(run), "--out", str(out), "--weights", precision]
    assert export.cli.main(command) == 0
    return out


def folded(run: Path) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return the convolutions of `tiny_network` with their batch norms folded in."""
    layers = keras.saving.load_model(run / "model.keras").layers
    convolutions = [each for each in layers if isinstance(each, keras.layers.Conv2D)]
    norms = [each for each in layers if isinstance(each, keras.layers.BatchNormalization)]
    pairs = []
    for convolution, norm in zip(convolutions, norms, strict=True):
        beta, mean, variance = norm.get_weights()
        scale = 1 / np.sqrt(variance + norm.epsilon)
        pairs.append((convolution.get_weights()[0] * scale, beta - mean * scale))
    return pairs


def test_the_embedded_file_gives_the_logits_of_its_network_back(embedded: Any) -> None:
    contract = Classifier.load().contract
    spectrogram = golden_spectrogram(contract.spectrogram, contract.window_frames)
    session = open_session(DEFAULT_MODEL, 1)
    names = {each.name for each in session.get_outputs()}
    sound = {each.name: np.zeros((1, 160_000), np.float32) for each in session.get_inputs()}
    (expected,) = session.run(
        ["spectrogram_logits" if "spectrogram_logits" in names else "logits"],
        sound | {"spectrogram": spectrogram},
    )
    network = with_preprocessing(embedded, contract.spectrogram, contract.window_frames, 2.0)
    np.testing.assert_allclose(network.predict(spectrogram, verbose=0), expected, atol=1e-5)


def test_other_labels_get_the_same_features_and_a_new_head(embedded: Any) -> None:
    other = build_image_network(["fado", "tango"], weights=str(DEFAULT_MODEL), dropout=0)
    backbones = [network.get_layer(BACKBONE).get_weights() for network in (embedded, other)]
    for one, another in zip(*backbones, strict=True):
        np.testing.assert_array_equal(one, another)
    assert other.output_shape[-1] == 2


@pytest.mark.parametrize(("precision", "step"), [("float32", 0), ("float16", 1e-3), ("int8", 8e-3)])
def test_weights_of_every_precision_come_back(
    precision: str, step: float, tiny: Path, tmp_path: Path
) -> None:
    network = read_exported(exported(tiny, tmp_path / "tiny.onnx", precision))
    assert network.labels == tuple(support.run.LABELS)
    for (kernel, bias), (expected, offset) in zip(network.convolutions, folded(tiny), strict=True):
        np.testing.assert_allclose(kernel, expected, atol=1e-6 + step * np.abs(expected).max())
        np.testing.assert_allclose(bias, offset, atol=1e-6)
    dense = keras.saving.load_model(tiny / "model.keras").get_layer("logits")
    for own, weights in zip(network.head, dense.get_weights(), strict=True):
        np.testing.assert_allclose(own, weights, atol=1e-6)


def test_a_second_network_in_the_file_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    alone = exported(tiny, tmp_path / "alone.onnx")
    sound = keras.Input((None,))
    tags = keras.layers.Conv1D(4, 3)(keras.layers.Reshape((-1, 1))(sound))
    tagger = keras.Model(sound, keras.layers.GlobalAveragePooling1D()(tags))
    classes = len(support.run.LABELS)
    head = TagHead(np.ones((classes, 4), np.float32), np.ones(classes, np.float32))
    fusion = Fusion(0.5, 0.5, "four", ("a", "b", "c", "d"))
    model = onnx.load(alone)
    both = with_second_network(model, tagger_to_onnx(tagger), head, fusion)
    both.metadata_props.extend(model.metadata_props)
    onnx.save(both, tmp_path / "both.onnx")
    one, other = (read_exported(path) for path in (alone, tmp_path / "both.onnx"))
    for first, second in zip(
        [*one.convolutions, one.head], [*other.convolutions, other.head], strict=True
    ):
        for own, another in zip(first, second, strict=True):
            np.testing.assert_array_equal(own, another)


def test_a_file_of_another_network_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = exported(tiny, tmp_path / "tiny.onnx")
    with pytest.raises(NetworkError, match="is not an InceptionV3 of genre-train"):
        build_image_network(["fado", "tango"], weights=str(path), dropout=0)


@pytest.mark.parametrize("content", [None, b"", b"no model", "thirds"])
def test_a_file_without_such_weights_is_refused(
    content: bytes | str | None, tmp_path: Path
) -> None:
    from streamer.system.commandline import UserError

    path = tmp_path / "some.onnx"
    if content == "thirds":
        support.model.make_model(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^--weights {path}: "):
        build_image_network(["fado", "tango"], weights=str(path), dropout=0)


def test_tracks_that_the_embedded_network_was_trained_on_are_noted(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", ("blues", "rock"), tracks=30)
    settings = FitSettings(pictures, tmp_path / "run", weights="gtzan", split=("stratified",))
    division = load_data(settings, None).division
    assert len(division.trained_on_before) == 442 + 1
    held_back = {*division.split.valid, *division.split.test}
    known = held_back.intersection(division.trained_on_before)
    assert known
    assert (
        f"{len(known)} of the {len(held_back)} valid and test tracks were trained on in gtzan"
        in (" ".join(division.split.notes))
    )


def test_a_file_that_does_not_tell_its_tracks_is_noted(tiny: Path, tmp_path: Path) -> None:
    path = exported(tiny, tmp_path / "tiny.onnx")
    pictures = write_pictures(tmp_path / "pictures")
    settings = FitSettings(pictures, tmp_path / "run", weights=str(path))
    division = load_data(settings, None).division
    assert f"{path} does not tell its tracks: an accuracy on those is too high" in (
        division.split.notes
    )
