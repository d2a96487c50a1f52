"""Training: reproducible, resumable, on every backend."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.backbone import small_backbone
from support.daemon import REPOSITORY
from support.pictures import write_pictures
from support.run import LONGEST_TRAINING_SECONDS

from streamer.system.files import write_json
from trainer.fit_settings import FitSettings

TRAIN = [sys.executable, "-m", "trainer.cli"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


def fit_command(data: Path, out: Path) -> list[str]:
    """Return the command of a short training: small images, one head epoch and two others."""
    options = "--split stratified --weights none --epochs 2 --head-epochs 1 --batch 4 --seed 7 "
    options += "--tensorboard --keep last"
    size = "--input-scale 2 --window-seconds 3 --windows-per-song 1"
    return [*TRAIN, "fit", "--data", str(data), "--out", str(out), *options.split(), *size.split()]


def fit_here(command: list[str]) -> int:
    """Run a command in this process, where TensorFlow is already loaded."""
    from trainer.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["genre-train", *command[len(TRAIN) :]])
        return main(sys.argv[1:])


def fit_small(command: list[str]) -> int:
    """Run a training in this process with the small backbone."""
    with small_backbone():
        return fit_here(command)


def history(out: Path) -> list[dict[str, str]]:
    with (out / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def start_and_signal_after_an_epoch(command: list[str], out: Path, number: int) -> int:
    """Start a small training, send it a signal after its first checkpoint; return its status."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.backbone", *command[len(TRAIN) :]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"},
    )
    deadline = time.monotonic() + LONGEST_TRAINING_SECONDS
    while not (out / "checkpoints" / "state.json").exists():
        assert process.poll() is None, process.stdout and process.stdout.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=LONGEST_TRAINING_SECONDS)
    assert b"Traceback" not in output, output.decode()
    return process.returncode


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert fit_small(fit_command(data, out)) == 0
    return out


