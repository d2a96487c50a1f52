import csv
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import support.daemon
from support.history import PlacingHistory
from support.published import prediction

from streamer.commands import run as cli

NIGHT = datetime(2026, 5, 1, 21, 30, tzinfo=UTC)


def main(arguments):
    return cli.main(["history", *arguments])


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    import time

    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def history_file(tmp_path):
    """Three hours of alternately jazz, rock and silence; in the hall, pop."""
    history = PlacingHistory(tmp_path / "h.db")
    for minute in range(180):
        moment = NIGHT + timedelta(minutes=minute)
        genre = ("jazz", "rock", None)[minute // 10 % 3]
        for source, what in (("radio", genre), ("hall", "pop")):
            event = prediction(
                1,
                source,
                time=moment,
                position=60.0 * minute,
                hop_seconds=60.0,
                genre=what,
                state="music" if what else "silence",
            )
            history.publish(event)
    history.close()
    return tmp_path / "h.db"


def test_the_table_has_seconds_by_local_hour_and_genre(history_file, capsys):
    assert main([str(history_file), "--csv", "--source", "radio"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert list(rows[0]) == ["hour", "jazz", "rock", "silence"]
    assert [row["hour"] for row in rows] == [
        "2026-05-01 23:00",
        "2026-05-02 00:00",
        "2026-05-02 01:00",
        "2026-05-02 02:00",
    ]
    assert [float(rows[1][name]) for name in ("jazz", "rock", "silence")] == [1200.0] * 3
    assert sum(float(row[name]) for row in rows for name in ("jazz", "rock", "silence")) == 10_800


def test_time_and_source_can_be_selected(history_file, capsys):
    arguments = ["--from", "2026-05-01T22:00:00Z", "--to", "2026-05-02T00:59:59+02:00"]
    assert main([str(history_file), "--csv", *arguments]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (row["hour"], float(row["pop"])) == ("2026-05-02 00:00", 3600.0)


def test_the_table_has_no_rounding_errors_of_sums(tmp_path, capsys):
    history = PlacingHistory(tmp_path / "h.db")
    for minute, hop_seconds in enumerate((0.1, 0.7, 0.1)):
        time = NIGHT + timedelta(minutes=minute)
        position = 1.0 + 60 * minute
        history.publish(prediction(1, time=time, position=position, hop_seconds=hop_seconds))
    history.close()
    assert main([str(tmp_path / "h.db"), "--csv"]) == 0
    assert capsys.readouterr().out == "hour,blues\n2026-05-01 23:00,0.9\n"


def test_the_plot_is_a_picture(history_file, tmp_path):
    picture = tmp_path / "heard.png"
    assert main([str(history_file), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["none.db", "--csv"], 1, "cannot read the history none.db: unable to open database file"),
        (
            ["{file}", "--csv", "--source", "nix"],
            1,
            "holds nothing of the time and source asked",
        ),
        (
            ["{file}", "--csv", "--from", "then"],
            2,
            "--from must be a moment such as 2026-05-01T12",
        ),
        (
            ["{file}", "--csv", "--to", "0001-01-01"],
            1,
            "holds nothing of the time and source",
        ),
        (
            ["{file}", "--plot", "/nowhere/x.png"],
            1,
            "cannot write /nowhere/x.png: No such file or directory\n",
        ),
        (
            ["{file}", "--plot", "x.docx"],
            1,
            "cannot write x.docx: Format 'docx' is not supported",
        ),
    ],
)
def test_an_error_is_one_line(history_file, arguments, status, message, capsys):
    assert main([part.replace("{file}", str(history_file)) for part in arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("genre-stream: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: FILE"),
        (["{file}"], "one of the arguments --plot --csv is required"),
    ],
)
def test_wrong_usage_is_one_line(history_file, arguments, message, capsys):
    arguments = [part.replace("{file}", str(history_file)) for part in arguments]
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        f"genre-stream: {message}; see genre-stream history --help\n"
    )


def test_a_closed_pipe_is_no_error(history_file, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*support.daemon.COMMAND, "history", history_file, "--csv"],
        env=support.daemon.environment(tmp_path),
        cwd=support.daemon.REPOSITORY,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("form", "package"), [("--csv", "pandas"), ("--plot=x.png", "matplotlib")])
def test_a_missing_package_is_named_with_its_installation(history_file, form, package):
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from streamer.commands.run import main; sys.exit(main(['history', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, history_file, form],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"genre-stream: this needs {package}; "
        "install it with: pip install 'genre-stream[history]'\n"
    )
