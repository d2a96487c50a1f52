"""Graphs whose convolutions are computed with integers."""

from __future__ import annotations

import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.integers import Range, best_range, pool_after_convolution, to_static
from streamer.core.runtime import FLOAT_REWRITES, open_session, session_options


def convolution(
    source: str, target: str, channels: tuple[int, int], size: int = 1, gain: float = 1
) -> Any:
    """Return a node that keeps height and width, and its weights and bias."""
    inputs, outputs = channels
    shape = (outputs, inputs, size, size)
    draw = np.random.default_rng(zlib.crc32(target.encode()))
    weights = draw.normal(0, gain / np.sqrt(inputs * size * size), shape).astype(np.float32)
    bias = draw.normal(0, 0.2, outputs).astype(np.float32)
    node = helper.make_node(
        "Conv", [source, f"{target}/w", f"{target}/b"], [target], pads=[size // 2] * 4
    )
    return [node], {f"{target}/w": weights, f"{target}/b": bias}


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return [helper.make_node(kind, inputs, [output], **attributes)], {}


def pool(kind: str, source: str, target: str, **attributes: Any) -> Any:
    return node(kind, [source], target, kernel_shape=[3, 3], pads=[1] * 4, **attributes)


def graph(*parts: Any, channels: int = 3) -> onnx.ModelProto:
    """Return a model from `x`, shape (batch, channels, 8, 8), to `y`."""
    nodes = [each for own, _ in parts for each in own]
    weights = {name: value for _, own in parts for name, value in own.items()}
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def block() -> onnx.ModelProto:
    """Return a graph with what an InceptionV3 is made of."""
    return graph(
        convolution("x", "a", (3, 8), 3),
        node("Relu", ["a"], "a+"),
        convolution("a+", "b", (8, 8), 3),
        node("Relu", ["b"], "b+"),
        pool("MaxPool", "b+", "c"),
        convolution("c", "d", (8, 6), gain=5),
        node("Relu", ["d"], "d+"),
        pool("AveragePool", "c", "mean"),
        convolution("mean", "e", (8, 4)),
        node("Relu", ["e"], "e+"),
        pool("MaxPool", "c", "f"),
        node("Concat", ["d+", "e+", "f"], "both", axis=1),
        convolution("both", "y", (18, 5)),
    )


def windows(count: int, channels: int = 3) -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(count)
    return [
        {"x": draw.uniform(-1, 1, (1, channels, 8, 8)).astype(np.float32)} for _ in range(count)
    ]


def answer(model: onnx.ModelProto, arithmetic: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    (values,) = open_session(model.SerializeToString(), 1, arithmetic).run(["y"], inputs)
    return np.asarray(values)


def operators(model: onnx.ModelProto, folder: Path, arithmetic: str) -> Counter[str]:
    """Return the operators that onnxruntime runs."""
    options = session_options(1, integers=arithmetic == "int8")
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    rewrites = set() if arithmetic == "int8" else FLOAT_REWRITES
    onnxruntime.InferenceSession(model.SerializeToString(), options, disabled_optimizers=rewrites)
    return Counter(each.op_type for each in onnx.load(folder / "optimised.onnx").graph.node)


def test_an_average_pool_goes_behind_the_pointwise_convolution_that_it_feeds() -> None:
    model = block()
    changed = pool_after_convolution(model)
    onnx.checker.check_model(changed, full_check=True)
    (mean,) = (each for each in changed.graph.node if each.op_type == "AveragePool")
    assert list(mean.output) == ["e"]
    inputs = windows(1)[0]
    np.testing.assert_allclose(
        answer(changed, "float32", inputs), answer(model, "float32", inputs), atol=1e-6
    )


@pytest.mark.parametrize(
    ("size", "attributes", "readers"),
    [(3, {}, 1), (1, {"count_include_pad": 1}, 1), (1, {}, 2)],
    ids=["a wider convolution", "padding counts", "two readers"],
)
def test_other_average_pools_stay(size: int, attributes: Any, readers: int) -> None:
    parts = [pool("AveragePool", "x", "mean", **attributes)]
    parts += [convolution("mean", f"out{number}", (3, 3), size) for number in range(readers)]
    model = graph(*parts, node("Sum", [f"out{number}" for number in range(readers)], "y"))
    changed = pool_after_convolution(model)
    assert [list(each.input) for each in changed.graph.node] == [
        list(each.input) for each in model.graph.node
    ]


def test_integers_answer_nearly_like_float32(tmp_path: Path) -> None:
    model = block()
    made = to_static(model, windows(20))
    onnx.checker.check_model(made, full_check=True)
    for inputs in windows(5):
        expected = answer(model, "float32", inputs)
        scale = np.abs(expected).max()
        exact, rounded = (answer(made, name, inputs) for name in ("float32", "int8"))
        # In float32, only the weights are rounded.
        assert 0 < np.abs(exact - expected).max() < 0.02 * scale
        assert 0 < np.abs(rounded - exact).max() < 0.05 * scale
    assert operators(made, tmp_path, "int8")["QLinearConv"] == 3
    remaining = operators(made, tmp_path, "float32")
    assert not remaining.keys() & {"QuantizeLinear", "DequantizeLinear", "QLinearConv"}


def test_what_is_joined_has_one_range_but_for_the_largest_of_other_values() -> None:
    made = to_static(block(), windows(5))
    scales = {
        each.input[0]: each.input[1] for each in made.graph.node if each.op_type == "QuantizeLinear"
    }
    values = {each.name: numpy_helper.to_array(each) for each in made.graph.initializer}
    same = {name: float(values[scale]) for name, scale in scales.items()}
    assert same["d+"] == same["e+"] == same["both"]
    assert same["b+"] == same["c"] == same["f"] != same["both"]


def test_a_channel_of_nothing_but_bias_keeps_its_bias() -> None:
    parts = [convolution("x", "a", (3, 4)), convolution("a", "y", (4, 4))]
    parts[1][1]["y/w"][1] = 1e-12
    parts[1][1]["y/b"][1] = 3.0
    model = graph(*parts)
    made = to_static(model, windows(5))
    inputs = windows(1)[0]
    for arithmetic in ("float32", "int8"):
        assert answer(made, arithmetic, inputs)[0, 1] == pytest.approx(3.0, abs=0.05)


def test_convolutions_may_share_weights() -> None:
    first, then = convolution("x", "a", (4, 4)), convolution("a", "b", (4, 4))
    again, _ = convolution("b", "y", (4, 4))
    again[0].input[1:] = then[0][0].input[1:]
    model = graph(first, then, (again, {}), channels=4)
    made = to_static(model, windows(5, channels=4))
    inputs = windows(1, channels=4)[0]
    expected = answer(model, "float32", inputs)
    for arithmetic in ("float32", "int8"):
        difference = np.abs(answer(made, arithmetic, inputs) - expected).max()
        assert difference < 0.05 * np.abs(expected).max()


def test_a_rare_large_value_is_clipped() -> None:
    values = np.append(np.linspace(0, 1, 1_000_000, dtype=np.float32), np.float32(2))
    chosen = best_range(values, 0.0, 2.0)
    assert chosen.low == 0
    assert 1 <= chosen.high < 1.2


def test_zero_is_a_level_of_every_range() -> None:
    for low, high in ((-1.0, 3.0), (0.0, 6.0), (-2.0, 0.0)):
        own = Range(low, high)
        assert own.scale * 255 == pytest.approx(high - low)
        assert abs((0 - float(own.zero_point)) * own.scale - low) <= own.scale
    assert best_range(np.zeros(10, np.float32), 0.0, 0.0) == Range(0.0, 1.0)
