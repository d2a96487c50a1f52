"""The number of processors, and how long a thread has waited for one."""

from __future__ import annotations

import os
from pathlib import Path


def processors() -> int:
    """Return the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system has it
        return os.cpu_count() or 1


def seconds_without_processor() -> float:
    """Return how long this thread has been ready to run while others had the processors.

    0 where the system does not tell.
    """
    try:
        return int(Path("/proc/thread-self/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
