"""Measures an exported graph against the Keras network that it was made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.embedding import open_session
from export.errors import ExportError
from export.pictures import Windows
from streamer.core.contract import ModelContract
from streamer.core.model import INPUT, OUTPUT, golden_spectrogram, softmax
from streamer.system.scheduler import processors

CONVERSION_TOLERANCE = 1e-4
"""Largest difference of a probability between Keras and the float32 graph."""

TIMED_RUNS = 15
"""Windows that are timed, after one that is not; the median counts."""

Ask = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Spectrograms, shape (batch, n_mels, frames), to logits, shape (batch, classes)."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """How well the answers of a graph match those of the Keras network on real windows."""

    agreement: float
    """Share of windows with the same top genre, 0 to 1."""
    largest: float
    """Largest difference of a probability."""
    mean: float
    """Mean difference of the probabilities."""
    accuracy: float | None
    """Share of windows whose top genre is the folder's name; None without such folders."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a graph costs to keep and to run."""

    size: int
    """Bytes of the file."""
    one_thread: float
    """Milliseconds a window takes with one thread."""
    all_threads: float
    """Milliseconds a window takes with as many threads as there are processors."""


def asker(content: bytes, precision: str = "float32", threads: int = 1) -> Ask:
    """Return a function that asks the graph in `content`."""
    session: onnxruntime.InferenceSession = open_session(content, precision, threads)
    return lambda spectrograms: np.asarray(session.run([OUTPUT], {INPUT: spectrograms})[0])


def check_conversion(keras: Ask, converted: Ask, contract: ModelContract) -> float:
    """Return the largest difference of a probability over windows of three lengths.

    Raises
    ------
    ExportError
        If it is `CONVERSION_TOLERANCE` or more, or an answer is not finite.
    """
    largest = 0.0
    for frames in (contract.min_frames, contract.window_frames, 2 * contract.window_frames):
        window = golden_spectrogram(contract.spectrogram, frames, seed=1)
        batch = np.concatenate([window, window / 2])
        wanted, got = keras(batch), converted(batch)
        if not (np.isfinite(wanted).all() and np.isfinite(got).all()):
            raise ExportError("the network answers with NaN or infinity: train again")
        difference = softmax(wanted, contract.temperature) - softmax(got, contract.temperature)
        largest = max(largest, float(np.abs(difference).max()))
    if largest >= CONVERSION_TOLERANCE:
        raise ExportError(
            f"the converted graph differs from Keras by {largest:.2g} in a probability and at "
            f"most {CONVERSION_TOLERANCE:g} is allowed: report it with the versions of "
            "tensorflow, tf2onnx and onnxruntime"
        )
    return largest


def answers(ask: Ask, tracks: Sequence[Windows], temperature: float) -> NDArray[np.float32]:
    """Return the probabilities of all windows, shape (windows, classes)."""
    return np.concatenate([softmax(ask(track.spectrograms), temperature) for track in tracks])


def compare(
    wanted: NDArray[np.float32],
    got: NDArray[np.float32],
    tracks: Sequence[Windows],
    labels: Sequence[str],
) -> Likeness:
    """Compare two sets of `answers` for the same tracks."""
    difference = np.abs(wanted - got)
    return Likeness(
        agreement=float((wanted.argmax(axis=1) == got.argmax(axis=1)).mean()),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        accuracy=accuracy(got, tracks, labels),
    )


def accuracy(
    probabilities: NDArray[np.float32], tracks: Sequence[Windows], labels: Sequence[str]
) -> float | None:
    """Return the share of windows named like their folder; None if no folder is a label."""
    truth = np.concatenate(
        [
            np.full(
                len(track.spectrograms), labels.index(track.genre) if track.genre in labels else -1
            )
            for track in tracks
        ]
    )
    known = truth >= 0
    if not known.any():
        return None
    return float((probabilities.argmax(axis=1) == truth)[known].mean())


def costs(graphs: Mapping[str, bytes], contract: ModelContract) -> dict[str, Cost]:
    """Measure size and speed of graphs, named by precision, on one window of the trained length."""
    window = golden_spectrogram(contract.spectrogram, contract.window_frames)
    one, many = (
        _milliseconds({name: asker(graph, name, threads) for name, graph in graphs.items()}, window)
        for threads in (1, processors())
    )
    return {
        name: Cost(len(graph), one_thread=one[name], all_threads=many[name])
        for name, graph in graphs.items()
    }


def _milliseconds(asks: Mapping[str, Ask], window: NDArray[np.float32]) -> dict[str, float]:
    """Time the graphs in turns, so that whatever else the machine does meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(1 + TIMED_RUNS):
        for name, ask in asks.items():
            start = time.perf_counter()
            ask(window)
            times[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(taken[1:]) for name, taken in times.items()}


def table(rows: Sequence[tuple[str, Cost | None, Likeness | None]]) -> str:
    """Return a table with a line for each graph; what was not measured is a dash."""
    heads = ["weights", "size", "ms, 1 thread", f"ms, {processors()} threads"]
    heads += ["same genre", "largest diff", "mean diff", "accuracy"]
    lines = [heads]
    for name, price, likeness in rows:
        line = [name]
        if price is None:
            line += ["-"] * 3
        else:
            line += [f"{price.size / 1e6:.1f} MB", f"{price.one_thread:.1f}"]
            line += [f"{price.all_threads:.1f}"]
        if likeness is None:
            line += ["-"] * 4
        else:
            line += [f"{likeness.agreement:.2%}", f"{likeness.largest:.1e}"]
            line += [f"{likeness.mean:.1e}"]
            line += ["-" if likeness.accuracy is None else f"{likeness.accuracy:.2%}"]
        lines.append(line)
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
