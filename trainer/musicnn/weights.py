"""Read MusiCNN's weights from its authors' package.

    pip download musicnn==0.1.0 --no-deps
    python -m trainer.musicnn.weights musicnn-0.1.0-py3-none-any.whl

writes `msd_musicnn.npz` beside this module, the same bytes every time. The package itself need not
(and, being for TensorFlow 1, cannot) be installed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer.musicnn import WEIGHTS
from trainer.musicnn.network import (
    EPSILON,
    MIDDLE_LAYERS,
    TEMPORAL,
    build_piece_network,
    load_weights,
)

CHECKPOINT = "musicnn/MSD_musicnn"
"""Folder of the wheel with the weights learnt from the Million Song Dataset."""

FRONT = ("front_7x38", "front_7x67", "front_128x1", "front_64x1", "front_32x1")
"""The paper's layers of the front end in the order in which their features stand side by side."""

HORIZONTAL = FRONT[2:]
"""Those that see one mel band."""

LARGEST_CELL = 10.0
"""More than the magnitude of any cell of the normalised spectrogram."""

IDLE = 1e-4
"""A filter whose feature no sound can change by as much is idle. Of MSD_musicnn's 561 filters, 497
can change theirs by 0.00000002 at most, the others by 0.09 at least."""

NORM = ("gamma", "beta", "moving_mean", "moving_variance")

PARTS = ("/kernel", "/bias", "_loudest/sign", *(f"_norm/{part}" for part in NORM))
"""Ends of the names of a front layer's weights, whose last axis is its filters."""

Array = NDArray[np.float32]
Wide = NDArray[np.float64]


def read_checkpoint(wheel: Path, folder: str = CHECKPOINT) -> dict[str, Array]:
    """Return the variables of a checkpoint of the wheel, by the names that TensorFlow 1 gave them.

    Raises
    ------
    OSError, zipfile.BadZipFile, KeyError
        If the file is not the wheel of `musicnn`.
    """
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as place:
        # The files are called `.index` and `.data-00000-of-00001`, and TensorFlow looks for a
        # checkpoint by what precedes these.
        prefix = Path(place, "checkpoint")
        for ending in (".index", ".data-00000-of-00001"):
            Path(f"{prefix}{ending}").write_bytes(archive.read(f"{folder}/{ending}"))
        reader = tf.train.load_checkpoint(str(prefix))
        return {
            name: np.asarray(reader.get_tensor(name), np.float32)
            for name in reader.get_variable_to_shape_map()
        }


def convert(checkpoint: dict[str, Array]) -> dict[str, Array]:
    """Return all weights by the names of our layers, kernels as Keras has them."""
    weights: dict[str, Array] = {}
    layers = _Layers(checkpoint)
    weights |= layers.norm("image")
    for name in FRONT:
        weights |= layers.layer("conv2d", name)
        weights |= layers.norm(name)
        weights |= _loudest(weights, name)
    for number in range(1, MIDDLE_LAYERS + 1):
        name = f"middle_{number}"
        # A convolution over time, written as one over time and all features at once.
        weights |= layers.layer("conv2d", name, lambda kernel: kernel[:, :, 0])
        weights |= layers.norm(name)
    # Maximum and mean of a feature stand side by side there, all maxima before all means here.
    weights |= layers.norm("pooled", _maxima_first)
    weights |= layers.layer("dense", "dense", _maxima_first)
    weights |= layers.norm("dense")
    weights |= layers.layer("dense", "tags")
    return weights


def _loudest(weights: dict[str, Array], name: str) -> dict[str, Array]:
    """Return a layer's signs and its filters, negated where what follows falls with their answer.

    See `network.Loudest`.
    """
    sign = np.where(weights[f"{name}_norm/gamma"] < 0, np.float32(-1), np.float32(1))
    filters = {f"{name}/{part}": weights[f"{name}/{part}"] * sign for part in ("kernel", "bias")}
    return {f"{name}_loudest/sign": sign, **filters}


