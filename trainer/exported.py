"""Weights of an exported model file, read back so that a training can start from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from streamer.core.contract import METADATA_KEY, ModelContract, ModelError
from streamer.core.model import INPUT, OUTPUT
from streamer.system.commandline import UserError
from trainer.splits import fault_filtered_names

SPECTROGRAM_LOGITS = "spectrogram_logits"
"""Output of the network of spectrograms in a file that holds a second network beside it."""

Weights = NDArray[np.float32]


class ModelFileError(UserError):
    """A model file whose weights cannot be read back; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class ExportedNetwork:
    """The network of spectrograms of a model file."""

    labels: tuple[str, ...]
    """Class names in the order of the logits."""
    trained_tracks: frozenset[str] | None
    """Names of the tracks that it was trained on; None if the file does not tell them."""
    convolutions: list[tuple[Weights, Weights]]
    """Kernel (height, width, in, out) and bias (out,) of each convolution with its batch norm
    folded in, in the order in which `keras.applications.InceptionV3` creates them."""
    head: tuple[Weights, Weights]
    """Kernel (features, classes) and bias (classes,) of the dense layer."""


def read_exported(path: Path) -> ExportedNetwork:
    """Read the weights of a model file of `genre-export`, of any precision.

    Weights that were rounded for the file stay rounded.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged or no model file.
    """
    try:
        model = onnx.load(path)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        contract = ModelContract.from_metadata(json.loads(properties[METADATA_KEY]))
        # The file names its split, but not the tracks.
        known = contract.training.get("split") == "fault-filtered"
        trained = frozenset(fault_filtered_names()["train"]) if known else None
        return ExportedNetwork(contract.labels, trained, *_Graph(model.graph).weights())
    except OSError as error:
        raise ModelFileError(f"--weights {path}: cannot be read ({error.strerror})") from None
    except (DecodeError, KeyError, ModelError, StopIteration, ValueError) as error:
        reason = str(error) if isinstance(error, ModelError) else "damaged, or not of genre-export"
        raise ModelFileError(
            f"--weights {path}: {reason}; give a file that genre-export made"
        ) from None


class _Graph:
    """An ONNX graph by the names of its values."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = {name: node for node in graph.node for name in node.output}
        self._constants = {each.name: each for each in graph.initializer}
        outputs = {value.name for value in graph.output}
        self._output = SPECTROGRAM_LOGITS if SPECTROGRAM_LOGITS in outputs else OUTPUT

    def weights(self) -> tuple[list[tuple[Weights, Weights]], tuple[Weights, Weights]]:
        """Return the convolutions from the input to the output, and the dense layer."""
        nodes = list(self._before(self._output, set()))
        convolutions = [
            (np.transpose(self._value(node.input[1]), (2, 3, 1, 0)), self._value(node.input[2]))
            for node in nodes
            if node.op_type == "Conv"
        ]
        matmul = next(node for node in nodes if node.op_type == "MatMul")
        add = next(node for node in reversed(nodes) if node.op_type == "Add")
        bias = next(name for name in add.input if self._is_constant(name))
        return convolutions, (self._value(matmul.input[1]), self._value(bias))

    def _before(self, name: str, seen: set[str]) -> Iterator[onnx.NodeProto]:
        """Yield the nodes that a value depends on, each after those that it depends on itself.

        Branches follow each other in the order of the Concat that joins them, which is the order
        in which Keras creates their layers. Names and the order of nodes in the file tell less.
        """
        node = self._nodes.get(name)
        if node is None or name in seen or name == INPUT:
            return
        seen.add(name)
        for each in node.input:
            yield from self._before(each, seen)
        yield node

    def _is_constant(self, name: str) -> bool:
        node = self._nodes.get(name)
        if node is None:
            return name in self._constants
        return node.op_type in ("Cast", "DequantizeLinear") and self._is_constant(node.input[0])

    def _value(self, name: str) -> Weights:
        """Return a constant as float32, whatever it is stored as."""
        node = self._nodes.get(name)
        if node is None:
            return np.asarray(numpy_helper.to_array(self._constants[name]), np.float32)
        levels = self._value(node.input[0])
        if node.op_type == "Cast":
            return levels
        if node.op_type != "DequantizeLinear":
            raise ValueError(f"{name} is not a constant")
        scale, *zero = (self._value(each) for each in node.input[1:] if each)
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
        shape = [1] * levels.ndim
        if scale.size > 1:
            shape[axis] = -1
        offset = zero[0].reshape(shape) if zero else np.float32(0)
        return np.asarray((levels - offset) * scale.reshape(shape), np.float32)
