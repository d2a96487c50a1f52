"""InceptionV3 over a log-mel window, in Keras 3 alone so that any backend trains it."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# TensorFlow reads this when it is imported, before it logs about its build.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from streamer.core.spectrogram import SpectrogramSpec
from streamer.system.commandline import UserError
from streamer.system.files import atomic_write
from trainer.exported import ExportedNetwork, read_exported
from trainer.fit_settings import earlier_run, model_file
from trainer.run import DAMAGED_FILE_ERRORS, NETWORK_FILE, Run, first_line, read_run

# TensorFlow warns at length about retraced functions.
logging.getLogger("tensorflow").setLevel(logging.ERROR)

IMAGENET_FILE = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
"""The file Keras downloads for `weights="imagenet"` without the classification top."""

BACKBONE = "inception_v3"
"""Name of the layer in `model.keras` that holds the pretrained part."""

SMALLEST_IMAGE = 75
"""Height and width, in pixels, that InceptionV3 needs at least."""

FILE_BYTES_PER_VARIABLE = 6000
"""Estimated overhead of one variable in a Keras file, in bytes."""


NO_ROOM = "make room and try again; a training goes on with --resume"
"""Advice where a network does not fit on the disk."""


class NetworkError(UserError):
    """A network that cannot be built or loaded; the message is one sentence and names a remedy."""


@keras.saving.register_keras_serializable(package="genre_stream")
class SpectrogramToImage(keras.layers.Layer):  # type: ignore[misc]
    """Convert log-mel windows to images in the format that InceptionV3 was pretrained on.

    `x = 2 * dB / top_db + 1` lies in [-1, 1]; then follow a bilinear resize by `input_scale` (128
    bands leave InceptionV3 only two rows at 1, six at 2) and three equal channels.
    `export.convert` builds the same steps into the ONNX graph.
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
        """Return the constructor's arguments, for Keras' serialisation."""
        own = {"top_db": self.top_db, "input_scale": self.input_scale}
        return {**super().get_config(), **own}


def build_image_network(labels: Sequence[str], *, weights: str, dropout: float) -> keras.Model:
    """Build InceptionV3 with global average pooling and one dense layer, images to logits.

    `weights` as in `FitSettings`: if they are those of a run or a model file with the same labels,
    its dense layer is copied too. `dropout` is the share of features dropped in training, 0 to 1.

    Returns
    -------
    keras.Model
        float32 `(batch, height, width, 3)` in [-1, 1], any height and width from 75 up, to
        `logits` `(batch, len(labels))`. Stock layers only.

    Raises
    ------
    NetworkError
        If the weights cannot be downloaded or read, or do not fit.
    """
    # A file that cannot be read is refused before seconds are spent on building.
    earlier = load_image_network(folder) if (folder := earlier_run(weights)) else None
    exported = read_exported(path) if (path := model_file(weights)) else None
    backbone = keras.applications.InceptionV3(
        weights=None, include_top=False, input_shape=(None, None, 3), name=BACKBONE
    )
    images = keras.Input((None, None, 3), name="images")
    features = keras.layers.GlobalAveragePooling2D(name="mean")(backbone(images))
    features = keras.layers.Dropout(dropout, name="dropout")(features)
    # The loss needs float32, also under mixed precision.
    logits = keras.layers.Dense(len(labels), dtype="float32", name="logits")(features)
    network = keras.Model(images, logits, name="image_network")
    if earlier:
        earlier_network, run = earlier
        if run.labels == tuple(labels):
            network.set_weights(earlier_network.get_weights())
        else:
            backbone.set_weights(earlier_network.get_layer(BACKBONE).get_weights())
    elif exported:
        _set_folded_weights(backbone, exported, weights)
        if exported.labels == tuple(labels):
            network.get_layer("logits").set_weights(exported.head)
    elif weights != "none":
        _load_pretrained(backbone, weights)
    return network


