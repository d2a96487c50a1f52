"""Staying small for months.

glibc gives every thread a heap of its own, up to eight for a processor, and keeps freed pages that
lie between blocks in use. Threads come and go with every reconnection, question and client, so what
one leaves free another cannot use: of what a simulated day let the daemon grow by, nearly all was
free. One heap for all, and its free pages given back every minute, keep the size where it was.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

TRIM_SECONDS = 60.0
"""How often freed memory is given back."""


M_ARENA_MAX = -8
"""glibc's number for the parameter of `mallopt` that bounds the number of heaps."""


def _glibc(name: str) -> Callable[..., int] | None:
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return function


def share_one_heap() -> None:
    """Let all threads that start from now on share a heap. Does nothing without glibc."""
    if (mallopt := _glibc("mallopt")) is not None:
        mallopt(M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Return all freed pages to the system; takes milliseconds. Does nothing without glibc."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)
