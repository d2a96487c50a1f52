"""From Keras to ONNX: the network of a run with the contract's preprocessing in front of it."""

from __future__ import annotations

import logging
import os
import zipfile
import zlib

# TensorFlow reads this once, when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from numpy.typing import NDArray

from export.errors import ExportError, UsageError
from export.source import Run
from streamer.core.model import INPUT, OUTPUT

OPSET, IR_VERSION = 18, 8
"""The ONNX dialect of the files: every onnxruntime that `pyproject.toml` allows reads it."""


DAMAGES = (
    ValueError,
    OSError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What Keras lets through of a damaged file, which is a zip archive of JSON and HDF5."""


class Network:
    """The network of a run, from spectrograms to logits as contract 4.2 words it.

    Parameters
    ----------
    run : Run
        Where `model.keras` lies and which grid and scale it was trained with.

    Raises
    ------
    UsageError
        If the Keras file is damaged or answers with another number of classes.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        try:
            self._images = keras.saving.load_model(run.network, compile=False)
        except DAMAGES as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UsageError(f"{run.network} is damaged ({reason}): train again") from None
        classes, labels = self._images.output_shape[-1], len(run.contract.labels)
        if classes != labels:
            raise UsageError(f"{run.network} has {classes} classes and run.json {labels} labels")
        bands = run.contract.spectrogram.n_mels
        self._signature = [tf.TensorSpec((None, bands, None), tf.float32, name=INPUT)]
        self._function = tf.function(self._answer, input_signature=self._signature)

    def _answer(self, spectrograms: tf.Tensor) -> dict[str, tf.Tensor]:
        levels = 2 * spectrograms / self._run.contract.spectrogram.top_db + 1
        images = levels[..., tf.newaxis]
        if self._run.input_scale != 1:
            size = tf.cast(tf.shape(levels)[1:], tf.float32) * self._run.input_scale
            images = tf.image.resize(images, tf.cast(tf.round(size), tf.int32))
        images = tf.concat([images] * 3, axis=-1)
        return {OUTPUT: self._images(images, training=False)}

    def logits(self, spectrograms: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what Keras answers.

        Parameters
        ----------
        spectrograms : float32, shape (batch, n_mels, frames)
            dB in `[-top_db, 0]`.

        Returns
        -------
        float32, shape (batch, classes)
        """
        return np.asarray(self._function(tf.constant(spectrograms))[OUTPUT], np.float32)

    def to_onnx(self) -> onnx.ModelProto:
        """Convert to ONNX with float32 weights, any batch and any number of frames.

        Raises
        ------
        ExportError
            If tf2onnx cannot convert a layer.
        """
        logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
        try:
            model, _ = tf2onnx.convert.from_function(
                self._function, input_signature=self._signature, opset=OPSET
            )
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ExportError(f"tf2onnx cannot convert {self._run.network} ({reason})") from None
        model.ir_version = IR_VERSION
        del model.opset_import[:]
        model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
        for node, names in (
            (model.graph.input[0], "batch,,frames"),
            (model.graph.output[0], "batch,"),
        ):
            for axis, name in zip(node.type.tensor_type.shape.dim, names.split(","), strict=True):
                if name:
                    axis.dim_param = name
        model.graph.name = self._run.contract.name
        model.doc_string = "Made by genre-export; its contract is the metadata entry genre_stream."
        return model
