"""The one way in which this program tells a person that something is wrong."""

from __future__ import annotations

import sys


def complain(sentence: str) -> None:
    """Say in one line on standard error what is wrong, with which value, and what to do."""
    print(f"genre-stream: {' '.join(sentence.split())}", file=sys.stderr)
