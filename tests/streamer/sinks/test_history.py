import contextlib
import json
import logging
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.history import FOREVER_DAYS, PlacingHistory, rows
from support.published import prediction, segment
from support.waiting import LONGEST_WAIT_SECONDS, wait_until

from streamer.core.events import PlacedState, Published, SourceState, SourceStatus
from streamer.sinks.history import database as history_file
from streamer.sinks.history import writer as history_module
from streamer.sinks.history.database import open_history, open_query
from streamer.sinks.history.writer import History, HistoryError

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
ALWAYS = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
KILLS = 50
TESTS = Path(__file__).parents[2]


def at(seconds, source="radio", **changes):
    """Return a decision so many seconds after noon, at the same position."""
    time = NOON + timedelta(seconds=seconds)
    return prediction(1, source, time=time, **({"position": float(seconds)} | changes))


def written(path, *events):
    """Return what a history holds after these events."""
    history = PlacingHistory(path)
    for event in events:
        history.publish(event)
    history.close()
    return rows(open_query(path, *ALWAYS))


def begun(path, **first):
    """Return an open history whose first segment is in the file."""
    history = PlacingHistory(path)
    history.publish(at(0))
    history.publish(segment(1, **first))
    wait_until(lambda: rows(history.open_query(*ALWAYS)).segments, "the first segment")
    return history


def test_segments_are_kept_in_clock_time(tmp_path):
    kept = written(
        tmp_path / "h.db",
        at(0),
        segment(1),
        at(10),
        segment(1, end=10.0, final=True, confidence=0.75),
        segment(2, state="silence", genre=None, title=None),
    )
    assert kept.segments == [
        {
            "source": "radio",
            "start": "2026-05-01T12:00:00.000Z",
            "end": "2026-05-01T12:00:10.000Z",
            "state": "music",
            "genre": "blues",
            "confidence": 0.75,
            "title": "Song 1",
        },
        {
            "source": "radio",
            "start": "2026-05-01T12:00:10.000Z",
            "end": "2026-05-01T12:00:10.000Z",
            "state": "silence",
            "genre": None,
            "confidence": 0.8,
            "title": None,
        },
    ]


def test_a_new_history_is_readable_by_its_owner_only(tmp_path):
    history = begun(tmp_path / "h.db")
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    assert modes == {"h.db": "0o600", "h.db-wal": "0o600", "h.db-shm": "0o600"}
    history.close()


def test_the_mode_of_an_existing_file_is_kept(tmp_path):
    (tmp_path / "h.db").touch()
    (tmp_path / "h.db").chmod(0o640)
    begun(tmp_path / "h.db").close()
    assert (tmp_path / "h.db").stat().st_mode & 0o777 == 0o640


def test_a_title_with_a_lone_surrogate_is_kept(tmp_path):
    kept = written(tmp_path / "h.db", at(0), segment(1, title="caf\udce9"))
    assert kept.segments[0]["title"] == "caf?"


def test_rows_that_can_never_be_written_are_counted_and_do_not_block_later_ones(tmp_path, caplog):
    history = PlacingHistory(tmp_path / "h.db")
    history.publish(at(0, source="caf\udce9"))
    history.publish(segment(1, "caf\udce9"))
    wait_until(lambda: history.write_errors, "a failed write")
    history.publish(at(1))
    history.publish(segment(1))
    wait_until(lambda: rows(history.open_query(*ALWAYS)).segments, "a segment")
    assert (history.write_errors, history.dropped) == (1, 2)
    history.close()
    assert len(caplog.messages) == 1
    assert re.match(
        r"cannot write the history .*: UnicodeEncodeError: .*; 2 rows are lost", caplog.messages[0]
    )


def test_an_open_segment_has_no_end_while_the_daemon_runs(tmp_path):
    history = PlacingHistory(tmp_path / "h.db")
    history.publish(at(0))
    history.publish(segment(1))
    wait_until(lambda: rows(history.open_query(*ALWAYS)).segments, "a segment")
    assert rows(history.open_query(*ALWAYS)).segments[0]["end"] is None
    history.publish(at(7))
    history.close()
    assert rows(open_query(tmp_path / "h.db", *ALWAYS)).segments[0]["end"] == (
        "2026-05-01T12:00:07.000Z"
    )


