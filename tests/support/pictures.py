"""Small picture folders with genres that a network can tell apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from streamer.core.spectrogram import SpectrogramSpec
from trainer.pictures import write_picture

SPEC = SpectrogramSpec(n_mels=40)


def write_pictures(
    folder: Path,
    genres: tuple[str, ...] = ("rows", "steps"),
    tracks: int = 6,
    frames: int = 90,
    spec: SpectrogramSpec = SPEC,
) -> Path:
    """Write a picture folder whose genres have different periods along time and mel axis."""
    random = np.random.default_rng(5)
    bands, columns = np.mgrid[: spec.n_mels, :frames]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spectrogram.json").write_text(json.dumps(spec.to_dict()))
    for number, genre in enumerate(genres):
        (folder / genre).mkdir(exist_ok=True)
        for track in range(tracks):
            pattern = np.sin(bands / (1 + number)) + np.sin(columns / (2 + 3 * number))
            levels = 128 + 50 * pattern + random.normal(0, 12, pattern.shape)
            path = folder / genre / f"{genre}.{track:05d}.png"
            write_picture(path, np.clip(levels, 0, 255).astype(np.uint8))
    return folder
