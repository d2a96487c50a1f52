"""Evaluation metrics: pure functions of logits, probabilities and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from streamer.core.model import softmax

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]

ECE_BINS = 15
BOOTSTRAP_DRAWS = 10_000
TEMPERATURES = (0.05, 20.0)
"""Range that is searched for a temperature."""


def track_probabilities(
    logits: NDArray[np.float32], owner: Indices, temperature: float = 1.0
) -> NDArray[np.float64]:
    """Return the mean of the probabilities of each track's crops, shape (tracks, classes).

    `owner`, shape (crops,), is the index of each crop's track; every track has at least one crop.
    """
    probabilities = softmax(logits, temperature).astype(np.float64)
    counts = np.bincount(owner)
    sums = np.zeros((len(counts), logits.shape[1]))
    np.add.at(sums, owner, probabilities)
    return sums / counts[:, None]


def negative_log_likelihood(logits: Floats, truth: Indices, temperature: float = 1.0) -> float:
    """Return the mean of `-log p(truth)`, in nats, for logits of shape (n, classes)."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    log_probabilities = scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
    return float(-log_probabilities[np.arange(len(truth)), truth].mean())


def fit_temperature(logits: Floats, truth: Indices) -> float:
    """Return the temperature that maximises the likelihood of `truth`.

    The negative log-likelihood is convex in `1 / temperature`, so a golden-section search over the
    logarithm finds its only minimum.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    low, high = np.log(TEMPERATURES)
    ratio = (5**0.5 - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        losses = [negative_log_likelihood(logits, truth, np.exp(at)) for at in (left, right)]
        if losses[0] < losses[1]:
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions whose confidence is in one interval."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean confidence of the predictions."""
    accuracy: float
    """Share of the predictions that are correct."""


def reliability(probabilities: Floats, truth: Indices) -> list[ReliabilityBin]:
    """Group predictions by confidence into 15 bins of equal width; empty bins are left out."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == truth
    index = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    return [
        ReliabilityBin(
            low=number / ECE_BINS,
            high=(number + 1) / ECE_BINS,
            count=int(own.sum()),
            confidence=float(confidence[own].mean()),
            accuracy=float(correct[own].mean()),
        )
        for number in range(ECE_BINS)
        if (own := index == number).any()
    ]


def calibration_error(probabilities: Floats, truth: Indices) -> float:
    """Return the expected calibration error with 15 bins: the mean of |accuracy - confidence|.

    It is NaN if a probability is NaN or infinite.
    """
    if not np.isfinite(probabilities).all():
        return float("nan")
    bins = reliability(probabilities, truth)
    return sum(bin_.count * abs(bin_.accuracy - bin_.confidence) for bin_ in bins) / len(truth)


def bootstrap_interval(correct: NDArray[np.bool_], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of an accuracy over tracks, from 10,000 resamples."""
    random = np.random.default_rng(seed)
    count = len(correct)
    accuracies = [correct[random.integers(0, count, count)].mean() for _ in range(BOOTSTRAP_DRAWS)]
    low, high = np.quantile(accuracies, [0.025, 0.975])
    return float(low), float(high)


def chance_level(truth: Indices, genres: int) -> float:
    """Return the accuracy of always predicting the most frequent of the genres in `truth`.

    If there is only one in it, return that of guessing among the `genres`.
    """
    counts = np.bincount(truth)
    return float(counts.max() / len(truth)) if (counts > 0).sum() > 1 else 1 / genres


def chance_note(accuracy: float, chance: float, tracks: int) -> str | None:
    """Return a sentence on an accuracy within a standard error of chance; None for a better one."""
    if accuracy > chance + (chance * (1 - chance) / tracks) ** 0.5:
        return None
    return (
        f"{accuracy:.1%} right is no better than chance ({chance:.1%}): train for more --epochs, "
        "add tracks, or start from the network that ships with genre-stream (--weights gtzan)"
    )


def top_k_accuracy(probabilities: Floats, truth: Indices, k: int) -> float:
    """Return how often the true label is among the `k` most probable ones."""
    best = np.argsort(-probabilities, axis=1)[:, :k]
    return float((best == truth[:, None]).any(axis=1).mean())


@dataclass(frozen=True, slots=True)
class GenreScore:
    """Precision and recall of one genre."""

    genre: str
    tracks: int
    precision: float
    """Share of the tracks predicted as the genre that are of it; 0 if there are none."""
    recall: float
    """Share of the genre's tracks that are predicted as it."""
    f1: float


def genre_scores(
    predicted: Indices, truth: Indices, labels: tuple[str, ...]
) -> tuple[list[GenreScore], float]:
    """Return the scores of the genres that occur in `truth`, and the macro F1 over them."""
    present = sorted(set(truth.tolist()))
    columns = precision_recall_fscore_support(truth, predicted, labels=present, zero_division=0)
    scores = [
        GenreScore(labels[index], int(count), float(precision), float(recall), float(f1))
        for index, precision, recall, f1, count in zip(present, *columns, strict=True)
    ]
    return scores, float(np.mean([score.f1 for score in scores]))
