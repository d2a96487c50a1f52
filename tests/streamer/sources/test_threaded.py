"""The queue between a producing thread and its reader: bounds, clocks, ends."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
from support.waiting import LONGEST_WAIT_SECONDS as PATIENCE

from streamer.sources import AudioBlock, SourceEnded, SourceError
from streamer.sources.threaded import AHEAD_SECONDS, LIVE_SECONDS, Session, Waiting


def block(seconds: float, heard: float = 0.0, rate: int = 1000) -> AudioBlock:
    return AudioBlock(np.zeros((round(seconds * rate), 1), np.float32), rate, heard)


def live_session(*, paced: bool) -> Session:
    session = Session(paced=paced)
    session.patient = False
    return session


def test_when_a_live_source_is_not_read_the_oldest_goes_and_is_counted() -> None:
    session = live_session(paced=False)
    for second in range(int(LIVE_SECONDS) + 10):
        session.put(block(1.0, heard=float(second)))
    assert len(session) == LIVE_SECONDS
    first = session.get(0.0)
    assert first is not None
    assert (first.heard, first.dropped, first.discontinuity) == (10.0, 10_000, True)
    second = session.get(0.0)
    assert second is not None
    assert (second.heard, second.dropped, second.discontinuity) == (11.0, 0, False)


def test_live_sources_that_are_behind_together_share_a_limit_fairly() -> None:
    eight_seconds = 8 * block(1.0).samples.nbytes
    waiting = Waiting(eight_seconds)
    sessions = [Session(paced=False, waiting=waiting) for _ in range(4)]
    for session in sessions:
        session.patient = False
    alone = sessions[0]
    for _ in range(10):
        alone.put(block(1.0))
    assert len(alone) == 8
    for _ in range(10):
        for session in sessions:
            session.put(block(1.0))
    assert [len(session) for session in sessions] == [2, 2, 2, 2]
    after = alone.get(0.0)
    assert after is not None
    assert (after.dropped, after.discontinuity) == (18_000, True)
    for session in sessions[1:]:
        session.stop()
    for _ in range(10):
        alone.put(block(1.0))
    assert len(alone) == 8


def test_a_file_waits_for_its_reader_and_loses_nothing() -> None:
    session = Session(paced=False)
    done = threading.Event()

    def produce() -> None:
        for number in range(20):
            session.put(block(1.0, heard=float(number)))
        done.set()

    threading.Thread(target=produce, daemon=True).start()
    assert not done.wait(0.2)
    heard = [session.get(PATIENCE) for _ in range(20)]
    assert [one.heard for one in heard if one] == [float(number) for number in range(20)]
    assert done.wait(PATIENCE)
    assert AHEAD_SECONDS < 20


def test_a_burst_from_a_live_source_is_released_in_real_time() -> None:
    session = live_session(paced=True)
    now = time.monotonic()
    for _ in range(5):
        session.put(block(0.1, heard=now))
    heard = [one.heard for _ in range(5) if (one := session.get(PATIENCE))]
    np.testing.assert_allclose(np.subtract(heard, now), [0.0, 0.1, 0.2, 0.3, 0.4], atol=1e-9)
    assert time.monotonic() >= now + 0.4


def test_a_block_is_never_heard_before_it_has_arrived() -> None:
    session = live_session(paced=True)
    now = time.monotonic()
    session.put(block(0.1, heard=now))
    session.put(block(0.1, heard=now + 0.5))
    session.put(block(0.1, heard=now + 0.5))
    heard = [one.heard for _ in range(3) if (one := session.get(PATIENCE))]
    np.testing.assert_allclose(np.subtract(heard, now), [0.0, 0.5, 0.6], atol=1e-9)


def test_lost_audio_does_not_make_the_rest_late() -> None:
    session = live_session(paced=True)
    now = time.monotonic()
    session.put(block(0.1, heard=now))
    assert session.get(PATIENCE)
    for _ in range(round((LIVE_SECONDS + 2) / 0.5)):
        session.put(block(0.5, heard=now))
    # Two seconds were lost; the next block is due two and a half seconds after the first.
    assert session.get(0.5) is None
    after = session.get(PATIENCE)
    assert after is not None
    assert after.dropped == 2000
    assert after.heard == pytest.approx(now + 2.5, abs=0.01)


def test_the_end_comes_after_what_was_heard_before_it() -> None:
    session = Session(paced=False)
    session.put(block(0.1))
    session.end(SourceError("broken"))
    assert session.get(0.0) is not None
    with pytest.raises(SourceError, match="broken"):
        session.get(0.0)


def test_stopping_frees_a_waiting_producer_and_a_waiting_reader() -> None:
    session = Session(paced=False)
    session.put(block(AHEAD_SECONDS))
    producer = threading.Thread(target=session.put, args=(block(1.0),), daemon=True)
    producer.start()
    session.stop()
    producer.join(PATIENCE)
    assert not producer.is_alive()
    with pytest.raises(SourceEnded):
        session.get(PATIENCE)


def test_an_error_that_comes_of_stopping_is_not_told() -> None:
    session = Session(paced=False)
    session.stop()
    session.end(SourceError("the connection was closed"))
    with pytest.raises(SourceEnded):
        session.get(0.0)


def test_nothing_due_is_none_after_the_timeout() -> None:
    assert Session(paced=True).get(0.01) is None


def test_what_is_due_already_is_read_in_pieces_of_a_second() -> None:
    session = live_session(paced=True)
    long_ago = time.monotonic() - 100.0
    for number in range(25):
        session.put(block(0.1, heard=long_ago + 0.1 * number))
    pieces = [session.get(0.0) for _ in range(3)]
    assert [piece.seconds for piece in pieces if piece] == pytest.approx([1.0, 1.0, 0.5])
    assert [piece.heard for piece in pieces if piece] == pytest.approx(
        [long_ago + 0.9, long_ago + 1.9, long_ago + 2.4]
    )
    assert session.get(0.0) is None


def test_a_piece_ends_where_a_title_or_a_break_begins() -> None:
    session = live_session(paced=True)
    plain = block(0.1, heard=time.monotonic() - 100.0)
    session.put(plain)
    session.put(dataclasses.replace(plain, title="Song"))
    session.put(dataclasses.replace(plain, title="Song"))
    session.put(dataclasses.replace(plain, title="Song", discontinuity=True))
    pieces = [session.get(0.0) for _ in range(3)]
    assert [piece and (piece.title, piece.discontinuity) for piece in pieces] == [
        (None, False),
        ("Song", False),
        ("Song", True),
    ]
    assert [piece.seconds for piece in pieces if piece] == pytest.approx([0.1, 0.2, 0.1])