def in_groups(weights: dict[str, Array]) -> dict[str, Array]:
    """Return the weights of the same function with the horizontal filters of `network.TEMPORAL`.

    Processors with AVX-512 compute 16 filters of one shape in the time of one. The filters of the
    three lengths, which stand side by side, are therefore dealt out anew to two: those that come
    into a layer of longer ones are given zeros at both ends.
    """
    grouped = {name: values for name, values in weights.items() if not name.startswith(HORIZONTAL)}
    longest = TEMPORAL[0].frames
    whole = {
        part: np.concatenate(
            [_as_long(weights[f"{name}{part}"], longest) for name in HORIZONTAL], axis=-1
        )
        for part in PARTS
    }
    start = 0
    for layer in TEMPORAL:
        zeros = (longest - layer.frames) // 2
        for part, values in whole.items():
            grouped[f"{layer.name}{part}"] = values[..., start : start + layer.filters]
        kernel = grouped[f"{layer.name}/kernel"]
        grouped[f"{layer.name}/kernel"] = kernel[zeros : longest - zeros]
        start += layer.filters
    return grouped


def _as_long(values: Array, frames: int) -> Array:
    """Return horizontal filters of `frames` columns with zeros at both ends; other weights alike.

    Padded as "same" is, a filter of even length reaches one column further ahead than back.
    """
    if values.ndim == 1:
        return values
    zeros = (frames - len(values)) // 2
    return np.pad(values, ((zeros, zeros), (0, 0), (0, 0), (0, 0)))


def without_idle_filters(weights: dict[str, Array]) -> dict[str, Array]:
    """Return the weights of the same function with the filters alone that hear something.

    The training with its weight decay left most filters of the front end with weights of 1e-30 or
    1e-10 and a bias: whatever is heard, they answer the same. What their constant features add to
    the first layer of the middle, which fades at the edges of a piece, becomes one feature that
    is 1, with their sum as its weights; what they add to the dense layer goes into its bias.
    """
    pruned = dict(weights)
    kept, constants = _hearing_features(weights)
    front = _front(weights)
    sizes = [len(weights[f"{name}/bias"]) for name in front]
    for name, own in zip(front, np.split(kept, np.cumsum(sizes)[:-1]), strict=True):
        for part in PARTS:
            pruned[f"{name}{part}"] = weights[f"{name}{part}"][..., own]
    _add_constant_filter(pruned, front[-1])
    middle = weights["middle_1/kernel"]
    idle = np.einsum("f,tfo->to", np.where(kept, 0, constants), middle)
    pruned["middle_1/kernel"] = np.concatenate([middle[:, kept], idle[:, None]], axis=1)
    _prune_pooled(weights, pruned, kept, constants)
    return {name: np.asarray(values, np.float32) for name, values in pruned.items()}


def _front(weights: dict[str, Array]) -> list[str]:
    return [name for name in FRONT if f"{name}/kernel" in weights]


def _hearing_features(weights: dict[str, Array]) -> tuple[NDArray[np.bool_], Wide]:
    """Return which features of the front end change, and what each is if it does not."""
    changes, constants = [], []
    for name in _front(weights):
        factor, offset = _affine(weights, name)
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        bias = bias * weights[f"{name}_loudest/sign"]
        changes.append(np.abs(factor) * np.abs(kernel).sum(axis=(0, 1, 2)) * LARGEST_CELL)
        constants.append(factor * np.maximum(bias, 0) + offset)
    return np.concatenate(changes) > IDLE, np.concatenate(constants)


def _affine(weights: dict[str, Array], name: str) -> tuple[Wide, Wide]:
    """Return the factor and the offset that a normalisation is in inference."""
    gamma, beta, mean, variance = (
        np.asarray(weights[f"{name}_norm/{each}"], np.float64) for each in NORM
    )
    factor = gamma / np.sqrt(variance + EPSILON)
    return factor, beta - factor * mean


