"""From Keras to ONNX: the network of a run with the contract's preprocessing in front of it."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
from collections.abc import Iterator

# TensorFlow reads this once, when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from numpy.typing import NDArray

from export.errors import ExportError
from export.source import ExportSource
from streamer.core.model import INPUT, OUTPUT
from streamer.system.commandline import UserError
from trainer.run import DAMAGED_FILE_ERRORS, first_line

OPSET, IR_VERSION = 18, 8
"""ONNX versions of the files; every onnxruntime that `pyproject.toml` allows reads them."""


class Network:
    """The Keras network of a run, from spectrograms to logits (contract 4.2)."""

    def __init__(self, source: ExportSource) -> None:
        """Load it; raise a UserError if it is damaged or does not fit the run's labels."""
        self._source = source
        try:
            self._images = keras.saving.load_model(source.network, compile=False)
        except DAMAGED_FILE_ERRORS as error:
            raise UserError(
                f"{source.network} is damaged ({first_line(error)}): train again"
            ) from None
        classes, labels = self._images.output_shape[-1], len(source.contract.labels)
        if classes != labels:
            raise UserError(f"{source.network} has {classes} classes and run.json {labels} labels")
        bands = source.contract.spectrogram.n_mels
        self._signature = [tf.TensorSpec((None, bands, None), tf.float32, name=INPUT)]
        self._function = tf.function(self._predict, input_signature=self._signature)

    def _predict(self, spectrograms: tf.Tensor) -> dict[str, tf.Tensor]:
        """Do what `trainer.network.with_preprocessing` does, for any number of frames."""
        levels = 2 * spectrograms / self._source.contract.spectrogram.top_db + 1
        images = levels[..., tf.newaxis]
        scale = self._source.run.input_scale
        if scale != 1:
            size = tf.cast(tf.shape(levels)[1:], tf.float32) * scale
            images = tf.image.resize(images, tf.cast(tf.round(size), tf.int32))
        images = tf.concat([images] * 3, axis=-1)
        return {OUTPUT: self._images(images, training=False)}

    def logits(self, spectrograms: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict with Keras; see `export.verify.Predictor`."""
        return np.asarray(self._function(tf.constant(spectrograms))[OUTPUT], np.float32)

    def to_onnx(self) -> onnx.ModelProto:
        """Convert to ONNX with float32 weights, any batch and any number of frames."""
        logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
        try:
            with _often_collected_garbage():
                model, _ = tf2onnx.convert.from_function(
                    self._function, input_signature=self._signature, opset=OPSET
                )
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            raise ExportError(
                f"tf2onnx cannot convert {self._source.network} ({first_line(error)})"
            ) from None
        model.ir_version = IR_VERSION
        del model.opset_import[:]
        model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
        shapes = [
            tensor.type.tensor_type.shape.dim
            for tensor in (model.graph.input[0], model.graph.output[0])
        ]
        shapes[0][0].dim_param = shapes[1][0].dim_param = "batch"
        shapes[0][2].dim_param = "frames"
        model.graph.name = self._source.contract.name
        model.doc_string = "Made by genre-export; its contract is the metadata entry genre_stream."
        return model


@contextlib.contextmanager
def _often_collected_garbage() -> Iterator[None]:
    """Free copies of a network soon after tf2onnx has left them in reference cycles.

    It leaves one at each step, 5 GB for InceptionV3. Python looks for such cycles when there are
    many new objects in proportion to old ones; so the old ones, TensorFlow's, are set aside.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.collect()
    gc.set_threshold(700, 5, 2)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
