"""Puts the network that listens to the sound beside the one that sees the spectrogram.

The result is the graph of contract 2 (DESIGN 4.2): both networks, the head on the tags and the
fusion, with the inputs `spectrogram` and `audio`.
"""

from __future__ import annotations

import logging
import os

# TensorFlow reads this once, when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from onnx import TensorProto, helper, numpy_helper

from export.convert import IR_VERSION, OPSET
from export.errors import ExportError
from export.verify import CONVERSION_TOLERANCE
from streamer.core.contract import AudioInput, Fusion
from streamer.core.model import (
    AUDIO,
    AUDIO_LOGITS,
    INPUT,
    OUTPUT,
    SPECTROGRAM_LOGITS,
    TAGS,
    golden_audio,
)
from streamer.core.runtime import open_session
from trainer.run import LEAST_TAG_PROBABILITY, TagHead


def tagger_to_onnx(tagger: keras.Model, audio: AudioInput | None = None) -> onnx.ModelProto:
    """Convert the network from samples to tags, any batch and any number of samples.

    Parameters
    ----------
    tagger : keras.Model
        float32 `(batch, samples)` to `(batch, tags)`.
    audio : AudioInput, optional
        Compare the answers for its lengths of audio with those of Keras.

    Raises
    ------
    ExportError
        If tf2onnx cannot convert a layer, or the answers differ.
    """
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    signature = [tf.TensorSpec((None, None), tf.float32, name=AUDIO)]

    def answer(audio: tf.Tensor) -> dict[str, tf.Tensor]:
        return {TAGS: tagger(audio, training=False)}

    function = tf.function(answer, input_signature=signature)
    try:
        model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ExportError(f"tf2onnx cannot convert the tagger ({reason})") from None
    model.ir_version = IR_VERSION
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    for value, names in (
        (model.graph.input[0], "batch,samples"),
        (model.graph.output[0], "batch,"),
    ):
        for axis, name in zip(value.type.tensor_type.shape.dim, names.split(","), strict=True):
            if name:
                axis.dim_param = name
    if audio:
        _check_tagger(tagger, model, audio)
    return model


def _check_tagger(tagger: keras.Model, model: onnx.ModelProto, audio: AudioInput) -> None:
    session = open_session(model.SerializeToString(), 1)
    for samples in {audio.min_samples, audio.samples}:
        sound = golden_audio(audio, samples, seed=1)
        sound = np.concatenate([sound, sound / 2])
        expected = np.asarray(tagger(sound, training=False))
        difference = np.abs(expected - session.run([TAGS], {AUDIO: sound})[0]).max()
        if not difference < CONVERSION_TOLERANCE:
            raise ExportError(
                f"the converted tagger differs from Keras by {difference:.2g} in a probability and "
                f"at most {CONVERSION_TOLERANCE:g} is allowed: report it with the versions of "
                "tensorflow, tf2onnx and onnxruntime"
            )


