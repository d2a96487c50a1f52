"""Spectrogram pictures: one 8-bit grey PNG a track, highest band on top, columns are time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamer.spectrogram import SpecError, SpectrogramSpec
from trainer.gtzan import MIN_SECONDS, SPEC_FILE, DatasetError

Levels = NDArray[np.uint8]


def read_picture(path: Path) -> Levels:
    """Read a spectrogram picture.

    Returns
    -------
    uint8, shape (n_mels, frames)
        Levels; row 0 is the lowest band, unlike in the picture.

    Raises
    ------
    DatasetError
        If the file is no 8-bit grey picture; the message is the reason, without the path.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode != "L":
                raise DatasetError(f"not an 8-bit grey picture but mode {picture.mode}")
            return np.ascontiguousarray(np.asarray(picture)[::-1])
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"damaged picture ({_first_line(error)})") from error


def write_picture(path: Path, levels: Levels) -> None:
    """Write levels `(n_mels, frames)`, row 0 the lowest band, so that a reader sees all or none."""
    partial = path.with_name(f".{path.name}.partial")
    Image.fromarray(np.ascontiguousarray(levels[::-1])).save(partial, format="PNG")
    partial.replace(path)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def min_columns(spec: SpectrogramSpec) -> int:
    """Return how many columns the shortest usable track has."""
    return 1 + int(MIN_SECONDS * spec.sample_rate) // spec.hop_length


def read_spec(folder: Path) -> SpectrogramSpec:
    """Read a picture folder's grid.

    Raises
    ------
    DatasetError
        If `spectrogram.json` is missing or is not a spectrogram specification.
    """
    path = Path(folder) / SPEC_FILE
    try:
        return SpectrogramSpec.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        reason = str(error) if isinstance(error, SpecError) else _first_line(error)
        raise DatasetError(f"cannot use {path}: {reason}") from error
