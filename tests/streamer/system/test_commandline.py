"""Errors of the command-line programs: one line each, and an exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.system.commandline import ArgumentParser, UserError, run_program


def fail(error: BaseException) -> Callable[[], int]:
    def body() -> int:
        raise error

    return body


def test_the_exit_status_of_the_body_is_returned() -> None:
    assert run_program("program", lambda: 3) == 3


def test_wrong_usage_is_one_line_with_a_reference_to_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = ArgumentParser(prog="program command")
    parser.add_argument("--count", type=int)

    def body() -> int:
        parser.parse_args(["--count", "two"])
        return 0

    assert run_program("program", body) == 2
    assert capsys.readouterr() == (
        "",
        "program: argument --count: invalid int value: 'two'; see program command --help\n",
    )


class FailedError(UserError):
    exit_status = 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("no such\nfile \x1b"), 2),
        (UserError("no such\nfile \x1b", exit_status=1), 1),
        (FailedError("no such\nfile \x1b"), 1),
    ],
)
def test_a_user_error_is_one_line_with_its_own_exit_status(
    capsys: pytest.CaptureFixture[str], error: UserError, status: int
) -> None:
    assert run_program("program", fail(error)) == status
    assert capsys.readouterr() == ("", "program: no such file \n")


def test_further_kinds_of_user_errors_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program("program", fail(KeyError("a")), user_errors=(KeyError,)) == 2
    assert capsys.readouterr().err == "program: 'a'\n"


def test_any_other_exception_is_a_defect_and_propagates() -> None:
    with pytest.raises(ZeroDivisionError):
        run_program("program", fail(ZeroDivisionError()), user_errors=(KeyError,))
    with pytest.raises(PermissionError):
        run_program("program", fail(PermissionError(errno.EACCES, "denied")))


def test_an_interruption_ends_with_130_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_program("program", fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


def test_a_program_can_report_its_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    interrupted = UserError("interrupted; resume it", exit_status=1)
    assert run_program("program", fail(KeyboardInterrupt()), interrupted=interrupted) == 1
    assert capsys.readouterr().err == "program: interrupted; resume it\n"


@pytest.mark.parametrize(("error", "status"), [(None, 0), (UserError("no"), 2)])
def test_a_reader_that_has_left_is_no_failure_and_hides_none(
    monkeypatch: pytest.MonkeyPatch, error: UserError | None, status: int
) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    def body() -> int:
        print("output")
        if error is not None:
            raise error
        return 0

    with os.fdopen(writing, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert run_program("program", body) == status


def test_output_that_does_not_fit_on_the_disk_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def body() -> int:
        print("output")
        return 0

    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert run_program("program", body) == 1
    assert capsys.readouterr().err == (
        "program: cannot write the output: No space left on device\n"
    )


def test_an_error_that_nobody_reads_keeps_its_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        patch.setattr("streamer.system.commandline.discard_standard_output", lambda: None)
        assert run_program("program", fail(UserError("no"))) == 2
        interrupted = UserError("interrupted", exit_status=1)
        assert run_program("program", fail(KeyboardInterrupt()), interrupted=interrupted) == 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)
