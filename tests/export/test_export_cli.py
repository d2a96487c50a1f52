"""genre-export: one line for each wrong use, and the contents of a file."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import support.run
from support.model import make_model

from export.cli import main
from export.inspection import describe
from streamer.core.model import Classifier


def run_failing(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run genre-export; return its exit status and its only line on standard error."""
    status = main([str(argument) for argument in arguments])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("genre-export: ")
    return status, lines[0].removeprefix("genre-export: ")


def fake_run(folder: Path, **changes: Any) -> Path:
    """Write a run with an empty network file, without the fields that are "left out"."""
    folder.mkdir()
    fields = {**support.run.RUN, **changes}
    kept = {name: value for name, value in fields.items() if value != "left out"}
    (folder / "run.json").write_text(json.dumps(kept))
    (folder / "model.keras").touch()
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN, --out; see genre-export --help"),
        (
            ["run", "--out", "x.onnx", "--fast"],
            "unrecognized arguments: --fast; see genre-export --help",
        ),
        (
            ["run", "--out", "x.onnx", "--weights", "int4"],
            "argument --weights: invalid choice: 'int4' (choose from 'float32', 'float16', "
            "'int8'); see genre-export --help",
        ),
        (
            ["run", "--out", "x.onnx", "--min-agreement", "lots"],
            "argument --min-agreement: 'lots' is not a number from 0 to 100; see genre-export "
            "--help",
        ),
        (
            ["run", "--out", "x.onnx", "--quantize", "pictures", "--weights", "int8"],
            "--quantize stores int8 weights: leave --weights out",
        ),
        (
            ["inspect"],
            "the following arguments are required: FILE; see genre-export inspect --help",
        ),
    ],
)
def test_wrong_usage_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run_failing(capsys, *arguments) == (2, message)


def test_a_folder_that_is_not_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.onnx"
    assert run_failing(capsys, tmp_path / "none", "--out", out) == (
        2,
        f"{tmp_path / 'none'} is not a training run: run.json cannot be read (No such file or "
        "directory)",
    )
    assert run_failing(capsys, tmp_path, "--out", out) == (
        2,
        f"{tmp_path} is not a training run: run.json cannot be read (No such file or directory)",
    )
    (tmp_path / "run.json").write_text("{")
    assert run_failing(capsys, tmp_path, "--out", out) == (
        2,
        f"{tmp_path / 'run.json'} is not JSON: restore it from a copy, or train again",
    )
    (tmp_path / "run.json").write_text("[]")
    assert run_failing(capsys, tmp_path, "--out", out) == (
        2,
        f"{tmp_path / 'run.json'} does not describe a training run",
    )
    (tmp_path / "run.json").write_text(json.dumps(support.run.RUN))
    assert run_failing(capsys, tmp_path, "--out", out) == (
        2,
        f"run {tmp_path} has no model.keras yet: finish the run with --resume",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": "left out"}, " lacks temperature: restore it from a copy, or train again"),
        (
            {"labels": "left out", "seed": "left out"},
            " lacks labels, seed: restore it from a copy, or train again",
        ),
        (
            {"temperature": float("nan")},
            ": temperature must be a valid number, not None: restore it from a copy, ",
        ),
        ({"labels": 3}, ": labels must be a list, not 3: restore it from a copy, or train again"),
        (
            {"labels": ["rock", "rock"]},
            ": labels must be a list of two or more different names, not ['rock', 'rock']",
        ),
        ({"temperature": 1000}, ": temperature must be less than or equal to 100, not 1000.0"),
        (
            {"window_frames": "x"},
            ": window_frames must be a valid integer, unable to parse string as an integer, not ",
        ),
        ({"spec": {}}, ": spectrogram lacks fmax, fmin, hop_length, n_fft, n_mels, sample_rate, "),
        ({"input_scale": 0}, ": input_scale must be greater than 0, not 0"),
        (
            {"split": {"train": []}},
            " lacks split.name, split.protocol, split.notes, split.missing, ",
        ),
        (
            {"split": {**support.run.RUN["split"], "train": None}},
            ": split.train must be a list, not None",
        ),
        (
            {"split": {**support.run.RUN["split"], "train": [["a"]]}},
            ": split.train.0 must be a valid string, not ['a']",
        ),
        ({"learnt_before": "a"}, ": learnt_before must be a list, not 'a'"),
    ],
)
def test_a_wrong_field_of_a_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    run = fake_run(tmp_path / "run", **changes)
    status, line = run_failing(capsys, run, "--out", tmp_path / "model.onnx")
    assert status == 2
    assert line.startswith(f"{run / 'run.json'}{message}")


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fake_run(tmp_path / "run")
    file = tmp_path / "file"
    file.touch()
    for out, message in (
        (tmp_path, f"--out {tmp_path} is a folder: name a file in it"),
        (file / "a.onnx", f"--out {file / 'a.onnx'} cannot be written (Not a directory): name an"),
        (tmp_path / "no" / "a.onnx", f"--out {tmp_path / 'no' / 'a.onnx'} cannot be written (No "),
        (Path("/proc/a.onnx"), "--out /proc/a.onnx cannot be written ("),
    ):
        status, line = run_failing(capsys, run, "--out", out)
        assert status == 2
        assert line.startswith(message)


