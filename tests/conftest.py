"""Fixtures and hooks for all tests: development data, demo clip, embedded model, benchmarks."""

from __future__ import annotations

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


# Each of hundreds of programs that tests start would compile this tree's modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


QUEUE_LOCK, MACHINE_LOCK = Path(__file__).parent, Path(__file__)
"""Paths that the processes of a test run lock, so that benchmarks run alone."""

ALONE = ("tests/benchmarks/", "tests/streamer/fleet/test_fleet.py")
"""Where tests are that run beside no other; they come first, one after the other."""

BUSY = ("tests/trainer/", "tests/export/", "tests/streamer/core/")
"""Tests that keep the processors busy. The others mostly wait for real programs and for sound in
real time, so processes that run both at once leave less of the machine unused."""

LONGEST = (
    "tests/trainer/test_tour.py",
    "tests/trainer/test_train_cli.py",
    "tests/export/test_inception.py",
    "tests/trainer/test_devices.py",
    "tests/trainer/test_small_set.py",
    "tests/trainer/test_fit.py",
    "tests/streamer/core/test_embedded_model.py",
    "tests/streamer/core/test_not_music.py",
    "tests/trainer/",
    "tests/export/",
    "tests/streamer/sources/test_microphone.py",
    "tests/dashboard/test_dashboard_page.py",
    "tests/streamer/test_",
    "tests/dashboard/",
    "tests/soak/",
    "tests/streamer/sources/test_network.py",
    "tests/streamer/sources/test_radio.py",
    "tests/streamer/engine/",
    "tests/streamer/sinks/",
    "tests/streamer/relay/",
    "tests/systemd/",
    "tests/test_style.py",
    "tests/",
)
"""Files and folders with the longest tests, so that none of them is left for the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files for several processes; skip what is marked `shared` in a clone without data."""
    files = sorted(
        dict.fromkeys(_file(item) for item in items),
        key=lambda file: [file.startswith(longest) for longest in LONGEST].index(True),
    )
    busy = [file for file in files if file.startswith(BUSY)]
    waiting = [file for file in files if not file.startswith(BUSY + ALONE)]
    place = {
        file: (number + 0.5) / len(group)
        for group in (busy, waiting)
        for number, file in enumerate(group)
    }
    items.sort(key=lambda item: place.get(_file(item), 0.0))
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason=f"needs the development data in {SHARED}"))


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


_machine: list[int] = []
"""The descriptor by which this process has locked the machine, if it has."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Run a benchmark alone, however many processes run the tests, and what is marked `alone`."""
    if not _machine:
        # The queue is locked while waiting for the machine, so that no test overtakes a benchmark.
        queue = _locked(QUEUE_LOCK, fcntl.LOCK_EX)
        _machine.append(_locked(MACHINE_LOCK, fcntl.LOCK_EX if _alone(item) else fcntl.LOCK_SH))
        _release(queue)
    try:
        return (yield)
    finally:
        # The other processes end their tests once for several that run alone, not for each.
        if not (_alone(item) and nextitem and _alone(nextitem)):
            _release(_machine.pop())


def _alone(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("benchmark", "alone"))


def _locked(path: Path, how: int) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(descriptor, how)
    return descriptor


def _release(descriptor: int) -> None:
    """Unlock and close a descriptor; without the former, a fork that inherited it has the lock."""
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
