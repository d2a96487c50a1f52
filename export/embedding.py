"""Puts the contract and its golden answer into a converted model."""

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


def seal(model: onnx.ModelProto, contract: ModelContract) -> bytes:
    """Ask the finished graph its golden question and write question, answer and contract into it.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph as it will be shipped.
    contract : ModelContract
        Its contract; `golden` is replaced.

    Returns
    -------
    bytes
        The content of the file.

    Raises
    ------
    ExportError
        If the graph is not valid ONNX.
    """
    question = golden_spectrogram(contract.spectrogram, contract.window_frames)
    session = open_session(model.SerializeToString(), contract.precision, threads=1)
    answer = session.run([OUTPUT], {INPUT: question})[0][0]
    golden = Golden(
        spectrogram_sha256=spectrogram_digest(question),
        frames=contract.window_frames,
        logits=tuple(float(logit) for logit in answer),
        contract_sha256=contract.digest,
    )
    contract = dataclasses.replace(contract, golden=golden)
    sealed = onnx.ModelProto()
    sealed.CopyFrom(model)
    # RFC 8259 knows no NaN; a network that answers NaN is refused before it comes here.
    text = json.dumps(contract.to_metadata(), allow_nan=False)
    onnx.helper.set_model_props(sealed, {METADATA_KEY: text})
    try:
        onnx.checker.check_model(sealed, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the converted graph is not valid ONNX: {error}") from None
    content: bytes = sealed.SerializeToString()
    return content


def open_session(content: bytes, precision: str, threads: int) -> onnxruntime.InferenceSession:
    """Open a graph under the options that `Classifier` would use for a file of this precision."""
    return onnxruntime.InferenceSession(
        content,
        session_options(threads, integers=precision == "static"),
        providers=["CPUExecutionProvider"],
    )
