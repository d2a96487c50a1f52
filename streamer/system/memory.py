"""Limits the growth of the resident memory over months, and reads how much may be used.

glibc gives each thread a heap of its own, up to eight per processor, and keeps freed pages that lie
between blocks in use. Threads come and go with every reconnection, query and client, and memory
that one of them frees cannot be used by another: nearly all growth of a simulated day was free
memory. One heap for all threads, trimmed regularly, keeps the size constant.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

TRIM_SECONDS = 1.0
"""Seconds between two trims. One takes milliseconds, during which the interpreter is not locked."""

MALLOPT = {
    # One heap.
    -8: 1,  # M_ARENA_MAX
    # Large blocks outside of it, so that they leave no holes. By default glibc raises this
    # threshold, and the answer to a query for a day of history is some megabytes.
    -3: 1 << 20,  # M_MMAP_THRESHOLD, bytes
    # Keep enough free memory that small blocks need no system call for every second of sound.
    -1: 64 << 20,  # M_TRIM_THRESHOLD, bytes
}
"""Values of the parameters of mallopt(3), by their numbers in malloc.h."""


@functools.cache
def _glibc(name: str) -> Callable[..., int] | None:
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return function


def share_one_heap() -> None:
    """Let all threads that start from now on share a heap. Does nothing without glibc."""
    if mallopt := _glibc("mallopt"):
        for parameter, value in MALLOPT.items():
            mallopt(parameter, value)


def return_freed_memory() -> None:
    """Return all freed pages to the system; takes milliseconds. Does nothing without glibc."""
    if trim := _glibc("malloc_trim"):
        trim(0)


async def trim_memory() -> None:
    """Return freed memory to the system at intervals, until it is cancelled."""
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        await asyncio.to_thread(return_freed_memory)


def allowed_memory(
    membership: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Return how many bytes this process may use: the machine's memory, or its cgroup's limit.

    `membership` names the process's control group (version 2, see cgroups(7)), `groups` holds the
    limits, which systemd's ``MemoryMax=`` sets. A limit that cannot be read is ignored.
    """
    allowed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return allowed
    group = next((Path(line[3:].lstrip("/")) for line in lines if line.startswith("0::")), Path())
    for place in (group, *group.parents):
        try:
            allowed = min(allowed, int((groups / place / "memory.max").read_text()))
        except (OSError, ValueError):  # ValueError: the file says "max"
            continue
    return allowed
