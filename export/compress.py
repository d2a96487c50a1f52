"""Smaller files: weights as float16 or int8, or a whole graph that computes with integers.

float16 and int8 are ways to store. When such a file is loaded, onnxruntime turns the weights back
into float32 once, so that the network runs exactly as fast as the float32 file does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from streamer.model import INPUT

SMALLEST = 1024
"""Weights with fewer numbers than this stay float32: they are a thousandth of a file."""

FLOAT16_LARGEST = float(np.finfo(np.float16).max)

Weights = NDArray[np.float32]


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with large weights stored as float16 behind a `Cast`."""

    def store(name: str, weights: Weights, _axis: int) -> tuple[list[Any], list[Any]] | None:
        if np.abs(weights).max() > FLOAT16_LARGEST:
            return None
        stored = numpy_helper.from_array(weights.astype(np.float16), f"{name}_float16")
        cast = helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT)
        return [stored], [cast]

    return _store_weights(model, store)


def to_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with large weights stored as int8 behind a `DequantizeLinear`.

    Each output channel has its own scale, its largest absolute weight / 127.
    """

    def store(name: str, weights: Weights, axis: int) -> tuple[list[Any], list[Any]]:
        levels, scale = quantise(weights, axis)
        stored = numpy_helper.from_array(levels, f"{name}_int8")
        scales = numpy_helper.from_array(scale, f"{name}_scale")
        node = helper.make_node("DequantizeLinear", [stored.name, scales.name], [name], axis=axis)
        return [stored, scales], [node]

    return _store_weights(model, store)


def quantise(weights: Weights, axis: int) -> tuple[NDArray[np.int8], Weights]:
    """Round weights to int8 levels with one scale for each index of `axis`.

    Returns
    -------
    levels : int8, shape of `weights`
        In [-127, 127]; `levels * scale` is within half a scale of `weights`.
    scale : float32, shape (weights.shape[axis],)
    """
    others = tuple(other for other in range(weights.ndim) if other != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1))
    return np.rint(weights / scale).astype(np.int8), scale.astype(np.float32).ravel()


def _store_weights(
    model: onnx.ModelProto,
    store: Callable[[str, Weights, int], tuple[list[Any], list[Any]] | None],
) -> onnx.ModelProto:
    """Replace each large weight of a Conv or MatMul by what `store` returns for it."""
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    graph = smaller.graph
    axes = {
        node.input[1]: 0 if node.op_type == "Conv" else 1
        for node in graph.node
        if node.op_type in ("Conv", "MatMul")
    }
    initializers, nodes = [], []
    for tensor in graph.initializer:
        weights = numpy_helper.to_array(tensor)
        stored = None
        if tensor.name in axes and weights.dtype == np.float32 and weights.size >= SMALLEST:
            stored = store(tensor.name, weights, axes[tensor.name])
        initializers += stored[0] if stored else [tensor]
        nodes += stored[1] if stored else []
    nodes += list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend(nodes)
    return smaller


def to_static(model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]]) -> onnx.ModelProto:
    """Return a graph that computes with 8-bit integers, ranges taken from real spectrograms.

    Parameters
    ----------
    model : onnx.ModelProto
        The float32 model.
    batches : iterable of float32, shape (batch, n_mels, frames)
        Spectrograms as the network sees them.
    """
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    with TemporaryDirectory(prefix="genre-export-") as folder:
        source, target = Path(folder, "float32.onnx"), Path(folder, "static.onnx")
        onnx.save(model, source)
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv", "MatMul", "Concat", "AveragePool", "MaxPool"],
        )
        return onnx.load(target)
