import asyncio

import pytest

from streamer.core.decision import Decision, State
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
    """A listener whose state is set by a test."""
    return Listener(make_source("demo"), lambda: None, lambda event: None)


@pytest.fixture
def listener():
    return never_started()


def enter(listener, state):
    listener.status = SourceStatus("demo", "demo", state, "")


def overdue_after(progress, clock, seconds):
    clock.now += seconds
    return progress.is_overdue()


def test_a_live_source_with_decisions_is_not_overdue(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.LIVE)
    for _ in range(100):
        assert not overdue_after(progress, clock, 1.0)
        progress.decided()


def test_a_live_source_is_overdue_after_three_hops_without_a_decision(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.LIVE)
    progress.decided()
    assert not overdue_after(progress, clock, 2.9)
    assert overdue_after(progress, clock, 0.2)
    assert progress.quiet_seconds == pytest.approx(3.1)
    progress.decided()
    assert not progress.is_overdue()


def test_a_source_of_many_is_overdue_after_three_rounds_of_decisions(clock):
    scheduler = Scheduler(1)
    for source in ("demo", "hall"):
        scheduler.update(source, 5.0)
    listener = Listener(make_source("demo"), lambda: None, lambda event: None, scheduler=scheduler)
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.LIVE)
    progress.decided()
    assert not overdue_after(progress, clock, 29.9)
    assert progress.health().problem() is None
    assert overdue_after(progress, clock, 0.2)
    assert progress.health().problem() == "no decision for 30 s"


def test_the_first_decision_may_take_as_long_as_its_window(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    clock.now += 1000.0
    assert not progress.is_overdue()
    enter(listener, SourceState.LIVE)
    assert not overdue_after(progress, clock, FIRST_SECONDS + 2.9)
    assert overdue_after(progress, clock, 0.2)


@pytest.mark.parametrize(
    "state",
    [
        SourceState.CONNECTING,
        SourceState.RECONNECTING,
        SourceState.ENDED,
        SourceState.FAILED,
    ],
)
def test_a_source_that_is_not_live_is_never_overdue(state, listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, state)
    assert not overdue_after(progress, clock, 1e6)


def test_a_stalled_source_is_overdue_unless_it_is_about_to_be_reopened(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.STALLED)
    assert overdue_after(progress, clock, 1000.0)
    listener.retrying = True
    assert not progress.is_overdue()


def of_states(clock, *states):
    """The progress of sources that are in these states, long after their last decisions."""
    sources = [Progress(never_started(), FIRST_SECONDS, clock) for _ in states]
    for source, state in zip(sources, states, strict=True):
        enter(source.listener, state)
    clock.now += 1000.0
    return sources


def test_a_restart_is_needed_while_the_only_source_is_stalled(clock):
    assert needs_restart(of_states(clock, SourceState.STALLED))
    assert needs_restart(of_states(clock, SourceState.STALLED, SourceState.ENDED))


@pytest.mark.parametrize(
    "other", [SourceState.LIVE, SourceState.CONNECTING, SourceState.RECONNECTING]
)
def test_a_stalled_source_needs_no_restart_while_another_is_running(other, clock):
    stalled, another = of_states(clock, SourceState.STALLED, other)
    another.decided()
    assert not needs_restart([stalled, another])


def test_a_live_source_without_decisions_needs_a_restart(clock):
    hung, another, stalled = of_states(
        clock, SourceState.LIVE, SourceState.LIVE, SourceState.STALLED
    )
    another.decided()
    assert needs_restart([hung, another])
    assert needs_restart([hung, another, stalled])
    hung.decided()
    assert not needs_restart([hung, another, stalled])


def test_the_health_has_the_state_and_the_counters(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.RECONNECTING)
    listener.reconnects = 3
    health = progress.health()
    assert (health.source, health.state, health.reconnects) == ("demo", "reconnecting", 3)


def silence(level_dbfs, seconds):
    return Decision(9.0, 1.0, State.SILENCE, None, 1.0, {}, {}, level_dbfs, silence_seconds=seconds)


def test_the_health_has_the_seconds_of_silence_and_of_digital_silence(listener, clock):
    progress = Progress(listener, FIRST_SECONDS, clock)
    enter(listener, SourceState.LIVE)
    for seconds, level in enumerate((-70.0, -120.0, -120.0), start=1):
        progress.decided(silence(level, seconds))
    health = progress.health()
    assert (health.silence_seconds, health.digital_silence_seconds) == (3, 2)
    enter(listener, SourceState.STALLED)
    health = progress.health()
    assert (health.silence_seconds, health.digital_silence_seconds) == (0, 0)
    enter(listener, SourceState.LIVE)
    progress.decided(Decision(9.0, 1.0, State.MUSIC, "jazz", 1.0, {}, {}, -20.0))
    health = progress.health()
    assert (health.silence_seconds, health.digital_silence_seconds) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "live", "expected"), [("media", True, True), ("media", False, False)]
)
def test_only_a_stream_without_an_end_is_a_station(listener, clock, kind, live, expected):
    listener.source.kind, listener.source.live = kind, live
    assert Progress(listener, FIRST_SECONDS, clock).health().is_station is expected


async def tasks():
    return list(threads_and_tasks())


def test_every_thread_is_described_by_its_stack():
    lines = asyncio.run(tasks())
    assert any(line.startswith("thread MainThread: threads_and_tasks ") for line in lines)
    assert lines[-1] == "event loop: 1 tasks"