def with_second_network(
    spectrogram_network: onnx.ModelProto,
    tagger: onnx.ModelProto,
    head: TagHead,
    fusion: Fusion,
) -> onnx.ModelProto:
    """Return the graph of contract 2, without its contract.

    Parameters
    ----------
    spectrogram_network : onnx.ModelProto
        A graph of contract 1, its weights compressed already if they are to be.
    tagger : onnx.ModelProto
        From `tagger_to_onnx`.
    head : TagHead
        Gives `audio_logits`.
    fusion : Fusion
        Weights of the two networks' logits.

    Returns
    -------
    onnx.ModelProto
        Inputs `spectrogram` and `audio`; outputs `logits`, `tags`, `spectrogram_logits` and
        `audio_logits`. `logits` depend on `audio` through `tags` alone.

    Raises
    ------
    ExportError
        If the graphs, or the head and the labels, do not fit together.
    """
    classes = _classes(spectrogram_network)
    tags = tagger.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    if head.weights.shape != (classes, tags) or head.bias.shape != (classes,):
        raise ExportError(
            f"the head on the tags has weights of shape {head.weights.shape} and "
            f"{head.bias.shape}; {classes} labels and {tags} tags need ({classes}, {tags}) "
            f"and ({classes},)"
        )
    seen, heard = onnx.ModelProto(), onnx.ModelProto()
    seen.CopyFrom(spectrogram_network)
    heard.CopyFrom(tagger)
    _rename(seen.graph, {OUTPUT: SPECTROGRAM_LOGITS})
    # No name of one network may be one of the other.
    _rename(heard.graph, _prefixed(heard.graph, f"{AUDIO}/", keep=(AUDIO, TAGS)))
    joined = onnx.ModelProto()
    joined.CopyFrom(seen)
    graph = joined.graph
    del graph.output[:]
    graph.input.append(heard.graph.input[0])
    graph.node.extend(heard.graph.node)
    graph.initializer.extend(heard.graph.initializer)
    graph.value_info.extend(heard.graph.value_info)
    _add_fusion(graph, head, fusion)
    shapes = {OUTPUT: classes, TAGS: tags, SPECTROGRAM_LOGITS: classes, AUDIO_LOGITS: classes}
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in shapes.items()
    )
    joined.doc_string = spectrogram_network.doc_string
    try:
        onnx.checker.check_model(joined, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the joined graph is not valid ONNX: {error}") from None
    return joined


def _classes(model: onnx.ModelProto) -> int:
    opsets = {each.domain: each.version for each in model.opset_import}
    if opsets != {"": OPSET}:
        raise ExportError(f"a second network joins a graph of opset {OPSET}, not of {opsets}")
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    if (inputs, outputs) != ([INPUT], [OUTPUT]):
        raise ExportError(
            f"a second network joins a graph from {INPUT} to {OUTPUT}, not one from "
            f"{', '.join(inputs)} to {', '.join(outputs)}"
        )
    return int(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)


def _prefixed(graph: onnx.GraphProto, prefix: str, keep: tuple[str, ...]) -> dict[str, str]:
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    names |= {each.name for each in (*graph.initializer, *graph.value_info)}
    return {name: f"{prefix}{name}" for name in names if name and name not in keep}


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Give values other names, and the nodes with them."""
    for node in graph.node:
        for sides in (node.input, node.output):
            sides[:] = [names.get(name, name) for name in sides]
        if node.output:
            node.name = node.output[0]
    for value in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
        value.name = names.get(value.name, value.name)


def _add_fusion(graph: onnx.GraphProto, head: TagHead, fusion: Fusion) -> None:
    constants = {
        "fusion/least": np.float32(LEAST_TAG_PROBABILITY),
        "fusion/most": np.float32(1 - LEAST_TAG_PROBABILITY),
        "fusion/one": np.float32(1),
        "fusion/head_weights": np.asarray(head.weights.T, np.float32),
        "fusion/head_bias": np.asarray(head.bias, np.float32),
        "fusion/spectrogram_weight": np.float32(fusion.spectrogram_weight),
        "fusion/audio_weight": np.float32(fusion.audio_weight),
    }
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in constants.items()
    )
    for kind, inputs, output in (
        ("Clip", (TAGS, "fusion/least", "fusion/most"), "fusion/kept"),
        ("Sub", ("fusion/one", "fusion/kept"), "fusion/against"),
        ("Div", ("fusion/kept", "fusion/against"), "fusion/odds"),
        ("Log", ("fusion/odds",), "fusion/log_odds"),
        ("Gemm", ("fusion/log_odds", "fusion/head_weights", "fusion/head_bias"), AUDIO_LOGITS),
        ("Mul", (SPECTROGRAM_LOGITS, "fusion/spectrogram_weight"), "fusion/seen"),
        ("Mul", (AUDIO_LOGITS, "fusion/audio_weight"), "fusion/heard"),
        ("Add", ("fusion/seen", "fusion/heard"), OUTPUT),
    ):
        graph.node.append(helper.make_node(kind, inputs, [output], name=output))
