"""A small run and a folder of pictures for the tests of the exporter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import support.run
from PIL import Image


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run with a network of a few thousand weights."""
    return support.run.write_run(
        tmp_path_factory.mktemp("runs") / "tiny", support.run.tiny_network()
    )


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pictures: smooth noise, 10 tracks of 200 columns in two genres."""
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(11)
    (root / "spectrogram.json").write_text(json.dumps(support.run.RUN["spec"]))
    for genre in ("blues", "rock"):
        (root / genre).mkdir()
        for number in range(5):
            coarse = Image.fromarray(draw.integers(0, 256, (8, 12), np.uint8))
            picture = coarse.resize((200, 128), Image.Resampling.BICUBIC)
            picture.save(root / genre / f"{genre}.{number:05}.png")
    return root
