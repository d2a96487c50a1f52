from __future__ import annotations

import base64
import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.schema import check_frame

from streamer.core.contract import Golden, ModelContract
from streamer.core.decision import Decision, Segment, State
from streamer.core.events import Published, SourceState, SourceStatus, SpectrogramColumns
from streamer.core.spectrogram import SpectrogramSpec
from streamer.sinks import messages

NOW = datetime(2026, 3, 1, 12, 30, 15, 123_456, tzinfo=UTC)

DECISION = Decision(
    position=2.9951020408163265,
    hop_seconds=1.0,
    state=State.MUSIC,
    genre="jazz",
    confidence=0.66666,
    probabilities={"blues": 0.1111133, "jazz": 0.66666, "rock": 0.2222267},
    window_probabilities={"blues": 1 / 3, "jazz": 1 / 3, "rock": 1 / 3},
    level_dbfs=-20.123456,
)

SEGMENT = Segment(3, 1.23456, None, State.NOT_MUSIC, None, 0.987654, "Artist - Söng", False)


def of(
    event: Decision | Segment | SourceStatus | SpectrogramColumns,
    sequence: int = 0,
    latency: float = 0.0,
) -> messages.Message:
    """Return the message of an event of `radio`."""
    return messages.message(Published("radio", sequence, NOW, latency, event))


def test_a_prediction_has_the_fields_of_the_protocol() -> None:
    frame = check_frame(of(DECISION, sequence=7, latency=0.012345))
    assert frame == {
        "type": "prediction",
        "source": "radio",
        "seq": 7,
        "time": "2026-03-01T12:30:15.123Z",
        "position": 2.995,
        "hop_seconds": 1.0,
        "state": "music",
        "genre": "jazz",
        "confidence": 0.6667,
        "carried": False,
        "repeated": False,
        "change": False,
        "probabilities": {"blues": 0.1111, "jazz": 0.6667, "rock": 0.2222},
        "window_probabilities": {"blues": 0.3334, "jazz": 0.3333, "rock": 0.3333},
        "level_dbfs": -20.1,
        "silence_seconds": 0.0,
        "latency_ms": 12.3,
    }


@pytest.mark.parametrize("state", [State.SILENCE, State.NOT_MUSIC, State.UNCERTAIN])
def test_a_prediction_without_a_genre_says_null(state: State) -> None:
    decision = dataclasses.replace(DECISION, state=state, genre=None, confidence=1.0)
    frame = check_frame(of(decision))
    assert (frame["state"], frame["genre"], frame["confidence"]) == (state.value, None, 1.0)


def test_the_confidence_of_a_genre_is_its_rounded_probability() -> None:
    thirds = DECISION.window_probabilities
    decision = dataclasses.replace(
        DECISION, genre="blues", confidence=thirds["blues"], probabilities=thirds
    )
    frame = of(decision)
    assert frame["confidence"] == frame["probabilities"]["blues"] == 0.3334


def test_a_segment_has_the_fields_of_the_protocol() -> None:
    assert check_frame(of(SEGMENT)) == {
        "type": "segment",
        "source": "radio",
        "id": 3,
        "start": 1.235,
        "end": None,
        "state": "not_music",
        "genre": None,
        "confidence": 0.9877,
        "title": "Artist - Söng",
        "final": False,
    }
    ended = dataclasses.replace(SEGMENT, end=99.99999, final=True)
    frame = check_frame(of(ended))
    assert (frame["end"], frame["final"]) == (100.0, True)


def test_the_levels_of_a_spectrogram_come_column_by_column() -> None:
    levels = np.array([[1, 4], [2, 5], [3, 6]], np.uint8)
    frame = check_frame(of(SpectrogramColumns(4.25, levels)))
    assert (frame["mels"], frame["columns"], frame["position"]) == (3, 2, 4.25)
    assert list(base64.b64decode(frame["levels"])) == [1, 2, 3, 4, 5, 6]