@pytest.fixture(scope="module")
def head(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of head epochs without progress, ended by --patience."""
    out = tmp_path_factory.mktemp("runs") / "head"
    options = "--epochs 0 --head-epochs 9 --keep best --patience 1 --head-learning-rate 0"
    assert fit_small([*fit_command(data, out), *options.split(), "--averaging", "0"]) == 0
    return out


@pytest.fixture(scope="module")
def continued(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same run as `whole`, killed after its first epoch and continued."""
    out = tmp_path_factory.mktemp("runs") / "continued"
    command = fit_command(data, out)
    assert start_and_signal_after_an_epoch(command, out, signal.SIGKILL) == -signal.SIGKILL
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as stream:
        patch.setattr(sys, "stderr", stream)
        assert fit_small([*TRAIN, "fit", "--resume", str(out)]) == 0
        assert "continuing after " in stream.getvalue()
    return out


def test_run_json_records_how_a_run_was_made(whole: Path) -> None:
    content = json.loads((whole / "run.json").read_text())
    assert content["labels"] == ["rows", "steps"]
    assert content["finished"]
    assert content["seed"] == 7
    assert {"keras", "tensorflow", "numpy", "python"} <= set(content["versions"])
    assert "fit --data" in content["command"]
    split = content["split"]
    names = [set(split[name]) for name in ("train", "valid", "test")]
    assert sum(map(len, names)) == len(set.union(*names)) == 12
    assert [row["phase"] for row in history(whole)] == ["head", "whole", "whole"]
    assert (whole / "model.keras").is_file()
    assert content["metrics"]["fit"]["epoch"] == 3, "--keep last"


def test_background_sounds_count_as_one_more_genre_in_choosing_the_best_epoch() -> None:
    from trainer.fit.validation import Validation

    accurate = Validation(accuracy=0.701, nll=0.98, not_music=0.924)
    balanced = Validation(accuracy=0.695, nll=1.0, not_music=0.99)
    assert balanced.better_than(accurate, genres=10)
    assert not accurate.better_than(balanced, genres=10)
    # Among many genres, one counts less.
    assert accurate.better_than(balanced, genres=50)
    assert balanced.better_than(None, genres=10)
    # Equal accuracy: the higher likelihood. No background: the accuracy of the songs alone.
    assert Validation(0.7, 0.9, 0.9).better_than(Validation(0.7, 1.0, 0.9), genres=10)
    assert Validation(0.7, 1.0, None).better_than(Validation(0.69, 0.9, None), genres=10)


def test_patience_counts_from_the_first_epoch_of_the_whole_network() -> None:
    from trainer.fit.checkpoints import Progress
    from trainer.fit_settings import FitSettings

    settings = FitSettings(Path("data"), Path("out"), head_epochs=3, epochs=9, patience=2)
    for epoch, best_epoch, ended in ((3, 0, False), (4, 4, False), (5, 4, False), (6, 4, True)):
        progress = Progress(epoch=epoch, best_epoch=best_epoch)
        assert (progress.out_of_patience(settings), progress.finished(settings)) == (ended, ended)
    assert Progress(epoch=12, best_epoch=11).finished(settings)
    assert not Progress(epoch=11, best_epoch=11).finished(settings)


def test_a_run_of_head_epochs_alone_keeps_its_best_network(head: Path) -> None:
    assert (head / "model.keras").is_file()
    assert [row["phase"] for row in history(head)] == ["head", "head"]
    content = json.loads((head / "run.json").read_text())
    assert (content["finished"], content["metrics"]["fit"]["epoch"]) == (True, 1)


def test_a_run_that_patience_has_ended_is_not_continued(head: Path, tmp_path: Path) -> None:
    out = shutil.copytree(head, tmp_path / "run")
    assert fit_small([*TRAIN, "fit", "--resume", str(out)]) == 0
    assert len(history(out)) == 2


@pytest.mark.parametrize("name", ["state.json", "epoch-0002.weights.h5"])
def test_a_damaged_checkpoint_is_one_line_that_names_it(
    name: str, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(head, tmp_path / "run")
    path = out / "checkpoints" / name
    path.write_bytes(path.read_bytes()[:50])
    assert fit_small([*TRAIN, "fit", "--resume", str(out)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"genre-train: {path}: damaged: restore it from a copy, or start a new run"
    )


def test_a_training_that_diverges_stops_and_keeps_its_last_good_state(
    head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(head, tmp_path / "run")
    content = json.loads((out / "run.json").read_text())
    content["settings"] |= {"patience": 0, "head_learning_rate": 1e30}
    write_json(out / "run.json", content)
    before = (out / "model.keras").read_bytes(), (out / "checkpoints/state.json").read_bytes()
    assert fit_small([*TRAIN, "fit", "--resume", str(out)]) == 2
    assert re.fullmatch(
        r"genre-train: the (validation )?loss of head 3/9 is (nan|inf): the training diverged; "
        r"start a new run with less than --head-learning-rate 1e\+30",
        capsys.readouterr().err.splitlines()[-1],
    )
    after = (out / "model.keras").read_bytes(), (out / "checkpoints/state.json").read_bytes()
    assert after == before


@pytest.fixture
def moved(data: Path, head: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return copies of the data and of the run `head`, to be changed."""
    pictures = shutil.copytree(data, tmp_path / "pictures")
    out = shutil.copytree(head, tmp_path / "run")
    content = json.loads((out / "run.json").read_text())
    content["settings"] |= {"data": str(pictures), "patience": 0, "head_epochs": 2}
    write_json(out / "run.json", content)
    return pictures, out


def test_a_continued_run_ignores_tracks_that_were_added_since(
    moved: tuple[Path, Path], tmp_path: Path
) -> None:
    pictures, out = moved
    before = json.loads((out / "run.json").read_text())
    for name in ("rows/rows.00000a", "steps/steps.00000a", "waves/waves.00000"):
        path = pictures / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(pictures / "rows" / "rows.00000.png", path)
    assert fit_small([*TRAIN, "fit", "--resume", str(out)]) == 0
    after = json.loads((out / "run.json").read_text())
    assert (after["split"], after["labels"]) == (before["split"], before["labels"])


def test_a_run_whose_tracks_are_gone_is_not_continued(
    moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, out = moved
    before = (out / "run.json").read_bytes()
    name = json.loads(before)["split"]["train"][0]
    (pictures / "rows" / f"{name}.png").unlink()
    assert fit_small([*TRAIN, "fit", "--resume", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"genre-train: 1 of the tracks that this run began with are not in {pictures} any more "
        f"({name}): put them back or start a new run\n"
    )
    assert (out / "run.json").read_bytes() == before


def test_averages_follow_a_training_of_few_steps(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = "--epochs 12 --head-epochs 0 --augment none --dropout 0 --learning-rate 1e-2"
    assert fit_small([*fit_command(data, out), *options.split()]) == 0
    last = history(out)[-1]
    assert float(last["accuracy"]) == 1
    # An average that had hardly left its start would be near log(2).
    assert float(last["valid_nll"]) < 0.3


@pytest.mark.parametrize(
    ("highest", "steps", "momentum"),
    [(0.99, 10_000, 0.99), (0.99, 100, 0.9), (0.99, 3, 0.5), (0.8, 100, 0.8), (0.0, 100, 0.0)],
)
def test_averages_reach_back_over_a_tenth_of_the_steps_at_most(
    highest: float, steps: int, momentum: float
) -> None:
    from trainer.fit.loop import averaging_momentum

    assert averaging_momentum(highest, steps) == pytest.approx(momentum)


@pytest.fixture(scope="module")
def printed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return what a training prints without a terminal, with every line of its progress."""
    out = tmp_path_factory.mktemp("runs") / "printed"
    command = [*fit_command(data, out), "--epochs", "2", "--head-epochs", "1"]
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as stream:
        patch.setattr(sys, "stderr", stream)
        patch.setattr("trainer.progress.LINE_SECONDS", 0.0)
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):  # rich would take it for a terminal
            patch.delenv(name, raising=False)
        assert fit_small(command) == 0
        return stream.getvalue().splitlines()


def test_epochs_are_counted_as_they_were_asked_for(printed: list[str]) -> None:
    lines = [line for line in printed if "accuracy" in line]
    assert [line.partition("  ")[0] for line in lines] == ["head 1/1", "epoch 1/2", "epoch 2/2"]
    assert all("(chance 50.0%)" in line for line in lines)
    # An epoch of the head does not tell how long one of the whole network takes.
    assert ["left" in line for line in lines] == [False, True, True]
    assert "  0 s left" in lines[-1]


def test_steps_and_validated_tracks_of_an_epoch_are_told_without_a_terminal(
    printed: list[str],
) -> None:
    own = [line for line in printed if line.startswith("epoch 2/2  ") and "accuracy" not in line]
    shapes = [re.sub(r"\d+\.\d+", "X", line) for line in own]
    assert shapes == [
        "epoch 2/2  loss X  step 1/2",
        "epoch 2/2  loss X  step 2/2",
        "epoch 2/2  validating  track 2/2",
        "epoch 2/2  saving 2/2",
    ]


def test_the_time_left_is_that_of_the_latest_epochs_of_the_same_phase() -> None:
    from trainer.fit.display import TimeLeft
    from trainer.progress import duration

    left = TimeLeft(FitSettings(Path("data"), Path("run"), head_epochs=1, epochs=5))
    left.add(0, 2)
    assert left.after(0) is None
    left.add(1, 100)
    assert left.after(1) == 400
    for epoch, seconds in ((2, 110), (3, 130)):
        left.add(epoch, seconds)
    assert left.after(3) == 220
    assert [duration(seconds) for seconds in (0, 89, 90, 3600)] == [
        "0 s",
        "89 s",
        "2 min",
        "60 min",
    ]


def test_a_small_set_is_told_of_the_shipped_network(data: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as stream:
        patch.setattr(sys, "stderr", stream)
        command = [*fit_command(data, tmp_path / "run"), "--epochs", "0", "--head-epochs", "0"]
        assert fit_small(command) == 0
        assert (
            "8 tracks are few: --weights gtzan --head-epochs 12 --epochs 0 starts"
            in stream.getvalue()
        )


def test_the_learning_rate_falls_along_a_cosine_to_a_hundredth(whole: Path) -> None:
    _, *of_whole = [float(row["learning_rate"]) for row in history(whole)]
    # The second of two steps in each of two epochs; four steps are too few for a warm-up.
    expected = [3e-4 * (0.01 + 0.99 * (1 + math.cos(math.pi * done / 4)) / 2) for done in (1, 3)]
    assert of_whole == pytest.approx(expected, rel=1e-4)


def test_tensorboard_reads_the_same_curves_as_the_history(whole: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(whole / "tensorboard"))
    board.Reload()
    for name in ("loss", "valid_accuracy", "learning_rate"):
        shown = [(event.step, event.tensor_proto.float_val[0]) for event in board.Tensors(name)]
        assert shown == [
            (int(row["epoch"]), pytest.approx(float(row[name]), rel=1e-4)) for row in history(whole)
        ]


def test_the_same_seed_gives_the_same_weights_even_across_an_interruption(
    whole: Path, continued: Path
) -> None:
    import keras

    for first, second in zip(history(whole), history(continued), strict=True):
        for measure in ("loss", "valid_accuracy", "valid_nll"):
            assert float(first[measure]) == pytest.approx(float(second[measure]), abs=1e-4)
    weights = [
        keras.saving.load_model(out / "model.keras", compile=False).get_weights()
        for out in (whole, continued)
    ]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("owner", "method"), [("History", "append"), ("Checkpoints", "save")])
def test_a_run_interrupted_between_two_files_has_each_epoch_once_when_continued(
    data: Path, tmp_path: Path, owner: str, method: str
) -> None:
    from trainer.fit import checkpoints

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(getattr(checkpoints, owner), method, interrupt)
        assert fit_small(fit_command(data, out)) == 1
    assert fit_small([*TRAIN, "fit", "--resume", str(out)]) == 0
    assert [row["epoch"] for row in history(out)] == ["1", "2", "3"]


def test_ctrl_c_leaves_a_run_that_can_be_continued(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # Head epochs are short, so that the signal comes in between.
    command = [*fit_command(data, out), "--head-epochs", "1000"]
    assert start_and_signal_after_an_epoch(command, out, signal.SIGINT) == 1
    state = json.loads((out / "checkpoints" / "state.json").read_text())
    assert (out / "checkpoints" / f"epoch-{state['epoch']:04d}.weights.h5").is_file()


def test_a_second_training_into_the_same_folder_is_refused(
    data: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit_here(fit_command(data, whole)) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"genre-train: .*already holds a run; .*--resume.*\n", error)


def test_patience_with_keep_last_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert fit_here([*fit_command(data, out), "--patience", "3"]) == 2
    assert capsys.readouterr().err == (
        "genre-train: --patience 3 stops after the best epoch and --keep last keeps the last: "
        "leave out one\n"
    )
    assert not out.exists()


def test_frozen_batch_norms_stay_unchanged_while_the_rest_is_trained(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    import keras

    from trainer.network import BACKBONE, load_image_network

    out = tmp_path / "run"
    options = ["--weights", str(whole), "--head-epochs", "0", "--epochs", "1"]
    assert fit_small([*fit_command(data, out), *options, "--freeze-batch-norms"]) == 0
    before, after = (load_image_network(folder)[0].get_layer(BACKBONE) for folder in (whole, out))
    for old, new in zip(before.layers, after.layers, strict=True):
        pairs = list(zip(old.get_weights(), new.get_weights(), strict=True))
        if isinstance(old, keras.layers.BatchNormalization):
            assert all(np.array_equal(*pair) for pair in pairs), old.name
        else:
            assert not any(np.array_equal(*pair) for pair in pairs), old.name


@pytest.mark.parametrize("share", ["0", "1"])
def test_a_background_share_of_nothing_or_everything_is_refused(
    share: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit_here([*fit_command(data, tmp_path / "run"), "--background-share", share]) == 2
    assert capsys.readouterr().err == (
        f"genre-train: --background-share {share}: must be above 0 and under 1\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_genre_called_not_music_is_music_without_a_background(tmp_path: Path) -> None:
    from trainer.fit.data import load_data
    from trainer.fit_settings import FitSettings

    pictures = write_pictures(tmp_path / "pictures", genres=("not_music", "rows"))
    settings = FitSettings(data=pictures, out=tmp_path / "run", split=("stratified",))
    loaded = load_data(settings, None)
    assert loaded.division.labels == ("not_music", "rows")
    assert loaded.not_music is None


def test_a_network_without_room_on_the_disk_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    from trainer.network import save_image_network

    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(OSError, match="make room and try again; a training goes on with --resume"):
        save_image_network(network, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_split_without_training_tracks_of_a_genre_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = sorted(folder.name for folder in data.iterdir() if folder.is_dir())
    names = [f"{genre}/{track.stem}" for genre in others for track in (data / genre).glob("*.png")]
    lists = [tmp_path / f"{part}.txt" for part in ("train", "valid", "test")]
    for path, part in zip(lists, (names[2:], names[:1], names[1:2]), strict=True):
        path.write_text("".join(f"{name}\n" for name in part))
    command = [*fit_command(data, tmp_path / "run"), "--split", *map(str, lists)]
    assert fit_here(command) == 2
    assert capsys.readouterr().err == (
        f"genre-train: {data}: the split lists leaves no track of {first} to train on; give "
        "another --split, or keep only the folders of genres to be learnt\n"
    )


def test_frozen_batch_norms_with_random_weights_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit_here([*fit_command(data, tmp_path / "run"), "--freeze-batch-norms"]) == 2
    assert capsys.readouterr().err == (
        "genre-train: --freeze-batch-norms keeps statistics that --weights none does not have: "
        "leave out one\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_failed_download_of_weights_names_the_file_to_copy(data: Path, tmp_path: Path) -> None:
    command = [*fit_command(data, tmp_path / "run"), "--weights", "imagenet"]
    # An empty home has no cached download, and the proxy does not exist.
    offline = {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path), "https_proxy": "http://[::1]:9"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **offline}
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5" in last
    assert "--weights PATH" in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--weights", "/nowhere.h5"], "no such file"),
        (["--weights", __file__], "not weights of InceptionV3"),
        (["--input-scale", "1"], "InceptionV3 needs 75 x 75"),
    ],
)
def test_a_network_that_cannot_be_built_is_one_line(
    data: Path,
    tmp_path: Path,
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fit_here([*fit_command(data, tmp_path / "run"), *options]) == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


TWO_STEPS = """
import sys
from pathlib import Path
import keras
import numpy as np
from trainer.augment import Augmentation
from trainer.fit.loop import fit
from trainer.fit_settings import FitSettings

fit(FitSettings(
    Path(sys.argv[1]), Path(sys.argv[2]), weights="none", split=("stratified",), epochs=1,
    head_epochs=0, batch=4, windows_per_song=1, window_seconds=3.0, seed=1,
))
assert keras.backend.backend() == sys.argv[3], keras.backend.backend()
"""


# Trainings on JAX are in test_devices.py.
@pytest.mark.parametrize("backend", ["torch"])
def test_a_training_runs_under_another_backend(
    backend: str, data: Path, whole: Path, tmp_path: Path
) -> None:
    assert json.loads((whole / "run.json").read_text())["versions"]["backend"] == "tensorflow"
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", TWO_STEPS, str(data), str(out), backend],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr
    (row,) = history(out)
    assert 0 < float(row["loss"]) < 10
    assert (out / "model.keras").is_file()


def test_weights_of_an_earlier_run_include_its_head_if_the_labels_are_equal(
    whole: Path,
) -> None:
    from trainer.network import BACKBONE, build_image_network, load_image_network

    earlier, _ = load_image_network(whole)
    with small_backbone():
        same = build_image_network(["rows", "steps"], weights=str(whole), dropout=0.5)
        other = build_image_network(["rows", "waves", "steps"], weights=str(whole), dropout=0.5)
    backbones = (network.get_layer(BACKBONE) for network in (earlier, other))
    for one, another in ((earlier, same), backbones):
        for first, second in zip(one.get_weights(), another.get_weights(), strict=True):
            np.testing.assert_array_equal(first, second)


def test_evaluation_tracks_that_an_earlier_run_was_trained_on_are_noted(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    # Another seed divides the tracks differently.
    options = ["--weights", str(whole), "--seed", "8", "--epochs", "0", "--head-epochs", "0"]
    out = tmp_path / "run"
    assert fit_small([*fit_command(data, out), *options]) == 0
    content = json.loads((out / "run.json").read_text())
    known = set(json.loads((whole / "run.json").read_text())["split"]["train"])
    assert set(content["learnt_before"]) == known
    leaking = known.intersection([*content["split"]["valid"], *content["split"]["test"]])
    assert leaking
    (note,) = (note for note in content["split"]["notes"] if "trained on" in note)
    assert note.startswith(f"{len(leaking)} of the 4 valid and test tracks")


def test_a_training_from_a_model_file_keeps_its_batch_norms(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [*fit_command(data, out), "--weights", "gtzan", "--head-epochs", "0"]
    assert fit_here([*command, "--epochs", "0"]) == 0
    assert json.loads((out / "run.json").read_text())["settings"]["freeze_batch_norms"]
