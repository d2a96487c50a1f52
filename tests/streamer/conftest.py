"""What many tests of the daemon use: a small model, and a sound server of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.model import make_model
from support.sound import SoundServer, sound_server

from streamer.core.model import Classifier


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a model that hears in which third of the bands sound lies."""
    return make_model(tmp_path_factory.mktemp("model") / "thirds.onnx")


@pytest.fixture(scope="session")
def classifier(model: Path) -> Classifier:
    """Return that model, loaded."""
    return Classifier.load(model)


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> Iterator[SoundServer]:
    """Run a sound server that programs find for the length of a test."""
    with sound_server(monkeypatch) as server:
        yield server
