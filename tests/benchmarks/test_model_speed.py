"""Processor time of a model, while it runs and while it waits."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.utils import Extractor
from onnxruntime import InferenceSession

from streamer.core.contract import ModelContract
from streamer.core.model import Classifier, golden_audio, golden_spectrogram
from streamer.core.runtime import open_session

ROUNDS = 40

CPU_FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
HAS_VNNI = "avx512_vnni" in CPU_FLAGS or "avx_vnni" in CPU_FLAGS
"""Whether the processor has instructions for products of 8-bit integers."""


def with_float32_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same network with its weights stored as float32 and nothing quantised."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes, quantised, renamed = [], {}, {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            quantised[node.output[0]] = node.input[0]
        elif node.op_type == "DequantizeLinear" and node.input[0] in quantised:
            renamed[node.output[0]] = quantised[node.input[0]]
        elif node.op_type == "DequantizeLinear":
            levels, scale = (tensors[name] for name in node.input[:2])
            axis = next(entry.i for entry in node.attribute if entry.name == "axis")
            shape = [-1 if index == axis else 1 for index in range(levels.ndim)]
            tensors[node.output[0]] = (levels * scale.reshape(shape)).astype(np.float32)
        elif node.op_type == "Cast" and node.input[0] in tensors:
            tensors[node.output[0]] = tensors.pop(node.input[0]).astype(np.float32)
        else:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    used = {name for node in nodes for name in node.input}
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    del converted.graph.node[:], converted.graph.initializer[:]
    converted.graph.node.extend(nodes)
    converted.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in tensors.items() if name in used
    )
    return converted


def alternately(
    sessions: Mapping[str, InferenceSession], output: str, inputs: Mapping[str, NDArray[np.float32]]
) -> dict[str, float]:
    """Return the milliseconds of each session, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(ROUNDS + 1):
        order = list(sessions) if number % 2 else [*reversed(sessions)]
        for name in order:
            # One thread's processor time: other programs on the machine do not count.
            start = time.process_time()
            sessions[name].run([output], inputs)
            times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def golden_inputs(contract: ModelContract) -> dict[str, NDArray[np.float32]]:
    inputs = {"spectrogram": golden_spectrogram(contract.spectrogram, contract.window_frames)}
    if contract.audio:
        inputs["audio"] = golden_audio(contract.audio, contract.audio.samples)
    return inputs


@pytest.mark.benchmark
def test_the_file_runs_in_float32_as_fast_as_one_with_float32_weights(
    gtzan_model: Path, measured: Callable[[str], None]
) -> None:
    contract = Classifier.load(gtzan_model, arithmetic="float32").contract
    stored = onnx.load(gtzan_model)
    graphs = {"stored": stored, "float32": with_float32_weights(stored)}
    sessions = {name: open_session(graph.SerializeToString(), 1) for name, graph in graphs.items()}
    inputs = golden_inputs(contract)
    outputs = [session.run(["logits"], inputs)[0] for session in sessions.values()]
    times = alternately(sessions, "logits", inputs)
    measured(
        f"weights as {contract.precision} {times['stored']:.1f} ms, as float32 "
        f"{times['float32']:.1f} ms a window"
    )
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-3
    assert times["stored"] / times["float32"] < 1.05


@pytest.mark.benchmark
def test_integers_make_a_window_1_7_times_as_fast(
    gtzan_model: Path, measured: Callable[[str], None]
) -> None:
    contract = Classifier.load(gtzan_model, arithmetic="float32").contract
    if "int8" not in contract.arithmetics:
        pytest.skip("the embedded model has no quantised activations")
    whole = onnx.load(gtzan_model)
    inputs = golden_inputs(contract)
    output = "spectrogram_logits" if contract.audio else "logits"
    alone = Extractor(whole).extract_model(["spectrogram"], [output])
    gains = {}
    for name, graph, wanted in (("InceptionV3", alone, output), ("a decision", whole, "logits")):
        content, plain = graph.SerializeToString(), with_float32_weights(graph)
        sessions = {
            "int8": open_session(content, 1, "int8"),
            "float32": open_session(content, 1),
            "float32 weights": open_session(plain.SerializeToString(), 1),
        }
        given = {value.name: inputs[value.name] for value in sessions["int8"].get_inputs()}
        times = alternately(sessions, wanted, given)
        gains[name] = times["float32 weights"] / times["int8"]
        shown = ", ".join(f"{each} {taken:.1f} ms" for each, taken in times.items())
        measured(f"{name}: {shown}: {gains[name]:.2f} times as fast")
    if not HAS_VNNI:
        pytest.skip("this processor has no instructions for 8-bit integers")
    assert gains["InceptionV3"] >= 1.7


IDLING = """
import json, sys, time
from pathlib import Path
from streamer.core.contract import ModelContract
from streamer.core.model import Classifier, golden_spectrogram

classifier = Classifier.load(Path(sys.argv[1]), threads=int(sys.argv[2]))
window = golden_spectrogram(classifier.contract.spectrogram, classifier.contract.window_frames)
classifier.predict(window)
began, used, idle = time.monotonic(), time.process_time(), 0.0
for second in range(1, 6):
    classifier.predict(window)
    before = time.process_time()
    time.sleep(max(0, began + second - time.monotonic()))
    idle += time.process_time() - before
passed = time.monotonic() - began
print(json.dumps({"busy": (time.process_time() - used) / passed, "idle": idle / passed}))
"""


@pytest.mark.benchmark
@pytest.mark.parametrize("threads", [1, 2])
def test_a_prediction_a_second_takes_under_a_tenth_of_a_core(
    gtzan_model: Path, measured: Callable[[str], None], threads: int
) -> None:
    command = [sys.executable, "-c", IDLING, str(gtzan_model), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shares = json.loads(done.stdout)
    measured(f"{threads} threads: {shares['busy']:.1%} of a core, {shares['idle']:.2%} waiting")
    assert shares["busy"] < 0.1
    assert shares["idle"] < 0.01
