"""Error lines on standard error, and standard streams that were closed or whose reader has left."""

from __future__ import annotations

import io
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def print_error(message: str, program: str = "genre-stream") -> None:
    """Print an error as one line on standard error, after the program's name.

    The journal adds the name itself and gets the priority of an error instead.
    """
    line = strip_control_characters(" ".join(message.split()))
    print(f"<3>{line}" if is_journal(sys.stderr) else f"{program}: {line}", file=sys.stderr)


def strip_control_characters(line: str) -> str:
    r"""Return a line without the control characters that could operate a terminal.

    Examples
    --------
    >>> strip_control_characters("Song \x1b[31mA\x07")
    'Song [31mA'
    """
    return "".join(letter for letter in line if unicodedata.category(letter) != "Cc")


def plural(number: int, noun: str) -> str:
    """Return a number of things.

    Examples
    --------
    >>> plural(1, "file"), plural(2, "file")
    ('1 file', '2 files')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines, with columns of equal width.

    Examples
    --------
    >>> aligned([("NAME", "HZ"), ("hall", "44100"), ("a", "")])
    ['NAME  HZ', 'hall  44100', 'a']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def unreadable_reason(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file could not be read as text."""
    return getattr(error, "strerror", None) or "it is not text in UTF-8"


def is_journal(stream: TextIO | io.TextIOBase) -> bool:
    """Return whether `stream` is the journal; see JOURNAL_STREAM in systemd.exec(5)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


@contextmanager
def silenced_stderr() -> Iterator[None]:
    """Discard everything written to file descriptor 2 within the block.

    TensorFlow logs about processors and missing GPUs when it is imported, from C++ and before it
    reads any setting.
    """
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


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
