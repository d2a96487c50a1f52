"""A small real model file, which classifies sounds by the third of the mel bands they lie in.

It has a contract and a golden answer, so that tests use the real `Classifier`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamer.core.contract import METADATA_KEY, AudioInput, Fusion, Golden, ModelContract
from streamer.core.model import (
    Classifier,
    ModelError,
    content_digest,
    golden_audio,
    golden_spectrogram,
)
from streamer.core.runtime import open_session
from streamer.core.spectrogram import SpectrogramSpec

Metadata = dict[str, Any]
"""The contract of a model file as it is read from JSON."""

LABELS = ("low", "middle", "high")
NOISE = "noise"
TAGS = ("loud", "rough")
SHARPNESS = 0.25
"""Logits per dB: 40 dB between two thirds make a certain prediction."""
NOISE_LEAD = 2.0
"""Logits by which noise leads when all thirds are equally loud."""


def make_model(
    path: Path,
    *,
    noise: bool = False,
    spec: SpectrogramSpec | None = None,
    window_seconds: float = 5.0,
    min_seconds: float = 3.0,
    decision: Mapping[str, float | str] | None = None,
    audio: AudioInput | None = None,
    tolerance: float | None = None,
) -> Path:
    """Write a model with the labels low, middle and high.

    `noise` adds the label "noise" as the model's `not_music`, predicted when all thirds are alike.
    With `audio` it has a second network, which hears how loud and how rough that is. With a
    `tolerance` in golden logits it can be computed with 8-bit integers, too, which round the means.
    """
    spec = spec or SpectrogramSpec()
    labels = (*LABELS, NOISE) if noise else LABELS
    weights, bias = _weights(spec.n_mels, noise)
    model = _graph(weights, bias)
    frames = spec.frames_in(window_seconds)
    if tolerance is not None:
        _quantise_means(model.graph, spec.top_db)
    spectrogram = golden_spectrogram(spec, frames)
    inputs = {"spectrogram": spectrogram}
    golden: dict[str, Any] = {}
    if audio:
        _add_second_network(model.graph, len(labels))
        inputs["audio"] = golden_audio(audio, audio.samples)
        golden = {"audio_sha256": content_digest(inputs["audio"]), "audio_samples": audio.samples}
    (logits,) = open_session(model.SerializeToString(), 1).run(["logits"], inputs)
    contract = ModelContract(
        name="thirds",
        version="1",
        labels=labels,
        not_music=NOISE if noise else None,
        spectrogram=spec,
        window_frames=frames,
        min_frames=spec.frames_in(min_seconds),
        temperature=1.0,
        decision=dict(decision or {}),
        training={"dataset": "none", "split": "none", "seed": 0, "metrics": {}},
        golden=Golden(
            content_digest(spectrogram),
            frames,
            tuple(map(float, logits[0])),
            tolerance=tolerance,
            **golden,
        ),
        precision="float32" if tolerance is None else "static",
        audio=audio,
        fusion=Fusion(0.5, 0.5, "ear", TAGS) if audio else None,
    )
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(contract.to_metadata())
    path.write_bytes(model.SerializeToString())
    return path


def band_noise(
    third: str, seconds: float, rate: int = 22050, *, level_dbfs: float = -20.0, seed: int = 0
) -> NDArray[np.float32]:
    """Return noise, shape (n,), that the model of `make_model` classifies as `third`.

    "low", "middle" and "high" are thirds of the mel bands; "noise" is in all of them.
    """
    edges = {
        "low": (50.0, 700.0),
        "middle": (1500.0, 2500.0),
        "high": (5000.0, 9000.0),
        NOISE: (0.0, rate / 2),
    }
    low, high = edges[third]
    count = round(seconds * rate)
    generator = np.random.default_rng(seed)
    spectrum = np.fft.rfft(generator.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / rate)
    spectrum[(hertz < low) | (hertz > high)] = 0
    samples = np.fft.irfft(spectrum, count)
    samples *= 10 ** (level_dbfs / 20) / samples.std()
    return np.asarray(samples, np.float32)


def refusal(path: Path) -> str:
    """Load a file that must be refused; return the error message after the path."""
    with pytest.raises(ModelError) as caught:
        Classifier.load(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"model {path} ")
    assert "\n" not in sentence
    return sentence.removeprefix(f"model {path} ")


def changed_graph(model: Path, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Write a model file with its graph changed, `changed.onnx` in `folder`."""
    proto = onnx.load(model)
    change(proto)
    path = folder / "changed.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def changed_metadata(model: Path, folder: Path, change: Callable[[Metadata], None]) -> Path:
    """Write a model file with its contract changed, `changed.onnx` in `folder`."""

    def rewrite(proto: onnx.ModelProto) -> None:
        metadata = json.loads(proto.metadata_props[0].value)
        change(metadata)
        proto.metadata_props[0].value = json.dumps(metadata)

    return changed_graph(model, folder, rewrite)


