"""Fixtures and hooks for all tests: development data, demo clip, embedded model, benchmarks."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from _pytest.terminal import TerminalReporter

import streamer

SHARED = Path(__file__).parents[1].parent / "shared"
PACKAGE = Path(streamer.__file__).parent

# The same examples in every run, and no time limits.
hypothesis.settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")


# In a background job of a shell SIGINT is ignored, also by the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


QUEUE_LOCK, MACHINE_LOCK = Path(__file__).parent, Path(__file__)
"""Paths that the processes of a test run lock, so that benchmarks run alone."""

# Folders and files with the longest tests first, so that none of them is left for the end. The
# tests of the microphone wait for sound in real time, beside trainings that use the processors.
FIRST = (
    "tests/benchmarks/",
    "tests/streamer/fleet/",
    "tests/streamer/sources/test_microphone.py",
    "tests/trainer/",
    "tests/export/",
    "tests/streamer/core/test_embedded_model.py",
    "tests/dashboard/",
    "tests/streamer/test_",
    "tests/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first, and skip those marked `shared` in a clone without the data."""
    items.sort(key=lambda item: [item.nodeid.startswith(folder) for folder in FIRST].index(True))
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason=f"needs the development data in {SHARED}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run a benchmark alone, however many processes run the tests, and what is marked `alone`."""
    alone = any(item.get_closest_marker(name) for name in ("benchmark", "alone"))
    with _opened(QUEUE_LOCK) as queue, _opened(MACHINE_LOCK) as machine:
        # The queue is locked while waiting for the machine, so that no test overtakes a benchmark.
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        return (yield)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a path for locking; its lock is released at the end, even if a fork has inherited it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@pytest.fixture(autouse=True)
def restored_log() -> Iterator[None]:
    """Restore the log: a closed file's descriptor may be reused, and would get its lines."""
    root, ours = logging.getLogger(), logging.getLogger("streamer")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Return a function that adds a sentence to the measurements printed after the test run."""
    return lambda sentence: record_property("measured", sentence)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the measurements."""
    reports = itertools.chain.from_iterable(terminalreporter.stats.values())
    sentences = [
        value
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == "measured"
    ]
    if sentences:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(map(str, sentences)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of development data."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the development data in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def demo_clip() -> Path:
    """Return the clip that ships with the package."""
    clip = PACKAGE / "demo" / "demo.opus"
    assert clip.is_file(), f"the package lacks {clip}"
    return clip


@pytest.fixture(scope="session")
def gtzan_model() -> Path:
    """Return the embedded default model."""
    model = PACKAGE / "models" / "gtzan.onnx"
    assert model.is_file(), f"the package lacks {model}"
    return model
