"""Radios, with a real Icecast server: titles, formats, failures."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.listening import Log, read_one, running
from support.radio import Radio, radio

from streamer.core.events import SourceState
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline
from streamer.engine.listener import Listener
from streamer.sources import AudioBlock, Source, make_source
from streamer.sources.media import INACTIVITY_SECONDS, MediaSource
from streamer.system.backoff import Backoff

LIVE, ENDED, FAILED = SourceState.LIVE, SourceState.ENDED, SourceState.FAILED
RECONNECTING = SourceState.RECONNECTING


@pytest.fixture
def station(tmp_path: Path, demo_clip: Path) -> Iterator[Radio]:
    with radio(tmp_path, demo_clip) as station:
        yield station


def listener(source: Source, classifier: Classifier, log: Log) -> Listener:
    return Listener(source, lambda: Pipeline(classifier), log, backoff=Backoff(0.2, 1.0))


def wait_for_title(source: Source, title: str) -> AudioBlock:
    while True:
        block = read_one(source)
        if block.title == title:
            return block


def test_titles_change_with_the_audio(station: Radio) -> None:
    source = make_source(station.url)
    source.open()
    read_one(source)
    for title in ("Erste - Straße", "It's; a second='one'"):
        station.set_title(title)
        block = wait_for_title(source, title)
        assert not block.discontinuity
    source.close()


@pytest.mark.parametrize(
    ("encoder", "content_type", "container"),
    [
        (("-c:a", "aac", "-b:a", "64k"), "audio/aac", "adts"),
        (("-c:a", "libvorbis", "-q:a", "2"), "application/ogg", "ogg"),
        (("-c:a", "libopus", "-b:a", "48k"), "application/ogg", "ogg"),
        (("-c:a", "flac"), "application/ogg", "ogg"),
        (("-c:a", "aac", "-b:a", "64k"), "video/MP2T", "mpegts"),
    ],
    ids=["aac", "vorbis", "opus", "flac", "mpegts"],
)
def test_radios_of_every_format_are_decoded(
    station: Radio, encoder: tuple[str, ...], content_type: str, container: str
) -> None:
    station.stop_feeding()
    station.start_feeding(*encoder, content_type=content_type, container=container)
    source = make_source(station.url)
    source.open()
    blocks = [read_one(source) for _ in range(10)]
    source.close()
    assert source.live
    assert max(abs(block.samples).max() for block in blocks) > 0.01


def test_a_radio_whose_server_restarts_is_live_again(
    station: Radio, classifier: Classifier
) -> None:
    log = Log()
    with running(listener(make_source(station.url), classifier, log)) as running_listener:
        log.wait(lambda: len(log.pipeline_events) >= 2, "decisions")
        station.stop_server()
        log.wait_for_states(LIVE, RECONNECTING)
        log.wait_for_detail("connection refused")
        station.start_server()
        # Icecast answers 404 until the mount is fed again, which must not end the source.
        log.wait_for_detail("404")
        station.start_feeding()
        log.wait_for_states(LIVE, RECONNECTING, LIVE)
        before = len(log.pipeline_events)
        log.wait(lambda: len(log.pipeline_events) > before + 2, "decisions after the gap")
        assert running_listener.reconnect_attempts >= 2
        assert running_listener.reconnects == 1
        assert running_listener.crashes == 0
    assert log.states[-1] is ENDED
    assert FAILED not in log.states


def test_a_radio_that_hangs_times_out_and_is_live_again_later(
    station: Radio, classifier: Classifier
) -> None:
    log = Log()
    source = MediaSource(station.url, inactivity_seconds=INACTIVITY_SECONDS / 2)
    with running(listener(source, classifier, log)):
        log.wait_for_states(LIVE)
        assert station.server is not None
        station.server.send_signal(signal.SIGSTOP)
        log.wait_for_detail("no data for 5 s")
        station.server.send_signal(signal.SIGCONT)
        log.wait_for_states(LIVE, RECONNECTING, LIVE)


def test_a_mount_that_does_not_exist_is_a_permanent_error(
    station: Radio, classifier: Classifier
) -> None:
    log = Log()
    source = make_source(f"{station.url}-nothing?token=secret")
    with running(listener(source, classifier, log)) as running_listener:
        log.wait_for_states(FAILED)
        running_listener.join()
    assert log.statuses[-1].state is FAILED
    assert "404" in log.statuses[-1].detail
    assert "secret" not in log.statuses[-1].detail


def test_a_radio_whose_feed_ends_is_opened_again(station: Radio, classifier: Classifier) -> None:
    log = Log()
    with running(listener(make_source(station.url), classifier, log)):
        log.wait_for_states(LIVE)
        station.stop_feeding()
        log.wait_for_detail("the stream has ended")
        assert RECONNECTING in log.states


def test_a_radio_that_fails_does_not_affect_another_source(
    station: Radio, classifier: Classifier, demo_clip: Path
) -> None:
    radio_log, file_log = Log(), Log()
    clip = MediaSource(str(demo_clip), loop=True)
    with (
        running(listener(make_source(station.url), classifier, radio_log)),
        running(listener(clip, classifier, file_log)) as running_listener,
    ):
        radio_log.wait_for_states(LIVE)
        file_log.wait_for_states(LIVE)
        station.stop_server()
        radio_log.wait_for_states(LIVE, RECONNECTING)
        before = len(file_log.pipeline_events)
        file_log.wait(
            lambda: len(file_log.pipeline_events) > before + 3, "decisions of the other source"
        )
        assert running_listener.dropped == 0
        assert running_listener.reconnects == 0
    assert file_log.states == [SourceState.CONNECTING, LIVE, ENDED]
