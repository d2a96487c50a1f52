"""Embeds the contract and its golden answer into a converted model."""

from __future__ import annotations

import dataclasses
import json

import onnx
import onnxruntime

from export.errors import ExportError
from streamer.core.contract import METADATA_KEY, Golden, ModelContract
from streamer.core.model import (
    INPUT,
    OUTPUT,
    golden_spectrogram,
    session_options,
    spectrogram_digest,
)


def embed_contract(model: onnx.ModelProto, contract: ModelContract) -> bytes:
    """Return a model file: the graph with the contract and its golden answer in the metadata.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph as it will be shipped.
    contract : ModelContract
        Its contract; `golden` is replaced.

    Raises
    ------
    ExportError
        If the graph is not valid ONNX.
    """
    spectrogram = golden_spectrogram(contract.spectrogram, contract.window_frames)
    session = open_session(model.SerializeToString(), contract.precision, threads=1)
    logits = session.run([OUTPUT], {INPUT: spectrogram})[0][0]
    golden = Golden(
        spectrogram_sha256=spectrogram_digest(spectrogram),
        frames=contract.window_frames,
        logits=tuple(float(logit) for logit in logits),
        contract_sha256=contract.digest,
    )
    contract = dataclasses.replace(contract, golden=golden)
    embedded = onnx.ModelProto()
    embedded.CopyFrom(model)
    # RFC 8259 has no NaN; check_conversion refuses a network that predicts NaN before this.
    text = json.dumps(contract.to_metadata(), allow_nan=False)
    onnx.helper.set_model_props(embedded, {METADATA_KEY: text})
    try:
        onnx.checker.check_model(embedded, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the converted graph is not valid ONNX: {error}") from None
    content: bytes = embedded.SerializeToString()
    return content


def open_session(content: bytes, precision: str, threads: int) -> onnxruntime.InferenceSession:
    """Open a graph with the options that `Classifier` uses for a file of this precision."""
    return onnxruntime.InferenceSession(
        content,
        session_options(threads, integers=precision == "static"),
        providers=["CPUExecutionProvider"],
    )