def parent_of(metadata: Metadata, path: str) -> tuple[Metadata, str]:
    """Return the object that holds a field, such as `golden.frames`, and its name there."""
    *parents, name = path.split(".")
    for parent in parents:
        metadata = metadata[parent]
    return metadata, name


def _quantise_means(graph: onnx.GraphProto, top_db: float) -> None:
    """Quantise the mean of each band, which is what the logits are made of."""
    scale, zero = np.float32(top_db / 255), np.uint8(255)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in (("step", scale), ("zero_level", zero))
    )
    mean, dense = (onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node)
    dense.input[0] = "rounded"
    constants = ["step", "zero_level"]
    middle = [
        helper.make_node("QuantizeLinear", [mean.output[0], *constants], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", *constants], ["rounded"]),
    ]
    nodes = [mean, *middle, dense]
    del graph.node[:]
    graph.node.extend(nodes)


def _add_second_network(graph: onnx.GraphProto, classes: int) -> None:
    """Add tags, the mean of the samples' and of their differences' magnitudes, and the fusion."""
    random = np.random.default_rng(0)
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "last": np.array([-1]),
        "end": np.array([2**31]),
        "head": 20 * random.standard_normal((len(TAGS), classes)).astype(np.float32),
        "half": np.float32(0.5),
    }
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    graph.node[-1].output[0] = "spectrogram_logits"
    for kind, inputs, output, attributes in (
        ("Slice", ("audio", "one", "end", "one"), "later", {}),
        ("Slice", ("audio", "zero", "last", "one"), "earlier", {}),
        ("Sub", ("later", "earlier"), "differences", {}),
        ("Abs", ("audio",), "magnitudes", {}),
        ("Abs", ("differences",), "steps", {}),
        ("ReduceMean", ("magnitudes",), "loudness", {"axes": [1], "keepdims": 1}),
        ("ReduceMean", ("steps",), "roughness", {"axes": [1], "keepdims": 1}),
        ("Concat", ("loudness", "roughness"), "amounts", {"axis": 1}),
        ("Log", ("amounts",), "levels", {}),
        ("Sigmoid", ("levels",), "tags", {}),
        ("MatMul", ("tags", "head"), "audio_logits", {}),
        ("Add", ("spectrogram_logits", "audio_logits"), "both", {}),
        ("Mul", ("both", "half"), "logits", {}),
    ):
        graph.node.append(helper.make_node(kind, list(inputs), [output], **attributes))
    graph.input.append(
        helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["batch", "samples"])
    )
    sizes = {"tags": len(TAGS), "spectrogram_logits": classes, "audio_logits": classes}
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in sizes.items()
    )


def _weights(bands: int, noise: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    third = np.arange(bands) * len(LABELS) // bands
    weights = (third[:, None] == np.arange(len(LABELS))).astype(np.float32)
    weights = SHARPNESS * weights / weights.sum(axis=0)
    bias = np.zeros(len(LABELS), np.float32)
    if noise:
        weights = np.column_stack([weights, np.full(bands, SHARPNESS / bands, np.float32)])
        bias = np.append(bias, np.float32(NOISE_LEAD))
    return np.asarray(weights, np.float32), bias


def _graph(weights: NDArray[np.float32], bias: NDArray[np.float32]) -> onnx.ModelProto:
    bands, classes = weights.shape
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["spectrogram"], ["means"], axes=[2], keepdims=0),
            helper.make_node("Gemm", ["means", "weights", "bias"], ["logits"]),
        ],
        "thirds",
        [
            helper.make_tensor_value_info(
                "spectrogram", TensorProto.FLOAT, ["batch", bands, "frames"]
            )
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model
