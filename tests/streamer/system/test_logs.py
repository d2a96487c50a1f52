import io
import logging
import os
import sys

from streamer.system import logs
from streamer.system.console import is_journal, print_error


def make_journal(stream, monkeypatch) -> None:
    status = os.fstat(stream.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")


def test_lines_for_the_journal_have_a_priority_and_no_time(tmp_path, monkeypatch):
    with (tmp_path / "journal").open("w+") as stream:
        make_journal(stream, monkeypatch)
        logs.configure("debug", stream=stream)
        log = logging.getLogger("streamer.test")
        log.debug("a")
        log.info("b")
        log.warning("c")
        log.error("d\ne")
        stream.seek(0)
        assert stream.read() == "<7>a\n<6>b\n<4>c\n<3>d\n<3>e\n"


def test_lines_for_anything_else_have_a_time_and_a_level(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    logs.configure("info", stream=stream)
    logging.getLogger("streamer.test").warning("a string is %s", "loose")
    date, clock, rest = stream.getvalue().split(" ", 2)
    assert (len(date), len(clock)) == (10, 8)
    assert rest == "WARNING a string is loose\n"


def test_a_stream_that_is_not_the_journal_is_recognised(monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "0:0")
    assert not is_journal(sys.__stderr__)
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not is_journal(sys.__stderr__)
    assert not is_journal(io.StringIO())


def test_the_level_applies_to_our_loggers_and_libraries_log_warnings_only():
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    logging.getLogger("websockets").info("chatter")
    logging.getLogger("streamer.x").debug("detail")
    assert stream.getvalue() == ""
    logs.set_level("debug")
    logging.getLogger("streamer.x").debug("detail")
    assert "detail" in stream.getvalue()


def test_a_repeated_message_is_logged_five_times_a_minute_and_then_counted():
    now = 0.0
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(logs.RepeatFilter(clock=lambda: now))
    log = logging.Logger("streamer.test")
    log.addHandler(handler)
    for second in range(120):
        now = float(second)
        log.warning("%s: refused, %d", "radio", second)
    log.warning("%s: refused, %d", "hall", 0)
    lines = stream.getvalue().splitlines()
    assert lines[:5] == [f"radio: refused, {n}" for n in range(5)]
    assert lines[5] == "radio: refused, 60 (and 55 times before)"
    assert lines[6:10] == [f"radio: refused, {n}" for n in range(61, 65)]
    assert lines[10:] == ["hall: refused, 0"]


def test_messages_that_no_longer_come_are_removed():
    now = 0.0
    repeats = logs.RepeatFilter(clock=lambda: now)
    record = logging.LogRecord("a", logging.INFO, "f", 1, "%s", ("first",), None)
    for index in range(1000):
        record.args = (str(index),)
        repeats.filter(record)
    now = 10_000.0
    record.args = ("999",)
    repeats.filter(record)
    assert len(repeats._windows) == 1


def test_an_error_for_the_journal_has_a_priority_instead_of_the_programs_name(
    tmp_path, monkeypatch
):
    with (tmp_path / "journal").open("w+") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        print_error("no such\nfile")
        make_journal(stream, monkeypatch)
        print_error("no such\nfile")
        stream.seek(0)
        assert stream.read() == "genre-stream: no such file\n<3>no such file\n"
