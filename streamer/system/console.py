"""Error lines on standard error, and standard streams that were closed or whose reader has left."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path


def print_error(message: str, program: str = "genre-stream") -> None:
    """Print an error as one line on standard error.

    Parameters
    ----------
    message
        What is wrong, with which value, and what to do. White space is collapsed and control
        characters are removed.
    program
        Printed before the message, except to the journal, which adds the name itself and gets the
        priority of an error instead.
    """
    line = strip_control_characters(" ".join(message.split()))
    print(f"<3>{line}" if _writes_to_journal() else f"{program}: {line}", file=sys.stderr)


def strip_control_characters(line: str) -> str:
    r"""Return a line without the control characters that could operate a terminal.

    Examples
    --------
    >>> strip_control_characters("Song \x1b[31mA\x07")
    'Song [31mA'
    """
    return "".join(letter for letter in line if unicodedata.category(letter) != "Cc")


def unreadable_reason(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file could not be read as text."""
    return getattr(error, "strerror", None) or "it is not text in UTF-8"


def _writes_to_journal() -> bool:
    """Return whether standard error is connected to the systemd journal."""
    if "JOURNAL_STREAM" not in os.environ:
        return False
    from streamer.system.logs import is_journal

    return is_journal(sys.stderr, os.environ)


def discard_standard_output() -> None:
    """Discard buffered and further output, after a broken pipe or on a full disk.

    Otherwise the interpreter would try to write the rest when it exits, and report the failure.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_closed_streams() -> None:
    """Connect standard streams that the caller closed (``2>&-``) to the null device.

    Otherwise the next file or socket would get the free descriptor, and messages that a library
    writes to standard error would end up in it.
    """
    if sys.stdin is None:
        # Only the descriptor is taken; sys.stdin stays None, so that reading it is an error.
        os.open(os.devnull, os.O_RDONLY)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
