"""Loading a model file: its contract, its graph and its golden answer are checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from support.daemon import REPOSITORY
from support.model import Metadata, changed_graph, changed_metadata, make_model, parent_of, refusal

from streamer.core.model import (
    Classifier,
    ModelContract,
    golden_spectrogram,
    softmax,
)
from streamer.core.spectrogram import SpectrogramSpec


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "good.onnx", decision={"silence": -60.0})


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return Classifier.load(model)


FIELDS = [
    "contract",
    "name",
    "version",
    "labels",
    "not_music",
    "window_frames",
    "min_frames",
    "temperature",
    "decision",
    "training",
    "training.dataset",
    "training.split",
    "training.seed",
    "training.metrics",
    "spectrogram",
    "golden",
    "golden.spectrogram_sha256",
    "golden.frames",
    "golden.logits",
]


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(model: Path, tmp_path: Path, field: str) -> None:
    def remove(metadata: Metadata) -> None:
        parent, name = parent_of(metadata, field)
        del parent[name]

    message = refusal(changed_metadata(model, tmp_path, remove))
    assert message == f"has a contract that cannot be used: {field} is missing"


@pytest.mark.parametrize("field", [*SpectrogramSpec().to_dict()])
def test_a_missing_field_of_the_spectrogram_is_named(
    model: Path, tmp_path: Path, field: str
) -> None:
    path = changed_metadata(model, tmp_path, lambda metadata: metadata["spectrogram"].pop(field))
    message = refusal(path)
    assert message == f"has a contract that cannot be used: spectrogram lacks {field}"


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("contract", "1", "contract must be a valid integer, not '1'"),
        ("contract", 0, "contract must be greater than or equal to 1, not 0"),
        ("contract", True, "contract must be a valid integer, not True"),
        (
            "contract",
            3,
            "contract 3 is newer than contract 2, the last one that this program knows: upgrade "
            "genre-stream",
        ),
        ("name", "", "name must have at least 1 character, not ''"),
        ("name", 5, "name must be a valid string, not 5"),
        ("version", 1.0, "version must be a valid string, not 1.0"),
        ("labels", "low", "labels must be a list, not 'low'"),
        ("labels", ["a"], "labels must be a list of two or more different names, not ['a']"),
        (
            "labels",
            ["a", "b", "a"],
            "labels must be a list of two or more different names, not ['a', 'b', 'a']",
        ),
        (
            "labels",
            ["a", 1, "b"],
            "labels.1 must be a valid string, not 1",
        ),
        ("not_music", "speech", "not_music must be one of low, middle, high, null, not 'speech'"),
        ("not_music", [], "not_music must be a valid string, not []"),
        ("window_frames", 64.5, "window_frames must be a valid integer, not 64.5"),
        ("window_frames", 0, "window_frames must be greater than or equal to 1, not 0"),
        ("min_frames", None, "min_frames must be a valid integer, not None"),
        ("min_frames", 66, "min_frames must be at most window_frames 65, not 66"),
        ("temperature", "1", "temperature must be a valid number, not '1'"),
        ("temperature", 0, "temperature must be greater than or equal to 0.01, not 0"),
        ("temperature", 101, "temperature must be less than or equal to 100, not 101"),
        ("temperature", float("nan"), "temperature must be less than or equal to 100, not nan"),
        ("decision", [], "decision must be an object, not []"),
        ("decision", {"hold": []}, "decision.hold must be a number or a text, not []"),
        ("training", "gtzan", "training must be an object, not 'gtzan'"),
        ("training.dataset", 1, "training.dataset must be a valid string, not 1"),
        ("training.split", None, "training.split must be a valid string, not None"),
        (
            "training.seed",
            "7",
            "training.seed must be a valid integer, not '7'",
        ),
        ("training.seed", -1, "training.seed must be greater than or equal to 0, not -1"),
        ("training.metrics", 0.6, "training.metrics must be an object, not 0.6"),
        ("spectrogram", 22050, "spectrogram must be an object, not 22050"),
        (
            "spectrogram.n_mels",
            "128",
            "spectrogram n_mels must be a positive integer, not '128'",
        ),
        ("golden", None, "golden must be an object, not None"),
        (
            "golden.spectrogram_sha256",
            "feed",
            "golden.spectrogram_sha256 must be 64 hexadecimal digits, not 'feed'",
        ),
        ("golden.frames", 5, "golden.frames must be at least min_frames 39, not 5"),
        ("golden.logits", [1.0], "golden.logits must be a list of 3 finite numbers, not [1.0]"),
        (
            "golden.logits",
            [1.0, 2.0, float("inf")],
            "golden.logits.2 must be a finite number, not inf",
        ),
        ("golden.tolerance", 0, "golden.tolerance must be greater than 0, not 0"),
        ("golden.tolerance", "0.1", "golden.tolerance must be a valid number, not '0.1'"),
        (
            "golden.tolerance",
            101,
            "golden.tolerance must be less than or equal to 100, not 101",
        ),
        (
            "golden.contract_sha256",
            1,
            "golden.contract_sha256 must be 64 hexadecimal digits, not 1",
        ),
        (
            "golden.contract_sha256",
            None,
            "golden.contract_sha256 must be 64 hexadecimal digits, not None",
        ),
        (
            "precision",
            "int3",
            "precision must be one of float32, float16, int8, static, not 'int3'",
        ),
    ],
)
def test_an_invalid_field_is_refused_with_its_value(
    model: Path, tmp_path: Path, field: str, value: object, fault: str
) -> None:
    def change(metadata: Metadata) -> None:
        parent, name = parent_of(metadata, field)
        parent[name] = value

    message = refusal(changed_metadata(model, tmp_path, change))
    assert message == f"has a contract that cannot be used: {fault}"


@pytest.mark.parametrize("number", [10**400, 10**30], ids=["10**400", "10**30"])
def test_enormous_numbers_are_refused(model: Path, tmp_path: Path, number: int) -> None:
    for field in ("temperature", "window_frames", "spectrogram.top_db", "golden.frames"):

        def change(metadata: Metadata, field: str = field) -> None:
            parent, name = parent_of(metadata, field)
            parent[name] = number

        assert refusal(changed_metadata(model, tmp_path, change))


def _swap_labels(metadata: Metadata) -> None:
    metadata["labels"][:2] = reversed(metadata["labels"][:2])


def _sign(model: Path, folder: Path) -> Path:
    """Add the optional digest that genre-export writes."""
    digest = Classifier.load(model).contract.digest
    path = changed_metadata(
        model, folder, lambda metadata: metadata["golden"].update(contract_sha256=digest)
    )
    return path.replace(folder / "signed.onnx")


@pytest.mark.parametrize(
    "change",
    [
        _swap_labels,
        lambda metadata: metadata.update(temperature=3.0),
        lambda metadata: metadata.update(min_frames=20),
        lambda metadata: metadata.update(decision={}),
        lambda metadata: metadata.update(not_music="low"),
    ],
    ids=["labels swapped", "temperature", "min_frames", "decision", "not_music"],
)
def test_labels_and_settings_are_bound_to_the_golden_answer(
    model: Path, tmp_path: Path, change: Callable[[Metadata], None]
) -> None:
    signed = _sign(model, tmp_path)
    Classifier.load(signed)
    assert refusal(changed_metadata(signed, tmp_path, change)) == (
        "has labels or settings that were changed after it was exported; export it again"
    )


def test_a_signed_file_may_be_renamed_and_get_a_new_version(model: Path, tmp_path: Path) -> None:
    signed = _sign(model, tmp_path)
    renamed = changed_metadata(
        signed, tmp_path, lambda metadata: metadata.update(name="other", version="9")
    )
    assert Classifier.load(renamed).contract.name == "other"


@pytest.mark.parametrize("field", ["sample_rate", "n_fft", "hop_length", "fmax", "top_db"])
def test_a_spectrogram_field_changed_after_export_is_detected(
    model: Path, tmp_path: Path, field: str
) -> None:
    def halve(metadata: Metadata) -> None:
        value = metadata["spectrogram"][field]
        metadata["spectrogram"][field] = value * 2 if field == "sample_rate" else value // 2

    assert refusal(changed_metadata(model, tmp_path, halve)) == (
        "does not recognise its golden spectrogram: its spectrogram settings were changed after "
        "it was exported; export it again"
    )


def test_golden_logits_in_another_order_are_refused(model: Path, tmp_path: Path) -> None:
    path = changed_metadata(
        model, tmp_path, lambda metadata: metadata["golden"]["logits"].reverse()
    )
    assert refusal(path).startswith(
        "gives another answer to its golden spectrogram than when it was exported (a logit differs"
    )


def _weights(change: Callable[[NDArray[np.float32]], None]) -> Callable[[onnx.ModelProto], None]:
    def rewrite(proto: onnx.ModelProto) -> None:
        weights = numpy_helper.to_array(proto.graph.initializer[0]).copy()
        change(weights)
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "weights"))

    return rewrite


def _rename_input(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "mel"


def _rename_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "scores"


def _second_input(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("gain", onnx.TensorProto.FLOAT, [1]))


def _fix_frames(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64


def _other_bands(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "bands"


def _foreign_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].domain = "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))


def _opset(version: int) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: setattr(proto.opset_import[0], "version", version)


def _weights_elsewhere(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def _metadata(text: str) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: setattr(proto.metadata_props[0], "value", text)


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "input renamed": (_rename_input, "must have one input called spectrogram, not mel"),
    "output renamed": (_rename_output, "must have one output called logits, not scores"),
    "second input": (
        _second_input,
        "must have one input called spectrogram, not spectrogram, gain",
    ),
    "fixed frames": (
        _fix_frames,
        "has an input spectrogram of tensor(float) ['batch', 128, 64]; its contract asks for "
        "tensor(float) [any, 128, any]",
    ),
    "free bands": (
        _other_bands,
        "has an input spectrogram of tensor(float) ['batch', 'bands', 'frames']; its contract asks "
        "for tensor(float) [any, 128, any]",
    ),
    "operators of another domain": (_foreign_operator, "uses operators that onnxruntime "),
    "an opset from the future": (_opset(999), "is written in another dialect of ONNX than "),
    "an opset too old": (_opset(1), "has a graph that onnxruntime "),
    "an opset with other operators": (_opset(18), "has a graph that onnxruntime "),
    "weights in another file": (_weights_elsewhere, "keeps its weights in another file: "),
    "other weights": (
        _weights(lambda weights: np.negative(weights, out=weights)),
        "gives another answer to its golden spectrogram than when it was exported (a logit differs",
    ),
    "weights that are NaN": (
        _weights(lambda weights: weights.fill(np.nan)),
        "answers its golden spectrogram with NaN or infinity; export it again",
    ),
    "no contract": (
        lambda proto: proto.metadata_props.pop(),
        "carries no genre_stream contract: make it with genre-export",
    ),
    "a contract cut short": (
        _metadata('{"contract": 1, "na'),
        "has a contract that is not JSON; export it again",
    ),
    "a contract that is a list": (
        _metadata("[1, 2]"),
        "has a contract that is not a JSON object; export it again",
    ),
    "a contract nested too deep": (
        _metadata("[" * 100_000),
        "has a contract that is not JSON; export it again",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_each_kind_of_changed_file_has_its_own_error(
    model: Path, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change, message = GRAPHS[name]
    assert refusal(changed_graph(model, tmp_path, change)).startswith(message)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_as_damaged(model: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.onnx"
    content = model.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert refusal(path) == "is damaged or cut short: copy or export it again"


def test_paths_that_are_no_model_file_are_refused(tmp_path: Path) -> None:
    empty, text, pipe = tmp_path / "empty.onnx", tmp_path / "text.onnx", tmp_path / "pipe"
    empty.touch()
    text.write_text("# genre-stream\n" * 50)
    subprocess.run(["mkfifo", pipe], check=True)
    assert refusal(empty) == "is an empty file: copy or export it again"
    assert refusal(text) == "is not an ONNX file"
    assert refusal(tmp_path) == "is a folder: name the .onnx file"
    assert refusal(pipe) == "is not a regular file: name the .onnx file"
    assert refusal(tmp_path / "none.onnx") == (
        "cannot be read (No such file or directory): check the path and its permissions"
    )
    assert refusal(tmp_path / ("x" * 300)) == (
        "cannot be read (File name too long): check the path and its permissions"
    )


def test_an_onnx_model_without_a_contract_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 10])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "any", [value], [result])
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = tmp_path / "other.onnx"
    onnx.save(other, path)
    assert refusal(path) == "carries no genre_stream contract: make it with genre-export"


def test_a_contract_survives_a_round_trip(classifier: Classifier) -> None:
    contract = classifier.contract
    again = ModelContract.from_metadata(json.loads(json.dumps(contract.to_metadata())))
    assert again == contract
    assert again.digest == contract.digest
    assert again.window_seconds == pytest.approx(65 * 1711 / 22050)


def test_unknown_fields_are_ignored(model: Path, tmp_path: Path) -> None:
    path = changed_metadata(model, tmp_path, lambda metadata: metadata.update(licence="MIT"))
    assert Classifier.load(path).contract.labels == ("low", "middle", "high")


def test_the_golden_spectrogram_is_the_same_on_every_machine() -> None:
    spec = SpectrogramSpec()
    drawn = golden_spectrogram(spec, 65)
    assert drawn.shape == (1, 128, 65)
    assert drawn.dtype == np.float32
    assert drawn.min() >= -80
    assert drawn.max() <= 0
    assert np.array_equal(drawn, golden_spectrogram(SpectrogramSpec(fmin=0, fmax=11025), 65))
    assert not np.array_equal(drawn, golden_spectrogram(spec, 65, seed=1))
    levels = np.rint((drawn[0, :2, :4] + 80) * 255 / 80).astype(int)
    assert levels.tolist() == [[190, 84, 101, 161], [214, 166, 4, 204]]


def test_probabilities_are_the_softmax_of_logits_over_temperature(classifier: Classifier) -> None:
    window = golden_spectrogram(classifier.contract.spectrogram, 64, seed=2)
    window[:, :40] = -10
    logits, probabilities = classifier.logits(window), classifier.predict(window)
    assert probabilities.dtype == np.float32
    assert probabilities.sum() == pytest.approx(1)
    assert np.allclose(probabilities, softmax(logits, classifier.contract.temperature))
    assert softmax(np.array([[1000.0, 0.0]], np.float32), 0.5).tolist() == [[1.0, 0.0]]
    halved = softmax(logits, 2.0)
    assert np.allclose(np.log(halved[0, 0] / halved[0, 1]), (logits[0, 0] - logits[0, 1]) / 2)


@pytest.mark.parametrize("shape", [(128, 64), (1, 127, 64), (1, 128, 38), (1, 1, 128, 64)])
def test_windows_of_the_wrong_shape_are_refused_with_both_shapes(
    classifier: Classifier, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"shape \(batch, 128, 39 or more\), not \("):
        classifier.predict(np.zeros(shape, np.float32))


def test_zero_threads_are_refused(model: Path) -> None:
    with pytest.raises(ValueError, match="threads must be at least 1, not 0"):
        Classifier.load(model, threads=0)


def test_one_classifier_may_be_used_from_many_threads(classifier: Classifier) -> None:
    spec = classifier.contract.spectrogram
    windows = [golden_spectrogram(spec, 64, seed=seed) for seed in range(8)]
    alone = [classifier.predict(window) for window in windows]
    together: list[list[NDArray[np.float32]]] = [[] for _ in windows]

    def predict(index: int) -> None:
        together[index] = [classifier.predict(windows[index]) for _ in range(50)]

    threads = [threading.Thread(target=predict, args=(index,)) for index in range(len(windows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for answers, expected in zip(together, alone, strict=True):
        assert len(answers) == 50
        assert all(np.array_equal(answer, expected) for answer in answers)


WITHOUT_FRAMEWORKS = """
import sys

