"""Compares an exported graph with the Keras network that it was made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.pictures import TrackWindows
from streamer.core.arithmetic import Arithmetic
from streamer.core.contract import ModelContract
from streamer.core.model import (
    AUDIO,
    INPUT,
    OUTPUT,
    golden_spectrogram,
    softmax,
)
from streamer.core.runtime import open_session
from streamer.system.processors import processors

CONVERSION_TOLERANCE = 1e-4
"""Largest difference of a probability between Keras and the float32 graph."""

TIMED_RUNS = 15
"""Timed predictions, after one to warm up; the median counts."""

ECE_BINS = 15
"""Bins of equal width of the expected calibration error, as genre-train has them."""

Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Spectrograms, shape (batch, n_mels, frames), to logits, shape (batch, classes)."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph, and how it is computed."""

    content: bytes
    """A model file, with or without a contract."""
    arithmetic: Arithmetic = "float32"
    audio: NDArray[np.float32] | None = None
    """What a graph of two networks hears beside each spectrogram, shape (1, samples)."""

    def predictor(self, threads: int = 1) -> Predictor:
        """Return a function that predicts as `Classifier` does."""
        session = open_session(self.content, threads, self.arithmetic)

        def logits(spectrograms: NDArray[np.float32]) -> NDArray[np.float32]:
            inputs = {INPUT: spectrograms}
            if self.audio is not None:
                inputs[AUDIO] = np.repeat(self.audio, len(spectrograms), axis=0)
            return np.asarray(session.run([OUTPUT], inputs)[0])

        return logits


@dataclass(frozen=True, slots=True)
class Quality:
    """How right and how well calibrated predictions for windows are, given their folders."""

    accuracy: float
    """Share of windows whose top genre is the folder's name, 0 to 1."""
    nll: float
    """Mean negative logarithm of the probability of the folder's name."""
    ece: float
    """Expected calibration error, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a graph's predictions agree with those of the Keras network on real windows."""

    same_genre: float
    """Share of windows with the same top genre, 0 to 1."""
    largest: float
    """Largest absolute difference of a probability."""
    mean: float
    """Mean absolute difference of the probabilities."""
    quality: Quality | None
    """How right they are; None without folders that are named after labels."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Size and speed of a graph."""

    size: int
    """Size of the file, in bytes."""
    one_thread: float
    """Time per window with one thread, in milliseconds."""
    all_threads: float
    """Time per window with as many threads as there are processors, in milliseconds."""


def check_conversion(keras: Predictor, converted: Predictor, contract: ModelContract) -> float:
    """Return the largest difference of a probability over windows of three lengths.

    Raise an ExportError if it is `CONVERSION_TOLERANCE` or more, or a logit is not finite.
    """
    largest = 0.0
    for frames in (contract.min_frames, contract.window_frames, 2 * contract.window_frames):
        window = golden_spectrogram(contract.spectrogram, frames, seed=1)
        batch = np.concatenate([window, window / 2])
        expected, actual = keras(batch), converted(batch)
        if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
            raise ExportError("the network answers with NaN or infinity: train again")
        difference = softmax(expected, contract.temperature) - softmax(actual, contract.temperature)
        largest = max(largest, float(np.abs(difference).max()))
    if largest >= CONVERSION_TOLERANCE:
        raise ExportError(
            f"the converted graph differs from Keras by {largest:.2g} in a probability and at "
            f"most {CONVERSION_TOLERANCE:g} is allowed: report it with the versions of "
            "tensorflow, tf2onnx and onnxruntime"
        )
    return largest


def predict(
    logits: Predictor, tracks: Sequence[TrackWindows], temperature: float
) -> NDArray[np.float32]:
    """Return the probabilities of all windows, shape (windows, classes)."""
    return np.concatenate([softmax(logits(track.spectrograms), temperature) for track in tracks])


def compare(
    expected: NDArray[np.float32],
    actual: NDArray[np.float32],
    tracks: Sequence[TrackWindows],
    labels: Sequence[str],
) -> Agreement:
    """Compare two results of `predict` for the same tracks."""
    difference = np.abs(expected - actual)
    return Agreement(
        same_genre=float((expected.argmax(axis=1) == actual.argmax(axis=1)).mean()),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        quality=quality(actual, tracks, labels),
    )


def quality(
    probabilities: NDArray[np.float32], tracks: Sequence[TrackWindows], labels: Sequence[str]
) -> Quality | None:
    """Return how right a result of `predict` is; None if no folder is a label."""
    truth = np.repeat(
        [labels.index(track.genre) if track.genre in labels else -1 for track in tracks],
        [len(track.spectrograms) for track in tracks],
    )
    known = truth >= 0
    if not known.any():
        return None
    probabilities, truth = probabilities[known], truth[known]
    right = probabilities.argmax(axis=1) == truth
    confidence = probabilities.max(axis=1)
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    excess = np.bincount(bins, right - confidence)
    likely = np.take_along_axis(probabilities, truth[:, None], axis=1)
    return Quality(
        accuracy=float(right.mean()),
        nll=float(-np.log(np.maximum(likely, np.finfo(np.float32).tiny)).mean()),
        ece=float(np.abs(excess).sum() / len(truth)),
    )


def measure_costs(graphs: Mapping[str, Graph], contract: ModelContract) -> dict[str, Cost]:
    """Measure graphs on one window of the training's length."""
    window = golden_spectrogram(contract.spectrogram, contract.window_frames)
    milliseconds: dict[str, list[float]] = {name: [] for name in graphs}
    for threads in (1, processors()):
        predictors = {name: graph.predictor(threads) for name, graph in graphs.items()}
        times: dict[str, list[float]] = {name: [] for name in graphs}
        for _ in range(1 + TIMED_RUNS):
            # Alternately, so that other load on the machine affects all graphs alike.
            for name, logits in predictors.items():
                start = time.perf_counter()
                logits(window)
                times[name].append(time.perf_counter() - start)
        for name, taken in times.items():
            milliseconds[name].append(1000 * statistics.median(taken[1:]))
    return {name: Cost(len(graph.content), *milliseconds[name]) for name, graph in graphs.items()}


def table(rows: Sequence[tuple[str, Cost, Agreement | None]]) -> str:
    """Return a table with a line for each graph; a dash stands for what was not measured."""
    lines = [["weights", "size", "ms, 1 thread", f"ms, {processors()} threads"]]
    lines[0] += ["same genre", "largest diff", "mean diff", "accuracy", "NLL", "ECE"]
    for name, cost, agreement in rows:
        line = [name, f"{cost.size / 1e6:.1f} MB", f"{cost.one_thread:.1f}"]
        line.append(f"{cost.all_threads:.1f}")
        if agreement is None:
            line += ["-"] * 6
        else:
            line += [f"{agreement.same_genre:.2%}", f"{agreement.largest:.1e}"]
            line.append(f"{agreement.mean:.1e}")
            if own := agreement.quality:
                line += [f"{own.accuracy:.2%}", f"{own.nll:.4f}", f"{own.ece:.4f}"]
            else:
                line += ["-"] * 3
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )
