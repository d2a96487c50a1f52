"""What the command-line programs share: the parser, errors for the user and exit statuses."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable
from typing import NoReturn

from streamer.system.console import discard_standard_output, open_closed_streams, print_error

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the number of SIGINT, as shells report it."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a disk that is full or failing."""


class UserError(Exception):
    """An error that the user can act on.

    The message is the one line that is printed: what is wrong, with which value, what to do.
    """

    exit_status = 2
    """Exit status of the program: 1 failed while running, 2 wrong usage or settings."""

    def __init__(self, message: str, *, exit_status: int | None = None) -> None:
        super().__init__(message)
        if exit_status is not None:
            self.exit_status = exit_status


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that raises `UserError` instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` that refers to ``--help``."""
        raise UserError(f"{message}; see {self.prog} --help")


def print_line(line: str) -> None:
    """Print a line and flush it; a reader that has left does not stop the program.

    `UserError` is raised if standard output cannot be written, for one because the disk is full.
    """
    try:
        print(line, flush=True)
    except BrokenPipeError:
        discard_standard_output()
    except OSError as error:
        discard_standard_output()
        raise UserError(f"cannot write the output: {error.strerror}", exit_status=1) from None


def run_program(
    program: str,
    body: Callable[[], int],
    *,
    user_errors: tuple[type[Exception], ...] = (),
    interrupted: UserError | None = None,
) -> int:
    """Run a command line and turn expected failures into one line and an exit status.

    Printed are: a `UserError`, with its `exit_status`; one of `user_errors`, with 2; and output
    that does not fit on the disk, with 1. A reader of standard output that has left is no failure.
    Any other exception is a defect and propagates.

    `user_errors` are further exceptions for the user, of modules that cannot derive them from
    `UserError`. On Ctrl-C `interrupted` is reported; without it the program ends with 130 and
    prints nothing.
    """
    open_closed_streams()
    reported: tuple[type[Exception], ...] = (UserError, *user_errors)
    status = 0
    try:
        try:
            status = body()
        except reported as error:
            status = getattr(error, "exit_status", UserError.exit_status)
            print_error(str(error), program)
        except KeyboardInterrupt:
            status = INTERRUPTED
            if interrupted is not None:
                status = interrupted.exit_status
                print_error(str(interrupted), program)
        finally:
            # Here, because an error at the interpreter's exit could not be handled any more.
            sys.stdout.flush()
    except KeyboardInterrupt:  # while the output was flushed
        discard_standard_output()
        return INTERRUPTED
    except BrokenPipeError:
        discard_standard_output()
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        discard_standard_output()
        print_error(f"cannot write the output: {error.strerror}", program)
        return 1
    return status
