"""How long the daemon takes to start."""

import statistics
import subprocess
import sys
import time

import pytest
from support.daemon import ServiceManager, daemon

IMPORTS = "import numpy, onnxruntime, av, websockets.asyncio.server, prometheus_client, pydantic"
ROUNDS = 3
MAX_RATIO = 5.0
"""Longest start, relative to importing its libraries (about 0.3 s on two idle cores of 2020s
hardware). A model that can be computed with integers is opened twice, to measure which is faster,
so it is near 4."""


def seconds(action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


@pytest.mark.benchmark
def test_a_start_takes_at_most_five_times_its_imports(gtzan_model, tmp_path, measured):
    def start_until_ready():
        manager = ServiceManager(tmp_path / f"notify{time.monotonic_ns()}")
        with daemon(tmp_path, "--source", "demo", variables={"NOTIFY_SOCKET": str(manager.path)}):
            manager.wait_for("READY=1")
        manager.close()

    ratios, starts = [], []
    for _ in range(ROUNDS):
        imports = seconds(lambda: subprocess.run([sys.executable, "-c", IMPORTS], check=True))
        starts.append(seconds(start_until_ready))
        ratios.append(starts[-1] / imports)
    ratio = statistics.median(ratios)
    measured(f"start until ready: {min(starts):.2f} s, {ratio:.1f} times the imports alone")
    assert ratio < MAX_RATIO
