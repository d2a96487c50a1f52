"""MusiCNN: a network that hears 50 tags in three seconds of music.

It was trained by its authors on 200,000 songs of the Million Song Dataset with the tags that
Last.fm's listeners gave them. This package has its facts without Keras; `network` builds it,
`weights` reads its weights from the authors' package.

Source: J. Pons and X. Serra, "musicnn: pre-trained convolutional neural networks for music audio
tagging", late-breaking session of ISMIR 2019, arXiv:1909.06654. Weights: see `LICENSE`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import SpectrogramSpec

SPEC = SpectrogramSpec(sample_rate=16000, n_fft=512, hop_length=256, n_mels=96, fmax=8000.0)
"""Grid of MusiCNN's spectrogram. Its cells are `log10(10000 power + 1)`: `top_db` is not used."""

PIECE_FRAMES = 187
"""Columns that MusiCNN hears at once: 3 s."""

PIECE_HOP = 61
"""Columns from one piece to the next: 0.976 s, the whole transforms that librosa counts in 1 s. The
authors' package takes as many for `input_overlap=1`."""

PIECE_SAMPLES = (PIECE_FRAMES - 1) * SPEC.hop_length + SPEC.n_fft
"""Samples under the columns of a piece."""

MIN_SAMPLES = 48000
"""Fewest samples that give tags: 3 s, 128 samples less than a piece; see `network.LogMel`."""

TAGS = (
    "rock",
    "pop",
    "alternative",
    "indie",
    "electronic",
    "female vocalists",
    "dance",
    "00s",
    "alternative rock",
    "jazz",
    "beautiful",
    "metal",
    "chillout",
    "male vocalists",
    "classic rock",
    "soul",
    "indie rock",
    "Mellow",
    "electronica",
    "80s",
    "folk",
    "90s",
    "chill",
    "instrumental",
    "punk",
    "oldies",
    "blues",
    "hard rock",
    "ambient",
    "acoustic",
    "experimental",
    "female vocalist",
    "guitar",
    "Hip-Hop",
    "70s",
    "party",
    "country",
    "easy listening",
    "sexy",
    "catchy",
    "funk",
    "electro",
    "heavy metal",
    "Progressive rock",
    "60s",
    "rnb",
    "indie pop",
    "sad",
    "House",
    "happy",
)
"""The tags in the order of the network's outputs (`MSD_LABELS` of the package `musicnn`)."""

WEIGHTS = Path(__file__).with_name("msd_musicnn.npz")
"""The weights that ship with this package."""


def last_layer() -> NDArray[np.float32]:
    """Return the weights from the network's last features to the log-odds of `TAGS`.

    Shape (features, tags).
    """
    with np.load(WEIGHTS) as file:
        return np.asarray(file["tags/kernel"], np.float32)


def pieces_of_track(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut a track into the pieces that the authors' package hears.

    Their spectrogram is librosa's, whose columns are centred: half a transform of zeros precedes
    the track.

    Parameters
    ----------
    samples : float32, shape (n,)
        Mono audio at `SPEC.sample_rate`, full scale 1, of at least `MIN_SAMPLES`.

    Returns
    -------
    float32, shape (pieces, PIECE_SAMPLES)
        A view with a piece a second; what follows the last whole piece is left out.

    Raises
    ------
    ValueError
        If the track is too short or not one-dimensional.
    """
    if samples.ndim != 1 or len(samples) < MIN_SAMPLES:
        raise ValueError(
            f"samples must have shape (n,) with n >= {MIN_SAMPLES}, not {samples.shape}"
        )
    padded = np.pad(np.asarray(samples, np.float32), SPEC.n_fft // 2)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, PIECE_SAMPLES)
    return pieces[:: PIECE_HOP * SPEC.hop_length]
