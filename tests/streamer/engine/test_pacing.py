from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.engine.pacing import Backoff, HopPacing


def simulate(pacing: HopPacing, cost: float, seconds: float, lag: float = 0.0) -> float:
    """Hear `seconds` of audio with decisions that take `cost` each; return the backlog."""
    heard = 0.0
    while heard < seconds:
        hop = pacing.hop_seconds
        heard += hop
        lag = max(0.0, lag + cost - hop)
        pacing.observe(cost, lag + cost)
    return lag


def test_a_machine_that_keeps_up_decides_as_often_as_asked() -> None:
    pacing = HopPacing(1.0)
    simulate(pacing, cost=0.2, seconds=600)
    assert pacing.hop_seconds == 1.0


def test_one_hiccup_changes_nothing() -> None:
    pacing = HopPacing(1.0)
    assert pacing.observe(4.0, 0.1) == 1.0  # the first decision sets things up
    for _ in range(50):
        assert [pacing.observe(work, 0.1) for work in (0.1, 0.1, 4.0, 0.1, 0.1, 0.1)] == [1.0] * 6


@settings(deadline=None, max_examples=40)
@given(cost=st.floats(0.0, 15.0), shortest=st.floats(0.2, 2.0))
def test_the_hop_grows_until_the_work_fits_and_the_backlog_is_gone(
    cost: float, shortest: float
) -> None:
    pacing = HopPacing(shortest)
    simulate(pacing, cost, seconds=100)
    assert cost <= 0.9 * pacing.hop_seconds or cost == 0.0
    lag = simulate(pacing, cost, seconds=2000, lag=50.0)
    assert lag == 0.0
    assert simulate(pacing, cost, seconds=2000) == 0.0


@settings(deadline=None, max_examples=40)
@given(cost=st.floats(1.0, 15.0))
def test_the_hop_shrinks_back_when_the_machine_is_free_again(cost: float) -> None:
    pacing = HopPacing(1.0)
    simulate(pacing, cost, seconds=500)
    assert pacing.hop_seconds > 1.0
    simulate(pacing, cost=0.05, seconds=2000)
    assert pacing.hop_seconds == 1.0


def test_the_hop_settles_instead_of_swinging() -> None:
    pacing = HopPacing(1.0)
    simulate(pacing, cost=1.3, seconds=200)
    settled = pacing.hop_seconds
    simulate(pacing, cost=1.3, seconds=2000)
    assert pacing.hop_seconds == settled


def test_a_crowd_that_does_not_fit_is_given_room_at_once_and_the_hop_stays() -> None:
    pacing = HopPacing(1.0)
    assert pacing.observe(0.05, 6.0, round_seconds=10.0) > 10.0
    hops = [pacing.observe(0.05, 6.0, round_seconds=10.0) for _ in range(100)]
    assert len(set(hops)) == 1


def test_a_crowd_that_has_left_takes_no_room() -> None:
    pacing = HopPacing(1.0)
    pacing.observe(0.05, 0.1, round_seconds=10.0)
    assert pacing.hop_seconds > 10.0
    simulate(pacing, cost=0.05, seconds=2000)
    assert pacing.hop_seconds == 1.0


def test_a_little_more_work_does_not_change_the_hop_of_a_source_that_is_behind() -> None:
    pacing = HopPacing(1.0)
    pacing.observe(0.05, 60.0, round_seconds=2.0)
    settled = pacing.hop_seconds
    assert pacing.observe(0.05, 60.0, round_seconds=2.1) == settled


@pytest.mark.parametrize(("lag", "grows"), [(4.0, False), (6.0, True)])
def test_work_that_fits_but_leaves_no_room_to_catch_up_makes_the_hop_grow_only_when_behind(
    lag: float, grows: bool
) -> None:
    pacing = HopPacing(1.0)
    for _ in range(5):
        pacing.observe(0.7, lag)
    assert (pacing.hop_seconds > 1.0) is grows


def test_a_long_hop_is_not_behind_for_being_long() -> None:
    pacing = HopPacing(10.0)
    assert [pacing.observe(7.0, 25.0) for _ in range(20)] == [10.0] * 20


def test_while_a_source_is_behind_its_hop_does_not_shrink() -> None:
    pacing = HopPacing(1.0)
    pacing.observe(0.05, 0.1, round_seconds=10.0)
    longer = pacing.hop_seconds
    assert [pacing.observe(0.05, 60.0) for _ in range(20)] == [longer] * 20


def test_the_hop_has_a_longest() -> None:
    pacing = HopPacing(1.0)
    simulate(pacing, cost=100.0, seconds=2000)
    assert pacing.hop_seconds == 30.0


def test_waits_grow_from_one_second_to_a_minute_and_stay_within() -> None:
    for _ in range(20):
        backoff = Backoff()
        waits = [backoff.failed() for _ in range(200)]
        assert all(1.0 <= wait <= 60.0 for wait in waits)
        assert all(wait >= 30.0 for wait in waits[6:])
        assert waits[0] == 1.0


def test_waits_differ_so_that_many_clients_do_not_return_as_one() -> None:
    backoffs = [Backoff() for _ in range(50)]
    for backoff in backoffs:
        for _ in range(9):
            backoff.failed()
    assert len({backoff.failed() for backoff in backoffs}) > 40


def test_failures_are_forgiven_only_after_thirty_seconds_of_good_audio() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.failed()
    for _ in range(299):
        backoff.good(0.1)
    assert backoff.failed() >= 30.0
    # The count began again with that failure.
    backoff.good(29.0)
    assert backoff.failed() >= 30.0
    backoff.good(30.0)
    assert backoff.failed() == 1.0


def test_the_ceiling_doubles() -> None:
    longest = [max(wait) for wait in zip(*[_waits() for _ in range(300)], strict=True)]
    for before, after in pairwise(longest[:6]):
        assert after / before == pytest.approx(2.0, rel=0.35)


def _waits() -> list[float]:
    backoff = Backoff(shortest=1.0, longest=1000.0)
    return [backoff.failed() for _ in range(7)]
