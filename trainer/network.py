"""InceptionV3 over a log-mel window, in Keras 3 alone so that any backend trains it."""

from __future__ import annotations

import logging
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# TensorFlow prints a page about its build on import unless told before.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from streamer.core.spectrogram import SpectrogramSpec
from trainer.run import read_facts
from trainer.writing import replacing

# It writes paragraphs about functions that it traces again, which tell a user nothing.
logging.getLogger("tensorflow").setLevel(logging.ERROR)

IMAGENET_FILE = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
"""The file Keras downloads for `weights="imagenet"` without the classification top."""

BACKBONE = "inception_v3"
"""Name of the layer in `model.keras` that holds the pretrained part."""


FILE_BYTES_PER_VARIABLE = 6000
"""Room for the name and place of a variable in a file of Keras."""


DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What Keras, h5py and the archive raise for a file that was changed."""


class NetworkError(Exception):
    """The network cannot be made as asked; the message is one sentence with the way out."""


@keras.saving.register_keras_serializable(package="genre_stream")
class SpectrogramToImage(keras.layers.Layer):  # type: ignore[misc]
    """Turn log-mel windows into the images that InceptionV3 was pretrained on.

    `x = 2 * dB / top_db + 1` lies in [-1, 1]; then a bilinear resize by `input_scale` and three
    equal channels. The exporter puts the same steps into the ONNX graph.

    Parameters
    ----------
    top_db : float
        Range of the input below its loudest cell, in dB.
    input_scale : float
        Factor on both axes: 128 bands leave InceptionV3 only two rows at 1, six at 2.
    """

    def __init__(self, top_db: float, input_scale: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.top_db = top_db
        self.input_scale = input_scale

    def call(self, spectrograms: Any) -> Any:
        """Map `(batch, n_mels, frames)` dB to `(batch, height, width, 3)` in [-1, 1]."""
        images = (2 * spectrograms / self.top_db + 1)[..., None]
        if self.input_scale != 1:
            height, width = (round(int(size) * self.input_scale) for size in spectrograms.shape[1:])
            images = keras.ops.image.resize(
                images, (height, width), interpolation="bilinear", data_format="channels_last"
            )
        return keras.ops.repeat(images, 3, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return what Keras needs to make this layer again."""
        return {
            **super().get_config(),
            "top_db": self.top_db,
            "input_scale": self.input_scale,
        }


def build_image_network(labels: Sequence[str], *, weights: str, dropout: float) -> keras.Model:
    """Return InceptionV3 with a mean over the image and one dense layer, images to logits.

    Parameters
    ----------
    labels : sequence of str
        What the network will tell apart.
    weights : str
        `none` (random), `imagenet` (Keras downloads it), the path of a notop weights file, or the
        folder of an earlier run, whose new layer is taken over too where its labels are the same.
    dropout : float
        Share of features dropped in training, 0 to 1.

    Returns
    -------
    keras.Model
        float32 `(batch, height, width, 3)` in [-1, 1], any height and width from 75 up, to
        `logits` `(batch, len(labels))`. Stock layers only.

    Raises
    ------
    NetworkError
        If the weights cannot be had or do not fit.
    """
    backbone = keras.applications.InceptionV3(
        weights=None, include_top=False, input_shape=(None, None, 3), name=BACKBONE
    )
    images = keras.Input((None, None, 3), name="images")
    features = keras.layers.GlobalAveragePooling2D(name="mean")(backbone(images))
    features = keras.layers.Dropout(dropout, name="dropout")(features)
    # float32 also under mixed precision: the loss needs it.
    logits = keras.layers.Dense(len(labels), dtype="float32", name="logits")(features)
    network = keras.Model(images, logits, name="image_network")
    earlier = earlier_run(weights)
    if earlier is None:
        _load_pretrained(backbone, weights)
    else:
        _take_over(network, labels, earlier)
    return network


def earlier_run(weights: str) -> Path | None:
    """Return the folder of the run whose network `--weights` names, None if it names no run."""
    folder = Path(weights)
    return folder if weights not in ("none", "imagenet") and folder.is_dir() else None


def _take_over(network: keras.Model, labels: Sequence[str], run: Path) -> None:
    """Start from what an earlier run has learnt."""
    earlier, facts = load_image_network(run)
    if facts["labels"] == list(labels):
        network.set_weights(earlier.get_weights())
    else:
        backbone = earlier.get_layer(BACKBONE)
        network.get_layer(BACKBONE).set_weights(backbone.get_weights())


