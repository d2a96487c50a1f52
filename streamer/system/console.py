"""How this program tells a person that something is wrong, and leaves one who went away alone."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path


def print_error(sentence: str) -> None:
    """Say in one line on standard error what is wrong, with which value, and what to do."""
    line = strip_control_characters(" ".join(sentence.split()))
    print(f"<3>{line}" if _to_journal() else f"genre-stream: {line}", file=sys.stderr)


def strip_control_characters(line: str) -> str:
    r"""Return a line without control characters, which could tell a terminal to do anything.

    Examples
    --------
    >>> harmless("Song \x1b[31mA\x07")
    'Song [31mA'
    """
    return "".join(letter for letter in line if unicodedata.category(letter) != "Cc")


def unreadable_reason(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file could not be read as text."""
    return getattr(error, "strerror", None) or "it is not text in UTF-8"


def _to_journal() -> bool:
    """Tell whether the journal reads this, which adds the program's name and wants a priority."""
    if "JOURNAL_STREAM" not in os.environ:
        return False
    from streamer.system.logs import to_journal

    return to_journal(sys.stderr, os.environ)


def discard_standard_output() -> None:
    """Let what waits for a reader of standard output who has gone vanish without a complaint."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_closed_streams() -> None:
    """Open what the caller closed, as with ``2>&-``, on nothing.

    Else there is no such stream for Python, and the next file or socket takes its descriptor:
    what a library complains of on standard error would be written into it.
    """
    if sys.stdin is None:
        # It stays None for whoever wants to hear it, who is told.
        os.open(os.devnull, os.O_RDONLY)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
