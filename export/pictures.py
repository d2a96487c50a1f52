"""Windows cut from a folder of spectrogram pictures, as the daemon feeds them to a model."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from streamer.core.contract import ModelContract
from streamer.core.spectrogram import SpecError, SpectrogramSpec, from_levels, relative_to_peak
from streamer.system.commandline import UserError


@dataclass(frozen=True, slots=True)
class TrackWindows:
    """All whole windows of one track."""

    track: str
    """Name in `run.json`: the file's stem if it starts with the genre (`blues.00012`), else
    `genre/stem`."""
    genre: str
    """Name of the folder."""
    spectrograms: NDArray[np.float32]
    """Shape (k, n_mels, frames): dB relative to each window's loudest cell."""


def read_windows(
    folder: Path, contract: ModelContract, *, leave_out: Collection[str] = ()
) -> list[TrackWindows]:
    """Cut every picture of a folder into consecutive windows without overlap.

    The folder holds `<genre>/<track>.png` and `spectrogram.json` (contract 4.4). A picture shorter
    than a window is one short window. If `leave_out` names all tracks, none is left out.

    Returns
    -------
    list of TrackWindows
        Sorted by genre and track.

    Raises
    ------
    UserError
        If the folder holds no pictures on the model's grid.
    """
    _check_grid(folder, contract.spectrogram)
    paths = sorted(folder.glob("*/*.png"))
    paths = [path for path in paths if _name(path) not in leave_out] or paths
    tracks = [TrackWindows(_name(path), path.parent.name, _cut(path, contract)) for path in paths]
    tracks = [track for track in tracks if len(track.spectrograms)]
    if not tracks:
        raise UserError(
            f"{folder} holds no picture of {contract.min_frames} columns or more at "
            "GENRE/TRACK.png: make pictures with genre-train prepare"
        )
    return tracks


def _name(path: Path) -> str:
    genre, track = path.parent.name, path.stem
    return track if track.startswith(f"{genre}.") else f"{genre}/{track}"


def _check_grid(folder: Path, wanted: SpectrogramSpec) -> None:
    path = folder / "spectrogram.json"
    try:
        spec = SpectrogramSpec.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(
            f"{folder} is not a folder of spectrogram pictures: spectrogram.json cannot be read "
            f"({error.strerror})"
        ) from None
    except (ValueError, TypeError) as error:
        reason = f": {error}" if isinstance(error, SpecError) else ""
        raise UserError(f"{path} is not a spectrogram specification{reason}") from None
    if spec != wanted:
        raise UserError(
            f"the pictures in {folder} are on another grid than the model: make them again with "
            "genre-train prepare and the run's settings"
        )


def _cut(path: Path, contract: ModelContract) -> NDArray[np.float32]:
    spec = contract.spectrogram
    try:
        picture = tf.io.decode_png(path.read_bytes(), channels=1).numpy()[::-1, :, 0]
    except (OSError, tf.errors.InvalidArgumentError):
        raise UserError(f"{path} cannot be read as a PNG picture: delete or replace it") from None
    if picture.shape[0] != spec.n_mels:
        raise UserError(f"{path} has {picture.shape[0]} rows and the model {spec.n_mels} bands")
    width = picture.shape[1]
    frames = min(contract.window_frames, width)
    if frames < contract.min_frames:
        return np.empty((0, spec.n_mels, frames), np.float32)
    starts = range(0, width - frames + 1, frames)
    windows = np.stack([picture[:, start : start + frames] for start in starts])
    return relative_to_peak(from_levels(windows, spec.top_db), spec.top_db)