def test_segments_after_an_interruption_are_at_the_right_time(tmp_path):
    kept = written(
        tmp_path / "h.db",
        at(0),
        segment(1),
        at(10),
        at(3600, position=11.0),
        segment(1, end=10.0, final=True),
        segment(2, start=10.0),
        at(3609, position=20.0),
        segment(2, start=10.0, end=20.0, final=True),
    )
    assert [row["start"][11:19] for row in kept.segments] == ["12:00:00", "12:59:59"]
    assert [row["end"][11:19] for row in kept.segments] == ["12:00:10", "13:00:09"]


def test_setting_the_clock_lengthens_no_segment_even_if_events_had_to_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(history_file, "LOCKED_SECONDS", LONGEST_WAIT_SECONDS)
    path = tmp_path / "h.db"
    history = begun(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        history.publish(segment(1, "hall", end=1.0, final=True))
        wait_until(lambda: history.queue_depth == 0, "the writer")
        history.publish(at(10))
        history.place.clock_offset = 86_400.0
        history.publish(at(86_400 + 20, position=20.0))
        history.publish(segment(1, end=20.0, final=True))
    history.close()
    kept = rows(open_query(path, *ALWAYS, "radio")).segments
    assert [(row["start"], row["end"]) for row in kept] == [
        ("2026-05-02T12:00:00.000Z", "2026-05-02T12:00:20.000Z")
    ]


def test_a_minute_sums_up_seconds_confidence_and_level_by_state_and_genre(tmp_path):
    kept = written(
        tmp_path / "h.db",
        *(at(second, confidence=0.8, level_dbfs=-20.0) for second in range(1, 31)),
        *(at(second, confidence=0.6, level_dbfs=-30.0) for second in range(31, 41)),
        *(
            at(second, state="silence", genre=None, confidence=1.0, level_dbfs=-90.0)
            for second in range(41, 61)
        ),
        at(62.5, genre="jazz", hop_seconds=2.5),
        at(62, source="hall"),
    )
    assert [
        (row["source"], row["minute"][11:16], row["state"], row["genre"], row["seconds"])
        for row in kept.minutes
    ] == [
        ("radio", "12:00", "music", "blues", 40.0),
        ("radio", "12:00", "silence", None, 20.0),
        ("hall", "12:01", "music", "blues", 1.0),
        ("radio", "12:01", "music", "jazz", 2.5),
    ]
    assert (kept.minutes[0]["confidence"], kept.minutes[0]["level_dbfs"]) == (0.75, -22.5)


@pytest.mark.parametrize(
    ("decisions", "seconds"),
    [
        pytest.param([(1, 1), (2.4, 1), (3, 1), (4.1, 1), (5, 1)], 5.0, id="uneven"),
        pytest.param([(1, 1), (50, 1), (50.1, 1), (50.2, 1), (50.3, 1)], 4.3, id="burst"),
        pytest.param([(n / 100, 1) for n in range(1, 51)], 1.49, id="faster than it plays"),
    ],
)
def test_no_second_of_the_clock_is_counted_twice(tmp_path, decisions, seconds):
    kept = written(
        tmp_path / "h.db", *(at(time, hop_seconds=hop, genre="jazz") for time, hop in decisions)
    )
    assert sum(row["seconds"] for row in kept.minutes) == pytest.approx(seconds, abs=0.01)


def test_a_decision_at_the_change_of_a_minute_counts_for_both(tmp_path):
    kept = written(tmp_path / "h.db", at(61, hop_seconds=4.0))
    assert [(row["minute"][11:16], row["seconds"]) for row in kept.minutes] == [
        ("12:00", 3.0),
        ("12:01", 1.0),
    ]


def test_setting_the_clock_back_goes_on_counting(tmp_path):
    kept = written(tmp_path / "h.db", at(7200), *(at(n, position=7200.0 + n) for n in range(1, 6)))
    assert sum(row["seconds"] for row in kept.minutes) == 6.0


def test_a_minute_of_two_runs_is_the_sum_of_both(tmp_path):
    path = tmp_path / "h.db"
    written(path, *(at(second, confidence=0.9) for second in range(1, 31)))
    kept = written(path, *(at(second, confidence=0.5) for second in range(40, 50)))
    (row,) = kept.minutes
    assert (row["seconds"], row["confidence"]) == (40.0, 0.8)


def test_the_name_of_the_file_need_not_be_unicode(tmp_path):
    kept = written(tmp_path / os.fsdecode(b"caf\xe9 %.db"), at(0), segment(1))
    assert [row["title"] for row in kept.segments] == ["Song 1"]


def test_a_query_selects_time_and_source(tmp_path):
    path = tmp_path / "h.db"
    for source in ("radio", "hall"):
        written(
            path,
            *(at(100.0 * number, source=source) for number in range(3)),
            *(
                segment(number, source, start=100.0 * (number - 1), end=100.0 * number, final=True)
                for number in (1, 2, 3)
            ),
        )
    some = rows(
        open_query(path, NOON + timedelta(seconds=150), NOON + timedelta(seconds=199), "hall")
    )
    assert [(row["source"], row["start"][11:19]) for row in some.segments] == [("hall", "12:01:40")]
    assert [row["minute"][11:16] for row in some.minutes] == ["12:03"]
    few = rows(open_query(path, *ALWAYS, limit=2))
    assert (len(few.segments), few.truncated) == (2, True)
    assert not rows(open_query(path, *ALWAYS, limit=6)).truncated
    assert rows(open_query(path)).segments == []


def test_rows_older_than_the_retention_are_removed(tmp_path):
    path = tmp_path / "h.db"
    now = datetime.now(UTC).replace(second=30)  # so that what is heard lies within one minute
    old = now - timedelta(days=8)
    young = now - timedelta(days=6)
    messages = []
    for number, moment in enumerate((old, young), 1):
        messages += [
            prediction(1, time=moment, position=0.0),
            segment(number, start=0.0, end=0.0, final=True),
        ]
    assert len(written(path, *messages).segments) == 2
    history = PlacingHistory(path, retention_days=7)
    wait_until(lambda: len(rows(history.open_query(*ALWAYS)).segments) == 1, "the removal")
    history.close()
    kept = rows(open_query(path, *ALWAYS))
    assert kept.segments[0]["start"][:10] == young.isoformat()[:10]
    assert len(kept.minutes) == 1


def test_a_lock_of_another_program_loses_nothing_and_is_logged_once(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(history_file, "LOCKED_SECONDS", 0.01)
    monkeypatch.setattr(history_module, "RETRY_SECONDS", 0.02)
    path = tmp_path / "h.db"
    history = begun(path, end=1.0, final=True)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for number in (2, 3, 4):
        history.publish(segment(number, end=10.0 * number, final=True))
    wait_until(lambda: history.write_errors >= 3, "failed writes")
    other.execute("COMMIT")
    other.close()
    wait_until(lambda: len(rows(history.open_query(*ALWAYS)).segments) == 4, "all segments")
    history.close()
    logged = caplog.messages
    assert len(logged) == 2
    assert re.match(r"cannot write the history .*h\.db: .*locked; what is heard waits", logged[0])
    assert logged[1] == f"the history {path} is written again"


def test_a_reader_waits_for_a_lock_although_the_writer_would_not(tmp_path, monkeypatch):
    monkeypatch.setattr(history_file, "LOCKED_SECONDS", 0.01)
    path = tmp_path / "h.db"
    written(path, at(0), segment(1))
    with contextlib.closing(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    ) as other:
        # As while the writer closes the file, or begins it.
        other.executescript("PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE")
        unlocking = threading.Timer(0.2, other.rollback)
        unlocking.start()
        assert rows(open_query(path, *ALWAYS)).segments
        unlocking.join()


FULL_DISK = """
import resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.history import FOREVER_DAYS, PlacingHistory, rows
from support.published import prediction, segment
from streamer.sinks.history import writer as module
from streamer.system.timestamps import parse_timestamp
module.RETRY_SECONDS = 0.05
path = Path(sys.argv[1])
history = PlacingHistory(path)
history.publish(prediction(1))
history.publish(segment(1, end=10.0, final=True))
while not rows(history.open_query()).segments:
    time.sleep(0.01)
size = max(file.stat().st_size for file in path.parent.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
for number in range(2, 200):
    history.publish(segment(number, end=10.0 * number, final=True, title="x" * 500))
while history.write_errors < 3:
    time.sleep(0.01)
print("full", rows(history.open_query()).segments[0]["title"], flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
always = parse_timestamp("from", "2000-01-01"), parse_timestamp("to", "2100-01-01")
while len(rows(history.open_query(*always)).segments) < 199:
    time.sleep(0.01)
history.close()
print("resumed", flush=True)
"""


def test_a_full_disk_loses_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path / "h.db", TESTS],
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT_SECONDS,
        check=False,
    )
    assert done.stdout.splitlines() == ["full Song 1", "resumed"], done.stderr
    assert done.stderr.count("cannot write the history") == 1


