"""An exported graph predicts what Keras predicts, in every precision."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import support.run
from onnx import numpy_helper

from export.cli import main
from export.convert import Network
from export.errors import ExportError
from export.exporter import ExportSettings, export
from export.pictures import read_windows
from export.source import read_source
from streamer.core.contract import METADATA_KEY
from streamer.core.model import Classifier, ModelError, golden_spectrogram
from streamer.system.commandline import UserError
from trainer.discovery import find_tracks
from trainer.network import with_preprocessing

PRECISIONS = ["float32", "float16", "int8", "static"]


def silent(_line: str) -> None:
    """Discard progress."""


def trained_on_pictures(run: Path, copy: Path) -> Path:
    """Copy a run as if it had been trained on some of the pictures."""
    shutil.copytree(run, copy)
    names = [f"{genre}.{number:05}" for genre in ("blues", "rock") for number in range(4)]
    support.run.write_run_file(copy, split={**support.run.RUN["split"], "train": names})
    return copy


@pytest.fixture(scope="module")
def files(
    tiny_run: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return the same run exported in every precision."""
    folder = tmp_path_factory.mktemp("files")
    for precision in PRECISIONS[:-1]:
        out = folder / f"{precision}.onnx"
        export(ExportSettings(read_source(tiny_run), out, precision=precision), silent)
    run = trained_on_pictures(tiny_run, folder / "run")
    out = folder / "static.onnx"
    assert main([str(run), "--out", str(out), "--quantize", str(pictures)]) == 0
    return {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}


@pytest.fixture(scope="module")
def network(tiny_run: Path) -> Network:
    return Network(read_source(tiny_run))


@pytest.mark.parametrize("frames", [39, 40, 65, 129, 387])
def test_the_float32_file_equals_keras_for_every_length(
    files: dict[str, Path], network: Network, frames: int
) -> None:
    classifier = Classifier.load(files["float32"])
    spec = classifier.contract.spectrogram
    batch = np.concatenate([golden_spectrogram(spec, frames, seed) for seed in range(3)])
    assert np.abs(classifier.logits(batch) - network.logits(batch)).max() < 1e-4


@pytest.mark.parametrize("scale", [1, 1.2, 2])
def test_the_exporter_makes_the_same_images_as_the_trainer(
    tiny_run: Path, tmp_path: Path, scale: float
) -> None:
    images = keras.saving.load_model(tiny_run / "model.keras")
    run = read_source(support.run.write_run(tmp_path / "run", images, input_scale=scale))
    spec = run.contract.spectrogram
    for frames in (77, 90):
        trained = with_preprocessing(images, spec, frames, scale)
        window = golden_spectrogram(spec, frames, seed=4)
        expected = np.asarray(trained(window, training=False))
        assert np.abs(Network(run).logits(window) - expected).max() < 1e-4


@pytest.mark.parametrize(("precision", "largest"), [("float16", 0.01), ("int8", 0.1)])
def test_smaller_weights_change_logits_little(
    files: dict[str, Path], network: Network, precision: str, largest: float
) -> None:
    classifier = Classifier.load(files[precision])
    window = golden_spectrogram(classifier.contract.spectrogram, 65, seed=1)
    assert 0 < np.abs(classifier.logits(window) - network.logits(window)).max() < largest


def test_a_window_gets_the_same_logits_alone_and_in_a_batch(files: dict[str, Path]) -> None:
    for precision in PRECISIONS:
        classifier = Classifier.load(files[precision], threads=2)
        spec = classifier.contract.spectrogram
        windows = [golden_spectrogram(spec, 65, seed) for seed in range(5)]
        alone = np.concatenate([classifier.logits(window) for window in windows])
        assert np.array_equal(classifier.logits(np.concatenate(windows)), alone)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_is_valid_onnx_that_the_oldest_runtime_reads(
    files: dict[str, Path], precision: str
) -> None:
    model = onnx.load(files[precision])
    onnx.checker.check_model(model, full_check=True)
    # onnxruntime 1.20 reads up to IR version 10 and operator set 21.
    assert model.ir_version <= 10
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18}
    assert not {node.op_type for node in model.graph.node} & {"BatchNormalization"}
    assert [axis.dim_param for axis in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        "",
        "frames",
    ]


def test_int8_weights_have_a_scale_for_each_output_channel(files: dict[str, Path]) -> None:
    graph = onnx.load(files["int8"]).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert len(stored) == 2
    for node in stored:
        weights, scale = (tensors[name] for name in node.input)
        assert weights.dtype == np.int8
        assert scale.shape == (weights.shape[0],)
    assert not [
        name
        for name, values in tensors.items()
        if values.dtype == np.float32 and values.size >= 1024
    ]


