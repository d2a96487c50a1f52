import asyncio

import pytest

from streamer.listener import Listener, SourceStatus
from streamer.sources import SourceState, make_source
from streamer.supervision import Progress, threads_and_tasks

FIRST_SECONDS = 6.0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def listener():
    """A listener that was never started: a test says what state it is in."""
    return Listener(make_source("demo"), lambda: None, lambda event: None)


def enter(listener, state):
    listener.status = SourceStatus("demo", "demo", state, "")


def well_after(progress, clock, seconds):
    clock.now += seconds
    return progress.is_well()


def test_a_live_source_is_well_while_decisions_come(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.LIVE)
    for _ in range(100):
        assert well_after(progress, clock, 1.0)
        progress.decided()


def test_a_live_source_without_a_decision_for_three_hops_is_not_well(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.LIVE)
    progress.decided()
    assert well_after(progress, clock, 2.9)
    assert not well_after(progress, clock, 0.2)
    assert progress.quiet_seconds == pytest.approx(3.1)
    progress.decided()
    assert progress.is_well()


def test_the_first_decision_may_take_as_long_as_its_window(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    clock.now += 1000.0
    assert progress.is_well()
    enter(listener, SourceState.LIVE)
    assert well_after(progress, clock, FIRST_SECONDS + 2.9)
    assert not well_after(progress, clock, 0.2)


@pytest.mark.parametrize(
    "state",
    [
        SourceState.CONNECTING,
        SourceState.RECONNECTING,
        SourceState.ENDED,
        SourceState.FAILED,
    ],
)
def test_a_source_from_which_no_decision_is_due_is_well_for_however_long(state, listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, state)
    assert well_after(progress, clock, 1e6)


def test_a_stalled_source_is_not_well_but_one_that_waits_to_be_reopened_is(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.STALLED)
    assert not well_after(progress, clock, 1000.0)
    listener.retrying = True
    assert progress.is_well()


def test_the_vitals_carry_the_state_and_the_counters(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.RECONNECTING)
    listener.reconnects = 3
    vitals = progress.vitals()
    assert (vitals.source, vitals.state, vitals.reconnects) == ("demo", "reconnecting", 3)


async def tasks():
    return list(threads_and_tasks())


def test_every_thread_is_described_by_what_it_does():

    lines = asyncio.run(tasks())
    assert any(line.startswith("thread MainThread: threads_and_tasks ") for line in lines)
    assert lines[-1] == "event loop: 1 tasks"
