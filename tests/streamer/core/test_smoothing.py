from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.core.smoothing import (
    AGREEMENT,
    NOTICED_AFTER_SECONDS,
    AdaptiveMean,
    HiddenMarkov,
    Interpolating,
    MovingAverage,
    Smoother,
    log_floored,
    softmax,
)

WINDOW_SECONDS = 5.0


def filter_of(labels: int = 3, dwell_seconds: float = 20.0, weight: float = 1.0) -> HiddenMarkov:
    return HiddenMarkov(
        labels, dwell_seconds=dwell_seconds, window_seconds=WINDOW_SECONDS, weight=weight
    )


def mean_of(labels: int = 3, memory_seconds: float = 10.0) -> AdaptiveMean:
    return AdaptiveMean(labels, memory_seconds=memory_seconds, window_seconds=WINDOW_SECONDS)


def odds(belief: NDArray[np.float64]) -> float:
    return float(np.log(belief[0] / belief[1]))


windows = st.lists(
    st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda p: sum(p) > 1e-3),
    min_size=1,
    max_size=30,
).map(lambda rows: [np.array(row) / sum(row) for row in rows])


@pytest.mark.parametrize(
    "smoother", [filter_of(), mean_of(), MovingAverage(seconds=5.0), Smoother()]
)
@given(windows=windows, hop_seconds=st.floats(1e-3, 100))
def test_beliefs_are_probabilities(
    smoother: Smoother, windows: list[NDArray[np.float64]], hop_seconds: float
) -> None:
    smoother.restart()
    for window in windows:
        belief = smoother.update(window, hop_seconds)
        assert belief.dtype == np.float64
        assert (belief >= 0).all()
        assert abs(belief.sum() - 1) < 1e-12


def test_the_filter_is_the_forward_pass_of_a_hidden_markov_model() -> None:
    generator = np.random.default_rng(3)
    labels, dwell, hop = 4, 12.0, 1.0
    # The transition matrix over one hop: the exponential of the matrix of rates.
    rates = np.full((labels, labels), 1 / dwell / (labels - 1))
    np.fill_diagonal(rates, -1 / dwell)
    values, vectors = np.linalg.eigh(rates * hop)
    transition = vectors @ np.diag(np.exp(values)) @ vectors.T
    belief = filter_of(labels, dwell)
    alpha = np.full(labels, 1 / labels)
    for step in range(50):
        window = generator.dirichlet(np.full(labels, 0.3)).clip(1e-6)
        if step == 0:
            alpha = alpha * window
        else:
            alpha = (alpha @ transition) * window ** (hop / WINDOW_SECONDS)
        alpha /= alpha.sum()
        np.testing.assert_allclose(belief.update(window, hop), alpha, atol=1e-7)


@pytest.mark.parametrize("belief", [filter_of(), mean_of()])
def test_the_first_window_counts_in_full(belief: Smoother) -> None:
    window = np.array([0.7, 0.2, 0.1])
    belief.restart()
    np.testing.assert_allclose(belief.update(window, 1.0), window)
    belief.update(np.array([0.1, 0.1, 0.8]), 1.0)
    belief.restart()
    np.testing.assert_allclose(belief.update(window, 1.0), window)


def test_a_second_of_sound_counts_once_however_much_the_windows_overlap() -> None:
    window = np.array([0.6, 0.3, 0.1])
    for hops in (1, 5, 50):
        belief = filter_of(dwell_seconds=1e9)
        belief.update(window, 1.0)
        for _ in range(hops):
            last = belief.update(window, WINDOW_SECONDS / hops)
        assert odds(last) == pytest.approx(2 * math.log(0.6 / 0.3))


def test_a_long_hop_counts_no_more_than_the_window() -> None:
    window = np.array([0.6, 0.3, 0.1])
    belief = filter_of(dwell_seconds=1e9)
    belief.update(window, 1.0)
    assert odds(belief.update(window, 60.0)) == pytest.approx(2 * math.log(0.6 / 0.3))


@pytest.mark.parametrize("belief", [filter_of(), mean_of()])
@pytest.mark.parametrize("hop_seconds", [0.1, 1.0])
def test_after_a_change_the_next_window_counts_with_what_is_new_in_it(
    belief: Smoother, hop_seconds: float
) -> None:
    belief.restart()
    belief.update(np.array([0.8, 0.1, 0.1]), hop_seconds)
    belief.forget()
    window = np.array([0.2, 0.6, 0.2])
    expected = window ** (NOTICED_AFTER_SECONDS / 5.0)
    np.testing.assert_allclose(belief.update(window, hop_seconds), expected / expected.sum())