def test_the_static_file_answers_nearly_alike_with_integers_and_in_float32(
    files: dict[str, Path], network: Network
) -> None:
    exact, rounded = (
        Classifier.load(files["static"], arithmetic=name) for name in ("float32", "int8")
    )
    contract = exact.contract
    assert (contract.precision, contract.arithmetics) == ("static", ("float32", "int8"))
    window = golden_spectrogram(contract.spectrogram, 65, seed=1)
    expected = network.logits(window)
    assert 0 < np.abs(exact.logits(window) - expected).max() < 0.1
    assert 0 < np.abs(rounded.logits(window) - exact.logits(window)).max() < 0.5
    assert contract.golden.tolerance is not None
    assert 0.02 < contract.golden.tolerance < 1


def test_the_table_and_the_file_tell_what_integers_change(
    tiny_run: Path, pictures: Path, tmp_path: Path
) -> None:
    source = read_source(trained_on_pictures(tiny_run, tmp_path / "run"))
    out, lines = tmp_path / "a.onnx", []
    settings = ExportSettings(
        source, out, "static", quantize=(pictures,), verify=pictures, min_agreement=0.5
    )
    export(settings, lines.append)
    assert "Finding the ranges of activations on 8 windows (half a minute)" in lines
    assert f"Comparing on 6 windows of 2 tracks in {pictures}" in lines
    (table,) = (line for line in lines if line.startswith("weights "))
    head, *rows = table.splitlines()
    assert head.split()[-3:] == ["accuracy", "NLL", "ECE"]
    names = [row.split("  ")[0] for row in rows]
    assert names == ["float32", "static", "static, in float32"]
    stored = Classifier.load(out).contract.training["quantisation"]
    assert isinstance(stored, dict)
    assert set(stored) == {"agreement", "float32", "int8"}
    shown = {row.split("  ")[0]: row.split()[-3:] for row in rows}
    for row, name in (("float32", "float32"), ("static", "int8")):
        assert set(stored[name]) == {"accuracy", "nll", "ece"}
        accuracy, nll, ece = shown[row]
        assert float(accuracy.rstrip("%")) == pytest.approx(100 * stored[name]["accuracy"], abs=0.1)
        assert float(nll) == pytest.approx(stored[name]["nll"], abs=1e-3)
        assert float(ece) == pytest.approx(stored[name]["ece"], abs=1e-3)


