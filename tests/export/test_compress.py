"""Smaller weights, and how much they differ."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper, numpy_helper

from export.compress import quantise, to_float16, to_int8

KERNELS = arrays.arrays(
    np.float32,
    st.tuples(*[st.integers(1, 5)] * 2, *[st.integers(1, 3)] * 2),
    elements=st.floats(-100, 100, width=32),
)


@given(KERNELS)
def test_a_weight_moves_by_at_most_one_level_of_its_channel(weights: np.ndarray) -> None:
    levels, scale = quantise(weights, axis=0)
    assert levels.dtype == np.int8
    assert scale.shape == (len(weights),)
    assert np.abs(levels.astype(int)).max() <= 127
    steps = scale[:, None, None, None]
    assert (np.abs(levels * steps - weights) <= steps * 1.001).all()


@given(KERNELS)
def test_rounding_errors_of_a_channel_cancel(weights: np.ndarray) -> None:
    levels, scale = quantise(weights, axis=0)
    error = levels - weights.astype(float) / scale[:, None, None, None]
    assert (np.abs(error.sum(axis=(1, 2, 3))) <= 0.51).all()


def test_channels_of_a_matrix_lie_on_its_second_axis() -> None:
    weights = np.array([[1.0, 100.0, 0.0], [-0.5, 50.0, 0.0]], np.float32)
    levels, scale = quantise(weights, axis=1)
    assert scale == pytest.approx([1 / 127, 100 / 127, 1])
    assert np.abs(levels * scale - weights).max() <= 100 / 127
    assert levels[:, 2].tolist() == [0, 0]


def network(*layers: np.ndarray) -> onnx.ModelProto:
    """Return a chain of matrix products with the given weights."""
    names = ["x", *(f"h{index}" for index in range(len(layers) - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [names[index], f"w{index}"], [names[index + 1]])
        for index in range(len(layers))
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [value("x", onnx.TensorProto.FLOAT, [1, layers[0].shape[0]])],
        [value("y", onnx.TensorProto.FLOAT, [1, layers[-1].shape[1]])],
        [numpy_helper.from_array(layer, f"w{index}") for index, layer in enumerate(layers)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def types(model: onnx.ModelProto) -> dict[str, type]:
    return {
        tensor.name: numpy_helper.to_array(tensor).dtype.type for tensor in model.graph.initializer
    }


def test_the_first_layers_are_float16_and_small_ones_stay_float32() -> None:
    draw = np.random.default_rng(0)
    first = draw.normal(size=(32, 64)).astype(np.float32)
    middle = draw.normal(size=(64, 1024)).astype(np.float32)
    last = draw.normal(size=(1024, 1)).astype(np.float32)[:, :1]
    tiny = np.ones((1, 10), np.float32)
    smaller = to_int8(network(first, middle, last, tiny))
    onnx.checker.check_model(smaller, full_check=True)
    assert types(smaller) == {
        "w3": np.float32,
        "w0_float16": np.float16,
        "w1_int8": np.int8,
        "w1_scale": np.float32,
        "w2_int8": np.int8,
        "w2_scale": np.float32,
    }


def test_weights_beyond_the_range_of_float16_stay_float32() -> None:
    weights = np.full((32, 32), 1e5, np.float32)
    assert types(to_float16(network(weights, weights / 10))) == {
        "w0": np.float32,
        "w1_float16": np.float16,
    }


def test_the_given_model_is_not_changed() -> None:
    model = network(np.ones((64, 64), np.float32))
    before = model.SerializeToString()
    to_int8(model)
    to_float16(model)
    assert model.SerializeToString() == before