@pytest.mark.parametrize(
    "belief",
    [
        HiddenMarkov(3, dwell_seconds=1e9, window_seconds=WINDOW_SECONDS, not_music=2),
        AdaptiveMean(3, memory_seconds=1e9, window_seconds=WINDOW_SECONDS, not_music=2),
    ],
)
@pytest.mark.parametrize("before", [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])
def test_a_change_keeps_a_share_of_the_belief_that_there_is_no_music(
    belief: Smoother, before: list[float]
) -> None:
    belief.restart()
    belief.update(np.array(before), 1.0)
    belief.forget()
    after = belief.update(np.full(3, 1 / 3), 1.0)
    assert after[2] == pytest.approx(0.8 / 3 + 0.2 * before[2])
    assert after[0] == pytest.approx(after[1])


@pytest.mark.parametrize("steady", [0.7, 0.4])
def test_the_mean_of_steady_windows_is_what_they_say_however_many_and_at_any_hop(
    steady: float,
) -> None:
    window = np.array([steady, 1 - steady])
    for hop_seconds in (0.1, 1.0, 7.0):
        belief = mean_of(2)
        for _ in range(100):
            last = belief.update(window, hop_seconds)
        np.testing.assert_allclose(last, window)


def test_the_mean_is_geometric_and_weighs_windows_with_what_is_new_in_them() -> None:
    first, second = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.3, 0.3])
    belief = mean_of(memory_seconds=1e9)
    belief.update(first, 1.0)
    expected = (first * second**0.2) ** (1 / 1.2)
    np.testing.assert_allclose(belief.update(second, 1.0), expected / expected.sum())


def test_the_mean_forgets_faster_the_less_a_window_agrees() -> None:
    begun = np.array([0.98, 0.01, 0.01])
    for window in (np.array([0.05, 0.9, 0.05]), np.array([0.15, 0.8, 0.05])):
        belief = mean_of(memory_seconds=1e9)
        before = belief.update(begun, 1.0)
        kept = min(1.0, float(before @ window) / AGREEMENT)
        expected = (begun**kept * window**0.2) ** (1 / max(1.0, kept + 0.2))
        np.testing.assert_allclose(belief.update(window, 1.0), expected / expected.sum())


def test_a_new_song_that_was_not_noticed_replaces_a_long_one_within_seconds() -> None:
    def seconds_until(window: NDArray[np.float64]) -> int:
        belief = mean_of()
        for _ in range(300):
            belief.update(np.array([0.9, 0.05, 0.05]), 1.0)
        return next(n for n in range(1, 100) if belief.update(window, 1.0).argmax() == 1)

    assert seconds_until(np.array([0.05, 0.9, 0.05])) <= 4
    # What fits the song so far is taken for a part of it for longer.
    assert seconds_until(np.array([0.35, 0.6, 0.05])) > 8


def test_the_mean_ignores_a_change_that_is_not_certain() -> None:
    window = np.array([0.8, 0.1, 0.1])
    for certain in (False, True):
        belief = mean_of()
        before = belief.update(window, 1.0)
        belief.forget(certain=certain)
        after = belief.update(window, 1.0)
        assert (abs(after - before).max() < 1e-9) is not certain


@pytest.mark.parametrize("smoother", [filter_of(weight=0.5), MovingAverage(seconds=5.0)])
def test_the_first_window_without_sound_from_before_a_change_counts_in_full(
    smoother: Smoother,
) -> None:
    begun, flat, window = np.array([0.8, 0.1, 0.1]), np.full(3, 1 / 3), np.array([0.6, 0.3, 0.1])
    smoother.restart()
    smoother.update(begun, 1.0)
    smoother.forget()
    smoother.update(flat, 1.0)
    np.testing.assert_allclose(smoother.update(window, 1.0, whole=True), window)
    assert smoother.update(window, 1.0)[0] >= 0.6


def test_that_window_counts_in_the_mean_as_the_first_one_does() -> None:
    flat, window = np.full(3, 1 / 3), np.array([0.6, 0.3, 0.1])
    belief = mean_of(memory_seconds=1e9)
    belief.update(np.array([0.8, 0.1, 0.1]), 1.0)
    belief.forget()
    belief.update(flat, 1.0)
    new = NOTICED_AFTER_SECONDS / WINDOW_SECONDS
    expected = window ** (1 / (1 + new))
    last = belief.update(window, 1.0, whole=True)
    np.testing.assert_allclose(last, expected / expected.sum())


