"""Folders of music for tests: three genres that `support.model.make_model` tells apart."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from support.model import LABELS, band_noise

SUFFIXES = (".wav", ".au", ".flac", ".mp3", ".ogg", ".m4a")


def write_audio(path: Path, samples: NDArray[np.float32], rate: int = 22050) -> Path:
    """Write samples of shape (n,) or (n, channels) in the format of the file name's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".m4a":
        _write_aac(path, np.atleast_2d(samples.T), rate)
    else:
        soundfile.write(path, samples, rate)
    return path


def _write_aac(path: Path, channels: NDArray[np.float32], rate: int) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        layout = "mono" if len(channels) == 1 else "stereo"
        stream = container.add_stream("aac", rate=rate, layout=layout)
        for start in range(0, channels.shape[1], 1024):
            block = np.ascontiguousarray(channels[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(block, "fltp", layout)
            frame.sample_rate = rate
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_songs(
    folder: Path, tracks: int = 6, seconds: float = 6.0, suffixes: tuple[str, ...] = (".wav",)
) -> Path:
    """Write tracks of the genres low, middle and high with alternating formats and rates."""
    for seed, genre in enumerate(LABELS):
        for number in range(tracks):
            suffix = suffixes[number % len(suffixes)]
            rate = (22050, 44100, 32000)[number % 3] if len(suffixes) > 1 else 22050
            samples = band_noise(genre, seconds, rate, seed=100 * seed + number)
            write_audio(folder / genre / f"{genre}.{number:05}{suffix}", samples, rate)
    return folder
