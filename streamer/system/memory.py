"""Staying small for months.

glibc gives every thread a heap of its own, up to eight for a processor, and keeps freed pages that
lie between blocks in use. Threads come and go with every reconnection, question and client, so what
one leaves free another cannot use: of what a simulated day let the daemon grow by, nearly all was
free. One heap for all, and its free pages given back again and again, keep the size where it was.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

TRIM_SECONDS = 10.0
"""How often freed memory is given back; it takes milliseconds, and not those of the interpreter."""


MALLOPT = {
    # One heap.
    -8: 1,  # M_ARENA_MAX
    # Large blocks outside of it, so that they leave no holes: without a word glibc takes ever
    # larger ones from the heap, and an answer of a day's history is some megabytes.
    -3: 1 << 20,  # M_MMAP_THRESHOLD, bytes
    # Small ones are not fetched anew from the system for every second of sound.
    -1: 4 << 20,  # M_TRIM_THRESHOLD, bytes
}
"""What glibc is asked for: number of a parameter of `mallopt` (malloc.h) to its value."""


@functools.cache
def _glibc(name: str) -> Callable[..., int] | None:
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return function


def share_one_heap() -> None:
    """Let all threads that start from now on share a heap. Does nothing without glibc."""
    if (mallopt := _glibc("mallopt")) is not None:
        for parameter, value in MALLOPT.items():
            mallopt(parameter, value)


def return_freed_memory() -> None:
    """Return all freed pages to the system; takes milliseconds. Does nothing without glibc."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def allowed_memory(
    membership: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Return how many bytes this process may have: all there are, or what its group is left.

    Parameters
    ----------
    membership, groups
        Where Linux tells the control group (version 2, see cgroups(7)) and its limits, which
        systemd's ``MemoryMax=`` sets. What cannot be read limits nothing.
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
        except (OSError, ValueError):  # ValueError: it says "max"
            continue
    return allowed