def test_the_weight_of_evidence_spares_the_first_window() -> None:
    window = np.array([0.6, 0.3, 0.1])
    belief = filter_of(dwell_seconds=1e9, weight=0.5)
    assert odds(belief.update(window, 1.0)) == pytest.approx(math.log(2))
    assert odds(belief.update(window, WINDOW_SECONDS)) == pytest.approx(1.5 * math.log(2))


def test_two_half_hops_without_evidence_are_one_hop() -> None:
    start, flat = np.array([0.9, 0.06, 0.04]), np.full(3, 1 / 3)
    once, twice = filter_of(), filter_of()
    once.update(start, 1.0)
    twice.update(start, 1.0)
    twice.update(flat, 0.5)
    np.testing.assert_allclose(twice.update(flat, 0.5), once.update(flat, 1.0), atol=1e-12)


def test_belief_fades_without_evidence() -> None:
    belief = filter_of()
    belief.update(np.array([0.98, 0.01, 0.01]), 1.0)
    for _ in range(200):
        last = belief.update(np.full(3, 1 / 3), 1.0)
    np.testing.assert_allclose(last, 1 / 3, atol=1e-4)


def test_one_window_rules_no_label_out_for_good() -> None:
    belief = filter_of()
    belief.update(np.array([1.0, 0.0, 0.0]), 1.0)
    for _ in range(10):
        last = belief.update(np.array([0.0, 1.0, 0.0]), 1.0)
    assert last.argmax() == 1


def test_a_single_odd_window_does_not_turn_the_belief() -> None:
    belief = filter_of()
    for _ in range(20):
        belief.update(np.array([0.8, 0.1, 0.1]), 1.0)
    assert belief.update(np.array([0.1, 0.8, 0.1]), 1.0).argmax() == 0


def test_the_moving_average_follows_with_its_time_constant() -> None:
    average = MovingAverage(seconds=4.0)
    before, after = np.array([0.8, 0.1, 0.1]), np.array([0.1, 0.8, 0.1])
    average.update(before, 1.0)
    for _ in range(8):
        belief = average.update(after, 0.5)
    expected = log_floored(after) + (log_floored(before) - log_floored(after)) * math.exp(-1)
    np.testing.assert_allclose(belief, softmax(expected))


def test_no_smoothing_returns_each_window_unchanged() -> None:
    window = np.array([0.5, 0.25, 0.25])
    np.testing.assert_array_equal(Smoother().update(window, 1.0), window)


def test_logs_far_apart_do_not_overflow() -> None:
    np.testing.assert_array_equal(softmax(np.array([-1e4, 1e4])), [0, 1])


def between(first: NDArray[np.float64], second: NDArray[np.float64], share: float) -> Any:
    return softmax((1 - share) * np.log(first) + share * np.log(second))


@pytest.mark.parametrize("kind", [filter_of, lambda: MovingAverage(seconds=5.0)])
def test_repeated_windows_are_made_good_by_the_next_new_one(kind: Callable[[], Smoother]) -> None:
    first, last = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.7, 0.1])
    whole, sparing = kind(), Interpolating(kind())
    for window in (last, first):
        assert (whole.update(window, 1.0) == sparing.update(window, 1.0)).all()
    for share in (0.25, 0.5, 0.75):
        whole.update(between(first, last, share), 1.0)
        sparing.update(first, 1.0, repeated=True)
    for window in (last, first):
        assert whole.update(window, 1.0) == pytest.approx(sparing.update(window, 1.0))


def test_a_repeated_window_counts_as_a_new_one_until_then() -> None:
    whole, sparing = filter_of(), Interpolating(filter_of())
    window = np.array([0.7, 0.2, 0.1])
    for repeated in (False, True, True):
        expected = whole.update(window, 1.0)
        assert (sparing.update(window, 1.0, repeated=repeated) == expected).all()


@pytest.mark.parametrize("begin_anew", ["restart", "forget"])
def test_windows_from_before_a_change_are_not_made_good(begin_anew: str) -> None:
    whole, sparing = filter_of(), Interpolating(filter_of())
    first, second = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.7, 0.1])
    for repeated in (False, True):
        whole.update(first, 1.0)
        sparing.update(first, 1.0, repeated=repeated)
    getattr(whole, begin_anew)()
    getattr(sparing, begin_anew)()
    assert (whole.update(second, 1.0) == sparing.update(second, 1.0)).all()
