"""Memory that was freed between blocks in use goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
from pathlib import Path
from streamer.memory import return_freed_memory

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed pages")
def test_freed_pages_between_blocks_in_use_go_back_to_the_system() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    fragmented, after = map(int, done.stdout.split())
    assert fragmented > 50_000
    assert after < fragmented / 4
