"""Embeds the contract and its golden answer into a converted model."""

from __future__ import annotations

import dataclasses
import json

import onnx

from export.errors import ExportError
from export.verify import predictor
from streamer.core.contract import METADATA_KEY, Golden, ModelContract
from streamer.core.model import golden_spectrogram, spectrogram_digest


def embed_contract(model: onnx.ModelProto, contract: ModelContract) -> bytes:
    """Return a model file: the graph with the contract and its golden answer in the metadata.

    Raises
    ------
    ExportError
        If the graph is not valid ONNX.
    """
    spectrogram = golden_spectrogram(contract.spectrogram, contract.window_frames)
    (logits,) = predictor(model.SerializeToString(), contract.precision)(spectrogram)
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