def test_hello_names_model_and_sources() -> None:
    contract = ModelContract(
        name="gtzan",
        version="1.2",
        labels=("blues", "jazz"),
        not_music=None,
        spectrogram=SpectrogramSpec(),
        window_frames=65,
        min_frames=39,
        temperature=1.0,
        decision={},
        training={},
        golden=Golden("0" * 64, 65, (0.0, 0.0)),
    )
    status = SourceStatus("radio", "media", SourceState.LIVE, "")
    frame = messages.hello(contract, [status], hop_seconds=1.0, arithmetic="int8")
    assert check_frame(frame) == {
        "type": "hello",
        "protocol": 1,
        "server": f"genre-stream {version('genre-stream')}",
        "model": {"name": "gtzan", "version": "1.2", "arithmetic": "int8"},
        "labels": ["blues", "jazz"],
        "colours": {"blues": "#3f90da", "jazz": "#92dadd"},
        "window_seconds": 5.044,
        "hop_seconds": 1.0,
        "spectrogram": SpectrogramSpec().to_dict(),
        "sources": [
            {
                "name": "radio",
                "kind": "media",
                "state": "live",
                "reason": "",
                "since": None,
                "next_attempt": None,
                "heard_until": None,
            }
        ],
    }


def test_source_heartbeat_and_error_have_the_fields_of_the_protocol() -> None:
    detail = "no audio for 3 s; next attempt in 4 s"
    status = SourceStatus(
        "radio",
        "media",
        SourceState.STALLED,
        detail,
        reason="no audio for 3 s",
        retry_seconds=4.25,
    )
    assert check_frame(of(status, latency=3.1)) == {
        "type": "source",
        "source": "radio",
        "state": "stalled",
        "detail": detail,
        "reason": "no audio for 3 s",
        "since": "2026-03-01T12:30:12.023Z",
        "next_attempt": "2026-03-01T12:30:19.373Z",
    }
    assert check_frame(messages.heartbeat(NOW)) == {
        "type": "heartbeat",
        "time": "2026-03-01T12:30:15.123Z",
    }
    assert check_frame(messages.error("bad_json", "not JSON")) == {
        "type": "error",
        "code": "bad_json",
        "message": "not JSON",
    }


def test_times_are_in_utc_with_milliseconds() -> None:
    elsewhere = datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert messages.timestamp(elsewhere) == "2025-12-31T23:00:00.000Z"
    with pytest.raises(ValueError, match="time must have a time zone"):
        messages.timestamp(datetime(2026, 1, 1))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_express_is_refused(number: float) -> None:
    decision = dataclasses.replace(DECISION, level_dbfs=number)
    frame = of(decision)
    with pytest.raises(ValueError, match="not JSON compliant"):
        messages.encode(frame)


def test_messages_are_compact_and_keep_non_ascii_letters() -> None:
    text = messages.encode(of(SEGMENT)).decode()
    assert '"title":"Artist - Söng"' in text
    assert json.loads(text) == of(SEGMENT)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda p: sum(p) > 1e-3))
def test_rounded_probabilities_still_sum_to_one(weights: list[float]) -> None:
    probabilities = {str(i): weight / sum(weights) for i, weight in enumerate(weights)}
    rounded = messages.shares(probabilities)
    assert sum(rounded.values()) == pytest.approx(1, abs=1e-9)
    assert list(rounded) == list(probabilities)
    for label, share in rounded.items():
        assert share == round(share, 4)
        assert abs(share - probabilities[label]) < 1e-4


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20).filter(lambda p: sum(p) > 1e-3))
def test_rounding_keeps_the_order(weights: list[float]) -> None:
    probabilities = {str(i): weight / sum(weights) for i, weight in enumerate(weights)}
    rounded = messages.shares(probabilities)
    best = max(probabilities, key=lambda label: probabilities[label])
    assert rounded[best] == max(rounded.values())
