"""Averaging runs: the mean of their weights, and everything that must be known about it."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.pictures import write_pictures
from support.run import FACTS, tiny_network, write_run

from trainer.cli import main
from trainer.writing import replacing, write_json


def split(train: list[str], valid: list[str]) -> dict[str, Any]:
    return {**FACTS["split"], "notes": ["by ear"], "train": train, "valid": valid}


MADE: dict[str, Any] = {
    "split": split(["a", "b"], ["c", "d"]),
    "command": "genre-train fit",
    "train_seconds": 60.0,
    "background": {"train": ["rain"], "valid": ["dog", "wind"]},
}


def made_run(folder: Path, factor: float = 1.0, **facts: Any) -> Path:
    """Return a run whose weights are those of another one times a factor."""
    network = tiny_network()
    network.set_weights([factor * weights for weights in network.get_weights()])
    return write_run(folder, network, **{**MADE, **facts})


def test_an_average_has_the_mean_of_the_weights_and_a_run_named_twice_counts_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.network import load_image_network

    one, four = made_run(tmp_path / "one"), made_run(tmp_path / "four", 4.0)
    out = tmp_path / "mean"
    assert main(["average", str(one), str(one), str(four), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"average of 3 runs: {out}\n"
    before, after = (load_image_network(folder)[0].get_weights() for folder in (one, out))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, 2 * old, rtol=1e-6)


def test_an_average_is_a_run_that_can_be_judged_and_says_what_it_was_made_of(
    tmp_path: Path,
) -> None:
    from trainer.loading import RunClassifier

    runs = [made_run(tmp_path / "one"), made_run(tmp_path / "two", 1.1)]
    out = tmp_path / "mean"
    assert main(["average", *map(str, [*runs, runs[0]]), "--out", str(out)]) == 0
    candidate = RunClassifier(out)
    window = np.zeros((1, 128, 65), np.float32)
    assert candidate.predict(window).sum() == pytest.approx(1, abs=1e-5)
    facts = json.loads((out / "run.json").read_text())
    assert facts["averaged"] == [
        {"run": str(run), "command": "genre-train fit"} for run in [*runs, runs[0]]
    ]
    # Nothing of this was found for the average.
    assert (facts["temperature"], facts["decision"], facts["metrics"]) == (1.0, {}, {})
    assert facts["train_seconds"] == 120
    assert facts["finished"]


def test_what_one_of_the_runs_has_learnt_is_not_held_back_from_the_average(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one")
    heard = {"train": ["dog", "rain"], "valid": ["wind", "voice"]}
    two = made_run(
        tmp_path / "two", split=split(["c"], ["a"]), background=heard, learnt_before=["z"]
    )
    out = tmp_path / "mean"
    assert main(["average", str(one), str(two), "--out", str(out)]) == 0
    facts = json.loads((out / "run.json").read_text())
    assert facts["split"]["valid"] == ["c", "d"]
    assert facts["learnt_before"] == ["a", "b", "c", "z"]
    assert facts["background"] == {"train": ["dog", "rain"], "valid": ["voice", "wind"]}
    assert facts["split"]["notes"] == [
        "by ear",
        "1 of the 2 valid and test tracks were trained on in one of the runs of this average: "
        "expect less on unknown music",
    ]


def test_runs_that_cannot_be_averaged_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = made_run(tmp_path / "one")
    other = made_run(tmp_path / "other", window_frames=129)
    for runs, sentence in (
        ([one], f"an average needs two runs or more, not only {one}"),
        (
            [one, other],
            f"{other} and {one} differ in window_frames (129 and 65): only networks of one kind "
            "can be averaged",
        ),
        ([one, tmp_path / "none"], f"{tmp_path}/none is no run: it has no readable run.json"),
    ):
        assert main(["average", *map(str, runs), "--out", str(tmp_path / "mean")]) == 2
        assert capsys.readouterr().err == f"genre-train: {sentence}\n"
    assert not (tmp_path / "mean").exists()
    assert main(["average", str(one), str(one), "--out", str(one)]) == 2
    assert "already holds a run; choose another folder" in capsys.readouterr().err


def test_a_damaged_network_is_one_line_that_says_what_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(tmp_path / "run")
    path = run / "model.keras"
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        foreign = {name: archive.read(name) for name in archive.namelist()}
    foreign["config.json"] = foreign["config.json"].replace(b"Conv2D", b"Conv9D")
    middle = len(whole) // 2
    wrong = bytes(byte ^ 0xFF for byte in whole[middle : middle + 8])
    flipped = whole[:middle] + wrong + whole[middle + 8 :]
    for content in (b"", whole[:middle], flipped, archived(foreign)):
        path.write_bytes(content)
        assert main(["average", str(run), str(run), "--out", str(tmp_path / "mean")]) == 2
        assert capsys.readouterr().err == (
            f"genre-train: {path}: damaged or not made by genre-train: restore it from a copy, or "
            "train again\n"
        )


def archived(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in files.items():
            archive.writestr(name, part)
    return content.getvalue()


@pytest.mark.parametrize("content", ["{}", "[1]", '{"labels": 3}'])
@pytest.mark.parametrize("command", ["average", "evaluate", "report", "fit"])
def test_facts_that_are_not_those_of_a_run_are_one_line(
    content: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", str(tmp_path / "out")
    run.mkdir()
    (run / "run.json").write_text(content)
    options = {
        "average": [str(run), str(run), "--out", out],
        "evaluate": [str(run)],
        "report": [str(run)],
        "fit": ["--data", str(write_pictures(tmp_path / "data")), "--out", out],
    }
    if command == "fit":
        options[command] += ["--weights", str(run)]
    assert main([command, *options[command]]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"genre-train: {run}/run.json lacks labels, spec, window_frames, ")
    assert last.endswith(": restore it from a copy, or train again")


def test_an_average_has_nothing_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, out = made_run(tmp_path / "one"), tmp_path / "mean"
    assert main(["average", str(one), str(one), "--out", str(out)]) == 0
    before = (out / "run.json").read_bytes()
    capsys.readouterr()
    assert main(["fit", "--resume", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"genre-train: --resume {out}: an average has no epochs to continue; start a run from it "
        f"with --weights {out}\n"
    )
    assert (out / "run.json").read_bytes() == before


def test_a_file_for_which_there_is_no_room_is_not_begun_and_the_one_before_stays(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.keras"
    path.write_text("before")
    free = shutil.disk_usage(tmp_path).free
    with (
        pytest.raises(
            OSError, match=r"model.keras: .* MB are needed and .* MB are free: make room"
        ),
        replacing(path, 2 * free),
    ):
        pytest.fail("it was begun")
    assert path.read_text() == "before"


@contextlib.contextmanager
def files_of_a_kilobyte() -> Iterator[None]:
    """Let no file grow further, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_cannot_be_written_whole_leaves_what_was_there_before(tmp_path: Path) -> None:
    from trainer.network import save_image_network

    network = tiny_network()
    for name, write in (
        ("model.keras", lambda: save_image_network(network, tmp_path)),
        ("metrics.json", lambda: write_json(tmp_path / "metrics.json", list(range(1000)))),
    ):
        (tmp_path / name).write_text("before")
        with (
            pytest.raises(OSError, match=r"cannot be written \(.*\); .* is kept$") as caught,
            files_of_a_kilobyte(),
        ):
            write()
        assert "\n" not in str(caught.value)
        assert (tmp_path / name).read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", "metrics.json"}
