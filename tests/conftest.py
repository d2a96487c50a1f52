"""What every test may ask for: the development data, the demo clip, the embedded model."""

from __future__ import annotations

import signal
from pathlib import Path

import hypothesis
import pytest

import streamer

SHARED = Path(__file__).parents[1].parent / "shared"
PACKAGE = Path(streamer.__file__).parent

# The same examples in every run, and no test that fails because the machine is busy.
hypothesis.settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")


# A shell's background job ignores Ctrl-C, and so would every program that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `shared` in a clone without the development data."""
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason=f"needs the development data in {SHARED}"))


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