def _set_folded_weights(backbone: keras.Model, exported: ExportedNetwork, weights: str) -> None:
    """Give the backbone the weights of a model file, whose batch norms are folded into kernels.

    A batch norm then only adds the bias, as its `beta`: its statistics do not change anything. They
    are not those of its inputs, so they have to stay while such a network is trained.
    """
    # Keras numbers layers as it creates them; `backbone.layers` is sorted by depth.
    layers = sorted(backbone.layers, key=lambda layer: _number(layer.name))
    convolutions = [each for each in layers if isinstance(each, keras.layers.Conv2D)]
    norms = [each for each in layers if isinstance(each, keras.layers.BatchNormalization)]
    shapes = [tuple(each.kernel.shape) for each in convolutions]
    if [kernel.shape for kernel, _ in exported.convolutions] != shapes:
        raise NetworkError(f"--weights {weights}: its network is not an InceptionV3 of genre-train")
    for convolution, norm, (kernel, bias) in zip(
        convolutions, norms, exported.convolutions, strict=True
    ):
        convolution.set_weights([kernel])
        norm.set_weights([bias, np.zeros_like(bias), np.full_like(bias, 1 - norm.epsilon)])


def _number(name: str) -> int:
    """Return the number at the end of a layer's name, 0 for the first one, which has none."""
    last = name.rpartition("_")[2]
    return int(last) if last.isdecimal() else 0


def _load_pretrained(backbone: keras.Model, weights: str) -> None:
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
    try:
        backbone.load_weights(weights)
    except DAMAGED_FILE_ERRORS as error:
        raise NetworkError(
            f"--weights {weights}: not weights of InceptionV3 without its top ({first_line(error)})"
        ) from error


def with_preprocessing(
    image_network: keras.Model, spec: SpectrogramSpec, frames: int, input_scale: float
) -> keras.Model:
    """Put the conversion to images in front of a network, whose weights are shared.

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
    if min(height, width) < SMALLEST_IMAGE:
        raise NetworkError(
            f"a window of {spec.n_mels} bands x {frames} frames at input scale {input_scale:g} is "
            f"{height} x {width} pixels and InceptionV3 needs {SMALLEST_IMAGE} x {SMALLEST_IMAGE}; "
            "raise --input-scale, --window-seconds or --mels"
        )
    spectrograms = keras.Input((spec.n_mels, frames), name="spectrogram")
    images = SpectrogramToImage(spec.top_db, input_scale, name="image")(spectrograms)
    return keras.Model(spectrograms, image_network(images), name="genre_network")


def save_image_network(image_network: keras.Model, folder: Path) -> None:
    """Write the network of a run; see `streamer.system.files.atomic_write`."""
    size = file_size(image_network.variables)
    with atomic_write(folder / NETWORK_FILE, size, advice=NO_ROOM) as partial:
        image_network.save(partial)


def file_size(variables: Iterable[Any]) -> int:
    """Return an upper estimate of the size of a Keras file with these variables, in bytes."""
    variables = list(variables)
    values = sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in variables)
    return int(values) + FILE_BYTES_PER_VARIABLE * len(variables)


def load_image_network(folder: Path) -> tuple[keras.Model, Run]:
    """Load the network of a run as `build_image_network` returned it, and the run itself.

    Raises
    ------
    NetworkError
        If the run has no network yet or a damaged one.
    RunError
        If the folder is not a run.
    """
    run = read_run(folder)
    path = folder / NETWORK_FILE
    if not path.is_file():
        raise NetworkError(
            f"{folder}: the run has no {NETWORK_FILE} yet; continue it with --resume"
        )
    try:
        return keras.saving.load_model(path, compile=False), run
    except DAMAGED_FILE_ERRORS as error:
        raise NetworkError(
            f"{path}: damaged or not made by genre-train: restore it from a copy, or train again"
        ) from error


def load_network(folder: Path) -> tuple[keras.Model, Run]:
    """Load a run as `load_image_network` does, but its network from log-mel windows to logits."""
    image_network, run = load_image_network(folder)
    return with_preprocessing(image_network, run.spec, run.window_frames, run.input_scale), run
