"""The way from a training run to a model file, step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from export.compress import to_float16, to_int8, to_static
from export.embedding import seal
from export.errors import ExportError
from export.model_file import write
from export.quiet import quiet_stderr
from export.source import Run
from streamer.core.contract import ModelContract

# TensorFlow says a lot while it is imported, before any of its settings are read.
with quiet_stderr():
    from export.convert import Network
    from export.pictures import Windows, read_windows
    from export.verify import accuracy, answers, asker, check_conversion, compare, costs, table

CALIBRATION_TRACKS = 100
"""Tracks, spread evenly over the folder, whose first windows give the ranges of activations."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted."""

    run: Run
    """The training run, read."""
    out: Path
    """The file to write, in a place where that is possible."""
    precision: str = "int8"
    """One of `streamer.core.contract.PRECISIONS`."""
    calibrate: Path | None = None
    """Pictures to take the ranges of activations from; needed for `static`."""
    verify: Path | None = None
    """Pictures to compare with Keras on."""
    min_agreement: float = 0.99
    """Smallest share of windows that keep their top genre, 0 to 1."""


def export(order: Order, say: Callable[[str], None]) -> None:
    """Make a model file from a run, or nothing.

    Parameters
    ----------
    order : Order
        What is wanted.
    say : callable
        Takes lines for the user.

    Raises
    ------
    ExportError
        If no file was written; a `UsageError` if it could not even begin.
    """
    run = order.run
    contract = dataclasses.replace(run.contract, precision=order.precision)
    calibration = read_windows(order.calibrate, contract) if order.calibrate else []
    tracks = read_windows(order.verify, contract, leave_out=run.trained_on) if order.verify else []

    if not run.facts.get("finished", True):
        say("The run is not finished: this is its best network so far")
    say(f"Converting {run.network} (about a minute)")
    network, converted = _convert(run)
    difference = check_conversion(network.logits, asker(converted.SerializeToString()), contract)
    say(f"float32 equals Keras within {difference:.1e} in every probability")
    content = seal(_compress(converted, order.precision, calibration), contract)

    _measure(order, contract, network, converted.SerializeToString(), content, tracks, say)
    write(order.out, content)
    say(f"Wrote {order.out}: {contract.name} {contract.version}, {len(content) / 1e6:.1f} MB")


def _convert(run: Run) -> tuple[Network, onnx.ModelProto]:
    with quiet_stderr():
        network = Network(run)
        return network, network.to_onnx()


def _compress(
    model: onnx.ModelProto, precision: str, calibration: list[Windows]
) -> onnx.ModelProto:
    if precision == "float16":
        return to_float16(model)
    if precision == "int8":
        return to_int8(model)
    if precision == "static":
        every = max(1, len(calibration) // CALIBRATION_TRACKS)
        batches = (track.spectrograms[:1] for track in calibration[::every])
        with quiet_stderr():
            return to_static(model, batches)
    return model


def _measure(
    order: Order,
    contract: ModelContract,
    network: Network,
    converted: bytes,
    content: bytes,
    tracks: list[Windows],
    say: Callable[[str], None],
) -> None:
    """Print the table, and refuse a file that agrees too little with Keras."""
    graphs = {"float32": converted, order.precision: content}
    prices = costs(graphs, contract)
    if not tracks:
        say(table([(name, prices[name], None) for name in graphs]))
        return
    count = sum(len(track.spectrograms) for track in tracks)
    # Either none was trained on or all were: nothing else was there.
    known = ", all of them trained on" if tracks[0].track in order.run.trained_on else ""
    say(f"Comparing on {count} windows of {len(tracks)} tracks in {order.verify}{known}")
    wanted = answers(network.logits, tracks, contract.temperature)
    likenesses = {
        name: compare(
            wanted,
            answers(asker(graph, name), tracks, contract.temperature),
            tracks,
            contract.labels,
        )
        for name, graph in graphs.items()
    }
    say(table([(name, prices[name], likenesses[name]) for name in graphs]))
    right = accuracy(wanted, tracks, contract.labels)
    if right is not None:
        say(f"accuracy of the Keras network on the same windows: {right:.2%}")
    agreement = likenesses[order.precision].agreement
    if agreement < order.min_agreement:
        raise ExportError(
            f"{order.precision} keeps the top genre of only {agreement:.2%} of the windows and "
            f"--min-agreement is {order.min_agreement:.2%}: nothing was written; try --weights "
            "float16 or a lower --min-agreement"
        )