def _load_pretrained(backbone: keras.Model, weights: str) -> None:
    if weights == "none":
        return
    if weights == "imagenet":
        try:
            source = keras.applications.InceptionV3(weights="imagenet", include_top=False)
        except Exception as error:
            # Keras raises a bare Exception when the download fails.
            raise NetworkError(
                "--weights imagenet: cannot download the weights here; bring the file "
                f"{IMAGENET_FILE} from another machine and pass --weights PATH/{IMAGENET_FILE} "
                "(or --weights none to start from random weights)"
            ) from error
        backbone.set_weights(source.get_weights())
        return
    path = Path(weights)
    if not path.is_file():
        raise NetworkError(
            f"--weights {weights}: no such file; give imagenet, none, the path of an "
            "InceptionV3 notop weights file or the folder of an earlier run"
        )
    try:
        backbone.load_weights(path)
    except DAMAGE as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise NetworkError(
            f"--weights {weights}: not weights of InceptionV3 without its top ({reason})"
        ) from error


def with_preprocessing(
    image_network: keras.Model, spec: SpectrogramSpec, frames: int, input_scale: float
) -> keras.Model:
    """Return the network from log-mel windows to logits, sharing `image_network`'s weights.

    Parameters
    ----------
    image_network : keras.Model
        From `build_image_network`.
    spec : SpectrogramSpec
        Grid of the windows.
    frames : int
        Columns of a window.
    input_scale : float
        See `SpectrogramToImage`.

    Returns
    -------
    keras.Model
        float32 `(batch, n_mels, frames)`, dB in [-top_db, 0], to `(batch, classes)`.

    Raises
    ------
    NetworkError
        If the image would be smaller than the 75 x 75 pixels that InceptionV3 takes.
    """
    height, width = (round(size * input_scale) for size in (spec.n_mels, frames))
    if min(height, width) < 75:
        raise NetworkError(
            f"a window of {spec.n_mels} bands x {frames} frames at input scale {input_scale:g} is "
            f"{height} x {width} pixels and InceptionV3 needs 75 x 75; raise --input-scale, "
            "--window-seconds or --mels"
        )
    spectrograms = keras.Input((spec.n_mels, frames), name="spectrogram")
    images = SpectrogramToImage(spec.top_db, input_scale, name="image")(spectrograms)
    return keras.Model(spectrograms, image_network(images), name="genre_network")


def save_image_network(image_network: keras.Model, run: Path) -> None:
    """Write the network of a run so that a reader sees all of it or the one before.

    Raises
    ------
    OSError
        If there is no room for it; the message is one line.
    """
    with replacing(run / "model.keras", bytes_of(image_network.variables)) as partial:
        image_network.save(partial)


def bytes_of(variables: Iterable[Any]) -> int:
    """Return what variables take in a file, with some room for what surrounds them."""
    variables = list(variables)
    values = sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in variables)
    return int(values) + FILE_BYTES_PER_VARIABLE * len(variables)


def load_image_network(run: Path) -> tuple[keras.Model, dict[str, Any]]:
    """Load the network of a run as it was saved, images to logits.

    Parameters
    ----------
    run : Path
        Folder with `run.json` and `model.keras`.

    Returns
    -------
    model : keras.Model
        As `build_image_network` returned it.
    facts : dict
        The content of `run.json`.

    Raises
    ------
    NetworkError
        If the run has no network or a damaged one.
    DatasetError
        If the folder is no run.
    """
    facts = read_facts(run)
    path = run / "model.keras"
    if not path.is_file():
        raise NetworkError(f"{run}: the run has no model.keras yet; continue it with --resume")
    try:
        return keras.saving.load_model(path, compile=False), facts
    except DAMAGE as error:
        raise NetworkError(
            f"{path}: damaged or not made by genre-train: restore it from a copy, or train again"
        ) from error


def load_run(run: Path) -> tuple[keras.Model, dict[str, Any]]:
    """Load a finished run.

    Parameters
    ----------
    run : Path
        Folder with `run.json` and `model.keras`.

    Returns
    -------
    model : keras.Model
        Log-mel windows, as long as those of the training, to logits.
    facts : dict
        The content of `run.json`.

    Raises
    ------
    NetworkError, DatasetError
        If the folder is not a finished run.
    """
    image_network, facts = load_image_network(run)
    spec = SpectrogramSpec.from_dict(facts["spec"])
    frames, scale = int(facts["window_frames"]), float(facts["input_scale"])
    return with_preprocessing(image_network, spec, frames, scale), facts
