"""One file with two networks: what each says alone, and both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")
keras = pytest.importorskip("keras")
pytest.importorskip("tf2onnx")

import onnxruntime  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from export.errors import ExportError  # noqa: E402
from export.second_network import tagger_to_onnx, with_second_network  # noqa: E402
from streamer.core.contract import Fusion  # noqa: E402
from streamer.core.model import Classifier, golden_spectrogram, softmax  # noqa: E402
from streamer.core.runtime import open_session  # noqa: E402
from trainer.musicnn import MIN_SAMPLES, TAGS  # noqa: E402
from trainer.musicnn.network import build_tagger  # noqa: E402
from trainer.run import TagHead  # noqa: E402

BANDS, CLASSES = 8, 3
RANDOM = np.random.default_rng(5)


@pytest.fixture(scope="module")
def tagger() -> keras.Model:
    return build_tagger()


@pytest.fixture(scope="module")
def converted(tagger: keras.Model) -> onnx.ModelProto:
    return tagger_to_onnx(tagger)


def session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    return open_session(str(model) if isinstance(model, Path) else model.SerializeToString(), 1)


def noise(batch: int, samples: int, seed: int = 0) -> NDArray[np.float32]:
    """Return noise of changing loudness."""
    random = np.random.default_rng(seed)
    loudness = np.exp(random.normal(-3, 1, (batch, samples // 4000 + 1))).repeat(4000, axis=1)
    drawn = random.standard_normal((batch, samples)) * loudness[:, :samples]
    return np.asarray(np.clip(drawn, -1, 1), np.float32)


def tiny_network(opset: int = 18) -> onnx.ModelProto:
    """Return a spectrogram network: the means of the bands, weighted."""
    weights = np.random.default_rng(1).normal(0, 0.1, (BANDS, CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["spectrogram", "time"], ["means"], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("spectrogram", 1, ["batch", BANDS, "frames"])],
        [helper.make_tensor_value_info("logits", 1, ["batch", CLASSES])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([2]), "time"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


FUSION = Fusion(0.4, 0.6, "musicnn", TAGS)


def head(classes: int = CLASSES) -> TagHead:
    random = np.random.default_rng(2)
    weights = random.normal(0, 0.3, (classes, len(TAGS))).astype(np.float32)
    return TagHead(weights, random.normal(0, 0.3, classes).astype(np.float32))


@pytest.fixture(scope="module")
def joined(converted: onnx.ModelProto) -> onnx.ModelProto:
    return with_second_network(tiny_network(), converted, head(), FUSION)


def ask(model: onnx.ModelProto, audio: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    spectrogram = RANDOM.uniform(-80, 0, (len(audio), BANDS, 20)).astype(np.float32)
    opened = session(model)
    names = [output.name for output in opened.get_outputs()]
    answers = opened.run(names, {"spectrogram": spectrogram, "audio": audio})
    return {"spectrogram": spectrogram, **dict(zip(names, answers, strict=True))}


@pytest.mark.parametrize(
    ("batch", "samples"), [(1, MIN_SAMPLES), (2, 80_000), (3, 66_667), (1, 160_001)]
)
def test_the_converted_tagger_answers_as_keras_does(
    tagger: keras.Model, converted: onnx.ModelProto, batch: int, samples: int
) -> None:
    audio = noise(batch, samples)
    (tags,) = session(converted).run(["tags"], {"audio": audio})
    assert tags.shape == (batch, len(TAGS))
    np.testing.assert_allclose(tags, tagger.predict(audio, verbose=0), atol=1e-4)


def test_the_file_has_the_inputs_and_outputs_of_contract_2(joined: onnx.ModelProto) -> None:
    opened = session(joined)
    assert {each.name: each.shape for each in opened.get_inputs()} == {
        "spectrogram": ["batch", BANDS, "frames"],
        "audio": ["batch", "samples"],
    }
    assert {each.name: each.shape for each in opened.get_outputs()} == {
        "logits": ["batch", CLASSES],
        "tags": ["batch", len(TAGS)],
        "spectrogram_logits": ["batch", CLASSES],
        "audio_logits": ["batch", CLASSES],
    }


def test_each_network_answers_as_it_does_alone(
    joined: onnx.ModelProto, converted: onnx.ModelProto
) -> None:
    audio = noise(2, 80_000)
    answer = ask(joined, audio)
    (tags,) = session(converted).run(["tags"], {"audio": audio})
    np.testing.assert_allclose(answer["tags"], tags, atol=1e-6)
    (seen,) = session(tiny_network()).run(["logits"], {"spectrogram": answer["spectrogram"]})
    np.testing.assert_allclose(answer["spectrogram_logits"], seen, atol=1e-6)
    np.testing.assert_allclose(answer["audio_logits"], head().logits(tags), atol=1e-4)


def test_the_answer_is_the_weighted_sum(joined: onnx.ModelProto) -> None:
    answer = ask(joined, noise(2, MIN_SAMPLES))
    expected = 0.4 * answer["spectrogram_logits"] + 0.6 * answer["audio_logits"]
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)


def test_silence_and_full_scale_have_finite_logits(joined: onnx.ModelProto) -> None:
    square = np.sign(np.sin(np.arange(MIN_SAMPLES) / 50)).astype(np.float32)
    audio = np.stack([np.zeros(MIN_SAMPLES, np.float32), square])
    assert all(np.isfinite(each).all() for each in ask(joined, audio).values())


def test_logits_can_be_had_from_tags_alone(joined: onnx.ModelProto, tmp_path: Path) -> None:
    answer = ask(joined, noise(2, 80_000))
    onnx.save(joined, tmp_path / "whole.onnx")
    onnx.utils.extract_model(
        str(tmp_path / "whole.onnx"),
        str(tmp_path / "part.onnx"),
        ["spectrogram", "tags"],
        ["logits"],
    )
    inputs = {name: answer[name] for name in ("spectrogram", "tags")}
    (logits,) = session(tmp_path / "part.onnx").run(["logits"], inputs)
    np.testing.assert_allclose(logits, answer["logits"], atol=1e-5)
    assert (tmp_path / "part.onnx").stat().st_size < 100_000


def test_the_embedded_model_has_or_takes_a_second_network(
    gtzan_model: Path, converted: onnx.ModelProto, measured: Callable[[str], None]
) -> None:
    classifier = Classifier.load(gtzan_model, arithmetic="float32")
    contract = classifier.contract
    whole = onnx.load(gtzan_model)
    if contract.audio is None:
        whole = with_second_network(whole, converted, head(len(contract.labels)), FUSION)
    question = golden_spectrogram(contract.spectrogram, contract.window_frames)
    (alone,) = session(whole).run(
        ["spectrogram_logits"], {"spectrogram": question, "audio": noise(1, MIN_SAMPLES)}
    )
    probabilities = softmax(alone, contract.temperature)
    np.testing.assert_allclose(probabilities, classifier.predict(question), atol=1e-3)
    megabytes = whole.ByteSize() / 1e6
    measured(f"both networks in one file: {megabytes:.1f} MB")
    assert megabytes < 30


@pytest.mark.parametrize("shape", [(CLASSES + 1, len(TAGS)), (CLASSES, len(TAGS) - 1)])
def test_a_head_of_another_size_is_refused(
    converted: onnx.ModelProto, shape: tuple[int, int]
) -> None:
    other = TagHead(np.zeros(shape, np.float32), np.zeros(shape[0], np.float32))
    with pytest.raises(ExportError, match=r"3 labels and 50 tags need \(3, 50\) and \(3,\)"):
        with_second_network(tiny_network(), converted, other, FUSION)


def test_a_graph_of_another_contract_is_refused(
    joined: onnx.ModelProto, converted: onnx.ModelProto
) -> None:
    with pytest.raises(ExportError, match="from spectrogram, audio to logits, tags"):
        with_second_network(joined, converted, head(), FUSION)
    with pytest.raises(ExportError, match=r"opset 18, not of \{'': 17\}"):
        with_second_network(tiny_network(17), converted, head(), FUSION)


def test_neither_graph_is_changed(converted: onnx.ModelProto) -> None:
    before = converted.SerializeToString()
    network = tiny_network()
    with_second_network(network, converted, head(), FUSION)
    assert converted.SerializeToString() == before
    assert network.graph.output[0].name == "logits"
    assert network.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
