from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.core.decision_settings import Effort
from streamer.engine.pacing import HopPacing


def observe(pacing: HopPacing, work: float, lag: float, round_seconds: float = 0.0) -> float:
    """Record the work of one decision and return the hop after it."""
    pacing.record(work)
    return pacing.adjust(lag, round_seconds)


def simulate(pacing: HopPacing, cost: float, seconds: float, lag: float = 0.0) -> float:
    """Play `seconds` of audio with decisions that take `cost` each; return the backlog."""
    played = 0.0
    while played < seconds:
        hop = pacing.hop_seconds
        played += hop
        lag = max(0.0, lag + cost - hop)
        observe(pacing, cost, lag + cost)
    return lag


def test_a_machine_that_keeps_up_uses_the_shortest_hop() -> None:
    pacing = HopPacing(1.0)
    simulate(pacing, cost=0.2, seconds=600)
    assert pacing.hop_seconds == 1.0


def test_one_hiccup_changes_nothing() -> None:
    pacing = HopPacing(1.0)
    assert observe(pacing, 4.0, 0.1) == 1.0  # the first decision sets things up
    for _ in range(50):
        assert [observe(pacing, work, 0.1) for work in (0.1, 0.1, 4.0, 0.1, 0.1, 0.1)] == [1.0] * 6


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
def test_the_hop_shrinks_when_the_machine_is_free_again(cost: float) -> None:
    pacing = HopPacing(1.0)
    simulate(pacing, cost, seconds=500)
    assert pacing.hop_seconds > 1.0
    simulate(pacing, cost=0.05, seconds=2000)
    assert pacing.hop_seconds == 1.0


def test_the_hop_settles() -> None:
    pacing = HopPacing(1.0)
    simulate(pacing, cost=1.3, seconds=200)
    settled = pacing.hop_seconds
    simulate(pacing, cost=1.3, seconds=2000)
    assert pacing.hop_seconds == settled


def test_a_hop_that_has_grown_is_the_shortest_again_where_the_work_fits_into_that() -> None:
    pacing = HopPacing(1.0)
    simulate(pacing, cost=1.0, seconds=200)
    assert pacing.hop_seconds > 1.4
    simulate(pacing, cost=0.88, seconds=200)
    assert pacing.hop_seconds > 1.4
    simulate(pacing, cost=0.8, seconds=200)
    assert pacing.hop_seconds == 1.0


def test_a_round_that_does_not_fit_makes_the_hop_grow_once_and_at_once() -> None:
    pacing = HopPacing(1.0)
    assert observe(pacing, 0.05, 6.0, round_seconds=10.0) > 10.0
    hops = [observe(pacing, 0.05, 6.0, round_seconds=10.0) for _ in range(100)]
    assert len(set(hops)) == 1


def test_the_hop_shrinks_when_the_other_sources_have_gone() -> None:
    pacing = HopPacing(1.0)
    observe(pacing, 0.05, 0.1, round_seconds=10.0)
    assert pacing.hop_seconds > 10.0
    simulate(pacing, cost=0.05, seconds=2000)
    assert pacing.hop_seconds == 1.0


def test_a_little_more_work_while_behind_does_not_change_the_hop() -> None:
    pacing = HopPacing(1.0)
    observe(pacing, 0.05, 60.0, round_seconds=2.0)
    settled = pacing.hop_seconds
    assert observe(pacing, 0.05, 60.0, round_seconds=2.1) == settled


@pytest.mark.parametrize(("lag", "grows"), [(4.0, False), (6.0, True)])
def test_work_that_leaves_no_room_to_catch_up_makes_the_hop_grow_when_behind(
    lag: float, grows: bool
) -> None:
    pacing = HopPacing(1.0)
    for _ in range(5):
        observe(pacing, 0.7, lag)
    assert (pacing.hop_seconds > 1.0) is grows


def test_the_lag_of_a_long_hop_is_no_backlog() -> None:
    pacing = HopPacing(10.0)
    assert [observe(pacing, 7.0, 25.0) for _ in range(20)] == [10.0] * 20


def test_the_hop_does_not_shrink_while_behind() -> None:
    pacing = HopPacing(1.0)
    observe(pacing, 0.05, 0.1, round_seconds=10.0)
    longer = pacing.hop_seconds
    assert [observe(pacing, 0.05, 60.0) for _ in range(20)] == [longer] * 20


