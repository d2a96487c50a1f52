"""Tags beside the pictures of a picture folder: what MusiCNN hears in each track; needs no Keras.

`<track>.tags.npy` holds the tags of the pieces of 3 s at 0, 1, 2 ... s (see
`trainer.musicnn.PIECE_HOP`). `<track>.degraded.npy` holds those of pieces of the track through
rooms, noise and small speakers, from which the head learns what they do to the tags.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.system.files import atomic_write
from trainer.musicnn import TAGS
from trainer.tracks import DatasetError, Track

Tags = NDArray[np.float32]
"""Probabilities of the tags by piece, shape (pieces, tags)."""

COPIES = 3
"""Degraded copies of a track from which the head learns."""

TAGGERS = ("musicnn", "none")
"""Choices of `--tagger`; `none` leaves the second network out."""


def tags_file(picture: Path) -> Path:
    """Return where the tags of a picture's track lie."""
    return picture.with_name(f"{picture.stem}.tags.npy")


def degraded_file(picture: Path) -> Path:
    """Return where the tags of the degraded copies of a picture's track lie."""
    return picture.with_name(f"{picture.stem}.degraded.npy")


def tag_files(picture: Path) -> tuple[Path, Path]:
    """Return both files with tags that may lie beside a picture."""
    return tags_file(picture), degraded_file(picture)


def write_tags(path: Path, tags: Tags) -> None:
    """Write tags atomically; see `atomic_write`."""
    with atomic_write(path, tags.nbytes) as partial:
        np.save(partial, np.asarray(tags, np.float32))


def read_tags(path: Path) -> Tags:
    """Read a file of tags.

    Raises
    ------
    DatasetError
        If it is missing, damaged or does not hold probabilities of `TAGS`.
    """
    try:
        tags = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "damaged"
        raise DatasetError(f"{path}: {reason}; make it again with genre-train prepare") from None
    check_tags(tags, str(path))
    return np.asarray(tags, np.float32)


def check_tags(tags: NDArray[np.floating[Any]], where: str) -> None:
    """Raise a DatasetError unless tags have the shape (pieces, tags) and are probabilities."""
    if tags.ndim != 2 or not len(tags) or tags.shape[1] != len(TAGS) or tags.dtype.kind != "f":
        raise DatasetError(
            f"{where}: must hold floating point of shape (pieces, {len(TAGS)}), not {tags.dtype} "
            f"of shape {tags.shape}"
        )
    if not ((tags >= 0) & (tags <= 1)).all():
        raise DatasetError(f"{where}: holds values that are no probabilities, 0 to 1")


def tagged(tracks: Iterable[Track]) -> list[Track]:
    """Return the tracks that are audio, or pictures with tags beside them."""
    return [track for track in tracks if not track.is_picture or tags_file(track.path).is_file()]