START_WITHOUT = """
import contextlib, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from support.history import FOREVER_DAYS, PlacingHistory, rows
from support.published import prediction, segment
from streamer.sinks.history import writer as module
from streamer.sinks.history.database import HistoryError
module.RETRY_SECONDS = 0.05
limit = getattr(resource, sys.argv[2])
before = resource.getrlimit(limit)
resource.setrlimit(limit, (4, before[1]))
history = PlacingHistory(Path(sys.argv[1]))
history.publish(prediction(1))
history.publish(segment(1, end=10.0, final=True))
while history.write_errors < 3:
    time.sleep(0.01)
resource.setrlimit(limit, before)
segments = []
while not segments:
    with contextlib.suppress(HistoryError):
        segments = rows(history.open_query()).segments
print(segments[0]["title"])
history.close()
"""


@pytest.mark.parametrize("missing", ["RLIMIT_FSIZE", "RLIMIT_NOFILE"])
def test_a_start_with_a_full_disk_or_too_many_open_files_waits(tmp_path, missing):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            START_WITHOUT,
            tmp_path / "h.db",
            missing,
            TESTS,
        ],
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT_SECONDS,
        check=False,
    )
    assert done.stdout == "Song 1\n", done.stderr
    assert re.fullmatch(
        r"cannot (use|open) the history .*; what is heard waits until it can\n", done.stderr
    )


