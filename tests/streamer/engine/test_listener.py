"""The listener's states, restarts and pacing, with real sources and the real pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
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
from support.listening import Log, read_all, running
from support.waiting import LONGEST_WAIT_SECONDS, wait_until
from support.web import Conversation, scripted

import streamer
from streamer.core.decision import Decision, Segment
from streamer.core.events import SourceState
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline
from streamer.engine.listener import HELD_SECONDS, Listener, stop_all
from streamer.engine.scheduler import Scheduler
from streamer.sources import AudioBlock, Source, SourceEnded, SourceError, make_source
from streamer.sources.media import MediaSource
from streamer.system.backoff import Backoff

CONNECTING, LIVE, ENDED = SourceState.CONNECTING, SourceState.LIVE, SourceState.ENDED
FAILED, RECONNECTING, STALLED = SourceState.FAILED, SourceState.RECONNECTING, SourceState.STALLED


class FaultyClassifier(Classifier):
    """A real classifier that is slow or crashes as a test sets it."""

    pause = 0.0
    """Seconds that each inference takes longer."""
    crashes = 0
    """How many of the next inferences crash."""

    def predict(
        self, spectrograms: NDArray[np.float32], audio: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        time.sleep(self.pause)
        if self.crashes:
            self.crashes -= 1
            raise ZeroDivisionError("a defect")
        return super().predict(spectrograms, audio)


class ScriptedSource(Source):
    """A source that delivers, each time it is opened, seconds of noise and then raises an error."""

    live = True

    def __init__(self, *script: tuple[float, Exception | None]) -> None:
        self.name = "scripted"
        self.kind = "media"
        self._script = list(script)
        self._left, self._end = 0.0, None
        self.opened = 0

    def open(self) -> None:
        self.opened += 1
        self._left, self._end = self._script.pop(0)

    def read(self, timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
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
def classifier(model: Path) -> FaultyClassifier:
    loaded = FaultyClassifier.load(model)
    assert isinstance(loaded, FaultyClassifier)
    return loaded


def decisions(log: Log) -> list[Decision]:
    return [each.event for each in log.pipeline_events if isinstance(each.event, Decision)]


def segments(log: Log) -> list[Segment]:
    return [each.event for each in log.pipeline_events if isinstance(each.event, Segment)]


def run_to_end(source: Source, classifier: Classifier, *, paced: bool) -> Log:
    log = Log()
    listener = Listener(source, lambda: Pipeline(classifier), log, paced=paced)
    with running(listener):
        assert listener.join(LONGEST_WAIT_SECONDS)
    return log


def test_a_file_is_read_to_its_end_and_its_segments_are_final(
    classifier: FaultyClassifier, demo_clip: Path
) -> None:
    log = run_to_end(make_source(f"clip={demo_clip}", fast=True), classifier, paced=False)
    assert log.states == [CONNECTING, LIVE, ENDED]
    assert {event.source for event in log.events} == {"clip"}
    assert log.events[-1] is log.statuses[-1]
    assert 60 <= len(decisions(log)) <= 66
    last = {segment.id: segment for segment in segments(log)}
    assert all(segment.final for segment in last.values())


def test_a_file_gives_the_same_decisions_in_real_time_and_faster(
    classifier: FaultyClassifier, model: Path, demo_clip: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.wav"
    _cut(demo_clip, clip, seconds=9)
    live = decisions(run_to_end(make_source(str(clip)), classifier, paced=True))
    fast = decisions(run_to_end(make_source(str(clip), fast=True), classifier, paced=False))
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


class RecordedSource(ScriptedSource):
    """A source whose sound was recorded from `began` on, at the model's rate."""

    began = 1000.0
    live = False
    samples = 0

    def read(self, timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
        block = super().read(timeout, enough_seconds)
        assert block is not None
        self.samples += len(block.samples)
        end_time = self.began + self.samples / 22050
        return dataclasses.replace(block, sample_rate=22050, end_time=end_time)


def test_decisions_carry_the_time_of_their_last_sample(classifier: FaultyClassifier) -> None:
    log = run_to_end(RecordedSource((25.0, SourceEnded())), classifier, paced=True)
    events = [each for each in log.pipeline_events if isinstance(each.event, Decision)]
    assert len(events) >= 5
    expected = [RecordedSource.began + event.event.position for event in events]
    assert [event.end_time for event in events] == pytest.approx(expected, rel=1e-9)


def test_a_stopped_listener_ends_its_segments_and_then_the_source(
    classifier: FaultyClassifier, demo_clip: Path
) -> None:
    log = Log()
    with running(Listener(make_source(str(demo_clip)), lambda: Pipeline(classifier), log)):
        log.wait(lambda: bool(segments(log)), "a segment")
    assert log.statuses[-1].state is ENDED
    assert log.statuses[-1].detail == "stopped"
    assert segments(log)[-1].final
    assert log.events[-1] is log.statuses[-1]


def test_a_file_that_cannot_be_decoded_has_failed(
    classifier: FaultyClassifier, tmp_path: Path
) -> None:
    (tmp_path / "text.wav").write_text("no sound in here\n" * 100)
    log = run_to_end(make_source(str(tmp_path / "text.wav")), classifier, paced=True)
    assert log.states == [CONNECTING, FAILED]
    assert str(tmp_path / "text.wav") in log.statuses[-1].detail


def test_a_broken_source_is_opened_again_until_it_fails_permanently(
    classifier: FaultyClassifier,
) -> None:
    source = ScriptedSource(
        (0.0, SourceError("refused")),
        (1.0, SourceError("broken")),
        (1.0, SourceError("gone", permanent=True)),
    )
    log = Log()
    listener = Listener(source, lambda: Pipeline(classifier), log, backoff=Backoff(0.05, 0.1))
    with running(listener):
        listener.join(LONGEST_WAIT_SECONDS)
    assert log.states == [CONNECTING, RECONNECTING, LIVE, RECONNECTING, LIVE, FAILED]
    assert log.statuses[1].detail.startswith("refused; next attempt in ")
    assert log.statuses[3].detail.startswith("broken; next attempt in ")
    assert log.statuses[-1].detail == "gone"
    assert (source.opened, listener.reconnect_attempts, listener.reconnects) == (3, 2, 1)


def test_a_source_is_off_from_its_last_sound_to_its_next_and_continues_nothing(
    classifier: FaultyClassifier,
) -> None:
    source = ScriptedSource(
        (6.0, SourceError("broken")), (6.0, SourceError("gone", permanent=True))
    )
    log = Log()
    blocks: list[AudioBlock] = []
    read = source.read

    def keep(timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
        if block := read(timeout, enough_seconds):
            blocks.append(block)
        return block

    source.read = keep  # type: ignore[method-assign]
    listener = Listener(source, lambda: Pipeline(classifier), log, backoff=Backoff(0.05, 0.1))
    with running(listener):
        listener.join(LONGEST_WAIT_SECONDS)
    off, live, failed = log.statuses[2:]
    half = len(blocks) // 2
    assert (off.reason, off.since) == ("broken", blocks[half - 1].end_time)
    assert off.retry_seconds is not None
    assert live.since == blocks[half].end_time - blocks[half].seconds
    assert (failed.reason, failed.since) == ("gone", blocks[-1].end_time)
    first = next(segment for segment in segments(log) if segment.final)
    assert first.end == pytest.approx(half * blocks[0].seconds, abs=1e-3)


def test_a_listener_asks_for_the_sound_up_to_the_next_decision(
    classifier: FaultyClassifier,
) -> None:
    source = ScriptedSource((3.5, SourceError("gone", permanent=True)))
    asked = []
    read = source.read

    def note(timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
        asked.append(enough_seconds)
        return read(timeout, enough_seconds)

    source.read = note  # type: ignore[method-assign]
    with running(Listener(source, lambda: Pipeline(classifier), Log())) as listener:
        listener.join(LONGEST_WAIT_SECONDS)
    # The first decision falls after 3 s, the next one a second later.
    expected = [HELD_SECONDS + 3.0 - 0.1 * blocks for blocks in range(1, 30)]
    assert asked[1:30] == pytest.approx(expected, abs=0.01)
    assert asked[-1] == pytest.approx(HELD_SECONDS + 0.5, abs=0.01)


def test_a_live_source_that_ends_is_opened_again(classifier: FaultyClassifier) -> None:
    source = ScriptedSource((1.0, SourceEnded()), (0.0, SourceError("gone", permanent=True)))
    log = Log()
    listener = Listener(source, lambda: Pipeline(classifier), log, backoff=Backoff(0.05, 0.1))
    with running(listener):
        listener.join(LONGEST_WAIT_SECONDS)
    assert log.states == [CONNECTING, LIVE, RECONNECTING, FAILED]


def test_an_interrupted_download_is_opened_again_and_ends_when_complete(
    classifier: FaultyClassifier, tmp_path: Path
) -> None:
    song = write_tone(tmp_path / "song.wav", (440.0, 1.0)).read_bytes()
    # Requested twice each time: to find out its type, and by FFmpeg.
    bodies = itertools.chain([song, song[: len(song) // 2]], itertools.repeat(song))

    def play(client: Conversation) -> None:
        client.answer("HTTP/1.1 200 OK", f"Content-Length: {len(song)}", body=next(bodies))

    log = Log()
    with scripted(play) as url:
        source = make_source(f"{url}/song.wav")
        listener = Listener(source, lambda: Pipeline(classifier), log, backoff=Backoff(0.05, 0.1))
        with running(listener):
            listener.join(LONGEST_WAIT_SECONDS)
    assert log.states == [CONNECTING, LIVE, RECONNECTING, LIVE, ENDED]


def test_a_source_that_delivers_nothing_is_stalled(
    classifier: FaultyClassifier,
) -> None:
    log = Log()
    source = ScriptedSource((1.0, None))
    with running(Listener(source, lambda: Pipeline(classifier), log, stall_seconds=0.2)):
        log.wait_for_states(LIVE, STALLED)
    assert log.statuses[2].detail == "no audio for 0.2 s"


def test_stopping_does_not_wait_for_the_next_attempt(classifier: FaultyClassifier) -> None:
    log = Log()
    source = ScriptedSource((0.0, SourceError("refused")))
    listener = Listener(source, lambda: Pipeline(classifier), log, backoff=Backoff(600.0, 600.0))
    with running(listener):
        log.wait_for_states(RECONNECTING)
    assert listener.join(0.0)
    assert log.states[-1] is ENDED


def test_a_crash_is_logged_with_its_traceback_and_the_listener_starts_over(
    classifier: FaultyClassifier, demo_clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classifier.crashes = 1
    log = Log()
    source = make_source(f"clip={demo_clip}", fast=True)
    with running(Listener(source, lambda: Pipeline(classifier), log, paced=False)) as listener:
        listener.join(LONGEST_WAIT_SECONDS)
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
    """Request stacks larger than any memory, so that no thread can be started."""
    usual = threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(usual)


def test_a_source_without_a_thread_has_failed_and_affects_no_other(
    classifier: FaultyClassifier, demo_clip: Path
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


def test_five_crashes_in_a_minute_are_a_failure_and_affect_no_other_source(
    classifier: FaultyClassifier, model: Path, demo_clip: Path
) -> None:
    classifier.crashes = 1000
    sound = Classifier.load(model)
    log, other = Log(), Log()
    with running(Listener(make_source(str(demo_clip)), lambda: Pipeline(sound), other)):
        other.wait_for_states(LIVE)
        source = make_source(str(demo_clip), fast=True)
        with running(Listener(source, lambda: Pipeline(classifier), log, paced=False)) as crashing:
            assert crashing.join(LONGEST_WAIT_SECONDS)
        before = len(other.events)
        other.wait(lambda: len(other.events) > before, "the other source to go on")
    assert log.states[-1] is FAILED
    assert "5 times in a minute" in log.statuses[-1].detail
    assert crashing.crashes == 5
    assert other.states == [CONNECTING, LIVE, ENDED]


def test_the_hop_follows_the_speed_of_the_machine(
    classifier: FaultyClassifier, demo_clip: Path
) -> None:
    def hop() -> float:
        return decisions(log)[-1].hop_seconds

    log = Log()
    source = MediaSource(str(demo_clip), loop=True)
    listener = Listener(source, lambda: Pipeline(classifier, hop_seconds=0.5), log)
    with running(listener):
        log.wait(lambda: len(decisions(log)) >= 2, "decisions")
        classifier.pause = 0.7
        log.wait(lambda: hop() > 0.75, "a longer hop")
        assert log.wait_for_detail("too slow").state is LIVE
        classifier.pause = 0.0
        log.wait(lambda: log.statuses[-1].detail == "", "the detail to be withdrawn")
        log.wait(lambda: hop() == 0.5, "the short hop")
    assert listener.dropped == 0


def test_a_slow_machine_saves_windows_before_the_hop_grows(
    classifier: FaultyClassifier, demo_clip: Path
) -> None:
    log = Log()
    source = MediaSource(str(demo_clip), loop=True)
    listener = Listener(source, lambda: Pipeline(classifier, hop_seconds=0.5), log, effort=None)
    with running(listener):
        log.wait(lambda: len(decisions(log)) >= 2, "decisions")
        classifier.pause = 0.5
        assert log.wait_for_detail("classify every window").state is LIVE
        log.wait(lambda: decisions(log)[-1].repeated, "a window that is repeated")


def test_of_many_sources_none_begins_with_more_than_fits(
    classifier: FaultyClassifier, demo_clip: Path
) -> None:
    log, scheduler = Log(), Scheduler(1)
    scheduler.inference_seconds = 0.4
    scheduler.expect("another")
    listener = Listener(
        make_source(str(demo_clip)),
        lambda: Pipeline(classifier),
        log,
        scheduler=scheduler,
        effort=None,
    )
    with running(listener):
        status = log.wait_for_detail("classify every window")
        before = log.events[: log.events.index(status)]
    assert sum(isinstance(getattr(each, "event", None), Decision) for each in before) == 1


class ExpensiveSource(ScriptedSource):
    """Its own thread takes a minute for every tenth of a second of sound."""

    processor_seconds = 0.0

    def read(self, timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
        self.processor_seconds += 60.0
        return super().read(timeout, enough_seconds)


def test_the_hop_grows_with_the_work_of_a_source(classifier: FaultyClassifier) -> None:
    log = Log()
    with running(Listener(ExpensiveSource((60.0, None)), lambda: Pipeline(classifier), log)):
        log.wait_for_detail("too slow for more than a decision every 30.0 s")


@pytest.mark.parametrize(("fast", "paced"), [(True, True), (False, False)])
def test_the_hop_is_constant_without_pacing_and_for_sources_not_in_real_time(
    classifier: FaultyClassifier, demo_clip: Path, fast: bool, paced: bool
) -> None:
    classifier.pause = 0.05
    log = Log()
    source = make_source(str(demo_clip), fast=fast)
    listener = Listener(source, lambda: Pipeline(classifier, hop_seconds=0.04), log, paced=paced)
    with running(listener):
        log.wait(lambda: len(decisions(log)) >= 20, "decisions")
    assert listener.pipeline is not None
    assert listener.pipeline.hop_seconds == 0.04


def test_sources_that_overload_the_machine_share_it_equally(
    classifier: FaultyClassifier, demo_clip: Path
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
        counts = [len(decisions(log)) - count for log, count in zip(logs, before, strict=True)]
        hops = [listener.pipeline.hop_seconds for listener in listeners if listener.pipeline]
    # Each listener finds its own hop, so that they differ a little.
    assert max(counts) <= 2.5 * min(counts)
    assert len(hops) == 10
    assert min(hops) > 1.0


def test_sound_that_completes_no_hop_does_not_wait_for_the_windows_of_others(
    classifier: FaultyClassifier,
) -> None:
    source, log, scheduler = ScriptedSource((20.0, None)), Log(), Scheduler(1)
    listener = Listener(source, lambda: Pipeline(classifier), log, scheduler=scheduler)
    others = contextlib.ExitStack()
    others.enter_context(scheduler.slot())
    with running(listener), others:
        wait_until(lambda: scheduler.waiting == 1, "the first decision to wait")
        assert listener.pipeline is not None
        # The first decision falls 3 s after the first sample.
        assert 2.0 < listener.pipeline.position < 3.1
        assert not decisions(log)


def test_a_listener_that_is_to_start_later_stops_at_once(classifier: FaultyClassifier) -> None:
    source, log = ScriptedSource((20.0, None)), Log()
    listener = Listener(source, lambda: Pipeline(classifier), log)
    listener.start(delay=LONGEST_WAIT_SECONDS)
    assert listener.stop(LONGEST_WAIT_SECONDS)
    assert source.opened == 0
    assert log.states == [CONNECTING, ENDED]


def test_listeners_that_wait_for_the_scheduler_stop_at_once(
    classifier: FaultyClassifier, demo_clip: Path
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
        wait_until(lambda: scheduler.waiting == len(listeners), "every listener to wait")
        for listener in listeners:
            listener.request_stop()
    stop_all(listeners, LONGEST_WAIT_SECONDS)
    assert all(listener.join(0.0) for listener in listeners)
    assert all(log.states[-1] is ENDED for log in logs)
    # The end of so short a source is decided about; the hop that waited is not.
    assert all(len(decisions(log)) == 1 for log in logs)
