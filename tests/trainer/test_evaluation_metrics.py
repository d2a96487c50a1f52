"""Metrics agree with closed forms and with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, top_k_accuracy_score

from streamer.core.model import softmax
from trainer.metrics import (
    bootstrap_interval,
    calibration_error,
    chance_level,
    chance_note,
    fit_temperature,
    genre_scores,
    negative_log_likelihood,
    reliability,
    top_k_accuracy,
    track_probabilities,
)


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    random = np.random.default_rng(3)
    truth = random.integers(0, 4, 500)
    logits = random.normal(0, 1, (500, 4)).astype(np.float32)
    logits[np.arange(500), truth] += 1
    return logits, truth


def test_likelihood_and_top_2_accuracy_agree_with_scikit_learn(predictions) -> None:  # type: ignore[no-untyped-def]
    logits, truth = predictions
    probabilities = softmax(logits, 1.0).astype(float)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert negative_log_likelihood(logits, truth) == pytest.approx(
        log_loss(truth, probabilities), abs=1e-6
    )
    assert top_k_accuracy(probabilities, truth, 2) == pytest.approx(
        top_k_accuracy_score(truth, probabilities, k=2)
    )


def test_the_fitted_temperature_is_the_factor_on_calibrated_logits() -> None:
    random = np.random.default_rng(1)
    calibrated = random.normal(0, 2, (20000, 5))
    cumulative = softmax(calibrated.astype(np.float32), 1.0).cumsum(axis=1)
    truth = (random.random((20000, 1)) > cumulative).sum(axis=1).clip(max=4)
    assert fit_temperature(calibrated * 3, truth) == pytest.approx(3, rel=0.05)
    assert fit_temperature(calibrated / 2, truth) == pytest.approx(0.5, rel=0.05)


def test_the_fitted_temperature_minimises_the_negative_log_likelihood(predictions) -> None:  # type: ignore[no-untyped-def]
    logits, truth = predictions
    best = fit_temperature(logits, truth)
    least = negative_log_likelihood(logits, truth, best)
    for other in (best / 1.1, best * 1.1, 1.0):
        assert least <= negative_log_likelihood(logits, truth, other)


def test_calibration_error_is_the_mean_of_accuracy_minus_confidence_over_bins() -> None:
    # Ten predictions of confidence 0.9, eight of them correct; ten of 0.6, six of them correct.
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    truth = np.array([0] * 8 + [1] * 2 + [0] * 6 + [1] * 4)
    assert calibration_error(probabilities, truth) == pytest.approx(0.05)
    low, high = reliability(probabilities, truth)
    assert (low.count, low.confidence, low.accuracy) == (10, pytest.approx(0.6), 0.6)
    assert high.low <= 0.9 < high.high


def test_a_confidence_of_1_is_in_the_last_bin() -> None:
    (only,) = reliability(np.array([[1.0, 0.0]]), np.array([0]))
    assert only.high == 1


def test_the_bootstrap_interval_is_near_the_binomial_one_and_reproducible() -> None:
    correct = np.array([True] * 150 + [False] * 47)
    low, high = bootstrap_interval(correct, seed=4)
    share = 150 / 197
    deviation = (share * (1 - share) / 197) ** 0.5
    assert low == pytest.approx(share - 1.96 * deviation, abs=0.01)
    assert high == pytest.approx(share + 1.96 * deviation, abs=0.01)
    assert bootstrap_interval(correct, seed=4) == (low, high)


def test_genre_scores_cover_the_genres_that_occur() -> None:
    truth = np.array([0, 0, 0, 2, 2])
    predicted = np.array([0, 0, 1, 2, 0])
    scores, macro = genre_scores(predicted, truth, ("a", "b", "c"))
    assert [(score.genre, score.tracks) for score in scores] == [("a", 3), ("c", 2)]
    assert scores[0].precision == pytest.approx(2 / 3)
    assert scores[1].recall == pytest.approx(1 / 2)
    assert macro == pytest.approx(f1_score(truth, predicted, labels=[0, 2], average="macro"))


def test_the_calibration_error_of_nan_is_nan() -> None:
    assert np.isnan(calibration_error(np.array([[0.9, 0.1], [np.nan, np.nan]]), np.array([0, 0])))


def test_track_probabilities_are_the_mean_over_the_crops_of_each_track() -> None:
    logits = np.log(np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]], np.float32))
    means = track_probabilities(logits, np.array([0, 0, 1]))
    np.testing.assert_allclose(means, [[0.6, 0.4], [0.1, 0.9]], atol=1e-6)


@pytest.mark.parametrize(
    ("truth", "chance"),
    [([0, 1, 2, 3], 0.25), ([0, 0, 0, 2], 0.75), ([1, 1], 0.1)],
)
def test_chance_is_to_name_the_most_frequent_genre_always(truth: list[int], chance: float) -> None:
    assert chance_level(np.array(truth), genres=10) == chance


@pytest.mark.parametrize(
    ("right", "tracks", "noted"), [(1, 6, True), (2, 6, False), (31, 100, True), (35, 100, False)]
)
def test_an_accuracy_within_a_standard_error_of_chance_is_noted(
    right: int, tracks: int, noted: bool
) -> None:
    chance = 1 / 6 if tracks == 6 else 0.3
    assert bool(chance_note(right / tracks, chance, tracks)) == noted
