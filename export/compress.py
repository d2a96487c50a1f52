"""Smaller files: weights stored as float16 or int8.

These are only storage formats: when such a file is loaded, onnxruntime converts the
weights back to float32 once, so that the network runs exactly as fast as the float32 file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

SMALLEST = 1024
"""Weights with fewer numbers stay float32; together they are a thousandth of a file."""

FINE_SHARE = 0.05
"""Share of the weights, nearest to the input, that an int8 file stores as float16: rounding them to
int8 caused nine tenths of all differences of an InceptionV3."""

Weights = NDArray[np.float32]

Stored = tuple[list[onnx.TensorProto], onnx.NodeProto]
"""Tensors of the file, and the node that converts them to float32 weights."""


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with large weights stored as float16 behind a `Cast`."""
    weights = {name: values for name, (values, _) in _large_weights(model).items()}
    stored = {name: _as_float16(name, own) for name, own in weights.items() if _fits(own)}
    return _replace(model, stored)


def to_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with large weights stored as int8 behind a `DequantizeLinear`.

    Each output channel has a scale of its own. The first `FINE_SHARE` of the weights are stored
    as float16.
    """
    weights = _large_weights(model)
    fine = FINE_SHARE * sum(values.size for values, _ in weights.values())
    stored: dict[str, Stored] = {}
    for name, (values, axis) in weights.items():
        fine -= values.size
        if fine >= 0 and _fits(values):
            stored[name] = _as_float16(name, values)
        else:
            stored[name] = _as_int8(name, values, axis)
    return _replace(model, stored)


def quantise(weights: Weights, axis: int) -> tuple[NDArray[np.int8], Weights]:
    """Round weights to int8 levels with one scale for each index of `axis`.

    Rounding errors of one sign would add up to a bias, as inputs after a ReLU are never negative.
    So some weights are rounded the other way, until the errors of each kernel and of each output
    channel cancel. Source: Guo et al., "SQuant: On-the-Fly Data-Free Quantization
    via Diagonal Hessian Approximation", ICLR 2022.

    Weights have shape (out, in, height, width) of a Conv or (in, out) of a MatMul; `axis` is that
    of the output channels.

    Returns
    -------
    levels : int8, shape of `weights`
        In [-127, 127]; `levels * scale` is within one scale of `weights`.
    scale : float32, shape (weights.shape[axis],)
        The channel's largest absolute weight / 127.
    """
    channels = np.moveaxis(weights, axis, 0)
    rows = channels.reshape(len(channels), -1)
    largest = np.abs(rows).max(axis=1, keepdims=True)
    # Zeros, or numbers so small that their scale would lose its precision, get scale 1.
    scale = np.where(largest > 1e-30, largest / 127, 1).astype(np.float32)
    exact = rows.astype(np.float64) / scale
    levels = np.rint(exact)
    if weights.ndim == 4:
        levels = _cancel_errors(exact, levels, group=weights.shape[2] * weights.shape[3])
    levels = _cancel_errors(exact, levels, group=rows.shape[1])
    levels = np.moveaxis(levels.reshape(channels.shape), 0, axis)
    return np.ascontiguousarray(levels, np.int8), scale.ravel()


def _cancel_errors(
    exact: NDArray[np.float64], levels: NDArray[np.float64], group: int
) -> NDArray[np.float64]:
    """Move levels by one, the cheapest first, until the errors of each group sum to under 1/2."""
    error = (levels - exact).reshape(-1, group)
    total = error.sum(axis=1, keepdims=True)
    direction = np.sign(total)
    cheapest_first = np.argsort(-direction * error, axis=1, kind="stable")
    rank = np.argsort(cheapest_first, axis=1)
    moved = levels.reshape(-1, group) - direction * (rank < np.rint(np.abs(total)))
    return np.asarray(np.clip(moved, -127, 127).reshape(levels.shape))


def _fits(values: Weights) -> bool:
    return bool(np.abs(values).max() <= np.finfo(np.float16).max)


def _as_float16(name: str, values: Weights) -> Stored:
    stored = numpy_helper.from_array(values.astype(np.float16), f"{name}_float16")
    return [stored], helper.make_node("Cast", [stored.name], [name], to=onnx.TensorProto.FLOAT)


def _as_int8(name: str, values: Weights, axis: int) -> Stored:
    levels, scale = quantise(values, axis)
    stored = numpy_helper.from_array(levels, f"{name}_int8")
    scales = numpy_helper.from_array(scale, f"{name}_scale")
    node = helper.make_node("DequantizeLinear", [stored.name, scales.name], [name], axis=axis)
    return [stored, scales], node


def _large_weights(model: onnx.ModelProto) -> dict[str, tuple[Weights, int]]:
    """Return the weights of at least `SMALLEST` numbers, from input to output, with output axis."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, tuple[Weights, int]] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul") and node.input[1] in tensors:
            values = numpy_helper.to_array(tensors[node.input[1]])
            if values.dtype == np.float32 and values.size >= SMALLEST:
                found[node.input[1]] = values, 0 if node.op_type == "Conv" else 1
    return found


def _replace(model: onnx.ModelProto, stored: Mapping[str, Stored]) -> onnx.ModelProto:
    """Return the model with some weights replaced by their stored form."""
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    graph = smaller.graph
    tensors = [tensor for tensor in model.graph.initializer if tensor.name not in stored]
    tensors += [tensor for own, _ in stored.values() for tensor in own]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend([*(node for _, node in stored.values()), *model.graph.node])
    return smaller