def test_a_pipe_is_refused_as_output_and_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fake_run(tmp_path / "run")
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for out in (pipe, link):
        assert run_failing(capsys, run, "--out", out) == (
            2,
            f"--out {out} is not a regular file: name another file",
        )
    assert pipe.is_fifo()
    assert link.is_symlink()


def test_a_name_longer_than_the_disk_allows_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fake_run(tmp_path / "run")
    long = tmp_path / ("a" * 256)
    assert run_failing(capsys, run, "--out", long) == (
        2,
        f"--out {long} cannot be written (File name too long): name another file",
    )
    assert run_failing(capsys, long, "--out", tmp_path / "model.onnx") == (
        2,
        f"{long} is not a training run: run.json cannot be read (File name too long)",
    )
    assert run_failing(capsys, "inspect", long) == (
        2,
        f"model {long} cannot be read (File name too long): check the path and its permissions",
    )


def test_names_that_are_not_utf_8_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(b"caf\xe9")
    out = ["--out", tmp_path / "model.onnx"]
    run = fake_run(tmp_path / "run")
    message = r"'caf\udce9' is not UTF-8: "
    assert run_failing(capsys, run, *out, "--name", name) == (2, message + "give another name")
    assert run_failing(capsys, "inspect", name) == (2, message + "give another name")
    unnamed = fake_run(tmp_path / name)
    monkeypatch.chdir(unnamed)
    assert run_failing(capsys, ".", *out) == (2, message + "give a --name")
    strange = fake_run(tmp_path / "strange", settings={"data": f"/music/{name}", "out": "runs"})
    assert run_failing(capsys, strange, *out) == (2, message + "give a --dataset")


def test_a_missing_package_is_named_with_the_extra_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in ("export.exporter", "export.compress"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    run = fake_run(tmp_path / "run")
    status, line = run_failing(capsys, run, "--out", tmp_path / "model.onnx")
    assert (status, line) == (2, "onnx is not installed: pip install 'genre-stream[export]'")


def test_inspect_prints_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_model(tmp_path / "thirds.onnx", noise=True, decision={"smoothing": "ema"})
    assert main(["inspect", str(path)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    topics = dict(line.split(maxsplit=1) for line in output.out.splitlines())
    assert topics["Model"] == "thirds 1 (contract 1)"
    assert topics["File"].startswith(f"{path}, ")
    assert topics["Labels"] == "low, middle, high, noise"
    assert topics["Not"] == "music    noise"
    assert topics["Spectrogram"] == (
        "128 mel bands from 0 to 11025 Hz, 2048 samples a frame, a column every 1711 samples "
        "(77.6 ms), 80 dB below the loudest cell"
    )
    assert topics["Window"] == "65 columns (5.04 s), at least 39 (3.03 s)"
    assert topics["Decision"] == "smoothing ema"


def test_inspect_rounds_the_numbers_of_an_interval(tmp_path: Path) -> None:
    path = make_model(tmp_path / "thirds.onnx")
    contract = Classifier.load(path).contract
    metrics = {"valid": {"accuracy": 0.7157360406, "interval": [0.6497461929, 0.7766497462]}}
    judged = dataclasses.replace(contract, training={**contract.training, "metrics": metrics})
    topics = dict(line.split(maxsplit=1) for line in describe(path, judged).splitlines())
    assert topics["Metrics"] == "valid.accuracy 0.7157, valid.interval [0.6497, 0.7766]"


def test_a_full_disk_under_standard_output_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model(tmp_path / "thirds.onnx")
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run_failing(capsys, "inspect", path) == (
            1,
            "cannot write the output: No space left on device",
        )


def test_inspect_refuses_a_file_that_the_daemon_would_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    assert run_failing(capsys, "inspect", path) == (
        2,
        f"model {path} is an empty file: copy or export it again",
    )
