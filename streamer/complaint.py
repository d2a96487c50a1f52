"""How this program tells a person that something is wrong, and leaves one who went away alone."""

from __future__ import annotations

import os
import sys


def complain(sentence: str) -> None:
    """Say in one line on standard error what is wrong, with which value, and what to do."""
    print(f"genre-stream: {' '.join(sentence.split())}", file=sys.stderr)


def leave_the_reader_alone() -> None:
    """Let what waits for a reader of standard output who has gone vanish without a complaint."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
