"""From a training run to a model file: convert, compress, embed the contract, verify, write."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.compress import to_float16, to_int8, to_static
from export.errors import ExportError
from export.source import ExportSource
from streamer.core.contract import METADATA_KEY, Golden, ModelContract
from streamer.core.model import (
    Classifier,
    ModelError,
    content_digest,
    golden_audio,
    golden_spectrogram,
)
from streamer.system.console import silenced_stderr
from streamer.system.files import atomic_write
from trainer.run import TagHead

with silenced_stderr():
    from export.convert import Network
    from export.pictures import TrackWindows, read_windows
    from export.verify import (
        BOTH,
        Cost,
        accuracy,
        check_conversion,
        compare,
        measure_costs,
        predict,
        predictor,
        table,
    )

CALIBRATION_TRACKS = 100
"""Tracks, spread evenly over the folder, whose first windows give the ranges of activations."""


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Settings of one export."""

    source: ExportSource
    out: Path
    """The file to write."""
    precision: str = "int8"
    """One of `streamer.core.contract.PRECISIONS`."""
    calibrate: Path | None = None
    """Pictures to take the ranges of activations from; needed for `static`."""
    verify: Path | None = None
    """Pictures to compare with Keras on."""
    min_agreement: float = 0.99
    """Smallest allowed share of windows that keep their top genre, 0 to 1."""


def export(settings: ExportSettings, report: Callable[[str], None]) -> None:
    """Make a model file from a run; `report` gets each line of progress.

    If anything fails, the file at `settings.out` is unchanged.

    Raises
    ------
    UserError
        If the run or the pictures cannot be used, or (an ExportError) the export fails.
    """
    source = settings.source
    contract = dataclasses.replace(source.contract, precision=settings.precision)
    calibration = read_windows(settings.calibrate, contract) if settings.calibrate else []
    tracks: list[TrackWindows] = []
    if settings.verify:
        tracks = read_windows(settings.verify, contract, leave_out=source.run.trained_tracks)

    if not source.run.finished:
        report("The run is not finished: this is its best network so far")
    report(f"Converting {source.network} (about a minute)")
    with silenced_stderr():
        network = Network(source)
        converted = network.to_onnx()
    converted_file = converted.SerializeToString()
    difference = check_conversion(network.logits, predictor(converted_file), contract)
    report(f"float32 equals Keras within {difference:.1e} in every probability")
    model = _compress(converted, settings.precision, calibration)
    graphs = {"float32": converted_file, settings.precision: model.SerializeToString()}
    audio = None
    if source.head and contract.audio:
        report("Joining the network that hears the audio (half a minute)")
        with silenced_stderr():
            model = _with_tagger(model, source.head, contract)
        audio = golden_audio(contract.audio, contract.audio.samples)
    file = _embed_contract(model, contract, audio)

    measured = {**graphs, BOTH: file} if source.head else graphs
    costs = measure_costs(measured, contract)
    if tracks:
        _verify(settings, network, graphs, costs, tracks, report)
    else:
        report(table([(name, costs[name], None) for name in measured]))
    _write_model(settings.out, file)
    report(f"Wrote {settings.out}: {contract.name} {contract.version}, {len(file) / 1e6:.1f} MB")


def _compress(
    model: onnx.ModelProto, precision: str, calibration: list[TrackWindows]
) -> onnx.ModelProto:
    match precision:
        case "float16":
            return to_float16(model)
        case "int8":
            return to_int8(model)
        case "static":
            every = max(1, len(calibration) // CALIBRATION_TRACKS)
            with silenced_stderr():
                return to_static(model, [track.spectrograms[:1] for track in calibration[::every]])
    return model


def _with_tagger(model: onnx.ModelProto, head: TagHead, contract: ModelContract) -> onnx.ModelProto:
    """Return the graph with MusiCNN, the head on its tags and the fusion beside the network."""
    from export.second_network import tagger_to_onnx, with_second_network
    from trainer.musicnn.network import build_tagger

    assert contract.fusion  # the contract of a run with a head has one
    tagger = tagger_to_onnx(build_tagger(), contract.audio)
    return with_second_network(model, tagger, head, contract.fusion)


def _embed_contract(
    model: onnx.ModelProto, contract: ModelContract, audio: NDArray[np.float32] | None
) -> bytes:
    """Add the contract and its golden answer to the graph's metadata; return the model file.

    `audio` is the golden audio of a graph with two networks.
    """
    spectrogram = golden_spectrogram(contract.spectrogram, contract.window_frames)
    predict_golden = predictor(model.SerializeToString(), contract.precision, audio=audio)
    (logits,) = predict_golden(spectrogram)
    golden = Golden(
        spectrogram_sha256=content_digest(spectrogram),
        frames=contract.window_frames,
        logits=tuple(float(logit) for logit in logits),
        contract_sha256=contract.digest,
        audio_sha256=None if audio is None else content_digest(audio),
        audio_samples=None if audio is None else audio.shape[1],
    )
    contract = dataclasses.replace(contract, golden=golden)
    # RFC 8259 has no NaN; check_conversion refuses a network that predicts NaN before this.
    text = json.dumps(contract.to_metadata(), allow_nan=False)
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the converted graph is not valid ONNX: {error}") from None
    content: bytes = model.SerializeToString()
    return content


def _verify(
    settings: ExportSettings,
    network: Network,
    graphs: Mapping[str, bytes],
    costs: Mapping[str, Cost],
    tracks: list[TrackWindows],
    report: Callable[[str], None],
) -> None:
    """Report how well the graphs agree with Keras; raise an ExportError if it is too little."""
    contract = settings.source.contract
    count = sum(len(track.spectrograms) for track in tracks)
    # read_windows leaves out tracks that were trained on unless there are no others.
    trained_on = tracks[0].track in settings.source.run.trained_tracks
    known = ", all of them trained on" if trained_on else ""
    report(f"Comparing on {count} windows of {len(tracks)} tracks in {settings.verify}{known}")
    expected = predict(network.logits, tracks, contract.temperature)
    agreements = {}
    for name, graph in graphs.items():
        predicted = predict(predictor(graph, name), tracks, contract.temperature)
        agreements[name] = compare(expected, predicted, tracks, contract.labels)
    report(table([(name, costs[name], agreements.get(name)) for name in costs]))
    right = accuracy(expected, tracks, contract.labels)
    if right is not None:
        report(f"accuracy of the Keras network on the same windows: {right:.2%}")
    same = agreements[settings.precision].same_genre
    if same < settings.min_agreement:
        raise ExportError(
            f"{settings.precision} keeps the top genre of only {same:.2%} of the windows and "
            f"--min-agreement is {settings.min_agreement:.2%}: nothing was written; try --weights "
            "float16 or a lower --min-agreement"
        )


def _write_model(path: Path, content: bytes) -> None:
    """Write a model file atomically, if the daemon could load it."""
    try:
        with atomic_write(path, len(content), sync=True) as partial:
            partial.write_bytes(content)
            Classifier.load(partial)
    except OSError as error:
        raise ExportError(f"--out {error}") from None
    except ModelError as error:
        raise ExportError(f"the file would be refused: {error}") from None
