import contextlib
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
from streamer.sinks.history.database import open_history

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
        moment = NIGHT + timedelta(minutes=minute + 1)
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
    states = ["not_music", "uncertain", "silence", "offline", "not_running"]
    assert list(rows[0]) == ["hour", "source", "jazz", "rock", *states]
    assert {row["source"] for row in rows} == {"radio"}
    assert [row["hour"] for row in rows] == [
        "2026-05-01 23:00+02:00",
        "2026-05-02 00:00+02:00",
        "2026-05-02 01:00+02:00",
        "2026-05-02 02:00+02:00",
    ]
    assert [float(rows[1][name]) for name in ("jazz", "rock", "silence")] == [1200.0] * 3
    assert sum(float(row[name]) for row in rows for name in ("jazz", "rock", "silence")) == 10_800


def test_time_and_source_can_be_selected(history_file, capsys):
    arguments = ["--from", "2026-05-01T22:00:00Z", "--to", "2026-05-02T00:59:59+02:00"]
    assert main([str(history_file), "--csv", *arguments]) == 0
    hall, radio = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (hall["hour"], float(hall["pop"])) == ("2026-05-02 00:00+02:00", 3600.0)
    assert (radio["source"], float(radio["pop"]), float(radio["jazz"])) == ("radio", 0.0, 1200.0)


def test_the_table_has_no_rounding_errors_of_sums(tmp_path, capsys):
    history = PlacingHistory(tmp_path / "h.db")
    for minute, hop_seconds in enumerate((0.1, 0.7, 0.1)):
        time = NIGHT + timedelta(minutes=minute)
        position = 1.0 + 60 * minute
        history.publish(prediction(1, time=time, position=position, hop_seconds=hop_seconds))
    history.close()
    assert main([str(tmp_path / "h.db"), "--csv"]) == 0
    assert capsys.readouterr().out == (
        "hour,source,blues,not_music,uncertain,silence,offline,not_running\n"
        "2026-05-01 23:00+02:00,radio,0.9,0.0,0.0,0.0,0.0,0.0\n"
    )


def test_without_an_option_a_table_says_what_was_heard_and_what_changed_last(tmp_path, capsys):
    path = tmp_path / "h.db"
    with contextlib.closing(open_history(path)) as history:
        write_day(history)
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == (
        "source        heard       silent      offline  not running  of what was heard\n"
        "hall        0:00:00      0:00:00      1:00:00      0:00:00\n"
        "radio       2:00:00      0:30:00      0:15:30      1:00:30  jazz 62%, uncertain 25%, not "
        "music 12%\n"
        "\n"
        "last changes\n"
        "2026-05-01 22:00:00  radio   jazz: Artist - Song\n"
        "2026-05-01 22:30:00  hall    failed: no such file\n"
        "2026-05-01 23:15:00  radio   not music\n"
        "2026-05-01 23:40:00  radio   reconnecting: no data for 10 s\n"
        "2026-05-02 00:30:00  radio   stalled\n"
        "2026-05-02 00:45:30  radio   not running\n"
    )


def write_day(history):
    """Write two hours of a radio that was off for a while, and of a hall that was never heard."""
    ten = NIGHT.timestamp() - 5400
    for number in range(120):
        label = ("jazz", "jazz", "jazz", "jazz", "jazz", "uncertain", "uncertain", "not_music")[
            number // 15
        ]
        state, genre = ("music", "jazz") if label == "jazz" else (label, "")
        row = ("radio", int(ten) + 60 * number, state, genre, 60.0, 0.8, -20.0)
        history.execute("INSERT INTO minutes VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    for number in range(30):
        row = ("radio", int(ten) + 7200 + 60 * number, "silence", "", 60.0, 1.0, -90.0)
        history.execute("INSERT INTO minutes VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    for number, (start, end, state, genre, title) in enumerate(
        [
            (ten, ten + 4500, "music", "jazz", "Artist - Song"),
            (ten + 4500, ten + 6000, "not_music", None, None),
        ]
    ):
        row = (1, "radio", number, start, end, 0, state, genre, 0.8, title)
        history.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    for source, number, start, end, state, reason in (
        ("radio", 1, ten, ten + 6000, "live", ""),
        ("radio", 2, ten + 9000, ten + 9930, "stalled", ""),
        ("radio", 3, ten + 6000, ten + 6000, "reconnecting", "no data for 10 s"),
        ("hall", 1, ten + 1800, ten + 5400, "failed", "no such file"),
        ("radio", 0, ten + 9930, ten + 13560, "not_running", ""),
    ):
        row = (1, source, number, start, end, 0, state, reason)
        history.execute("INSERT INTO states VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


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
        (
            ["{file}", "--csv", "--plot=x.png"],
            "argument --plot: not allowed with argument --csv",
        ),
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


def test_no_hour_has_more_than_3600_seconds_of_a_source(tmp_path, capsys):
    """Older versions counted the sound that stations send at once, beyond the clock."""
    path = tmp_path / "h.db"
    start = NIGHT.replace(minute=0).timestamp()
    with contextlib.closing(open_history(path)) as history:
        for minute in range(60):
            row = ("radio", int(start) + 60 * minute, "music", "jazz", 64.0, 0.8, -20.0)
            history.execute("INSERT INTO minutes VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        row = (1, "radio", 1, start - 60, start + 60, 0, "stalled", "")
        history.execute("INSERT INTO states VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    assert main([str(path), "--csv"]) == 0
    before, hour = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (float(before["offline"]), float(hour["jazz"]), float(hour["offline"])) == (60, 3600, 0)


def test_the_hour_that_comes_twice_in_autumn_is_two_hours(tmp_path, capsys):
    path = tmp_path / "h.db"
    two = datetime(2026, 10, 25, 0, 0, tzinfo=UTC).timestamp()
    with contextlib.closing(open_history(path)) as history:
        for minute in range(120):
            row = ("radio", int(two) + 60 * minute, "music", "jazz", 60.0, 0.8, -20.0)
            history.execute("INSERT INTO minutes VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    assert main([str(path), "--csv"]) == 0
    rows = csv.DictReader(capsys.readouterr().out.splitlines())
    assert [(row["hour"], float(row["jazz"])) for row in rows] == [
        ("2026-10-25 02:00+02:00", 3600.0),
        ("2026-10-25 02:00+01:00", 3600.0),
    ]


def run_without(package, *arguments):
    """Run genre-stream history where a package is not installed."""
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from streamer.commands.run import main; sys.exit(main(['history', *sys.argv[1:]]))"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )


def test_a_missing_package_is_named_with_its_installation(history_file):
    done = run_without("matplotlib", history_file, "--plot=x.png")
    assert done.returncode == 2
    assert done.stderr == (
        "genre-stream: this needs matplotlib; "
        "install it with: pip install 'genre-stream[history]'\n"
    )


@pytest.mark.parametrize("form", [[], ["--csv"]])
def test_table_and_csv_need_no_pandas(history_file, form):
    done = run_without("pandas", history_file, *form)
    assert (done.returncode, done.stderr) == (0, "")
    assert "radio" in done.stdout