BARRED = {"tensorflow", "keras", "onnx", "tf2onnx", "torch", "librosa", "pandas", "matplotlib"}

class Bar:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BARRED:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Bar())
from pathlib import Path
from streamer.core.model import Classifier, golden_spectrogram

classifier = Classifier.load(Path(sys.argv[1]))
window = golden_spectrogram(classifier.contract.spectrogram, classifier.contract.window_frames)
assert classifier.predict(window).shape == (1, len(classifier.contract.labels))
assert not BARRED & set(sys.modules), BARRED & set(sys.modules)
print(classifier.contract.name)
"""


def test_a_model_runs_without_any_training_framework(model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FRAMEWORKS, model], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "thirds\n", "")


@pytest.mark.parametrize("user", ["streamer.core.model", "export.compress", "trainer.loading"])
def test_loading_a_model_writes_nothing_to_the_home_folder(tmp_path: Path, user: str) -> None:
    """By default onnxruntime writes a machine identifier there and sends telemetry."""
    if user == "trainer.loading":
        pytest.importorskip("sklearn")
    script = f"import {user}, streamer.core.model as m; m.Classifier.load(m.DEFAULT_MODEL)"
    bare = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", script], env=bare, cwd=REPOSITORY, check=True)
    assert list(tmp_path.rglob("*")) == []
