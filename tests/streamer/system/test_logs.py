import io
import logging
import os
import sys

from streamer.system import logs
from streamer.system.console import print_error


def journal_variables(file) -> dict[str, str]:
    status = os.fstat(file.fileno())
    return {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


def test_in_the_journal_every_line_has_its_priority_and_no_time(tmp_path):
    with (tmp_path / "journal").open("w+") as stream:
        logs.configure("debug", stream=stream, environment=journal_variables(stream))
        log = logging.getLogger("streamer.test")
        log.debug("a")
        log.info("b")
        log.warning("c")
        log.error("d\ne")
        stream.seek(0)
        assert stream.read() == "<7>a\n<6>b\n<4>c\n<3>d\n<3>e\n"


def test_elsewhere_every_line_has_its_time_and_level():
    stream = io.StringIO()
    logs.configure("info", stream=stream, environment={"JOURNAL_STREAM": "1:2"})
    logging.getLogger("streamer.test").warning("a string is %s", "loose")
    date, clock, rest = stream.getvalue().split(" ", 2)
    assert (len(date), len(clock)) == (10, 8)
    assert rest == "WARNING a string is loose\n"


def test_standard_error_that_is_not_the_journal_is_known():
    assert not logs.is_journal(sys.__stderr__, {"JOURNAL_STREAM": "0:0"})
    assert not logs.is_journal(io.StringIO(), {})


def test_the_level_holds_for_us_and_libraries_only_warn():
    stream = io.StringIO()
    logs.configure("info", stream=stream, environment={})
    logging.getLogger("websockets").info("chatter")
    logging.getLogger("streamer.x").debug("detail")
    assert stream.getvalue() == ""
    logs.set_level("debug")
    logging.getLogger("streamer.x").debug("detail")
    assert "detail" in stream.getvalue()


def test_a_fault_that_repeats_is_logged_a_few_times_a_minute_and_then_counted():
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


def test_messages_that_no_longer_come_take_no_room():
    now = 0.0
    repeats = logs.RepeatFilter(clock=lambda: now)
    record = logging.LogRecord("a", logging.INFO, "f", 1, "%s", ("first",), None)
    for index in range(1000):
        record.args = (str(index),)
        repeats.filter(record)
    now = 10_000.0
    record.args = ("999",)
    repeats.filter(record)
    assert len(repeats._seen) == 1


def test_a_complaint_in_the_journal_has_a_priority_instead_of_our_name(tmp_path, monkeypatch):
    with (tmp_path / "journal").open("w+") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        print_error("no such\nfile")
        for name, value in journal_variables(stream).items():
            monkeypatch.setenv(name, value)
        print_error("no such\nfile")
        stream.seek(0)
        assert stream.read() == "genre-stream: no such file\n<3>no such file\n"
