"""Fixtures for tests of the daemon: a small model and a sound server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.model import make_model
from support.patience import be_patient
from support.sound import SoundServer, sound_server

from streamer.core.model import Classifier

be_patient()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a model that detects which third of the mel bands has sound."""
    return make_model(tmp_path_factory.mktemp("model") / "thirds.onnx")


@pytest.fixture(scope="session")
def classifier(model: Path) -> Classifier:
    """Return that model, loaded."""
    return Classifier.load(model)


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> Iterator[SoundServer]:
    """Run a sound server that the programs started by a test use."""
    with sound_server(monkeypatch) as server:
        yield server
