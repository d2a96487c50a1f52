"""From a training run to a model file: convert, compress, embed the contract, verify, write."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.compress import to_float16, to_int8
from export.errors import ExportError
from export.integers import to_static
from export.source import ExportSource
from streamer.core.arithmetic import Arithmetic
from streamer.core.contract import METADATA_KEY, Golden, ModelContract
from streamer.core.model import (
    GOLDEN_TOLERANCE,
    INPUT,
    Classifier,
    ModelError,
    content_digest,
    golden_audio,
    golden_spectrogram,
)
from streamer.system.commandline import UserError
from streamer.system.console import silenced_stderr
from streamer.system.files import atomic_write
from streamer.system.processors import processors
from trainer.run import TagHead

with silenced_stderr():
    from export.convert import Network
    from export.pictures import TrackWindows, read_windows
    from export.verify import (
        Agreement,
        Graph,
        check_conversion,
        compare,
        measure_costs,
        predict,
        table,
    )

KERAS = "Keras"
"""Name of the Keras network among those that are compared with it."""

CALIBRATION_TRACKS = 100
"""Tracks of a folder, spread evenly over it, of which a window gives the ranges of activations."""

MIN_AGREEMENT = {"static": 0.97}
"""Smallest share of windows that keep their top genre, by precision, if no other is given."""

MIN_STORED_AGREEMENT = 0.99
"""That of a precision which only stores the weights."""

MAX_NLL_LOSS = 0.01
"""Largest rise of the negative log likelihood by computing with integers."""


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Settings of one export."""

    source: ExportSource
    out: Path
    """The file to write."""
    precision: str = "int8"
    """One of `streamer.core.contract.PRECISIONS`."""
    quantize: tuple[Path, ...] = ()
    """Folders of pictures to take the ranges of activations from; needed for `static`."""
    verify: Path | None = None
    """Pictures to compare with Keras on."""
    min_agreement: float | None = None
    """Smallest allowed share of windows that keep their top genre, 0 to 1; None: the usual one."""


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
    calibration = _calibration(settings, contract)
    tracks: list[TrackWindows] = []
    if settings.verify:
        tracks = read_windows(settings.verify, contract, leave_out=source.run.trained_tracks)

    if not source.run.finished:
        report("The run is not finished: this is its best network so far")
    report(f"Converting {source.network} (about a minute)")
    with silenced_stderr():
        network = Network(source)
        converted = network.to_onnx()
    float32 = Graph(converted.SerializeToString())
    difference = check_conversion(network.logits, float32.predictor(), contract)
    report(f"float32 equals Keras within {difference:.1e} in every probability")
    if calibration:
        report(f"Finding the ranges of activations on {len(calibration)} windows (half a minute)")
    model = _compress(converted, settings.precision, calibration)
    arithmetic: Arithmetic = "int8" if settings.precision == "static" else "float32"
    content = model.SerializeToString()
    graphs = {"float32": float32, settings.precision: Graph(content, arithmetic)}
    if arithmetic == "int8":
        graphs["static, in float32"] = Graph(content)
    agreements: dict[str, Agreement] = {}
    if tracks:
        agreements = _verify(settings, network, graphs, tracks, report)
        if arithmetic == "int8":
            training = {**contract.training, "quantisation": _summary(agreements)}
            contract = dataclasses.replace(contract, training=training)

    audio = None
    if source.head and contract.audio:
        report("Joining the network that hears the audio (half a minute)")
        with silenced_stderr():
            model = _with_tagger(model, source.head, contract)
        audio = golden_audio(contract.audio, contract.audio.samples)
    file = _embed_contract(model, contract, audio)
    if source.head:
        graphs["both networks"] = Graph(file, arithmetic, audio)
        if arithmetic == "int8":
            graphs["both, in float32"] = Graph(file, audio=audio)
    costs = measure_costs(graphs, contract)
    report(table([(name, costs[name], agreements.get(name)) for name in graphs]))
    if tracks:
        _check_agreement(settings, agreements)
    _write_model(settings.out, file)
    report(f"Wrote {settings.out}: {contract.name} {contract.version}, {len(file) / 1e6:.1f} MB")


