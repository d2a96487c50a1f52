"""The daemon's memory: one heap, whose freed pages go back to the system."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.system.memory import allowed_memory

PROGRAM = """
from pathlib import Path
from streamer.system.memory import return_freed_memory

def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])

before = resident()
blocks = [bytearray(5000) for _ in range(20_000)]
kept = blocks[::100]
del blocks
fragmented = resident() - before
return_freed_memory()
print(fragmented, resident() - before)
"""


HEAPS = """
import ctypes, sys, threading
from streamer.system.memory import share_one_heap

if sys.argv[2] == "shared":
    share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
all_started = threading.Barrier(4)

def allocate():
    all_started.wait()
    libc.malloc(5000)
    all_started.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
report = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(report))
libc.fclose(ctypes.c_void_p(report))
"""

only_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed pages, and heaps by thread"
)


@only_glibc
def test_threads_share_one_heap_instead_of_having_one_each(tmp_path: Path) -> None:
    heaps = {}
    for mode in ("shared", "default"):
        report = tmp_path / mode
        subprocess.run([sys.executable, "-c", HEAPS, str(report), mode], check=True)
        heaps[mode] = report.read_text().count("<heap nr=")
    assert heaps["shared"] == 1 < heaps["default"]


@only_glibc
def test_freed_pages_between_blocks_in_use_are_returned_to_the_system() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    fragmented, after = map(int, done.stdout.split())
    assert fragmented > 50_000
    assert after < fragmented / 4


def test_the_lowest_limit_of_all_enclosing_groups_applies(tmp_path: Path) -> None:
    def limit(group: str, text: str) -> None:
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "memory.max").write_text(f"{text}\n")

    membership = tmp_path / "cgroup"
    everything = allowed_memory(membership, tmp_path)
    pages = int(re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1])  # type: ignore[index]
    assert everything == pytest.approx(pages * 1024, rel=0.01)
    membership.write_text("4:memory:/elsewhere\n0::/system.slice/genre-stream.service\n")
    limit("system.slice/genre-stream.service", "max")
    assert allowed_memory(membership, tmp_path) == everything
    limit("system.slice", "2000000")
    assert allowed_memory(membership, tmp_path) == 2_000_000
    limit("system.slice/genre-stream.service", "1000000")
    assert allowed_memory(membership, tmp_path) == 1_000_000
    membership.write_text("0::/\n")  # a container sees its own group as the root
    limit(".", "3000000")
    assert allowed_memory(membership, tmp_path) == 3_000_000
