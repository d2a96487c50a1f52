"""Trainings on several devices, of one machine and of several, which give the same curve."""

from __future__ import annotations

import csv
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.backbone import small_backbone
from support.pictures import write_pictures
from support.radio import free_port
from support.run import LONGEST_TRAINING_SECONDS

from streamer.system.commandline import UserError
from trainer.cli import main
from trainer.fit_settings import Group

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


def arguments(data: Path, out: Path, *others: object) -> list[str]:
    options = "--split stratified --weights none --epochs 2 --head-epochs 0 --batch 4 --seed 7"
    size = "--input-scale 2 --window-seconds 3 --windows-per-song 1 --keep last"
    words = [*options.split(), *size.split(), *map(str, others)]
    return ["fit", "--data", str(data), "--out", str(out), *words]


PROGRAM = """
import sys
from support.backbone import small_backbone
from trainer.cli import main

with small_backbone():
    sys.exit(any(main(words.split("\\n")) for words in sys.argv[1:]))
"""


def start(*trainings: list[str], devices: int = 1) -> subprocess.Popen[str]:
    """Start trainings with a small network on JAX, which takes the processor for devices."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed (extra jax)")
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map("\n".join, trainings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            # Compiling takes longer than the training.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": os.pathsep.join(("tests", *filter(None, sys.path))),
        },
    )


def group_of_two(words: list[str]) -> list[subprocess.Popen[str]]:
    """Start the two processes of a group."""
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2"]
    return [start([*words, *where, "--process", str(number)]) for number in range(2)]


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit status of a training and what it has printed."""
    _, text = process.communicate(timeout=LONGEST_TRAINING_SECONDS)
    assert "Traceback" not in text
    return process.returncode, text


def curve(out: Path) -> list[list[float]]:
    with (out / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("loss", "accuracy", "valid_nll", "valid_accuracy")
    return [[float(row[name]) for name in names] for row in rows]


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Return runs by one device and by two, which one process has trained, and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    one, two = folder / "one", folder / "two"
    by_one, by_two = arguments(data, one), arguments(data, two, "--devices", "all")
    status, text = end(start(by_one, by_two, devices=2))
    assert status == 0, text
    return one, two, text


def test_several_devices_give_the_curve_of_one(runs: tuple[Path, Path, str]) -> None:
    one, two, text = runs
    openings = [line for line in text.splitlines() if " on jax" in line]
    assert [", 2 devices" in line for line in openings] == [False, True]
    assert len(curve(one)) == 2
    np.testing.assert_allclose(curve(two), curve(one), rtol=1e-3)


def test_several_processes_give_the_curve_of_one_and_the_first_writes_it(
    data: Path, runs: tuple[Path, Path, str], tmp_path: Path
) -> None:
    first, second = map(end, group_of_two(arguments(data, tmp_path / "run")))
    assert (first[0], second[0]) == (0, 0), first[1] + second[1]
    assert ", 2 devices" in first[1]
    assert "epoch 2/2  loss" in first[1]
    assert "loss" not in second[1]
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(runs[0]), rtol=1e-3)
    assert (tmp_path / "run" / "model.keras").is_file()


def test_several_devices_need_jax(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_backbone():
        assert main(arguments(data, tmp_path / "run", "--devices", "all")) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "genre-train: --devices all needs Keras on JAX, not on tensorflow: pip install "
        "'genre-stream[jax]', and set KERAS_BACKEND=jax"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--coordinator", "one:5000"],
            "--processes and --process missing: several machines need --coordinator HOST:PORT, "
            "--processes N and --process I",
        ),
        (
            ["--coordinator", "one", "--processes", "2", "--process", "0"],
            "--coordinator one: should be HOST:PORT",
        ),
        (
            ["--coordinator", "one:5000", "--processes", "2", "--process", "2"],
            "--process 2: 2 processes have the numbers 0 to 1",
        ),
    ],
)
def test_a_group_that_is_described_wrongly_is_refused(
    given: list[str],
    message: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments(data, tmp_path / "run", *given)) == 2
    assert capsys.readouterr().err == f"genre-train: {message}\n"


def test_a_run_of_several_machines_needs_a_name(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--coordinator", "one:5000", "--processes", "2", "--process", "1"]
    assert main(["fit", "--data", str(data), *where]) == 2
    assert capsys.readouterr().err == (
        "genre-train: --out is missing: on several machines a run needs one name\n"
    )


def test_a_coordinator_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.fit import group

    monkeypatch.setattr(group, "MEETING_SECONDS", 0.0)
    advice = "give the address of the machine that runs --process 0, and a port that is free there"
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError) as error:
            group.join(Group(taken, 2, 0), "")
        assert str(error.value) == f"--coordinator {taken}: Address already in use; {advice}"
    closed = f"127.0.0.1:{free_port()}"
    with pytest.raises(UserError) as error:
        group.join(Group(closed, 2, 1), "")
    assert str(error.value) == f"--coordinator {closed}: Connection refused; {advice}"