def test_closing_while_the_file_is_locked_logs_how_many_rows_are_lost(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(history_file, "LOCKED_SECONDS", 0.01)
    path = tmp_path / "h.db"
    history = begun(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        history.publish(at(9))
        history.publish(segment(1, end=10.0, final=True))
        history.publish(segment(2, start=10.0))
        history.close()
    assert caplog.messages[-1] == (
        f"the history {path} could not be written before the end: 3 rows are lost"
    )


def test_a_start_while_the_file_is_locked_waits(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(history_file, "LOCKED_SECONDS", 0.01)
    monkeypatch.setattr(history_module, "RETRY_SECONDS", 0.02)
    path = tmp_path / "h.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    history = PlacingHistory(path)
    history.publish(at(0))
    history.publish(segment(1, end=1.0, final=True))
    wait_until(lambda: history.write_errors >= 3, "failed writes")
    other.execute("COMMIT")
    other.close()
    wait_until(lambda: f"the history {path} is written again" in caplog.messages, "the log")
    assert rows(history.open_query(*ALWAYS)).segments[0]["title"] == "Song 1"
    history.close()


def test_a_full_queue_discards_the_oldest_event(tmp_path, monkeypatch):
    monkeypatch.setattr(history_module, "QUEUE_LIMIT", 100)
    monkeypatch.setattr(history_file, "LOCKED_SECONDS", LONGEST_WAIT_SECONDS)
    path = tmp_path / "h.db"
    history = begun(path, end=1.0, final=True)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    history.publish(segment(2, end=2.0, final=True))
    wait_until(lambda: history.queue_depth == 0, "the writer")
    for number in range(3, 303):
        history.publish(segment(number, end=1.0 * number, final=True))
    assert history.queue_depth == 100
    assert history.dropped >= 199
    other.execute("COMMIT")
    other.close()
    wait_until(
        lambda: rows(history.open_query(*ALWAYS)).segments[-1]["title"] == "Song 302", "the last"
    )
    history.close()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not a database " * 100, "file is not a database"),
        (b"SQLite format 3\0" + bytes(4080), "file is not a database"),
    ],
)
def test_a_file_that_is_no_database_is_refused(tmp_path, content, reason):
    path = tmp_path / "h.db"
    path.write_bytes(content)
    with pytest.raises(HistoryError, match=rf"^cannot use the history .*h\.db: {reason}"):
        History(path)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused_and_unchanged(tmp_path):
    path = tmp_path / "h.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE precious (x)")
    before = path.read_bytes()
    with pytest.raises(HistoryError, match=r"is not a history of genre-stream; choose another"):
        History(path)
    with pytest.raises(HistoryError, match=r"is not a history of genre-stream; choose another"):
        rows(open_query(path))
    assert path.read_bytes() == before


