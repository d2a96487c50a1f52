"""The end of the process: on SIGTERM at the start, with another, and while threads still run."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable


def exit_on_sigterm() -> None:
    """Let SIGTERM end the process at once with status 0, until another handler is set.

    For the start, when there is nothing yet that would have to be stopped in order.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def exit_past_threads(status: int) -> int:
    """Return `status`, or exit with it at once if other threads run.

    The interpreter ends a thread that still runs by unwinding its stack. Extensions in C++, such as
    ONNX Runtime and soxr, do not allow that, and abort the process.
    """
    if threading.active_count() > 1:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    return status


def end_with_parent() -> None:
    """Let a worker process of multiprocessing end at once when its parent has ended.

    Its parent may have been killed before it could say that there is no more work.
    """
    import multiprocessing  # not needed at the start of genre-stream, which has to be quick

    parent = multiprocessing.parent_process()
    assert parent
    _end_after(parent.join)


def end_with(process: int) -> None:
    """Let this process end at once when another one of the machine has ended."""
    descriptor = os.pidfd_open(process)
    _end_after(lambda: select.select([descriptor], [], []))


def _end_after(wait: Callable[[], object]) -> None:
    """Let a thread end the process at once when `wait` returns."""

    def end() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
