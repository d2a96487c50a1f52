"""A graph whose convolutions can be computed with 8-bit integers.

Every activation between two such convolutions is quantised to unsigned integers, their weights to
signed ones. onnxruntime computes such a graph with integers, or in float32 as if the activations
had never been quantised: see `streamer.core.runtime`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.compress import quantise
from streamer.core.runtime import open_session
from streamer.system.processors import processors

LEVELS = 255
"""Largest of the integers that stand for an activation; the least is 0."""

SAMPLES = 3000
"""Values of each activation that are kept of each window of the calibration."""

CLIPPINGS = np.linspace(0.2, 1, 33)
"""Shares of an activation's whole range among which the best range is searched."""

MAX_BIAS = 2**30
"""Largest level of a bias; products of activations and weights are added to it within 32 bits."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Range:
    """The values of an activation that the integers stand for; what lies outside is clipped."""

    low: float
    """At most 0."""
    high: float
    """Above `low`."""

    @property
    def scale(self) -> np.float32:
        """Difference of two neighbouring levels."""
        return np.float32((self.high - self.low) / LEVELS)

    @property
    def zero_point(self) -> np.uint8:
        """The level that stands for 0."""
        return np.uint8(np.clip(round(-self.low / float(self.scale)), 0, LEVELS))


def to_static(model: onnx.ModelProto, batches: Iterable[Mapping[str, Floats]]) -> onnx.ModelProto:
    """Return a graph that can be computed with integers, calibrated on real inputs.

    Parameters
    ----------
    model : onnx.ModelProto
        A float32 graph whose batch normalisation is folded into the convolutions. The first
        convolution, which sees the input itself, and matrix products stay in float32.
    batches : iterable of mapping
        Inputs of the graph by name, as many as give the typical range of every activation.
    """
    model = pool_after_convolution(model)
    graph = _Graph(model)
    return _with_integers(graph, calibrate(graph, batches))


def pool_after_convolution(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same function with each average pool behind the 1x1 convolution that it feeds.

    Both are linear, one over places and one over channels, so they commute. Behind the convolution
    the pool has fewer channels, which matters where the convolution takes a fraction of the time.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    uses = Counter(name for node in graph.node for name in node.input)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    pools = {node.output[0]: node for node in graph.node if node.op_type == "AveragePool"}
    for conv in graph.node:
        if conv.op_type != "Conv" or conv.input[0] not in pools:
            continue
        pool = pools[conv.input[0]]
        # With the padding counted, the mean of a bias would be less than the bias.
        counted = any(each.name == "count_include_pad" and each.i for each in pool.attribute)
        pointwise = shapes.get(conv.input[1], ())[2:] == (1, 1) and not _is_strided(conv)
        if pointwise and not counted and uses[pool.output[0]] == 1:
            between, after = pool.output[0], conv.output[0]
            conv.input[0], conv.output[0] = pool.input[0], between
            pool.input[0], pool.output[0] = between, after
    _sort(graph)
    # The shapes of the tensors between them have changed.
    del graph.value_info[:]
    return changed


def _is_strided(conv: onnx.NodeProto) -> bool:
    moves = [each.ints for each in conv.attribute if each.name in ("strides", "pads")]
    return any(tuple(ints) not in ((1, 1), (0, 0, 0, 0)) for ints in moves)


def _sort(graph: onnx.GraphProto) -> None:
    """Put every node behind those that it needs, as ONNX demands; keep the order otherwise."""
    waiting = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    outputs = {name for node in waiting for name in node.output}
    sorted_nodes: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if outputs.isdisjoint(node.input):
                sorted_nodes.append(node)
                outputs.difference_update(node.output)
            else:
                later.append(node)
        waiting = later
    del graph.node[:]
    graph.node.extend(sorted_nodes)


class _Graph:
    """A graph, and which of its activations become integers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        self.convolutions = [
            node
            for node in convolutions[1:]
            if all(name in self.weights for name in node.input[1:])
        ]
        self.ranged_like: dict[str, str] = {}
        """Activation -> another whose range it shares."""
        self.quantised = self._activations()

    def _activations(self) -> list[str]:
        """Return the names of activations to quantise, from input to output."""
        wanted = {node.input[0] for node in self.convolutions}
        wanted |= {self._activated(node) for node in self.convolutions}
        for node in self.model.graph.node:
            # The largest of some levels is one of them.
            if node.op_type == "MaxPool" and wanted & {node.input[0], node.output[0]}:
                wanted |= {node.input[0], node.output[0]}
                self.ranged_like[node.output[0]] = node.input[0]
        for node in self.model.graph.node:
            if node.op_type == "Concat" and node.output[0] in wanted:
                wanted.update(node.input)
                for name in node.input:
                    # Rounded once, not twice; nobody else reads it.
                    if len(self.users[name]) == 1 and name not in self.ranged_like:
                        self.ranged_like[name] = node.output[0]
        names = [name for node in self.model.graph.node for name in node.output]
        return [name for name in names if name in wanted]

    def _activated(self, conv: onnx.NodeProto) -> str:
        """Return what is quantised of a convolution: its output, or that behind its Relu."""
        users = self.users.get(conv.output[0], [])
        is_relu = len(users) == 1 and users[0].op_type == "Relu"
        return str((users[0] if is_relu else conv).output[0])

    def own_range(self, name: str) -> str:
        """Return the activation whose range this one has."""
        while name in self.ranged_like:
            name = self.ranged_like[name]
        return name


