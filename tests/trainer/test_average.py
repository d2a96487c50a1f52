"""Averaging runs, the mean of their weights, and what becomes of a run.json."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.disk import files_of_at_most_a_kilobyte
from support.pictures import write_pictures
from support.run import RUN, tiny_network, write_run, write_run_file

from trainer.cli import main
from trainer.run import update_run


def split(train: list[str], valid: list[str]) -> dict[str, Any]:
    return {**RUN["split"], "notes": ["by ear"], "train": train, "valid": valid}


MADE: dict[str, Any] = {
    "split": split(["a", "b"], ["c", "d"]),
    "command": "genre-train fit",
    "train_seconds": 60.0,
    "background": {"train": ["rain"], "valid": ["dog", "wind"]},
}


def made_run(folder: Path, factor: float = 1.0, **changes: Any) -> Path:
    """Write a run whose weights are those of `tiny_network` times a factor."""
    network = tiny_network()
    network.set_weights([factor * weights for weights in network.get_weights()])
    return write_run(folder, network, **{**MADE, **changes})


def test_an_average_has_the_mean_weights_and_counts_repeated_runs_twice(
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


def test_an_average_is_a_run_that_records_its_sources(
    tmp_path: Path,
) -> None:
    from trainer.loading import RunClassifier

    runs = [made_run(tmp_path / "one"), made_run(tmp_path / "two", 1.1)]
    out = tmp_path / "mean"
    assert main(["average", *map(str, [*runs, runs[0]]), "--out", str(out)]) == 0
    candidate = RunClassifier(out)
    window = np.zeros((1, 128, 65), np.float32)
    assert candidate.predict(window).sum() == pytest.approx(1, abs=1e-5)
    content = json.loads((out / "run.json").read_text())
    assert content["averaged"] == [
        {"run": str(run), "command": "genre-train fit"} for run in [*runs, runs[0]]
    ]
    # Results of its sources are not results of the average.
    assert (content["temperature"], content["decision"], content["metrics"]) == (1.0, {}, {})
    assert content["train_seconds"] == 120
    assert content["finished"]


def test_tracks_that_any_source_was_trained_on_are_not_held_back(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one")
    background = {"train": ["dog", "rain"], "valid": ["wind", "voice"]}
    two = made_run(
        tmp_path / "two", split=split(["c"], ["a"]), background=background, learnt_before=["z"]
    )
    out = tmp_path / "mean"
    assert main(["average", str(one), str(two), "--out", str(out)]) == 0
    content = json.loads((out / "run.json").read_text())
    assert content["split"]["valid"] == ["c", "d"]
    assert content["learnt_before"] == ["a", "b", "c", "z"]
    assert content["background"] == {"train": ["dog", "rain"], "valid": ["voice", "wind"]}
    assert content["split"]["notes"] == [
        "by ear",
        "1 of the 2 valid and test tracks were trained on in one of the runs of this average: "
        "expect less on unknown music",
    ]


def test_unknown_keys_of_run_json_survive_an_update(tmp_path: Path) -> None:
    settings = {**RUN["settings"], "later": 1}
    write_run_file(tmp_path, later={"a": [1]}, settings=settings)
    update_run(tmp_path, {"test": 0.5}, decision={"hold": 2})
    content = json.loads((tmp_path / "run.json").read_text())
    assert (content["later"], content["settings"]["later"]) == ({"a": [1]}, 1)
    assert content["decision"] == {"hold": 2}
    assert content["metrics"] == {**RUN["metrics"], "test": 0.5}


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
        (
            [one, tmp_path / "none"],
            f"{tmp_path}/none is not a training run: run.json cannot be read (No such file or "
            "directory)",
        ),
    ):
        assert main(["average", *map(str, runs), "--out", str(tmp_path / "mean")]) == 2
        assert capsys.readouterr().err == f"genre-train: {sentence}\n"
    assert not (tmp_path / "mean").exists()
    assert main(["average", str(one), str(one), "--out", str(one)]) == 2
    assert "already holds a run; choose another folder" in capsys.readouterr().err


def test_a_damaged_network_is_one_line_with_a_remedy(
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


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{}", " lacks labels, not_music, spec, window_frames, "),
        ("[1]", " does not describe a training run"),
        ('{"labels": 3}', " lacks not_music, spec, window_frames, "),
        ("nonsense", " is not JSON: restore it from a copy, or train again"),
    ],
)
@pytest.mark.parametrize("command", ["average", "evaluate", "report", "fit"])
def test_a_file_that_is_not_the_run_json_of_a_run_is_one_line(
    content: str, problem: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    assert last.startswith(f"genre-train: {run}/run.json{problem}")


def test_an_average_cannot_be_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_network_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path: Path) -> None:
    from trainer.network import save_image_network

    (tmp_path / "model.keras").write_text("before")
    with (
        pytest.raises(OSError, match=r"cannot be written \(.*\); .* is kept$") as caught,
        files_of_at_most_a_kilobyte(),
    ):
        save_image_network(tiny_network(), tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "model.keras").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
