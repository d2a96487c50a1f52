"""The listener's states, restarts and pacing, with real sources and the real pipeline."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.daemon import write_tone
from support.listening import PATIENCE, Log, read_all, running
from support.web import Conversation, scripted

import streamer
from streamer.core.decision import Decision, Segment
from streamer.core.events import SourceState
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline
from streamer.engine.listener import Listener, stop_all
from streamer.engine.scheduler import Scheduler
from streamer.sources import AudioBlock, Source, SourceEnded, SourceError, make_source
from streamer.sources.media import MediaSource
from streamer.system.backoff import Backoff

CONNECTING, LIVE, ENDED = SourceState.CONNECTING, SourceState.LIVE, SourceState.ENDED
FAILED, RECONNECTING, STALLED = SourceState.FAILED, SourceState.RECONNECTING, SourceState.STALLED


class Temperamental(Classifier):
    """A real classifier on a machine whose speed and health a test decides."""

    pause = 0.0
    """Seconds that each inference takes longer."""
    crashes = 0
    """How many of the next inferences crash."""

    def predict(self, spectrograms: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(self.pause)
        if self.crashes:
            self.crashes -= 1
            raise ZeroDivisionError("a defect")
        return super().predict(spectrograms)


class Unreliable(Source):
    """A source that does what its script says at each opening: seconds of noise, then an error."""

    def __init__(self, *script: tuple[float, Exception | None]) -> None:
        self.name = "unreliable"
        self.kind = "media"
        self.live = True
        self._script = list(script)
        self._left, self._end = 0.0, None
        self.opened = 0

    def open(self) -> None:
        self.opened += 1
        self._left, self._end = self._script.pop(0)

    def read(self, timeout: float) -> AudioBlock | None:
        if self._left > 0:
            self._left -= 0.1
            noise = np.random.default_rng(0).normal(0, 0.1, (800, 1)).astype(np.float32)
            return AudioBlock(noise, 8000, time.monotonic())
        if self._end is not None:
            raise self._end
        time.sleep(min(timeout, 0.05))
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def classifier(model: Path) -> Temperamental:
    loaded = Temperamental.load(model)
    assert isinstance(loaded, Temperamental)
    return loaded


def decisions(log: Log) -> list[Decision]:
    return [heard.event for heard in log.heard if isinstance(heard.event, Decision)]


def segments(log: Log) -> list[Segment]:
    return [heard.event for heard in log.heard if isinstance(heard.event, Segment)]


def hear_all(source: Source, classifier: Classifier, *, paced: bool) -> Log:
    log = Log()
    listener = Listener(source, lambda: Pipeline(classifier), log, paced=paced)
    with running(listener):
        listener.join(PATIENCE)
        assert not listener.is_alive()
    return log


def test_a_file_is_heard_to_its_end_and_its_segments_are_final(
    classifier: Temperamental, demo_clip: Path
) -> None:
    log = hear_all(make_source(f"clip={demo_clip}", fast=True), classifier, paced=False)
    assert log.states == [CONNECTING, LIVE, ENDED]
    assert {event.source for event in log.events} == {"clip"}
    assert log.events[-1] is log.statuses[-1]
    assert 60 <= len(decisions(log)) <= 66
    last = {segment.id: segment for segment in segments(log)}
    assert all(segment.final for segment in last.values())


def test_a_file_in_real_time_gives_the_decisions_that_it_gives_as_fast_as_possible(
    classifier: Temperamental, model: Path, demo_clip: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.wav"
    _cut(demo_clip, clip, seconds=9)
    live = decisions(hear_all(make_source(str(clip)), classifier, paced=True))
    fast = decisions(hear_all(make_source(str(clip), fast=True), classifier, paced=False))
    assert len(live) >= 6
    assert live == fast
    assert live == list(streamer.replay(str(clip), model=model))


def _cut(source: Path, target: Path, *, seconds: float) -> None:
    blocks = read_all(MediaSource(str(source), fast=True))
    rate = blocks[0].sample_rate
    samples = np.concatenate([block.samples for block in blocks])[: round(seconds * rate)]
    with wave.open(str(target), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


def test_decisions_say_when_their_last_sample_was_heard(
    classifier: Temperamental, demo_clip: Path
) -> None:
    log = Log()
    before = time.monotonic()
    with running(Listener(make_source(str(demo_clip)), lambda: Pipeline(classifier), log)):
        log.wait(lambda: len(decisions(log)) >= 5, "decisions")
    heard = [event for event in log.heard if isinstance(event.event, Decision)]
    steps = np.diff([event.heard for event in heard])
    np.testing.assert_allclose(steps, np.diff([event.event.position for event in heard]), atol=0.02)
    assert before < heard[0].heard < time.monotonic()
    assert {event.hop_seconds for event in heard} == {1.0}


def test_a_stopped_listener_ends_its_segments_and_says_so(
    classifier: Temperamental, demo_clip: Path
) -> None:
    log = Log()
    with running(Listener(make_source(str(demo_clip)), lambda: Pipeline(classifier), log)):
        log.wait(lambda: bool(segments(log)), "a segment")
    assert log.statuses[-1].state is ENDED
    assert log.statuses[-1].detail == "stopped"
    assert segments(log)[-1].final
    assert log.events[-1] is log.statuses[-1]


def test_a_file_that_cannot_be_heard_has_failed_with_one_sentence(
    classifier: Temperamental, tmp_path: Path
) -> None:
    (tmp_path / "text.wav").write_text("no sound in here\n" * 100)
    log = hear_all(make_source(str(tmp_path / "text.wav")), classifier, paced=True)
    assert log.states == [CONNECTING, FAILED]
    assert str(tmp_path / "text.wav") in log.statuses[-1].detail


def test_a_source_that_breaks_is_opened_again_and_one_that_is_gone_is_not(
    classifier: Temperamental,
) -> None:
    source = Unreliable(
        (0.0, SourceError("refused")),
        (1.0, SourceError("broken")),
        (1.0, SourceError("gone", permanent=True)),
    )
    log = Log()
    listener = Listener(source, lambda: Pipeline(classifier), log, backoff=Backoff(0.05, 0.1))
    with running(listener):
        listener.join(PATIENCE)
    assert log.states == [CONNECTING, RECONNECTING, LIVE, RECONNECTING, LIVE, FAILED]
    assert log.statuses[1].detail.startswith("refused; next attempt in ")
    assert log.statuses[3].detail.startswith("broken; next attempt in ")
    assert log.statuses[-1].detail == "gone"
    assert (source.opened, listener.reconnects) == (3, 2)


def test_a_live_source_that_ends_is_opened_again(classifier: Temperamental) -> None:
    source = Unreliable((1.0, SourceEnded()), (0.0, SourceError("gone", permanent=True)))
    log = Log()
    listener = Listener(source, lambda: Pipeline(classifier), log, backoff=Backoff(0.05, 0.1))
    with running(listener):
        listener.join(PATIENCE)
    assert log.states == [CONNECTING, LIVE, RECONNECTING, FAILED]


def test_a_file_on_the_web_that_breaks_off_is_opened_again_and_ends_when_it_is_complete(
    classifier: Temperamental, tmp_path: Path
) -> None:
    song = write_tone(tmp_path / "song.wav", (440.0, 1.0)).read_bytes()
    # Each time it is asked for twice: to see what it is, and by FFmpeg.
    bodies = itertools.chain([song, song[: len(song) // 2]], itertools.repeat(song))

    def play(client: Conversation) -> None:
        client.answer("HTTP/1.1 200 OK", f"Content-Length: {len(song)}", body=next(bodies))

    log = Log()
    with scripted(play) as url:
        source = make_source(f"{url}/song.wav")
        listener = Listener(source, lambda: Pipeline(classifier), log, backoff=Backoff(0.05, 0.1))
        with running(listener):
            listener.join(PATIENCE)
    assert log.states == [CONNECTING, LIVE, RECONNECTING, LIVE, ENDED]


def test_a_source_that_goes_quiet_is_stalled_before_it_is_broken(
    classifier: Temperamental,
) -> None:
    log = Log()
    source = Unreliable((1.0, None))
    with running(Listener(source, lambda: Pipeline(classifier), log, stall_seconds=0.2)):
        log.wait_for_states(LIVE, STALLED)
    assert log.statuses[2].detail == "no audio for 0.2 s"


def test_stopping_does_not_wait_for_the_next_attempt(classifier: Temperamental) -> None:
    log = Log()
    source = Unreliable((0.0, SourceError("refused")))
    listener = Listener(source, lambda: Pipeline(classifier), log, backoff=Backoff(600.0, 600.0))
    with running(listener):
        log.wait_for_states(RECONNECTING)
    assert not listener.is_alive()
    assert log.states[-1] is ENDED


def test_a_crash_is_logged_once_with_its_traceback_and_the_listener_begins_anew(
    classifier: Temperamental, demo_clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classifier.crashes = 1
    log = Log()
    source = make_source(f"clip={demo_clip}", fast=True)
    with running(Listener(source, lambda: Pipeline(classifier), log, paced=False)) as listener:
        listener.join(PATIENCE)
    assert log.states == [CONNECTING, LIVE, RECONNECTING, LIVE, ENDED]
    assert "ZeroDivisionError" in log.statuses[2].detail
    assert listener.crashes == 1
    crashes = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(crashes) == 1
    assert crashes[0].exc_info is not None
    assert "clip" in crashes[0].getMessage()
    assert len(decisions(log)) >= 60


@contextlib.contextmanager
def no_room_for_threads() -> Iterator[None]:
    """Ask for stacks that no memory holds, so that the system gives no thread."""
    usual = threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(usual)


def test_a_source_that_gets_no_thread_says_so_and_touches_no_other(
    classifier: Temperamental, demo_clip: Path
) -> None:
    log, other_log = Log(), Log()
    listener, other = (
        Listener(make_source(f"clip={demo_clip}"), lambda: Pipeline(classifier), log)
        for log in (log, other_log)
    )
    with running(other):
        other_log.wait(lambda: bool(decisions(other_log)), "decisions")
        with no_room_for_threads():
            listener.start()
            with pytest.raises(SourceError, match="no more threads"):
                listener.source.open()
        listener.stop()
        assert log.states == [FAILED]
        assert "TasksMax=" in log.statuses[0].detail
        before = len(decisions(other_log))
        other_log.wait(lambda: len(decisions(other_log)) > before, "more decisions")


def test_five_crashes_in_a_minute_are_the_end_and_touch_no_other_source(
    classifier: Temperamental, model: Path, demo_clip: Path
) -> None:
    classifier.crashes = 1000
    sound = Classifier.load(model)
    log, other = Log(), Log()
    with running(Listener(make_source(str(demo_clip)), lambda: Pipeline(sound), other)):
        other.wait_for_states(LIVE)
        source = make_source(str(demo_clip), fast=True)
        with running(Listener(source, lambda: Pipeline(classifier), log, paced=False)) as crashing:
            crashing.join(PATIENCE)
            assert not crashing.is_alive()
        before = len(other.events)
        other.wait(lambda: len(other.events) > before, "the other source to go on")
    assert log.states[-1] is FAILED
    assert "5 times in a minute" in log.statuses[-1].detail
    assert crashing.crashes == 5
    assert other.states == [CONNECTING, LIVE, ENDED]


def test_on_a_slow_machine_the_hop_grows_and_shrinks_again_and_says_so(
    classifier: Temperamental, demo_clip: Path
) -> None:
    def hops() -> list[float]:
        return [heard.hop_seconds for heard in log.heard]

    log = Log()
    source = MediaSource(str(demo_clip), loop=True)
    listener = Listener(source, lambda: Pipeline(classifier, hop_seconds=0.5), log)
    with running(listener):
        log.wait(lambda: len(decisions(log)) >= 2, "decisions")
        classifier.pause = 0.7
        log.wait(lambda: bool(hops()) and hops()[-1] > 0.75, "a longer hop")
        assert log.wait_for_detail("too slow").state is LIVE
        slow = [event for event in log.heard if event.hop_seconds > 0.75]
        assert listener.hop_seconds is not None
        assert listener.hop_seconds > 0.75
        classifier.pause = 0.0
        log.wait(lambda: hops()[-1] == 0.5, "the short hop")
        assert log.statuses[-1].detail == ""
    assert slow
    assert listener.dropped == 0


@pytest.mark.parametrize(("fast", "paced"), [(True, True), (False, False)])
def test_the_hop_is_left_alone_without_pacing_and_where_nothing_waits_for_us(
    classifier: Temperamental, demo_clip: Path, fast: bool, paced: bool
) -> None:
    classifier.pause = 0.05
    log = Log()
    source = make_source(str(demo_clip), fast=fast)
    listener = Listener(source, lambda: Pipeline(classifier, hop_seconds=0.04), log, paced=paced)
    with running(listener):
        log.wait(lambda: len(decisions(log)) >= 20, "decisions")
    assert {event.hop_seconds for event in log.heard} == {0.04}


def test_many_sources_that_are_too_much_share_the_machine_alike(
    classifier: Temperamental, demo_clip: Path
) -> None:
    classifier.pause = 0.1
    logs, scheduler = [Log() for _ in range(10)], Scheduler(1)
    listeners = [
        Listener(
            make_source(f"{number}={demo_clip}"),
            lambda: Pipeline(classifier, hop_seconds=0.2),
            log,
            scheduler=scheduler,
        )
        for number, log in enumerate(logs)
    ]
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(running(listener))
        for log in logs:
            log.wait(lambda log=log: len(decisions(log)) >= 3, "decisions")
        before = [len(decisions(log)) for log in logs]
        for log, count in zip(logs, before, strict=True):
            log.wait(lambda log=log, count=count: len(decisions(log)) >= count + 6, "more")
        told = [len(decisions(log)) - count for log, count in zip(logs, before, strict=True)]
        hops = [listener.hop_seconds for listener in listeners]
    assert max(told) - min(told) <= 3
    assert all(hop is not None and hop > 1.0 for hop in hops)


def test_all_listeners_stop_at_once_however_many_wait_for_their_turn(
    classifier: Temperamental, demo_clip: Path
) -> None:
    logs, scheduler = [Log() for _ in range(50)], Scheduler(1)
    listeners = [
        Listener(
            make_source(f"{number}={demo_clip}"),
            lambda: Pipeline(classifier),
            log,
            scheduler=scheduler,
        )
        for number, log in enumerate(logs)
    ]
    with scheduler.slot():
        for listener in listeners:
            listener.start()
        for log in logs:
            log.wait(lambda log=log: LIVE in log.states, "the first sound")
        while scheduler.waiting < len(listeners):
            time.sleep(0.01)
    stop_all(listeners, PATIENCE)
    assert not any(listener.is_alive() for listener in listeners)
    assert all(log.states[-1] is ENDED for log in logs)
    assert not any(map(decisions, logs))
