"""The numbers of an evaluation: pure functions of logits, probabilities and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]

ECE_BINS = 15
BOOTSTRAP_DRAWS = 10_000
TEMPERATURES = (0.05, 20.0)
"""Range in which a temperature is sought."""


def log_softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return log-probabilities over the last axis."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True)))


def negative_log_likelihood(logits: Floats, truth: Indices, temperature: float = 1.0) -> float:
    """Return the mean of `-log p(truth)`, in nats."""
    return float(-log_softmax(logits, temperature)[np.arange(len(truth)), truth].mean())


def fit_temperature(logits: Floats, truth: Indices) -> float:
    """Return the temperature that makes the likelihood of `truth` greatest.

    The negative log-likelihood is convex in `1 / temperature`, so a golden-section search over its
    logarithm finds the only minimum.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    low, high = np.log(TEMPERATURES)
    ratio = (5**0.5 - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if negative_log_likelihood(logits, truth, float(np.exp(left))) < negative_log_likelihood(
            logits, truth, float(np.exp(right))
        ):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions of similar confidence."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean confidence of the predictions in the bin."""
    accuracy: float
    """Share of them that is right."""


def reliability(probabilities: Floats, truth: Indices) -> list[ReliabilityBin]:
    """Sort predictions into 15 bins of equal width by confidence; empty bins are left out."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    index = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    return [
        ReliabilityBin(
            low=number / ECE_BINS,
            high=(number + 1) / ECE_BINS,
            count=int(own.sum()),
            confidence=float(confidence[own].mean()),
            accuracy=float(right[own].mean()),
        )
        for number in range(ECE_BINS)
        if (own := index == number).any()
    ]


def calibration_error(probabilities: Floats, truth: Indices) -> float:
    """Return the expected calibration error with 15 bins: mean |accuracy - confidence|.

    Of probabilities that are no numbers it is none either.
    """
    if not np.isfinite(probabilities).all():
        return float("nan")
    bins = reliability(probabilities, truth)
    return sum(bin_.count * abs(bin_.accuracy - bin_.confidence) for bin_ in bins) / len(truth)


def bootstrap_interval(right: NDArray[np.bool_], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of a share of tracks, by drawing the tracks again 10,000 times."""
    random = np.random.default_rng(seed)
    shares = np.array(
        [right[random.integers(0, len(right), len(right))].mean() for _ in range(BOOTSTRAP_DRAWS)]
    )
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def top_k_accuracy(probabilities: Floats, truth: Indices, k: int) -> float:
    """Return how often the truth is among the `k` most probable labels."""
    best = np.argsort(-probabilities, axis=1)[:, :k]
    return float((best == truth[:, None]).any(axis=1).mean())


def confusion(predicted: Indices, truth: Indices, classes: int) -> NDArray[np.int64]:
    """Return how often each label (row) was taken for each (column)."""
    return np.asarray(confusion_matrix(truth, predicted, labels=range(classes)), np.int64)


@dataclass(frozen=True, slots=True)
class GenreScore:
    """How well one genre is told from the others."""

    genre: str
    tracks: int
    precision: float
    """Share of the tracks called so that are so; 0 if none is called so."""
    recall: float
    """Share of its tracks that are called so."""
    f1: float


def genre_scores(
    predicted: Indices, truth: Indices, labels: tuple[str, ...]
) -> tuple[list[GenreScore], float]:
    """Return the scores of the genres that occur in `truth`, and their mean F1."""
    present = sorted(set(truth.tolist()))
    columns = precision_recall_fscore_support(truth, predicted, labels=present, zero_division=0)
    scores = [
        GenreScore(labels[index], int(count), float(precision), float(recall), float(f1))
        for index, precision, recall, f1, count in zip(present, *columns, strict=True)
    ]
    return scores, float(np.mean([score.f1 for score in scores]))
