"""genre-train: from audio to a report in a browser, and one line for each wrong use."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.model import LABELS, band_noise, make_model
from support.pictures import write_pictures
from support.run import LONGEST_TRAINING_SECONDS
from support.songs import SUFFIXES, write_audio, write_songs

import export.cli
import streamer
from streamer.core.model import Classifier
from trainer.augment import Augmentation
from trainer.cli import main
from trainer.commands.training import default_strengths, parse_augmentation
from trainer.fit_settings import NUMBERS, FitSettings

QUICK = [
    "--split",
    "stratified",
    "--weights",
    "none",
    "--epochs",
    "1",
    "--head-epochs",
    "0",
    "--batch",
    "4",
    "--seed",
    "3",
    "--input-scale",
    "2",
    "--window-seconds",
    "3",
    "--windows-per-song",
    "1",
]

CHROMIUM = [
    "chromium",
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


def genre_train(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    """Run the program in this process, where TensorFlow is loaded; return its output."""
    status = main([str(option) for option in options])
    output = capsys.readouterr()
    assert status == 0, output.err
    return output.out


def browse(page: Path, profile: Path, *options: str) -> str:
    done = subprocess.run(
        [*CHROMIUM, f"--user-data-dir={profile}", *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=LONGEST_TRAINING_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def own_music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of music: three genres, every format, every kind of unusable file."""
    folder = write_songs(tmp_path_factory.mktemp("music"), tracks=8, suffixes=SUFFIXES)
    (folder / "low" / "text.wav").write_text("this is no audio at all\n" * 100)
    (folder / "low" / "empty.mp3").touch()
    (folder / "high" / "._high.00000.wav").write_bytes(b"\x00\x05\x16\x07")
    write_audio(folder / "middle" / "short.ogg", band_noise("middle", 2))
    cut = (folder / "high" / "high.00002.flac").read_bytes()
    (folder / "high" / "cut.flac").write_bytes(cut[: len(cut) // 2])
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    for number in range(5):
        write_audio(folder / "rain" / f"{number}.wav", band_noise("noise", 4, seed=number))
    return folder


@pytest.fixture(scope="module")
def finished(
    own_music: Path, sounds: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return a run of a small network made by all steps from audio, and the program's output."""
    run = tmp_path_factory.mktemp("runs") / "own"
    cache = tmp_path_factory.mktemp("cache")
    options = ("--data", own_music, "--background", sounds, "--out", run, "--mels", "40", *QUICK)
    done = subprocess.run(
        [sys.executable, "-m", "support.backbone", *options],
        capture_output=True,
        text=True,
        timeout=LONGEST_TRAINING_SECONDS,
        check=False,
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(cache),
            "PYTHONPATH": os.pathsep.join(("tests", *filter(None, sys.path))),
        },
    )
    assert done.returncode == 0, done.stderr
    assert len(list(cache.glob("genre-stream/pictures/*/spectrogram.json"))) == 2
    return run, done


def test_a_folder_of_music_becomes_a_run_with_a_report(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, done = finished
    content = json.loads((run / "run.json").read_text())
    assert content["labels"] == [*sorted(LABELS), "not_music"]
    assert content["spec"]["n_mels"] == 40
    assert content["temperature"] != 1.0
    assert content["fusion"]["audio_seconds"] == pytest.approx(3.03, abs=0.05)
    assert set(content["metrics"]) >= {"fit", "valid", "test", "protocol"}
    assert content["metrics"]["valid"]["tracks"] == 3
    assert "split: stratified by genre, 80/10/10, seed 3" in done.stdout
    assert done.stdout.splitlines()[-1] == f"next: genre-export {run} --out model.onnx"
    assert (run / "report" / "index.html").is_file()
    assert "Traceback" not in done.stderr


def test_skipped_files_are_printed_and_listed_in_the_report(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, done = finished
    page = (run / "report" / "index.html").read_text()
    for name in ("text.wav", "empty.mp3", "._high.00000.wav", "short.ogg", "cut.flac"):
        assert re.search(rf"skipped .*{re.escape(name)}: \w", done.stdout)
        assert name in page
    assert "5 files were skipped" in page


def test_the_report_states_the_split_with_every_accuracy_and_loads_nothing(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    page = (finished[0] / "report" / "index.html").read_text()
    protocol = "stratified by genre, 80/10/10, seed 3"
    cards = re.findall(r'<div class="card">.*?</p></div>', page, flags=re.DOTALL)
    # Both sets, judged by both networks together and by each alone.
    assert len(cards) == 6
    for card in cards:
        assert "%</div>" in card
        assert "chance 33.3%" in card
        assert protocol in card
    sections = page.split("<h2>")
    judged = [section for section in sections if section.startswith("On the")]
    assert len(judged) == 6
    for section in judged:
        assert protocol in section
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|url\(""", page)
    for name in ("learning_curves", "confusion_valid", "reliability_valid", "genres_valid"):
        with Image.open(finished[0] / "report" / f"{name}.png") as figure:
            assert figure.width > 500
        assert len(pd.read_csv(finished[0] / "report" / f"{name}.csv"))
    assert (finished[0] / "report" / "spectrograms.png").is_file()


CHECK = """<script>
addEventListener("load", () => {
  const images = [...document.images];
  document.title = JSON.stringify({
    images: images.length,
    shown: images.filter((image) => image.complete && image.naturalWidth > 0).length,
    described: images.filter((image) => image.alt.length > 20).length,
    overflow: document.documentElement.scrollWidth - innerWidth,
    width: innerWidth,
  });
});
</script></body>"""


@pytest.mark.parametrize("width", [500, 1400])
def test_the_report_fits_the_width_of_a_browser(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, width: int
) -> None:
    page = (finished[0] / "report" / "index.html").read_text()
    checked = tmp_path / "checked.html"
    checked.write_text(page.replace("</body>", CHECK))
    shown = browse(checked, tmp_path / "profile", f"--window-size={width},900", "--dump-dom")
    found = json.loads(re.search(r"<title>(.*?)</title>", shown)[1])  # type: ignore[index]
    assert found["images"] == found["shown"] == found["described"] >= 8
    assert found["overflow"] <= 0
    assert found["width"] == width


def test_the_report_prints(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    sheet = tmp_path / "report.pdf"
    page = finished[0] / "report" / "index.html"
    browse(page, tmp_path / "profile", f"--print-to-pdf={sheet}")
    assert sheet.read_bytes().startswith(b"%PDF")
    assert sheet.stat().st_size > 20_000


def test_a_screenshot_of_the_report_is_not_blank(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    picture = tmp_path / "report.png"
    page = finished[0] / "report" / "index.html"
    browse(page, tmp_path / "profile", "--window-size=900,2400", f"--screenshot={picture}")
    with Image.open(picture) as shown:
        assert len(np.unique(np.asarray(shown.convert("L")))) > 50


def test_a_tuned_stream_test_of_a_run_is_in_its_report(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run, ignore=shutil.ignore_patterns("checkpoints"))
    output = genre_train(capsys, "stream-test", run, "--tune", "--limit", 3)
    assert "valid as a stream (stratified" in output
    content = json.loads((run / "run.json").read_text())
    assert "smoothing" in content["decision"]
    assert content["metrics"]["stream_valid"]["songs"] == 3
    assert "valid" in content["metrics"]
    assert main(["report", str(run)]) == 0
    page = (run / "report" / "index.html").read_text()
    assert "valid as a stream" in page
    assert (run / "report" / "timeline_valid.png").is_file()


def test_a_run_is_evaluated_alike_on_audio_and_on_its_pictures(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
    own_music: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, _ = finished
    before = (run / "run.json").read_text()
    genre_train(capsys, "evaluate", run, "--data", own_music, "--out", tmp_path)
    assert (run / "run.json").read_text() == before
    own, other = (
        pd.read_csv(folder / "tracks_valid.csv").set_index("track")
        for folder in (run / "evaluation", tmp_path)
    )
    music = own[own["genre"] != "not_music"]
    assert list(other.loc[music.index, "predicted"]) == list(music["predicted"])


def test_a_model_file_is_evaluated_on_audio(
    tmp_path: Path, own_music: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "thirds.onnx")
    output = genre_train(
        capsys, "evaluate", "--model", model, "--data", own_music, "--out", tmp_path / "out"
    )
    assert "valid: 100.0% of 3 tracks right" in output
    assert "temperature 1.000 (the model's own)" in output
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["sets"]["test"]


def test_a_folder_of_music_becomes_a_model_file_with_two_networks(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
    own_music: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, _ = finished
    file = tmp_path / "own.onnx"
    assert export.cli.main([str(run), "--out", str(file)]) == 0
    assert Classifier.load(file).contract.fusion is not None
    # The second network tells bands of noise apart, however little the first one has learnt.
    out = tmp_path / "out"
    genre_train(capsys, "evaluate", file, "--data", own_music, "--out", out)
    sets = json.loads((out / "metrics.json").read_text())["sets"]
    assert set(sets) == {
        f"{name}{answer}" for name in ("valid", "test") for answer in ("", "_spectrogram", "_tags")
    }
    assert sets["test_tags"]["accuracy_track"] == 1
    listened = list(streamer.replay(own_music / "low/low.00000.wav", model=file))
    assert listened[-1].probabilities


def test_a_model_file_is_stream_tested(
    tmp_path: Path, own_music: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path / "thirds.onnx")
    out = tmp_path / "out"
    given = ("stream-test", model, "--data", own_music, "--out", out)
    output = genre_train(
        capsys, *given, "--set", "test", "--labels", "low=bass", "--labels", "high=bass"
    )
    assert "test as a stream (stratified" in output
    assert "  labels bass, middle:\n  decided as one: " in output
    named = json.loads((out / "stream_test.json").read_text())["named"]
    assert set(named) == {"decided as one", "named after the decision"}
    assert (out / "stream_test.json").is_file()
    output = genre_train(capsys, *given, "--split", "all", "--limit", 2)
    assert "all as a stream (all tracks of" in output
    assert (out / "stream_all.json").is_file()


def test_prepare_sets_the_grid_and_prints_counts(
    tmp_path: Path, own_music: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--hop-ms", 20, "--n-fft", 1024, "--mels", 64, "--tagger", "none")
    output = genre_train(
        capsys, "prepare", "--data", own_music, "--out", tmp_path / "pictures", *options
    )
    assert "24 pictures made, 0 kept, 0 removed, tags of 0 tracks made, 5 files skipped" in output
    spec = json.loads((tmp_path / "pictures" / "spectrogram.json").read_text())
    assert (spec["hop_length"], spec["n_fft"], spec["n_mels"]) == (441, 1024, 64)


def test_the_folder_of_genres_in_an_archive_is_taken_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    songs = write_songs(tmp_path / "Data" / "genres_original", tracks=1)
    for number in range(9):
        (songs / "low" / f"{number}.txt").write_text("notes")
    out = tmp_path / "pictures"
    output = genre_train(
        capsys, "prepare", "--data", tmp_path / "Data", "--out", out, "--tagger", "none"
    )
    lines = output.splitlines()
    assert lines[0] == f"taking {songs}, the folder of genres in {tmp_path / 'Data'}"
    first = f"{songs / 'low' / '0.txt'}, {songs / 'low' / '1.txt'}"
    assert lines[1].startswith(f"skipped 9 files ({first}, ...): not audio (")
    assert lines[2].startswith("3 pictures made, 0 kept, 0 removed, ")


def test_a_name_that_is_not_utf_8_does_not_stop_the_other_tracks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    songs = write_songs(tmp_path / "songs", tracks=1)
    shutil.copy(songs / "low" / "low.00000.wav", songs / "low" / os.fsdecode(b"can\xe7\xe3o.wav"))
    out = tmp_path / os.fsdecode(b"m\xfasica")
    output = genre_train(capsys, "prepare", "--data", songs, "--out", out)
    assert r"low/can\xe7\xe3o.wav: its name or its folder's is not UTF-8" in output
    assert "3 pictures made, 0 kept, 0 removed, tags of 3 tracks made, 1 files skipped" in output


def test_help_needs_no_tensorflow() -> None:
    script = "import sys, trainer.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    script += "assert not {'tensorflow', 'keras', 'pandas', 'librosa'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_states_defaults_and_strengths(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for sentence in (
        "--head-epochs N passes before them in which only the new layer learns (1)",
        "--learning-rate N highest rate of the whole network (0.0003)",
        "equaliser_db=5, band_limit=0.2, reverberation=0.2, noise=0.25, noise_snr_db=0,30,",
    ):
        assert sentence in text
    assert parse_augmentation(default_strengths()) == Augmentation()


def test_defaults_are_within_their_limits() -> None:
    settings = FitSettings(Path("data"), Path("out"))
    for field in NUMBERS:
        assert field.metadata["least"] <= getattr(settings, field.name) <= field.metadata["most"]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run the program in this process; return its exit status and its one line on stderr."""
    status = main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert re.fullmatch(r"genre-train: [^\n]+\n", error), error
    return status, error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--data is missing"),
        (["--bogus"], "unrecognized arguments: --bogus; see genre-train all --help"),
        (
            ["robustness", "run", "--limit", "3"],
            "unrecognized arguments: --limit 3; see genre-train robustness --help",
        ),
        (["fit"], "--data is missing"),
        (["fit", "--epochs", "many"], "invalid whole number value: 'many'"),
        (["fit", "--batch", "0"], "must be at least 1, not 0"),
        (["fit", "--batch", "1000000"], "must be at most 4096, not 1000000"),
        (["fit", "--windows-per-song", "1000000"], "must be at most 1000, not 1000000"),
        (["fit", "--window-seconds", "inf"], "must be at most 300, not inf"),
        (["fit", "--input-scale", "inf"], "must be at most 20, not inf"),
        (["fit", "--input-scale", "nan"], "must be at least 0.1, not nan"),
        (["fit", "--learning-rate", "inf"], "must be at most 10, not inf"),
        (["fit", "--weight-decay", "inf"], "must be at most 10, not inf"),
        (["fit", "--label-smoothing", "1"], "must be at most 0.99, not 1"),
        (["fit", "--dropout", "2"], "must be at most 0.99, not 2"),
        (["fit", "--averaging", "2"], "must be at most 0.999999, not 2"),
        (["fit", "--seed", "4294967296"], "must be at most 4294967295, not 4294967296"),
        (["prepare", "--data", "/", "--hop-ms", "inf"], "must be at most 1000, not inf"),
        (["stream-test", "/", "--gap-seconds", "inf"], "must be at most 600, not inf"),
        (["stream-test", "/", "--hop-seconds", "inf"], "must be at most 600, not inf"),
        (["--data", "/nowhere"], "no such data folder: /nowhere"),
        (["prepare"], "the following arguments are required: --data"),
        (["evaluate"], "name one run folder or .onnx file"),
        (["evaluate", "/nowhere"], "no such run or model: /nowhere"),
        (["evaluate", "a", "--model", "b"], "name one run folder or .onnx file"),
        (["report", "/nowhere"], "/nowhere is not a training run"),
        (["stream-test", "/", "--tune", "--set", "test"], "--tune needs a run folder"),
        (["stream-test", "/", "--right-of-claimed", "0.9"], "add --tune"),
        (["stream-test", "/", "--labels", "rock"], "must be LABEL=NAME, such as rock=guitar"),
        (["stream-test", "/", "--right-of-claimed", "90"], "at most 1, not 90"),
        (["evaluate", "/", "--split", "all"], "--split all: a run is judged on its own lists"),
        (["stream-test", __file__, "--set", "all"], "--set all: only --split all has that list"),
        (
            ["robustness", __file__, "--split", "all", "--set", "test"],
            "--set test: --split all is one list of everything",
        ),
        (
            ["fit", "--resume", "/", "--epochs", "50", "--seed", "0", "--tensorboard"],
            "leave out --seed, --epochs, --tensorboard, or start another run with --weights /",
        ),
        (["--resume", "/", "--data", "/", "--mels", "64"], "leave out --data, --mels, or start"),
        (["prepare", "--data", "/nowhere", "--n-fft", "1001"], "n_fft must be even"),
        (
            ["prepare", "--data", "/", "--sounds", "--background", "/"],
            "--background is for music: leave it out with --sounds",
        ),
        (["--data", "/nowhere", "--n-fft", "1001"], "n_fft must be even"),
    ],
)
def test_wrong_use_is_one_line_and_status_two(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    status, error = error_of(capsys, *arguments)
    assert status == 2
    assert sentence in error


def test_audio_for_fit_is_refused_with_the_command_to_prepare_it(
    capsys: pytest.CaptureFixture[str], own_music: Path
) -> None:
    status, error = error_of(capsys, "fit", "--data", own_music)
    assert status == 2
    assert "make them with genre-train prepare" in error


def test_grid_options_for_existing_pictures_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    status, error = error_of(capsys, "--data", pictures, "--mels", 64)
    assert status == 2
    assert "--hop-ms, --n-fft and --mels need audio" in error


@pytest.mark.parametrize(
    "change",
    [
        "mixup",
        "nonsense=1",
        "mixup=much",
        "mixup=nan",
        "stretch=1",
        "band_shift=-3",
        "noise_snr_db=5",
        "noise_snr_db=30,0",
    ],
)
def test_a_wrong_augmentation_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: str
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    status, error = error_of(
        capsys, "fit", "--data", pictures, "--out", tmp_path / "run", "--augment", change
    )
    assert status == 2
    assert f"--augment {change}" in error


def test_a_picture_folder_with_one_genre_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "pictures", genres=("rows",))
    status, error = error_of(capsys, "fit", "--data", pictures, "--out", tmp_path / "run")
    assert status == 2
    assert "only one genre found (rows); at least 2 are needed" in error


def test_a_genre_with_the_name_of_the_backgrounds_label_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "pictures", genres=("not_music", "rows"))
    sounds = write_pictures(tmp_path / "sounds", genres=("rain",))
    options = ("--data", pictures, "--background", sounds, "--out", tmp_path / "run")
    status, error = error_of(capsys, "fit", *options)
    assert status == 2
    assert "the genre not_music has the name of the label of --background" in error


def test_a_genre_with_too_few_tracks_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    for number in range(2):
        (pictures / "rows" / f"rows.{number:05}.png").write_bytes(b"damaged")
    status, error = error_of(capsys, "fit", "--data", pictures, "--out", tmp_path / "run")
    assert status == 2
    assert "genre rows has 4 usable tracks (2 more were skipped); at least 5" in error


@pytest.mark.parametrize(
    ("tracks", "options", "sentence"),
    [
        (4, [], "genre high has 4 usable tracks; at least 5 are needed"),
        (5, ["--split", "nonsense"], "cannot read the artists in nonsense"),
        (5, ["--weights", "/nowhere.h5"], "--weights /nowhere.h5: no such file; give imagenet, "),
    ],
)
def test_what_cannot_be_trained_is_said_before_pictures_are_made(
    tracks: int,
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    songs = write_songs(tmp_path / "songs", tracks=tracks)
    pictures = tmp_path / "pictures"
    given = ["--data", songs, "--pictures", pictures, "--out", tmp_path / "run", *options]
    status, error = error_of(capsys, *given)
    assert status == 2
    assert sentence in error
    assert not pictures.exists()


@pytest.mark.parametrize("command", [["fit"], []])
def test_damaged_pictures_are_printed_with_their_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    pictures = write_pictures(tmp_path / "pictures", tracks=5)
    sounds = write_pictures(tmp_path / "sounds", genres=("rain",))
    damaged = [folder / "rain" / "cut.png" for folder in (pictures, sounds)]
    for path in damaged:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"damaged")
    # Too few tracks of a genre end the program before anything is trained.
    options = ["--data", pictures, "--background", sounds, "--out", tmp_path / "run"]
    arguments = [str(argument) for argument in (*command, *options)]
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert "genre rain has 0 usable tracks (1 more were skipped)" in output.err
    for path in damaged:
        assert f"skipped {path}: damaged picture" in output.out


def test_a_run_folder_that_cannot_be_made_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    (tmp_path / "file").write_text("in the way")
    status, error = error_of(capsys, "fit", "--data", pictures, "--out", tmp_path / "file" / "run")
    assert status == 2
    assert "cannot be written (Not a directory)" in error


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_no_permission_to_write_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    status, error = error_of(capsys, "fit", "--data", pictures, "--out", locked / "run")
    assert status == 2
    assert "cannot be written (Permission denied)" in error


def test_a_folder_where_a_file_is_in_the_way_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, own_music: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    status, error = error_of(
        capsys, "prepare", "--data", own_music, "--out", tmp_path / "file" / "x"
    )
    assert status == 1
    assert "Not a directory" in error


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_file_that_is_not_a_model_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    status, error = error_of(capsys, "evaluate", tmp_path / "a.onnx", "--data", tmp_path)
    assert status == 2
    assert "a.onnx" in error
