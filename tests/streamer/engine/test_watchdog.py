import asyncio

import pytest

from streamer.core.events import SourceState, SourceStatus
from streamer.engine.listener import Listener
from streamer.engine.scheduler import Scheduler
from streamer.engine.watchdog import Progress, needs_restart, threads_and_tasks
from streamer.sources import make_source

FIRST_SECONDS = 6.0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def never_started():
    """A listener of which a test says what state it is in."""
    return Listener(make_source("demo"), lambda: None, lambda event: None)


@pytest.fixture
def listener():
    return never_started()


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


def test_a_source_whose_turn_is_not_due_is_well_until_three_rounds_have_passed(clock):
    scheduler = Scheduler(1)
    for source in ("demo", "hall"):
        scheduler.update(source, 5.0)
    listener = Listener(make_source("demo"), lambda: None, lambda event: None, scheduler=scheduler)
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.LIVE)
    progress.decided()
    assert well_after(progress, clock, 29.9)
    assert progress.health().problem() is None
    assert not well_after(progress, clock, 0.2)
    assert progress.health().problem() == "no decision for 30 s"


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


def of_states(clock, *states):
    """The progress of sources that are in these states, long after their last decisions."""
    sources = [Progress(never_started(), FIRST_SECONDS, clock) for _ in states]
    for source, state in zip(sources, states, strict=True):
        enter(source.listener, state)
    clock.now += 1000.0
    return sources


def test_a_restart_is_called_for_while_the_only_source_is_stalled(clock):
    assert needs_restart(of_states(clock, SourceState.STALLED))
    assert needs_restart(of_states(clock, SourceState.STALLED, SourceState.ENDED))


@pytest.mark.parametrize(
    "other", [SourceState.LIVE, SourceState.CONNECTING, SourceState.RECONNECTING]
)
def test_a_stalled_source_calls_for_no_restart_while_another_goes_on(other, clock):
    stalled, another = of_states(clock, SourceState.STALLED, other)
    another.decided()
    assert not needs_restart([stalled, another])


def test_a_source_that_is_heard_and_not_decided_about_calls_for_a_restart(clock):
    hung, another, stalled = of_states(
        clock, SourceState.LIVE, SourceState.LIVE, SourceState.STALLED
    )
    another.decided()
    assert needs_restart([hung, another])
    assert needs_restart([hung, another, stalled])
    hung.decided()
    assert not needs_restart([hung, another, stalled])


def test_the_vitals_carry_the_state_and_the_counters(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.RECONNECTING)
    listener.reconnects = 3
    health = progress.health()
    assert (health.source, health.state, health.reconnects) == ("demo", "reconnecting", 3)


async def tasks():
    return list(threads_and_tasks())


def test_every_thread_is_described_by_what_it_does():

    lines = asyncio.run(tasks())
    assert any(line.startswith("thread MainThread: threads_and_tasks ") for line in lines)
    assert lines[-1] == "event loop: 1 tasks"
