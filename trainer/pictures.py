"""Spectrogram pictures: 8-bit grey PNG files, columns are time, the highest mel band on top."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from streamer.core.spectrogram import SpecError, SpectrogramSpec
from streamer.system.files import atomic_write
from trainer.tracks import MIN_SECONDS, SPEC_FILE, DatasetError

Levels = NDArray[np.uint8]

# A picture is as wide as its track is long; Pillow's limit is too low for hours on a fine grid.
Image.MAX_IMAGE_PIXELS = None

MAX_CELLS = 2**30
"""Largest picture that is read, in bands times columns: a day in 128 bands every 10 ms."""

FORMATS = ("PNG",)
"""Formats that Pillow may detect. Without this it would pass PostScript content to Ghostscript."""

ORIGIN_KEY = "genre-stream"
"""Keyword of the PNG text chunk with a picture's origin, see `trainer.prepare`."""


def read_picture(path: Path) -> Levels:
    """Return the levels of a picture, shape (n_mels, frames); row 0 is the lowest band.

    DatasetError is raised if the file is not an 8-bit grey picture or larger than `MAX_CELLS`; its
    message is the reason, without the path.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.mode != "L":
                raise DatasetError(f"not an 8-bit grey picture but mode {picture.mode}")
            if picture.width * picture.height > MAX_CELLS:
                raise DatasetError(f"too large: {picture.width} x {picture.height} cells")
            return np.ascontiguousarray(np.asarray(picture)[::-1])
    except DatasetError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"damaged picture ({_first_line(error)})") from error


def read_origin(path: Path) -> str:
    """Return the origin that `write_picture` stored in a picture, empty if there is none."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return str(picture.info.get(ORIGIN_KEY, ""))
    except (OSError, SyntaxError, ValueError):
        return ""


def write_picture(path: Path, levels: Levels, origin: str | None = None) -> None:
    """Write levels, row 0 the lowest band, as a picture atomically; see `atomic_write`.

    The origin is stored in a text chunk of the picture.
    """
    about = PngInfo()
    if origin is not None:
        about.add_text(ORIGIN_KEY, origin)
    with atomic_write(path) as partial:
        Image.fromarray(np.ascontiguousarray(levels[::-1])).save(partial, "PNG", pnginfo=about)


def picture_fault(path: Path, spec: SpectrogramSpec) -> str:
    """Return why a picture is no usable track on the grid, or an empty string."""
    try:
        mels, columns = read_picture(path).shape
    except DatasetError as error:
        return str(error)
    if mels != spec.n_mels:
        return f"{mels} rows instead of the {spec.n_mels} bands of {SPEC_FILE}"
    if columns < 1 + int(MIN_SECONDS * spec.sample_rate) // spec.hop_length:
        return f"too short: {columns * spec.hop_seconds:.1f} s, at least {MIN_SECONDS:g} s needed"
    return ""


def read_spec(folder: Path) -> SpectrogramSpec:
    """Read the `spectrogram.json` of a picture folder; raise DatasetError if it is unusable."""
    path = folder / SPEC_FILE
    try:
        return SpectrogramSpec.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        reason = str(error) if isinstance(error, SpecError) else _first_line(error)
        raise DatasetError(f"cannot use {path}: {reason}") from error


def check_grid(folder: Path, spec: SpectrogramSpec) -> None:
    """Raise a DatasetError that names the differences if pictures are not on the model's grid."""
    own, wanted = read_spec(folder).to_dict(), spec.to_dict()
    differing = [
        f"{name} {own[name]:g} instead of {wanted[name]:g}"
        for name in wanted
        if own[name] != wanted[name]
    ]
    if differing:
        raise DatasetError(
            f"the pictures in {folder} are on another grid than the model: {', '.join(differing)}; "
            "prepare them again or give the audio"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
