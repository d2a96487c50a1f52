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
def heard(tmp_path):
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


def test_the_table_has_seconds_by_local_hour_and_genre(heard, capsys):
    assert main([str(heard), "--csv", "--source", "radio"]) == 0
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


def test_time_and_source_can_be_selected(heard, capsys):
    arguments = ["--from", "2026-05-01T22:00:00Z", "--to", "2026-05-02T00:59:59+02:00"]
    assert main([str(heard), "--csv", *arguments]) == 0
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


def test_the_plot_is_a_picture(heard, tmp_path):
    picture = tmp_path / "heard.png"
    assert main([str(heard), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["none.db", "--csv"], 1, "cannot read the history none.db: unable to open database file"),
        (["{heard}", "--csv", "--source", "nix"], 1, "holds nothing of the time and source asked"),
        (
            ["{heard}", "--csv", "--from", "then"],
            2,
            "--from must be a moment such as 2026-05-01T12",
        ),
        (["{heard}", "--csv", "--to", "0001-01-01"], 1, "holds nothing of the time and source"),
        (
            ["{heard}", "--plot", "/nowhere/x.png"],
            1,
            "cannot write /nowhere/x.png: No such file or directory\n",
        ),
        (["{heard}", "--plot", "x.docx"], 1, "cannot write x.docx: Format 'docx' is not supported"),
    ],
)
def test_an_error_is_one_line(heard, arguments, status, said, capsys):
    assert main([part.replace("{heard}", str(heard)) for part in arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("genre-stream: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: FILE"),
        (["{heard}"], "one of the arguments --plot --csv is required"),
    ],
)
def test_wrong_usage_is_one_line(heard, arguments, said, capsys):
    arguments = [part.replace("{heard}", str(heard)) for part in arguments]
    assert main(arguments) == 2
    assert capsys.readouterr().err == (f"genre-stream: {said}; see genre-stream history --help\n")


def test_a_closed_pipe_is_no_error(heard, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*support.daemon.COMMAND, "history", heard, "--csv"],
        env=support.daemon.environment(tmp_path),
        cwd=support.daemon.REPOSITORY,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("form", "package"), [("--csv", "pandas"), ("--plot=x.png", "matplotlib")])
def test_a_missing_package_is_named_with_its_installation(heard, form, package):
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from streamer.commands.run import main; sys.exit(main(['history', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, heard, form], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"genre-stream: this needs {package}; "
        "install it with: pip install 'genre-stream[history]'\n"
    )
