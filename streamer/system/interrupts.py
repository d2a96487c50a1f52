"""Ctrl-C, which a terminal sends to all processes of a program."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def blocked_for_children() -> Iterator[None]:
    """Let processes that are started meanwhile never be interrupted by Ctrl-C.

    Only the process that starts them handles it, after the block if it comes within. They are
    started with the signal blocked: one that ignored it itself could be interrupted before that,
    in an import.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