def test_a_file_whose_integers_are_less_likely_right_is_not_written(
    tiny_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = read_source(trained_on_pictures(tiny_run, tmp_path / "run"))
    out = tmp_path / "a.onnx"
    settings = ExportSettings(
        source, out, "static", quantize=(pictures,), verify=pictures, min_agreement=0
    )
    monkeypatch.setattr("export.exporter.to_static", lambda model, _: _negate_head(model))
    with pytest.raises(ExportError, match=r"^static raises the negative log likelihood by \d"):
        export(settings, silent)
    with pytest.raises(ExportError, match=r"^static keeps .* --min-agreement is 97\.00%: nothing"):
        export(dataclasses.replace(settings, min_agreement=None), silent)
    assert not out.exists()


def test_pictures_that_were_not_trained_on_give_no_ranges(
    tiny_run: Path, pictures: Path, tmp_path: Path
) -> None:
    settings = ExportSettings(
        read_source(tiny_run), tmp_path / "a.onnx", "static", quantize=(pictures,)
    )
    with pytest.raises(UserError) as caught:
        export(settings, silent)
    assert str(caught.value) == (
        f"--quantize {pictures} holds nothing that the run was trained on: name the pictures that "
        "were given to genre-train"
    )


def test_the_contract_is_that_of_the_run_and_holds_no_paths(files: dict[str, Path]) -> None:
    contract = Classifier.load(files["int8"]).contract
    run = support.run.RUN
    assert contract.name == "tiny"
    assert contract.precision == "int8"
    assert list(contract.labels) == run["labels"]
    assert contract.spectrogram.to_dict() == run["spec"]
    assert (contract.window_frames, contract.min_frames) == (65, 39)
    assert contract.temperature == run["temperature"]
    assert contract.decision == run["decision"]
    assert contract.training == {
        "dataset": "noise",
        "split": "lists",
        "protocol": "by hand",
        "tracks": {"train": 0, "valid": 0, "test": 0},
        "seed": 7,
        "metrics": {"valid": {"accuracy": 0.1}},
    }
    assert contract.golden.contract_sha256 == contract.digest
    assert b"/home/somebody" not in files["int8"].read_bytes()


def test_an_exported_file_with_swapped_labels_is_refused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    model = onnx.load(files["int8"])
    (entry,) = (prop for prop in model.metadata_props if prop.key == METADATA_KEY)
    contract = json.loads(entry.value)
    contract["labels"][:2] = reversed(contract["labels"][:2])
    entry.value = json.dumps(contract)
    swapped = tmp_path / "swapped.onnx"
    onnx.save(model, swapped)
    with pytest.raises(ModelError, match="has labels or settings that were changed after it was"):
        Classifier.load(swapped)


def test_an_exported_file_loads_where_no_framework_is_installed(files: dict[str, Path]) -> None:
    program = (
        "import sys\n"
        "for name in ('tensorflow', 'keras', 'onnx', 'tf2onnx', 'torch'):\n"
        "    sys.modules[name] = None  # importing it raises ImportError\n"
        "from pathlib import Path\n"
        "from streamer.core.model import Classifier\n"
        "print(Classifier.load(Path(sys.argv[1])).contract.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, files["int8"]], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "tiny\n", "")


def test_the_permissions_of_a_file_follow_the_umask(files: dict[str, Path]) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(files["int8"].stat().st_mode) == 0o666 & ~umask


def test_the_file_that_a_link_leads_to_is_replaced(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    file, link = tmp_path / "models" / "new.onnx", tmp_path / "model.onnx"
    file.write_bytes(b"the old one")
    link.symlink_to(file)
    export(ExportSettings(read_source(tiny_run), link), silent)
    assert link.is_symlink()
    assert Classifier.load(file).contract.name == "tiny"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model.onnx", "models", "new.onnx"]


def test_verify_compares_the_file_with_keras_on_unseen_tracks(
    tiny_run: Path, pictures: Path, tmp_path: Path
) -> None:
    split = {**support.run.RUN["split"], "train": ["blues.00000", "rock.00004"]}
    images = keras.saving.load_model(tiny_run / "model.keras")
    run = support.run.write_run(tmp_path / "run", images, split=split)
    lines: list[str] = []
    export(
        ExportSettings(read_source(run), tmp_path / "a.onnx", verify=pictures, min_agreement=0.8),
        lines.append,
    )
    start = lines.index("Comparing on 24 windows of 8 tracks in " + str(pictures))
    head, *rows = [line.split() for line in lines[start + 1].splitlines()]
    assert head[0] == "weights"
    assert [row[0] for row in rows] == ["float32", "int8"]
    assert rows[0][5] == "100.00%"
    assert float(rows[0][6]) < 1e-4
    assert rows[0][8].endswith("%")


def test_verify_reports_if_there_are_only_training_tracks(
    tiny_run: Path, pictures: Path, tmp_path: Path
) -> None:
    names = [track.track for track in read_windows(pictures, read_source(tiny_run).contract)]
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    support.run.write_run_file(run, split={**support.run.RUN["split"], "train": names})
    lines: list[str] = []
    export(
        ExportSettings(read_source(run), tmp_path / "a.onnx", verify=pictures, min_agreement=0.8),
        lines.append,
    )
    assert f"Comparing on 30 windows of 10 tracks in {pictures}, all of them trained on" in lines


def test_training_tracks_of_any_names_are_left_out(
    tiny_run: Path, pictures: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(pictures, own)
    for number, path in enumerate(sorted(own.glob("rock/*.png"))):
        path.rename(path.with_name(f"song {number}.png"))
    names = [track.name for track in find_tracks(own)[0]]
    contract = read_source(tiny_run).contract
    assert [track.track for track in read_windows(own, contract)] == names
    assert names[4:6] == ["blues.00004", "rock/song 0"]

    split = {**support.run.RUN["split"], "train": names[2:8]}
    run = support.run.write_run_file(tmp_path / "run", split=split, learnt_before=names[:2])
    (run / "model.keras").touch()
    remaining = read_windows(own, contract, leave_out=read_source(run).run.trained_tracks)
    assert [track.track for track in remaining] == names[8:]


def test_a_file_that_agrees_too_little_is_not_written(
    tiny_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(b"the old one")
    monkeypatch.setattr("export.exporter.to_int8", _negate_head)
    with pytest.raises(ExportError, match=r"^int8 keeps the top genre of only .* nothing was wri"):
        export(ExportSettings(read_source(tiny_run), out, verify=pictures), silent)
    assert out.read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def _negate_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with negated weights of the last layer."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.shape[-1:] == (len(support.run.LABELS),):
            tensor.CopyFrom(numpy_helper.from_array(-values, tensor.name))
    return model


def test_a_closed_standard_output_does_not_stop_the_export(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.onnx"
    for arguments in ([tiny_run, "--out", out], ["inspect", out]):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as stdout, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            assert main([str(argument) for argument in arguments]) == 0
    assert Classifier.load(out).contract.name == "tiny"


def test_a_network_that_predicts_nan_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    images = keras.saving.load_model(tiny_run / "model.keras")
    kernel, bias = images.layers[-1].get_weights()
    images.layers[-1].set_weights([kernel * np.nan, bias])
    run = support.run.write_run(tmp_path / "run", images)
    with pytest.raises(
        ExportError, match=r"^the network answers with NaN or infinity: train again"
    ):
        export(ExportSettings(read_source(run), tmp_path / "model.onnx"), silent)


def test_a_network_with_another_number_of_classes_is_refused(
    tiny_run: Path, tmp_path: Path
) -> None:
    images = keras.saving.load_model(tiny_run / "model.keras")
    run = support.run.write_run(tmp_path / "run", images, labels=["one", "two"])
    with pytest.raises(UserError, match=r"model\.keras has 10 classes and run\.json 2 labels"):
        export(ExportSettings(read_source(run), tmp_path / "model.onnx"), silent)


def _truncate(network: bytearray) -> None:
    del network[5000:]


def _flip_byte(network: bytearray) -> None:
    network[len(network) // 2] ^= 0xFF


def _change_compression_method(network: bytearray, method: int) -> None:
    """Replace the compression method in every header of the archive."""
    for signature, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        start = network.find(signature)
        while start >= 0:
            network[start + place : start + place + 2] = method.to_bytes(2, "little")
            start = network.find(signature, start + 1)


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip_byte,
        partial(_change_compression_method, method=zipfile.ZIP_DEFLATED),
        partial(_change_compression_method, method=99),
    ],
    ids=["truncated", "flipped byte", "known method", "unknown method"],
)
def test_a_damaged_keras_file_is_refused(
    tiny_run: Path, tmp_path: Path, damage: Callable[[bytearray], None]
) -> None:
    run = support.run.write_run_file(tmp_path / "run")
    network = bytearray((tiny_run / "model.keras").read_bytes())
    damage(network)
    (run / "model.keras").write_bytes(network)
    with pytest.raises(UserError, match=r"model\.keras is damaged \(.*\): train again"):
        export(ExportSettings(read_source(run), tmp_path / "model.onnx"), silent)


def test_windows_are_consecutive_and_relative_to_their_own_peak(
    tiny_run: Path, pictures: Path
) -> None:
    contract = read_source(tiny_run).contract
    tracks = read_windows(pictures, contract)
    assert [track.track for track in tracks[4:6]] == ["blues.00004", "rock.00000"]
    assert tracks[0].genre == "blues"
    assert tracks[0].spectrograms.shape == (3, 128, 65)
    assert tracks[0].spectrograms.dtype == np.float32
    assert (tracks[0].spectrograms.max(axis=(1, 2)) == 0).all()
    assert tracks[0].spectrograms.min() >= -80


def _empty(folder: Path) -> str:
    (folder / "spectrogram.json").write_text(json.dumps(support.run.RUN["spec"]))
    return r"holds no picture of 39 columns or more at GENRE/TRACK\.png: make pictures with"


def _no_grid(_folder: Path) -> str:
    return r"is not a folder of spectrogram pictures: spectrogram\.json cannot be read \(No such"


def _other_grid(folder: Path) -> str:
    spec = {**support.run.RUN["spec"], "hop_length": 512}
    (folder / "spectrogram.json").write_text(json.dumps(spec))
    return r"^the pictures in .* are on another grid than the model: make them again with"


def _broken_grid(folder: Path) -> str:
    (folder / "spectrogram.json").write_text('{"sample_rate": 22050}')
    return r"spectrogram\.json is not a spectrogram specification: spectrogram lacks fmax, fmin"


def _text_as_picture(folder: Path) -> str:
    _empty(folder)
    (folder / "blues").mkdir()
    (folder / "blues" / "blues.png").write_text("no picture")
    return r"blues\.png cannot be read as a PNG picture: delete or replace it"


@pytest.mark.parametrize("prepare", [_empty, _no_grid, _other_grid, _broken_grid, _text_as_picture])
def test_folders_without_pictures_on_the_models_grid_are_refused(
    tiny_run: Path, tmp_path: Path, prepare: Callable[[Path], str]
) -> None:
    message = prepare(tmp_path)
    with pytest.raises(UserError, match=message):
        read_windows(tmp_path, read_source(tiny_run).contract)
