"""Giving freed memory back to the system.

glibc keeps freed pages that lie between blocks in use for the process. In a daemon that answers
clients for months they become many: of what a simulated day let it grow by, nearly all was free.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

TRIM_SECONDS = 60.0
"""How often freed memory is given back."""


def _find_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim


_trim = _find_trim()


def return_freed_memory() -> None:
    """Return all freed pages to the system; takes milliseconds. Does nothing without glibc."""
    if _trim is not None:
        _trim(0)