def _add_constant_filter(weights: dict[str, Array], name: str) -> None:
    """Add a filter whose feature is 1."""
    kernel = weights[f"{name}/kernel"]
    weights[f"{name}/kernel"] = np.concatenate([kernel, np.zeros_like(kernel[..., :1])], axis=-1)
    values = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1 - EPSILON}
    for key, value in {
        f"{name}/bias": 1,
        f"{name}_loudest/sign": 1,
        **{f"{name}_norm/{k}": v for k, v in values.items()},
    }.items():
        weights[key] = np.append(weights[key], np.float32(value))


def _prune_pooled(
    weights: dict[str, Array], pruned: dict[str, Array], kept: NDArray[np.bool_], constants: Wide
) -> None:
    """Take the constants out of the pooling over time: they are their own maximum and mean."""
    features = len(weights["dense/kernel"]) // 2
    rest = features - len(kept)
    own = np.concatenate([kept, np.ones(rest, bool)])
    both = np.concatenate([own, own])
    factor, offset = _affine(weights, "pooled")
    pooled = np.concatenate([constants, np.zeros(rest)] * 2)
    idle = (factor * pooled + offset) * ~both
    pruned["dense/bias"] = weights["dense/bias"] + idle @ weights["dense/kernel"]
    # The feature that is 1 stands behind those of the front end and counts for nothing here.
    place = int(kept.sum())
    blank = {"gamma": 0, "beta": 0, "moving_mean": 0, "moving_variance": 1}
    for part in NORM:
        pruned[f"pooled_norm/{part}"] = _with_rows(
            weights[f"pooled_norm/{part}"][both], place, blank[part]
        )
    pruned["dense/kernel"] = _with_rows(weights["dense/kernel"][both], place, 0)


def _with_rows(values: Array, place: int, value: float) -> Array:
    """Insert a row at a place of each half."""
    halves = np.split(values, 2)
    return np.concatenate([np.insert(half, place, value, axis=0) for half in halves])


def _maxima_first(values: Array) -> Array:
    return np.concatenate([values[0::2], values[1::2]])


class _Layers:
    """Takes the layers of each kind in the order in which they were made."""

    def __init__(self, checkpoint: dict[str, Array]) -> None:
        self._checkpoint = checkpoint
        self._names = {
            kind: self._count(kind) for kind in ("conv2d", "dense", "batch_normalization")
        }

    def _count(self, kind: str) -> Iterator[str]:
        number = 0
        while True:
            yield f"{kind}_{number}" if number else kind
            number += 1

    def layer(
        self, kind: str, name: str, change: Callable[[Array], Array] = lambda kernel: kernel
    ) -> dict[str, Array]:
        source = next(self._names[kind])
        return {
            f"{name}/kernel": change(self._checkpoint[f"{source}/kernel"]),
            f"{name}/bias": self._checkpoint[f"{source}/bias"],
        }

    def norm(
        self, name: str, change: Callable[[Array], Array] = lambda values: values
    ) -> dict[str, Array]:
        source = next(self._names["batch_normalization"])
        return {
            f"{name}_norm/{each}": change(self._checkpoint[f"{source}/{each}"]) for each in NORM
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.musicnn.weights",
        description="Read MusiCNN's weights from the wheel of its authors' package.",
    )
    parser.add_argument("wheel", type=Path, metavar="WHEEL", help="musicnn-0.1.0-py3-none-any.whl")
    parser.add_argument(
        "--out", type=Path, default=WEIGHTS, metavar="FILE", help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    try:
        weights = in_groups(without_idle_filters(convert(read_checkpoint(options.wheel))))
        save(weights, options.out)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        print(f"{options.wheel}: not the wheel of musicnn 0.1.0 ({error})", file=sys.stderr)
        return 1
    load_weights(build_piece_network(None), options.out)
    print(f"{options.out}: {sum(each.size for each in weights.values()):,} weights")
    return 0


def save(weights: dict[str, Any], path: Path) -> None:
    """Write weights, the same bytes for the same weights."""
    with path.open("wb") as file:
        np.savez(file, **dict(sorted(weights.items())))


if __name__ == "__main__":
    sys.exit(main())