def test_a_corrupt_database_of_another_program_is_refused_and_unchanged(tmp_path):
    path = tmp_path / "h.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE precious (x)")
    os.truncate(path, path.stat().st_size // 2)
    before = path.read_bytes()
    with pytest.raises(HistoryError, match=r"^cannot use the history .*malformed"):
        History(path)
    assert path.read_bytes() == before


HEADER_BYTES = 100
PAGE_BYTES = 4096


def long_history(path):
    """Write a history of several hundred pages."""
    first = int(NOON.timestamp())
    with contextlib.closing(open_history(path)) as connection:
        connection.execute("BEGIN")
        connection.executemany(
            history_module.WRITE_MINUTE,
            [
                (first + 60 * minute, "radio", "music", "jazz", 60.0, 0.9, -20.0)
                for minute in range(20_000)
            ],
        )
        connection.execute("COMMIT")
    assert path.stat().st_size > 200 * PAGE_BYTES


def overwrite(path, since, until=None):
    """Overwrite a part of a file with random bytes."""
    with path.open("r+b") as file:
        file.seek(since)
        file.write(random.Random(7).randbytes((until or path.stat().st_size) - since))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: overwrite(path, HEADER_BYTES),
        lambda path: overwrite(path, PAGE_BYTES),
        lambda path: overwrite(path, 100 * PAGE_BYTES, 101 * PAGE_BYTES),
        lambda path: os.truncate(path, 100 * PAGE_BYTES),
    ],
    ids=["all-but-the-header", "all-but-the-first-page", "one-page", "cut-off"],
)
def test_a_corrupt_history_is_renamed_and_a_new_one_begun(tmp_path, caplog, damage):
    path = tmp_path / "h.db"
    long_history(path)
    damage(path)
    content = path.read_bytes()
    kept = written(path, at(0), segment(1, end=10.0, final=True))
    assert [row["title"] for row in kept.segments] == ["Song 1"]
    (aside,) = tmp_path.glob("h.db.damaged-*")
    assert aside.read_bytes() == content
    (logged,) = caplog.messages
    assert logged.startswith(f"the history {path} is damaged: ")
    assert logged.endswith(f"; it is kept as {aside}, and a new one begins")


def test_a_history_that_becomes_corrupt_while_it_is_open_is_replaced(tmp_path, caplog):
    path = tmp_path / "h.db"
    long_history(path)
    history = begun(path)
    overwrite(path, HEADER_BYTES)
    history.publish(at(60 * 10_000))
    history.publish(segment(1, end=10.0, final=True))
    history.publish(segment(2, start=10.0))
    wait_until(lambda: list(tmp_path.glob("h.db.damaged-*")), "the renamed file")
    history.close()
    assert [row["title"] for row in rows(open_query(path, *ALWAYS)).segments] == [
        "Song 1",
        "Song 2",
    ]
    assert history.write_errors == 1
    (logged,) = caplog.messages
    assert re.match(r"the history .*h\.db is damaged: .*malformed; it is kept as", logged)


def in_state(number, start, end, state="live", reason="", source="radio"):
    """Return an event that changes a stretch of a state; it is open without an `end`."""
    begun, last = (NOON + timedelta(seconds=second) for second in (start, end or start))
    placed = PlacedState(source, number, begun, last, end is None, SourceState(state), reason)
    status = SourceStatus(source, "media", placed.state, reason)
    return Published(source, 0, last, 0.0, status, states=(placed,))