def calibrate(graph: _Graph, batches: Iterable[Mapping[str, Floats]]) -> dict[str, Range]:
    """Return the range of every activation that is quantised, by name."""
    names = sorted({graph.own_range(name) for name in graph.quantised})
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(model.SerializeToString(), processors())
    kept: dict[str, list[Floats]] = {name: [] for name in names}
    limits = dict.fromkeys(names, (0.0, 0.0))
    for batch in batches:
        for name, values in zip(names, session.run(names, dict(batch)), strict=True):
            values = values.ravel()
            low, high = limits[name]
            limits[name] = min(low, float(values.min())), max(high, float(values.max()))
            step = max(1, len(values) // SAMPLES)
            kept[name].append(values[len(kept[name]) % step :: step].copy())
    ranges = {name: best_range(np.concatenate(kept[name]), *limits[name]) for name in names}
    return {name: ranges[graph.own_range(name)] for name in graph.quantised}


def best_range(values: Floats, low: float, high: float) -> Range:
    """Return the range within `low` to `high` that moves the values least, in the mean square.

    It is narrower than what occurs: rare large values are clipped so that the many small ones are
    told apart.
    """
    if high <= low:
        return Range(0.0, 1.0)
    ranges = [Range(low * share, high * share) for share in CLIPPINGS]
    return min(ranges, key=lambda each: _squared_error(values, each))


def _squared_error(values: Floats, own: Range) -> float:
    zero = float(own.zero_point)
    levels = np.clip(np.rint(values / own.scale) + zero, 0, LEVELS)
    return float(np.square((levels - zero) * own.scale - values).mean())


def _with_integers(graph: _Graph, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Return the graph with quantised activations, and with the weights that meet them."""
    result = onnx.ModelProto()
    result.CopyFrom(graph.model)
    constants: dict[str, NDArray[np.generic]] = {}
    nodes: list[onnx.NodeProto] = []
    scales = {node.output[0]: ranges[node.input[0]].scale for node in graph.convolutions}
    for node in result.graph.node:
        for index, name in enumerate(node.input):
            if name in ranges:
                copy = f"{name}/{node.output[0]}"
                nodes += _quantised(name, copy, ranges[name], constants)
                node.input[index] = f"{copy}/dequantised"
        if node.output[0] in scales:
            nodes += _quantised_weights(graph, node, scales[node.output[0]], constants)
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for name, tensor in graph.weights.items() if name in used]
    kept += [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(kept)
    return result


def _quantised(
    name: str, copy: str, own: Range, constants: dict[str, NDArray[np.generic]]
) -> Iterator[onnx.NodeProto]:
    """Quantise an activation for one of its readers.

    Each has nodes of its own: onnxruntime makes one of equal ones where it computes with integers,
    and removes only such nodes as have one reader where it computes in float32.
    """
    scale, zero = f"{name}/scale", f"{name}/zero_point"
    constants[scale], constants[zero] = np.asarray(own.scale), np.asarray(own.zero_point)
    levels, values = f"{copy}/levels", f"{copy}/dequantised"
    yield helper.make_node("QuantizeLinear", [name, scale, zero], [levels], name=levels)
    yield helper.make_node("DequantizeLinear", [levels, scale, zero], [values], name=values)


def _quantised_weights(
    graph: _Graph,
    conv: onnx.NodeProto,
    scale: np.float32,
    constants: dict[str, NDArray[np.generic]],
) -> Iterator[onnx.NodeProto]:
    """Quantise the weights and the bias of a convolution whose input has this scale."""
    weights, *biases = (numpy_helper.to_array(graph.weights[name]) for name in conv.input[1:])
    levels, scales = quantise(weights, axis=0)
    stored: list[tuple[NDArray[np.generic], Floats]] = [(levels, scales)]
    for bias in biases:
        # A bias is added to products of levels, so it has the product of their scales. Where the
        # weights are nothing beside the bias, that would be too fine for 32 bits.
        finest = (np.abs(bias) / (float(scale) * MAX_BIAS)).astype(np.float32)
        for channel in np.flatnonzero(finest > scales):
            scales[channel] = finest[channel]
            levels[channel] = np.rint(weights[channel] / finest[channel])
        products = (scales * scale).astype(np.float32)
        stored.append((np.rint(bias / products.astype(np.float64)).astype(np.int32), products))
    for index, (own_levels, own_scales) in enumerate(stored, start=1):
        # Convolutions may share weights, but not the scale of their inputs.
        name = f"{conv.input[index]}/{conv.output[0]}"
        own = f"{name}/levels", f"{name}/scale", f"{name}/zero_point"
        values = own_levels, own_scales, np.zeros(len(own_scales), own_levels.dtype)
        constants.update(zip(own, values, strict=True))
        output = f"{name}/dequantised"
        conv.input[index] = output
        yield helper.make_node("DequantizeLinear", list(own), [output], name=output, axis=0)
