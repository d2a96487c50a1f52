"""Train the network that hears changes of the sound, `streamer.core.change`.

    python -m trainer.changes --data ../shared/gtzan/spectrograms_512 --background runs/sounds

learns from pictures what a cut between two recordings is like, and what goes on inside one, and
writes `streamer/models/changes.npz`. It knows no genres, so it serves every model.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from streamer.core.change import (
    AGE_COLUMNS,
    COEFFICIENTS,
    GRID,
    LEAST_COLUMNS,
    LEAST_VARIANCE,
    NEAR_COLUMNS,
    NEW_COLUMNS,
    PAST_COLUMNS,
    WEIGHTS,
    Array,
    cepstra_of,
    cepstral_basis,
    judge,
)
from streamer.core.spectrogram import Columns, from_levels
from streamer.system.commandline import ArgumentParser, run_program
from streamer.system.files import atomic_write
from trainer.commands import options
from trainer.discovery import find_background, find_tracks
from trainer.pictures import read_picture, read_spec
from trainer.progress import progress_bar
from trainer.splits import divide_background, split_tracks
from trainer.tracks import DatasetError, Track, is_picture_folder

PROGRAM = "python -m trainer.changes"

FEATURES, KERNEL = 64, 5
"""Features of a column, and columns under a filter."""

COMPARED, JOINED, DROPOUT = 32, 32, 0.2
"""Units of the layers behind the comparisons, and the share that is dropped before the second."""

STEPS, BATCH, LEARNING_RATE = 7000, 64, 2e-3

CHANGED = 0.5
"""Share of the examples that end with other sound."""

LATEST, EARLIEST = 2, NEW_COLUMNS[-1] + 2
"""Columns since the change of such an example, at least and at most."""

TOO_LATE, TOO_LATE_WEIGHT = 4, 0.3
"""A change with fewer columns after it can hardly be heard and counts less."""

OLD_CHANGE, OLD_COLUMNS = 0.3, 34
"""Share of the other examples with a change that is longer ago, by so many columns at least."""

OTHER_SOUND = 0.12
"""Share of the pieces that are not music."""

GAIN_DB, TILT_DB, STRETCH, SHIFT_BANDS = 4.0, 1.5, 0.07, 2
"""Variations of a piece: standard deviations of its level and of the gain at its highest band, and
the most that it is stretched in time and shifted over the bands."""

SMOOTHING = 0.02
"""Labels are this far from certain."""

AGE_WEIGHT = 0.1
"""Weight of the error of the age beside that of the change."""

FALSE = 0.01
"""Share of the held-back examples without a change that are told as one where the network is
judged."""

JUDGED = 2000
"""Held-back examples on which it is judged."""

Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Recordings:
    """Pictures from which examples are drawn, columns in dB by time, shape (columns, n_mels)."""

    music: list[NDArray[np.float32]]
    others: list[NDArray[np.float32]]
    music_stride: float
    others_stride: float
    """Columns of them for one of `GRID`."""


class Examples:
    """Draws examples: sound of which the end is of another recording, or is not."""

    def __init__(self, recordings: Recordings, random: Random, *, varied: bool = True) -> None:
        self._recordings = recordings
        self._random = random
        self._varied = varied
        self._basis = cepstral_basis(GRID)

    def batch(self, count: int) -> tuple[Array, Array]:
        """Return cepstra, shape (count, columns, COEFFICIENTS), and what `judge` is to say.

        The latter has shape (count, 2): whether there is a change, and how long ago, in
        `AGE_COLUMNS`. All examples of a batch are as long.
        """
        whole = self._random.random() < 0.5
        length = PAST_COLUMNS if whole else int(self._random.integers(LEAST_COLUMNS, PAST_COLUMNS))
        drawn = [self._example(length) for _ in range(count)]
        cepstra = np.stack([cepstra_of(columns.T, self._basis) for columns, _ in drawn])
        told = [(age > 0, age / AGE_COLUMNS) for _, age in drawn]
        return cepstra, np.array(told, np.float32)

    def _example(self, length: int) -> tuple[Columns, int]:
        random = self._random
        if random.random() < CHANGED:
            age = int(random.integers(LATEST, EARLIEST))
            return np.concatenate([self._piece(length - age), self._piece(age)]), age
        if random.random() < OLD_CHANGE:
            old = int(random.integers(OLD_COLUMNS, length - NEW_COLUMNS[2]))
            return np.concatenate([self._piece(length - old), self._piece(old)]), 0
        return self._piece(length), 0

    def _piece(self, length: int) -> Columns:
        """Return columns of one recording on the time grid of `GRID`, varied."""
        random, own = self._random, self._recordings
        other = bool(own.others) and random.random() < OTHER_SOUND
        source, stride = (own.others, own.others_stride) if other else (own.music, own.music_stride)
        recording = source[random.integers(len(source))]
        if self._varied:
            stride *= random.uniform(1 - STRETCH, 1 + STRETCH)
        # A recording that is too short is repeated.
        within = min(length, max(1, int((len(recording) - 1) / stride)))
        first = random.uniform(0, len(recording) - 1 - stride * (within - 1))
        places = np.round(first + stride * np.arange(within)).astype(int)
        piece = recording[np.resize(places, length)]
        if self._varied:
            tilt = np.linspace(-1, 1, GRID.n_mels) * random.normal() * TILT_DB
            shift = random.integers(-SHIFT_BANDS, SHIFT_BANDS + 1)
            bands = np.clip(np.arange(GRID.n_mels) - shift, 0, GRID.n_mels - 1)
            piece = np.asarray(piece[:, bands] + tilt, np.float32)
        return np.asarray(piece + random.normal() * GAIN_DB, np.float32)


def build_network() -> keras.Model:
    """Return the network of `streamer.core.change.judge` in Keras, untrained.

    float32 `(batch, columns, COEFFICIENTS)` to `(batch, 2)`: log-odds of a change, and its age.
    """
    cepstra = keras.Input((None, COEFFICIENTS), name="cepstra")
    features = cepstra - ops.mean(cepstra, axis=1, keepdims=True)
    features = layers.Conv1D(FEATURES, KERNEL, padding="same", activation="relu", name="first")(
        features
    )
    features = layers.Conv1D(FEATURES, KERNEL, padding="same", name="second")(features)
    told = []
    for length in NEW_COLUMNS:
        distances = _distances(features, length)
        compare = layers.Dense(COMPARED, activation="relu", name=f"compare_{length}")
        told.append(compare(ops.log1p(distances)))
    joined = layers.Dropout(DROPOUT)(layers.Concatenate()(told))
    joined = layers.Dense(JOINED, activation="relu", name="join")(joined)
    return keras.Model(cepstra, layers.Dense(2, name="tell")(joined))


def _distances(features: Any, length: int) -> Any:
    """Return how far the last columns are from what was before them; see `judge`."""
    before, new = features[:, :-length], ops.mean(features[:, -length:], axis=1)
    pooling = layers.AveragePooling1D(length, strides=max(1, length // 3), padding="valid")
    means = pooling(before)
    usual, near = ops.mean(before, axis=1), ops.mean(before[:, -NEAR_COLUMNS:], axis=1)
    deviations = ops.square(means - usual[:, None])
    spread = ops.sqrt(ops.mean(deviations, axis=1) + LEAST_VARIANCE)
    nearest = ops.mean(ops.square((means - new[:, None]) / spread[:, None]), axis=2)
    return ops.concatenate(
        [
            ops.abs(new - usual) / spread,
            ops.abs(new - near) / spread,
            ops.min(nearest, axis=1, keepdims=True),
        ],
        axis=1,
    )


def weights_of(network: keras.Model) -> dict[str, Array]:
    """Return the weights as `judge` takes them, by the names of layers and variables."""
    return {
        f"{layer.name}/{variable.name}": np.asarray(variable.numpy(), np.float32)
        for layer in network.layers
        for variable in layer.weights
    }


def _loss(truth: Any, told: Any) -> Any:
    changed, age = truth[:, 0], truth[:, 1]
    hardly = changed * ops.cast(age < TOO_LATE / AGE_COLUMNS, "float32")
    weights = 1 - hardly * (1 - TOO_LATE_WEIGHT)
    wanted = changed * (1 - SMOOTHING) + SMOOTHING / 2
    change = keras.losses.binary_crossentropy(wanted[:, None], told[:, :1], from_logits=True)
    return weights * change + AGE_WEIGHT * changed * ops.abs(told[:, 1] - age)


def train(recordings: Recordings, *, steps: int = STEPS, seed: int = 0) -> dict[str, Array]:
    """Train a network; return its weights."""
    keras.utils.set_random_seed(seed)
    examples = Examples(recordings, np.random.default_rng(seed))
    network = build_network()
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    network.compile(keras.optimizers.AdamW(rate, weight_decay=1e-4), _loss)
    with progress_bar() as progress:
        for _ in progress.track(range(steps), description="changes"):
            network.train_on_batch(*examples.batch(BATCH))
    return weights_of(network)


def noticed(weights: Mapping[str, Array], recordings: Recordings, *, seed: int = 0) -> float:
    """Return the share of changes that are told where `FALSE` of what goes on is told as well."""
    examples = Examples(recordings, np.random.default_rng(seed), varied=False)
    drawn = [examples.batch(1) for _ in range(JUDGED)]
    told = np.array([judge(cepstra[0], weights)[0] for cepstra, _ in drawn])
    changed = np.array([truth[0, 0] > 0 for _, truth in drawn])
    return float(np.mean(told[changed] > np.quantile(told[~changed], 1 - FALSE)))


def read_recordings(
    tracks: Sequence[Track], data: Path, others: Sequence[Track], background: Path | None
) -> Recordings:
    """Read pictures.

    Raises
    ------
    DatasetError
        If a folder has no pictures, other bands than `GRID` or coarser columns.
    """

    def read(chosen: Sequence[Track], folder: Path) -> tuple[list[NDArray[np.float32]], float]:
        if not is_picture_folder(folder):
            raise DatasetError(f"{folder} holds no pictures: make them with genre-train prepare")
        spec = read_spec(folder)
        bands = ("n_mels", "fmin", "fmax")
        same = all(getattr(spec, name) == getattr(GRID, name) for name in bands)
        if not same or spec.hop_seconds > GRID.hop_seconds:
            raise DatasetError(
                f"{folder}: must have {GRID.n_mels} bands from {GRID.fmin:g} to {GRID.fmax:g} Hz "
                f"and a column every {GRID.hop_seconds:.4f} s at least; prepare it so"
            )
        pictures = [from_levels(read_picture(track.path), spec.top_db).T for track in chosen]
        return pictures, GRID.hop_seconds / spec.hop_seconds

    music, music_stride = read(tracks, data)
    sounds, others_stride = read(others, background) if background else ([], 1.0)
    return Recordings(music, sounds, music_stride, others_stride)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_program(PROGRAM, lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    parser = ArgumentParser(
        prog=PROGRAM, description="Train the network that hears changes of the sound."
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="pictures of music")
    parser.add_argument("--background", type=Path, metavar="DIR", help="pictures of other sounds")
    parser.add_argument(
        "--steps",
        type=options.number(int, 1),
        default=STEPS,
        metavar="N",
        help=f"batches ({STEPS})",
    )
    parser.add_argument(
        "--seed", type=options.number(int, 0), default=0, metavar="N", help="of all chance (0)"
    )
    parser.add_argument(
        "--out", type=Path, default=WEIGHTS, metavar="FILE", help="default: %(default)s"
    )
    given = parser.parse_args(arguments)
    split = split_tracks(find_tracks(given.data)[0], [], seed=given.seed)
    clips = find_background(given.background)[0] if given.background else []
    learnt_clips, held_back = divide_background(clips)
    learnt, valid = (
        read_recordings(music, given.data, sounds, given.background)
        for music, sounds in ((split.train, learnt_clips), (split.valid, held_back))
    )
    weights = train(learnt, steps=given.steps, seed=given.seed)
    arrays: dict[str, Any] = dict(sorted(weights.items()))
    with atomic_write(given.out) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)
    print(
        f"{given.out}: {sum(each.size for each in weights.values()):,} weights; on the valid "
        f"list {noticed(weights, valid):.1%} of changes are told and {FALSE:.0%} of what is none"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