def test_the_states_of_sources_are_kept_with_their_reasons(tmp_path):
    history = History(tmp_path / "h.db", FOREVER_DAYS, now=lambda: NOON + timedelta(seconds=70))
    for event in (
        in_state(1, 0, None),
        in_state(1, 0, 20),
        in_state(2, 20, None, "reconnecting", "no data for 10 s"),
    ):
        history.publish(event)
    wait_until(lambda: len(list_states(history.open_query(*ALWAYS))) == 2, "two states")
    off = list_states(history.open_query(*ALWAYS))[1]
    assert (off["start"], off["end"]) == ("2026-05-01T12:00:20.000Z", None)
    history.close()
    live, off = list_states(open_query(tmp_path / "h.db", *ALWAYS))
    assert (live["state"], live["reason"], live["end"]) == ("live", "", off["start"])
    assert (off["state"], off["reason"]) == ("reconnecting", "no data for 10 s")
    assert off["end"] == "2026-05-01T12:01:10.000Z"


def test_an_outage_is_lengthened_while_nothing_is_published(tmp_path, monkeypatch):
    monkeypatch.setattr(history_module, "WRITE_SECONDS", 0.01)
    path, clock = tmp_path / "h.db", [NOON]
    history = History(path, FOREVER_DAYS, now=lambda: clock[0])
    history.publish(in_state(1, 0, None, "failed", "no such file"))
    clock[0] = NOON + timedelta(minutes=10)
    ten_past = "2026-05-01T12:10:00.000Z"
    wait_until(
        lambda: [row["end"] for row in list_states(open_query(path, *ALWAYS))] == [ten_past],
        "ten minutes",
    )
    history.close()


def test_the_time_between_two_runs_is_told_as_not_running(tmp_path, monkeypatch):
    path, clock = tmp_path / "h.db", [NOON]

    def run(session, start, end, *sources):
        monkeypatch.setattr(history_module.time, "time_ns", lambda: session * 10**6)
        clock[0] = NOON + timedelta(seconds=end)
        history = History(path, FOREVER_DAYS, now=lambda: clock[0])
        for source in sources:
            history.publish(in_state(1, start, start + 1, "connecting", source=source))
            history.publish(in_state(2, start + 1, None, source=source))
        history.close()

    run(1, 0, 100, "radio", "hall")
    run(2, 700, 900, "radio", "new")
    run(3, 900, 1000, "radio")
    off = [row for row in list_states(open_query(path, *ALWAYS)) if row["state"] == "not_running"]
    assert off == [
        {
            "source": "radio",
            "start": "2026-05-01T12:01:40.000Z",
            "end": "2026-05-01T12:11:40.000Z",
            "state": "not_running",
            "reason": "",
        }
    ]


def list_states(opening):
    with opening as query:
        return list(query.states())


def test_a_file_of_version_1_is_read_and_goes_on_with_states(tmp_path):
    path = tmp_path / "h.db"
    written(path, at(0), segment(1, end=0.0, final=True))
    with contextlib.closing(sqlite3.connect(path)) as older:
        older.execute("DROP TABLE states")
        older.execute("PRAGMA user_version = 1")
        older.commit()
    assert list_states(open_query(path, *ALWAYS)) == []
    with open_query(path, *ALWAYS, "radio") as query:
        assert query.knows_source()
        assert json.loads(query.json())["states"] == []
    kept = written(path, at(5), in_state(1, 5, 9), segment(1, end=5.0, final=True))
    assert len(kept.segments) == 2
    (state,) = list_states(open_query(path, *ALWAYS))
    assert (state["source"], state["state"]) == ("radio", "live")


def test_a_file_of_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "h.db"
    History(path).close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 3")
    with pytest.raises(HistoryError, match=r"newer genre-stream \(version 3 of the file\); update"):
        History(path)


def titles_of_the_file_alone(path):
    """Return the titles in a file, read without the files beside it, after an integrity check."""
    alone = path.with_name(f"copy of {path.name}")
    alone.write_bytes(path.read_bytes())
    return titles(alone)


def test_a_moved_history_is_complete_and_a_new_one_begun(tmp_path, caplog):
    path, moved = tmp_path / "h.db", tmp_path / "moved.db"
    history = begun(path, end=1.0, final=True)
    path.rename(moved)
    history.publish(segment(2, start=1.0, end=2.0, final=True))
    wait_until(path.exists, "a new file")
    history.close()
    assert titles_of_the_file_alone(moved) == {"Song 1"}
    assert titles_of_the_file_alone(path) == {"Song 2"}
    assert caplog.messages == [
        f"the history {path} was moved, removed or replaced; it is opened anew"
    ]


