"""Processor time of a model, while it runs and while it waits."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from streamer.core.model import Classifier, golden_audio, golden_spectrogram
from streamer.core.runtime import open_session

ROUNDS = 40


def with_float32_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same network with its weights stored as float32."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            levels, scale = (tensors.pop(name) for name in node.input)
            axis = next(entry.i for entry in node.attribute if entry.name == "axis")
            shape = [-1 if index == axis else 1 for index in range(levels.ndim)]
            tensors[node.output[0]] = levels * scale.reshape(shape)
        elif node.op_type == "Cast" and node.input[0] in tensors:
            tensors[node.output[0]] = tensors.pop(node.input[0]).astype(np.float32)
        else:
            nodes.append(node)
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    del converted.graph.node[:], converted.graph.initializer[:]
    converted.graph.node.extend(nodes)
    converted.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in tensors.items()
    )
    return converted


@pytest.mark.benchmark
def test_int8_weights_run_as_fast_as_float32_weights(
    gtzan_model: Path, measured: Callable[[str], None]
) -> None:
    contract = Classifier.load(gtzan_model).contract
    assert contract.precision == "int8"
    stored = onnx.load(gtzan_model)
    sessions = [
        open_session(model.SerializeToString(), 1)
        for model in (stored, with_float32_weights(stored))
    ]
    window = golden_spectrogram(contract.spectrogram, contract.window_frames)
    inputs = {"spectrogram": window}
    if contract.audio:
        inputs["audio"] = golden_audio(contract.audio, contract.audio.samples)
    times: list[list[float]] = [[], []]
    outputs = [session.run(["logits"], inputs)[0] for session in sessions]
    for number in range(ROUNDS):
        for which in (0, 1) if number % 2 else (1, 0):
            # One thread's processor time: other programs on the machine do not count.
            start = time.process_time()
            sessions[which].run(["logits"], inputs)
            times[which].append(time.process_time() - start)
    int8, float32 = (statistics.median(taken) for taken in times)
    measured(f"int8 {1000 * int8:.1f} ms, float32 {1000 * float32:.1f} ms a window")
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-4
    assert int8 / float32 < 1.05


IDLING = """
import json, sys, time
from pathlib import Path
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