def _calibration(settings: ExportSettings, contract: ModelContract) -> list[NDArray[np.float32]]:
    """Return windows that the run was trained on, from all of the folders."""
    run = settings.source.run
    trained = run.trained_tracks.union(run.background.train)
    windows: list[NDArray[np.float32]] = []
    for folder in settings.quantize:
        tracks = [track for track in read_windows(folder, contract) if track.track in trained]
        if not tracks:
            raise UserError(
                f"--quantize {folder} holds nothing that the run was trained on: name the pictures "
                "that were given to genre-train"
            )
        every = -(-len(tracks) // CALIBRATION_TRACKS)
        for number, track in enumerate(tracks[::every]):
            # Another part of each track, so that beginnings do not count more.
            start = number % len(track.spectrograms)
            windows.append(track.spectrograms[start : start + 1])
    return windows


def _compress(
    model: onnx.ModelProto, precision: str, calibration: list[NDArray[np.float32]]
) -> onnx.ModelProto:
    match precision:
        case "float16":
            return to_float16(model)
        case "int8":
            return to_int8(model)
        case "static":
            return to_static(model, [{INPUT: windows} for windows in calibration])
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
    content = model.SerializeToString()
    (logits,) = Graph(content, audio=audio).predictor()(spectrogram)
    tolerance = None
    if contract.precision == "static":
        (integers,) = Graph(content, "int8", audio).predictor()(spectrogram)
        # Twice the difference here, since processors round differently.
        largest = 2 * float(np.abs(integers - logits).max()) + GOLDEN_TOLERANCE
        tolerance = math.ceil(100 * largest) / 100
    golden = Golden(
        spectrogram_sha256=content_digest(spectrogram),
        frames=contract.window_frames,
        logits=tuple(float(logit) for logit in logits),
        contract_sha256=contract.digest,
        audio_sha256=None if audio is None else content_digest(audio),
        audio_samples=None if audio is None else audio.shape[1],
        tolerance=tolerance,
    )
    contract = dataclasses.replace(contract, golden=golden)
    # RFC 8259 has no NaN; check_conversion refuses a network that predicts NaN before this.
    text = json.dumps(contract.to_metadata(), allow_nan=False)
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the converted graph is not valid ONNX: {error}") from None
    file: bytes = model.SerializeToString()
    return file


def _verify(
    settings: ExportSettings,
    network: Network,
    graphs: Mapping[str, Graph],
    tracks: list[TrackWindows],
    report: Callable[[str], None],
) -> dict[str, Agreement]:
    """Return how well each graph agrees with Keras; `KERAS` is Keras itself."""
    contract = settings.source.contract
    count = sum(len(track.spectrograms) for track in tracks)
    # read_windows leaves out tracks that were trained on unless there are no others.
    trained_on = tracks[0].track in settings.source.run.trained_tracks
    known = ", all of them trained on" if trained_on else ""
    report(f"Comparing on {count} windows of {len(tracks)} tracks in {settings.verify}{known}")
    expected = predict(network.logits, tracks, contract.temperature)
    agreements = {KERAS: compare(expected, expected, tracks, contract.labels)}
    for name, graph in graphs.items():
        predicted = predict(graph.predictor(processors()), tracks, contract.temperature)
        agreements[name] = compare(expected, predicted, tracks, contract.labels)
    return agreements


def _summary(agreements: Mapping[str, Agreement]) -> dict[str, object]:
    """Return what a file with integers tells about them."""
    integers = agreements["static"]
    qualities = {"float32": agreements[KERAS].quality, "int8": integers.quality}
    return {
        "agreement": round(integers.same_genre, 4),
        **{
            name: {key: round(value, 4) for key, value in dataclasses.asdict(own).items()}
            for name, own in qualities.items()
            if own
        },
    }


def _check_agreement(settings: ExportSettings, agreements: Mapping[str, Agreement]) -> None:
    """Raise an ExportError if a graph agrees too little with Keras."""
    precision = settings.precision
    own, keras = agreements[precision], agreements[KERAS]
    least = settings.min_agreement
    if least is None:
        least = MIN_AGREEMENT.get(precision, MIN_STORED_AGREEMENT)
    advice = "leave --quantize out" if precision == "static" else "try --weights float16"
    if own.same_genre < least:
        raise ExportError(
            f"{precision} keeps the top genre of only {own.same_genre:.2%} of the windows and "
            f"--min-agreement is {least:.2%}: nothing was written; {advice} or a lower "
            "--min-agreement"
        )
    if not (precision == "static" and own.quality and keras.quality):
        return
    if (loss := own.quality.nll - keras.quality.nll) > MAX_NLL_LOSS:
        raise ExportError(
            f"{precision} raises the negative log likelihood by {loss:.3f} and {MAX_NLL_LOSS:g} is "
            f"allowed: nothing was written; {advice}"
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
