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


def decide(pacing: HopPacing, work: float, lag: float, interval: float) -> float:
    """Record the work and the times of one decision, and return the hop after it."""
    pacing.record_time(lag, interval)
    return observe(pacing, work, lag)


def test_decisions_that_take_longer_than_hops_make_the_hop_grow_however_little_the_work() -> None:
    pacing = HopPacing(1.0)
    hops = [decide(pacing, 0.01, lag=2.5, interval=1.6) for _ in range(20)]
    assert hops[5] == 1.0
    assert hops[-1] > 1.6
    assert len(set(hops)) == 2


def test_decisions_that_take_a_little_longer_than_hops_make_the_hop_grow_after_a_while() -> None:
    pacing = HopPacing(1.0)
    hops = [decide(pacing, 0.01, lag=2.5, interval=1.15) for _ in range(40)]
    assert hops[20] == 1.0
    assert 1.15 < hops[-1] < 2.0


def test_where_decisions_take_too_long_the_effort_falls_before_the_hop_grows() -> None:
    pacing = HopPacing(1.0, None)
    for _ in range(10):
        decide(pacing, 0.01, lag=2.5, interval=1.6)
    assert (pacing.effort, pacing.hop_seconds) == ("saving", 1.0)


@pytest.mark.parametrize(
    ("lag", "interval"), [(2.5, 1.0), (0.2, 1.6)], ids=["late but no later", "a slow radio"]
)
def test_what_the_machine_is_not_too_slow_for_changes_nothing(lag: float, interval: float) -> None:
    pacing = HopPacing(1.0, None)
    for _ in range(200):
        decide(pacing, 0.01, lag, interval)
    assert (pacing.effort, pacing.hop_seconds) == ("full", 1.0)


def test_a_suspension_of_the_machine_changes_nothing() -> None:
    pacing = HopPacing(1.0, None)
    for _ in range(50):
        decide(pacing, 0.01, lag=0.1, interval=1.0)
    decide(pacing, 0.01, lag=3600.0, interval=3600.0)
    decide(pacing, 0.01, lag=0.1, interval=0.01)
    assert (pacing.effort, pacing.hop_seconds) == ("full", 1.0)


def test_a_hop_that_grew_by_lateness_is_tried_to_be_short_ever_more_rarely() -> None:
    pacing, tried = HopPacing(1.0), []
    for number in range(3000):
        before = pacing.hop_seconds
        late = before < 1.6  # what other programs leave of the machine
        decide(pacing, 0.01, lag=2.5 if late else 0.1, interval=1.6 if late else before)
        if pacing.hop_seconds == 1.0 < before:
            tried.append(number)
    assert 4 <= len(tried) <= 8
    assert (np.diff(tried)[1:] > 1.3 * np.diff(tried)[:-1]).all()
    for _ in range(3000):
        decide(pacing, 0.01, lag=0.1, interval=pacing.hop_seconds)
    assert pacing.hop_seconds == 1.0


def start_many(count: int, repeated: float) -> tuple[list[HopPacing], float]:
    """Start sources on two processors with the effort "saving".

    Of the windows after the first eight a share is `repeated`, or none in a hop of 1.5 s. Returns
    the sources after 200 decisions, and the longest hop until then.
    """
    longest = 1.0
    sources = [HopPacing(1.0, None, first="saving") for _ in range(count)]
    works = dict.fromkeys(sources, 0.0)
    for number in range(200):
        for index, pacing in enumerate(sources):
            if (age := number - index // 8) < 0:  # eight start in a second
                continue
            may_repeat = age >= 8 and pacing.hop_seconds < 1.5
            is_repeated = may_repeat and (age + index) % 20 < 20 * repeated
            pacing.record(0.007 if is_repeated else 0.028)
            works[pacing] = pacing.work_seconds or 0.0
            longest = max(longest, pacing.adjust(0.2, sum(works.values()) / 2))
    return sources, longest


def test_first_windows_that_cannot_repeat_do_not_make_the_hop_grow() -> None:
    sources, longest = start_many(100, repeated=0.55)
    assert {pacing.effort for pacing in sources} == {"saving"}
    assert longest == 1.0


def test_sources_that_do_not_fit_have_all_grown_their_hops_alike_after_the_start() -> None:
    sources, _ = start_many(200, repeated=0.55)
    hops = [pacing.hop_seconds for pacing in sources]
    assert min(hops) > 2.0
    assert max(hops) < 1.5 * min(hops)


def test_sources_that_begin_with_saving_classify_all_windows_where_there_is_room() -> None:
    sources, _ = start_many(10, repeated=0.55)
    assert {(pacing.effort, pacing.hop_seconds) for pacing in sources} == {("full", 1.0)}


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