def test_a_removed_history_is_begun_again_when_its_folder_is_back(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(history_module, "RETRY_SECONDS", 0.02)
    path = tmp_path / "disk" / "h.db"
    path.parent.mkdir()
    history = begun(path, end=1.0, final=True)
    shutil.rmtree(path.parent)
    history.publish(segment(2, start=1.0, end=2.0, final=True))
    wait_until(lambda: history.write_errors >= 2, "failed writes")
    path.parent.mkdir()
    wait_until(lambda: caplog.messages[-1].endswith(" is written again"), "the log")
    history.close()
    assert titles_of_the_file_alone(path) == {"Song 2"}
    assert history.dropped == 0
    assert [message.partition(path.name)[2] for message in caplog.messages] == [
        " was moved, removed or replaced; it is opened anew",
        ": unable to open database file; what is heard waits until it can",
        " is written again",
    ]


def test_a_history_replaced_by_a_copy_is_continued(tmp_path):
    path, copy = tmp_path / "h.db", tmp_path / "copy.db"
    written(copy, at(0), segment(1, end=1.0, final=True, title="Copied"))
    history = begun(path, end=1.0, final=True)
    copy.replace(path)
    history.publish(segment(2, start=1.0, end=2.0, final=True))
    history.close()
    assert titles_of_the_file_alone(path) == {"Copied", "Song 2"}


def test_a_path_that_is_not_a_regular_file_is_refused(tmp_path):
    for place in (tmp_path, Path("/dev/null")):
        with pytest.raises(HistoryError, match=rf"^the history {place} is not a file; choose"):
            History(place)


def test_a_missing_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(HistoryError, match=r"^cannot open the history .*nowhere.*: unable to open"):
        History(tmp_path / "nowhere" / "h.db")
    with pytest.raises(HistoryError, match=r"^cannot read the history .*none\.db: unable to open"):
        rows(open_query(tmp_path / "none.db"))


WRITER = """
import itertools, random, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from support.history import PlacingHistory
from support.published import prediction, segment
from streamer.sinks.history import writer as module

module.WRITE_SECONDS = 0.05
history = PlacingHistory(Path(sys.argv[1]))
for number in itertools.count(1):
    name = f"{sys.argv[2]}.{number}"
    fields = {"start": 10.0 * number, "title": name}
    history.publish(prediction(number, position=10.0 * number))
    history.publish(segment(number, **fields))
    time.sleep(random.uniform(0, 0.01))
    # As in real life a segment lasts until the one before it has been written.
    while number > 1:
        with history.open_query() as query:
            if any(row["title"] == before for row in query.segments()):
                break
        time.sleep(0.001)
    history.publish(segment(number, **fields, end=10.0 * number + 10, final=True))
    before = name
    print(name, flush=True)
"""


def test_fifty_kills_leave_an_intact_file_that_lacks_at_most_the_last_segment(tmp_path):
    path = tmp_path / "h.db"
    randomly = random.Random(7)
    ended: list[str] = []
    lost: set[str] = set()
    for kill in range(KILLS):
        printed = killed_writer(path, kill, randomly)
        ended += printed
        missing = set(ended) - titles(path)
        assert missing <= lost | set(printed[-1:]), f"kill {kill} lost {sorted(missing - lost)}"
        lost |= missing
    assert len(ended) > KILLS


def killed_writer(path, kill, randomly):
    """Run a program that writes segments and kill it; return the segments that it ended."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path, str(kill), TESTS], stdout=subprocess.PIPE, text=True
    ) as writer:
        printed = [writer.stdout.readline() for _ in range(randomly.randrange(8))]
        time.sleep(randomly.uniform(0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        printed += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    return [line.rstrip("\n") for line in printed if line.endswith("\n")]


def titles(path):
    """Return the titles of the segments in a file after an integrity check."""
    with contextlib.closing(sqlite3.connect(path)) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not reader.execute("SELECT name FROM sqlite_master").fetchall():
            return set()
        return {title for (title,) in reader.execute("SELECT title FROM segments")}