def test_the_hop_never_exceeds_thirty_seconds() -> None:
    pacing = HopPacing(1.0)
    simulate(pacing, cost=100.0, seconds=2000)
    assert pacing.hop_seconds == 30.0


def test_the_work_of_a_source_is_its_usual_work() -> None:
    pacing = HopPacing(1.0)
    pacing.record(9.0)  # the first decision sets things up
    assert pacing.work_seconds is None
    for _ in range(5):
        pacing.record(0.2)
    assert pacing.work_seconds == pytest.approx(0.2)
    pacing.record(30.0)
    assert pacing.work_seconds == pytest.approx(0.2)


def test_frequent_long_decisions_are_part_of_the_usual_work() -> None:
    pacing = HopPacing(1.0)
    for work in (0.1, 0.1, 0.1, 1.0, 1.0):
        pacing.record(work)
    assert pacing.work_seconds == pytest.approx(1.3 / 4)


def simulate_many(pacing: HopPacing, cost: float, decisions: int, saved: float = 0.6) -> None:
    """Make decisions of a source beside others, all of which together take `cost` at full effort.

    With the effort "saving" a share of `saved` is left out.
    """
    for number in range(decisions):
        skipped = pacing.effort == "saving" and number % 5 < round(5 * saved)
        now = cost * (1 - saved) if pacing.effort == "saving" else cost
        observe(pacing, 0.0 if skipped else cost / 20, 0.2, round_seconds=now)


def test_where_the_work_does_not_fit_the_effort_falls_before_the_hop_grows() -> None:
    pacing = HopPacing(1.0, None)
    simulate_many(pacing, cost=0.8, decisions=100)
    assert (pacing.effort, pacing.hop_seconds) == ("full", 1.0)
    simulate_many(pacing, cost=1.7, decisions=200)
    assert (pacing.effort, pacing.hop_seconds) == ("saving", 1.0)
    simulate_many(pacing, cost=5.0, decisions=200)
    assert pacing.effort == "saving"
    assert pacing.hop_seconds > 2.0


def test_far_too_much_work_makes_the_hop_grow_at_once() -> None:
    pacing = HopPacing(1.0, None)
    observe(pacing, 0.05, 0.2, round_seconds=10.0)
    assert pacing.effort == "saving"
    assert pacing.hop_seconds > 5.0


def test_the_effort_is_full_again_when_all_the_work_fits() -> None:
    pacing = HopPacing(1.0, None)
    simulate_many(pacing, cost=1.7, decisions=100)
    simulate_many(pacing, cost=0.6, decisions=200)  # at most 0.6 s, but that is not known
    assert pacing.effort == "saving"
    simulate_many(pacing, cost=0.4, decisions=200)
    assert pacing.effort == "full"


@pytest.mark.parametrize("effort", ["full", "saving"])
def test_an_effort_that_was_set_does_not_change(effort: Effort) -> None:
    pacing = HopPacing(1.0, effort)
    simulate_many(pacing, cost=3.0, decisions=100)
    assert pacing.effort == effort
    assert pacing.hop_seconds > 1.0
    simulate_many(pacing, cost=0.1, decisions=1000)
    assert (pacing.effort, pacing.hop_seconds) == (effort, 1.0)


def test_a_hop_too_long_for_repeats_is_tried_to_be_short_ever_more_rarely() -> None:
    pacing = HopPacing(1.0, None)
    tried = []
    observe(pacing, 0.05, 0.2, round_seconds=5.0)  # all sources start at once
    for number in range(2000):
        before = pacing.hop_seconds
        observe(pacing, 0.05, 0.2, round_seconds=1.2)
        if pacing.hop_seconds == 1.0 < before:
            tried.append(number)
    assert 3 <= len(tried) <= 8
    waits = np.diff(tried)
    assert (waits[1:] > 1.5 * waits[:-1]).all()


def test_where_all_windows_repeat_in_a_short_hop_it_stays_short() -> None:
    pacing = HopPacing(1.0, None)
    observe(pacing, 0.05, 0.2, round_seconds=5.0)  # all sources start at once
    assert pacing.hop_seconds > 2.0
    for _ in range(200):
        observe(pacing, 0.05, 0.2, round_seconds=0.8 if pacing.hop_seconds < 1.5 else 1.5)
    assert (pacing.effort, pacing.hop_seconds) == ("saving", 1.0)
