import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.published import (
    MELS,
    PlacingHub,
    hello,
    prediction,
    segment,
    source_state,
    spectrogram,
)
from support.schema import check_frame

from streamer.core.events import Published, SourceState, SourceStatus
from streamer.sinks import messages
from streamer.sinks.websocket.hub import (
    CONTROL_LIMIT,
    MAX_RECENT_SEGMENTS,
    MIN_RECENT_SEGMENTS,
    RECENT_SEGMENTS_PER_SOURCE,
    SPECTROGRAM_SECONDS,
    Hub,
    Outbox,
    Subscription,
    SubscriptionError,
)


class Wire:
    """A client's end of a connection: accepts frames while `open`, and keeps them."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.open = is_open
        self.frames: list[bytes] = []
        self.outbox = Outbox(self._write)

    def _write(self, frame: bytes) -> bool:
        if self.open:
            self.frames.append(frame)
        return self.open

    def drain(self) -> None:
        """Take the queued frames, as the client's sender does."""
        while (frame := self.outbox.take()) is not None:
            self.frames.append(frame)

    @property
    def messages(self) -> list[dict]:
        return [json.loads(frame) for frame in self.frames]

    @property
    def types(self) -> list[str]:
        return [frame["type"] for frame in self.messages]


def joined(hub: Hub, *, is_open: bool = True) -> Wire:
    wire = Wire(is_open=is_open)
    hub.join(wire.outbox)
    return wire


def test_a_client_that_keeps_up_is_sent_every_message_at_once():
    hub = PlacingHub(hello("radio"))
    wire = joined(hub)
    for seq in range(5):
        hub.publish(prediction(seq))
    assert [frame.get("seq") for frame in wire.messages] == [None, 0, 1, 2, 3, 4]
    assert wire.outbox.skipped == 0


def test_a_client_that_is_behind_gets_control_frames_and_the_newest_predictions():
    hub = PlacingHub(hello("radio", "hall"))
    wire = joined(hub, is_open=False)
    for seq in range(5):
        hub.publish(prediction(seq, "radio"))
        hub.publish(prediction(10 * seq, "hall"))
        hub.publish(segment(seq + 1))
        hub.publish(source_state("live", "hall", detail=str(seq)))
    assert len(wire.outbox) == 1 + 5 + 5 + 2
    wire.drain()
    assert wire.types[:3] == ["hello", "segment", "source"]
    assert [frame["id"] for frame in wire.messages if frame["type"] == "segment"] == [1, 2, 3, 4, 5]
    assert [(frame["source"], frame["seq"]) for frame in wire.messages[-2:]] == [
        ("radio", 4),
        ("hall", 40),
    ]
    assert wire.outbox.skipped == 8


def test_a_client_that_is_behind_gets_the_newest_spectrogram_columns():
    hub = PlacingHub(hello("radio"))
    wire = joined(hub, is_open=False)
    hub.subscribe(wire.outbox, {"messages": ["spectrogram"]})
    for seq in range(5):
        hub.publish(spectrogram(seq))
    wire.drain()
    assert [(frame["type"], frame.get("position")) for frame in wire.messages] == [
        ("hello", None),
        ("spectrogram", 4.0),
    ]


def test_a_frame_never_overtakes_queued_frames():
    hub = PlacingHub(hello("radio"))
    wire = joined(hub, is_open=False)
    hub.publish(segment(1))
    wire.open = True
    hub.publish(segment(2))
    assert wire.frames == []
    wire.drain()
    hub.publish(segment(3))
    assert [frame["id"] for frame in wire.messages[1:]] == [1, 2, 3]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("prediction"), st.sampled_from(["a", "b"])),
            st.tuples(st.just("segment"), st.sampled_from(["a", "b"])),
            st.tuples(st.sampled_from(["open", "shut", "take"]), st.none()),
        ),
        max_size=60,
    )
)
def test_control_frames_stay_in_order_and_the_newest_prediction_always_arrives(steps):
    wire = Wire()
    offered: dict[str, list[int]] = {"segment": [], "a": [], "b": []}
    for number, (step, source) in enumerate(steps):
        if step in ("open", "shut"):
            wire.open = step == "open"
        elif step == "take":
            frame = wire.outbox.take()
            wire.frames += [] if frame is None else [frame]
        else:
            key = source if step == "prediction" else step
            offered[key].append(number)
            wire.outbox.offer(step, source, json.dumps([key, number]).encode())
    wire.drain()
    sent = [json.loads(frame) for frame in wire.frames]
    assert [number for key, number in sent if key == "segment"] == offered["segment"]
    for source in ("a", "b"):
        numbers = [number for key, number in sent if key == source]
        assert numbers == sorted(set(numbers) & set(offered[source]))
        assert numbers[-1:] == offered[source][-1:]


def test_a_client_with_too_many_queued_control_frames_overflows():
    hub = PlacingHub(hello("radio"))
    wire = joined(hub, is_open=False)
    for number in range(CONTROL_LIMIT - 1):
        hub.publish(segment(number + 1))
    assert not wire.outbox.overflowed
    hub.publish(segment(CONTROL_LIMIT))
    assert wire.outbox.overflowed
    assert len(wire.outbox) == CONTROL_LIMIT


def test_a_message_is_encoded_once_for_all_clients(monkeypatch):
    encoded = []

    def encode(message):
        encoded.append(message["type"])
        return json.dumps(message).encode()

    hub = PlacingHub(hello("radio"))
    wires = [joined(hub) for _ in range(100)]
    monkeypatch.setattr(messages, "encode", encode)
    hub.publish(prediction(1))
    assert encoded == ["prediction"]
    assert all(wire.frames[-1] is wires[0].frames[-1] for wire in wires)


def test_a_late_client_gets_the_latest_prediction_and_segment_of_each_source():
    hub = PlacingHub(hello("radio", "hall"))
    hub.publish(source_state("stalled", "hall", detail="no sound"))
    for seq in range(3):
        hub.publish(prediction(seq, "radio"))
    hub.publish(segment(1, "radio", end=10.0, final=True))
    hub.publish(segment(2, "radio"))
    hub.publish(segment(2, "radio", confidence=0.5))
    wire = joined(hub)
    assert wire.types == ["hello", "prediction", "segment"]
    greeting, latest, open_segment = wire.messages
    assert [source["state"] for source in greeting["sources"]] == ["live", "stalled"]
    assert latest["seq"] == 2
    assert (open_segment["id"], open_segment["confidence"]) == (2, 0.5)


def test_without_a_subscription_all_types_but_spectrograms_are_sent():
    hub = PlacingHub(hello("radio"))
    wire = joined(hub)
    for message in (spectrogram(1), prediction(1), segment(1), source_state("ended")):
        hub.publish(message)
    assert wire.types == ["hello", "prediction", "segment", "source"]


def test_a_subscription_selects_sources_and_message_types():
    hub = PlacingHub(hello("radio", "hall"))
    wire, _ = joined(hub), joined(hub)
    hub.subscribe(wire.outbox, {"sources": ["hall"], "messages": ["spectrogram", "segment"]})
    for source in ("radio", "hall"):
        for message in (prediction(1, source), spectrogram(1, source), segment(1, source)):
            hub.publish(message)
    assert [(frame["type"], frame.get("source")) for frame in wire.messages] == [
        ("hello", None),
        ("spectrogram", "hall"),
        ("segment", "hall"),
    ]


def test_a_new_subscription_sends_the_latest_of_what_it_adds():
    hub = PlacingHub(hello("radio", "hall"))
    for source in ("radio", "hall"):
        hub.publish(prediction(7, source))
        hub.publish(segment(1, source))
    wire = joined(hub)
    hub.subscribe(wire.outbox, {"sources": ["radio"], "messages": ["prediction"]})
    assert wire.types == ["hello", *["prediction", "segment"] * 2]
    hub.subscribe(wire.outbox, {"sources": ["*"], "messages": ["prediction"]})
    added = [(frame["type"], frame["source"]) for frame in wire.messages[5:]]
    assert added == [("prediction", "hall")]


def test_predictions_can_be_of_fewer_sources_than_the_other_messages():
    hub = PlacingHub(hello("radio", "hall"))
    for source in ("radio", "hall"):
        hub.publish(prediction(1, source))
        hub.publish(segment(1, source))
    wire = joined(hub)
    hub.subscribe(wire.outbox, {"predictions_of": []})
    hub.subscribe(wire.outbox, {"predictions_of": ["hall"]})
    for source in ("radio", "hall"):
        for message in (prediction(2, source), segment(2, source), source_state("ended", source)):
            hub.publish(message)
    hub.subscribe(wire.outbox, {"sources": ["radio"], "predictions_of": ["*"]})
    assert [(frame["type"], frame["source"]) for frame in wire.messages[5:]] == [
        ("prediction", "hall"),
        ("segment", "radio"),
        ("source", "radio"),
        ("prediction", "hall"),
        ("segment", "hall"),
        ("source", "hall"),
        ("prediction", "radio"),
    ]


def test_queued_predictions_that_a_subscription_leaves_out_are_discarded():
    hub = PlacingHub(hello("radio", "hall"))
    wire = joined(hub, is_open=False)
    hub.publish(prediction(1, "radio"))
    hub.publish(prediction(1, "hall"))
    hub.subscribe(wire.outbox, {"sources": ["hall"]})
    wire.drain()
    assert [frame.get("source") for frame in wire.messages] == [None, "hall"]


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        ({"sources": "radio"}, "bad_subscribe", "sources must be a list of strings"),
        ({"sources": [1]}, "bad_subscribe", "sources must be a list of strings"),
        ({"sources": ["radio", 1]}, "bad_subscribe", "sources must be a list of strings"),
        ({"messages": None}, "bad_subscribe", "messages must be a list of strings"),
        ({"messages": ["predictions"]}, "bad_subscribe", "messages: 'predictions' is none of"),
        (
            {"source": ["radio"]},
            "bad_subscribe",
            "'source' is no field of subscribe; it has type, ",
        ),
        ({"\ud800" * 99: 1}, "bad_subscribe", r"'\ud800"),
        ({"predictions_of": {}}, "bad_subscribe", "predictions_of must be a list of strings"),
        ({"predictions_of": ["hall"]}, "unknown_source", "no source is named 'hall'"),
        ({"sources": ["\ud800"]}, "unknown_source", r"no source is named '\ud800'"),
        ({"sources": ["x" * 4000]}, "unknown_source", "no source is named 'xxx"),
    ],
)
def test_an_invalid_subscription_is_refused_and_changes_nothing(request_, code, reason):
    hub = PlacingHub(hello("radio"))
    wire = joined(hub)
    with pytest.raises(SubscriptionError) as refusal:
        hub.subscribe(wire.outbox, request_)
    assert refusal.value.code == code
    assert str(refusal.value).startswith(reason)
    assert len(str(refusal.value)) < 200
    assert wire.outbox.subscription == Subscription()


def test_a_client_that_left_is_sent_nothing_more():
    hub = PlacingHub(hello("radio"))
    wire = joined(hub)
    hub.leave(wire.outbox)
    hub.publish(prediction(1))
    assert wire.types == ["hello"]


def test_a_title_with_a_lone_surrogate_is_still_sent():
    hub = PlacingHub(hello("radio"))
    wire = joined(hub)
    hub.publish(segment(1, title="caf\udce9"))
    assert wire.messages[-1]["title"] == "caf?"


def test_the_state_lists_segments_in_clock_time_with_open_ones_last():
    hub = PlacingHub(hello("radio"))
    at_ten = prediction(10, time="2026-05-01T12:00:10.000Z")
    hub.publish(at_ten)
    hub.publish(segment(1))
    hub.publish(segment(1, end=10.0, final=True))
    hub.publish(segment(2, end=11.0, final=True))
    hub.publish(segment(3, title=None))
    state = hub.state()
    assert [(row["start"], row["end"], row["title"]) for row in state["segments"]] == [
        ("2026-05-01T12:00:00.000Z", "2026-05-01T12:00:10.000Z", "Song 1"),
        ("2026-05-01T12:00:10.000Z", "2026-05-01T12:00:11.000Z", "Song 2"),
        ("2026-05-01T12:00:20.000Z", None, None),
    ]
    assert state["sources"][0]["prediction"] == messages.message(at_ten)
    assert datetime.fromisoformat(state["time"]) <= datetime.now(UTC)
    assert "type" not in state


@pytest.mark.parametrize(
    ("sources", "listed"),
    [
        (1, MIN_RECENT_SEGMENTS),
        (20, 20 * RECENT_SEGMENTS_PER_SOURCE),
        (500, MAX_RECENT_SEGMENTS),
    ],
)
def test_the_state_lists_the_newest_final_segments_more_for_more_sources(sources, listed):
    hub = PlacingHub(hello(*(f"station {number}" for number in range(sources))))
    for number in range(1, listed + 4):
        hub.publish(segment(number, "station 0", final=True, end=10.0 * number))
    titles = [row["title"] for row in hub.state()["segments"]]
    assert titles == [f"Song {number}" for number in range(4, listed + 4)]


def test_a_client_that_asks_for_spectrograms_gets_the_last_half_minute_at_once():
    hub = PlacingHub(hello("radio", "hall"))
    for second in range(1, 41):
        hub.publish(spectrogram(second, columns=13, column=bytes([second]) * MELS))
    wire = joined(hub)
    hub.subscribe(wire.outbox, {"sources": ["radio"], "messages": ["spectrogram"]})
    frame = check_frame(wire.messages[-1])
    assert (frame["position"], frame["columns"]) == (40.0, SPECTROGRAM_SECONDS * 13)
    levels = base64.b64decode(frame["levels"])
    assert levels[:: 13 * MELS] == bytes(range(11, 41))
    hub.publish(spectrogram(41))
    assert wire.messages[-1]["columns"] == 13


def test_a_new_client_may_be_behind_by_the_latest_segments_of_a_thousand_sources():
    names = [f"station {number}" for number in range(1000)]
    hub = PlacingHub(hello(*names))
    for name in names:
        hub.publish(segment(1, name))
    wire = joined(hub, is_open=False)
    assert not wire.outbox.overflowed
    wire.drain()
    assert len([kind for kind in wire.types if kind == "segment"]) == 1000


def test_a_restarted_source_shows_no_spectrogram_of_before():
    hub = PlacingHub(hello("radio"))
    for position in (7, 8, 1):
        hub.publish(spectrogram(position))
    wire = joined(hub)
    hub.subscribe(wire.outbox, {"messages": ["spectrogram"]})
    assert (wire.messages[-1]["position"], wire.messages[-1]["columns"]) == (1.0, 13)


def test_a_restarted_source_has_no_open_segment_of_before():
    hub = PlacingHub(hello("radio"))
    hub.publish(prediction(10))
    hub.publish(segment(1))
    hub.publish(prediction(1))
    assert [row["end"] is None for row in hub.state()["segments"]] == [False]
    assert joined(hub).types == ["hello", "prediction"]


def test_skipped_frames_of_clients_that_left_still_count():
    hub = PlacingHub(hello("radio"))
    wires = [joined(hub, is_open=False) for _ in range(2)]
    for seq in range(4):
        hub.publish(prediction(seq))
    hub.leave(wires[0].outbox)
    assert hub.skipped == 6


def test_sources_can_be_added_and_removed():
    hub = PlacingHub(hello("radio"))
    hub.add_source("hall", "media")
    assert [source["name"] for source in hub.hello()["sources"]] == ["radio", "hall"]
    assert hub.hello()["sources"][1] == {
        "name": "hall",
        "kind": "media",
        "state": "connecting",
        "reason": "",
        "since": None,
        "next_attempt": None,
        "heard_until": None,
    }
    hub.publish(prediction(1, "hall"))
    hub.publish(segment(1, "hall"))
    hub.remove_source("hall")
    hub.publish(prediction(2, "hall"))
    assert [source["name"] for source in hub.hello()["sources"]] == ["radio"]
    assert joined(hub).types == ["hello"]
    (left,) = hub.state()["segments"]
    assert left["source"] == "hall"
    assert left["end"] is not None


def test_hello_says_why_a_source_is_off_since_when_and_until_when_it_was_heard():
    hub = PlacingHub(hello("radio"))
    hub.publish(prediction(12, time="2026-05-01T12:00:00Z", latency_ms=250.0))
    status = SourceStatus(
        "radio",
        "media",
        SourceState.RECONNECTING,
        "no data for 10 s; next attempt in 4 s",
        reason="no data for 10 s",
        retry_seconds=4.0,
    )
    noticed = datetime(2026, 5, 1, 12, 0, 10, tzinfo=UTC)
    hub.publish(Published("radio", 13, noticed, 9.75, status))
    off = {
        "name": "radio",
        "kind": "demo",
        "state": "reconnecting",
        "reason": "no data for 10 s",
        "since": "2026-05-01T12:00:00.250Z",
        "next_attempt": "2026-05-01T12:00:14.000Z",
        "heard_until": "2026-05-01T11:59:59.750Z",
    }
    assert check_frame(hub.hello())["sources"] == [off]
    assert off.items() <= hub.state()["sources"][0].items()
    hub.add_source("radio", "media")
    assert hub.hello()["sources"][0]["heard_until"] == "2026-05-01T11:59:59.750Z"


def test_a_late_client_gets_both_segments_whose_boundary_may_still_move():
    hub = PlacingHub(hello("radio"))
    hub.publish(prediction(12))
    hub.publish(segment(1))
    hub.publish(segment(1, end=10.0))
    hub.publish(segment(2))
    assert [frame["id"] for frame in joined(hub).messages[2:]] == [1, 2]
    hub.publish(segment(1, end=9.5, final=True))
    assert [frame["id"] for frame in joined(hub).messages[2:]] == [2]
    assert [row["end"] is None for row in hub.state()["segments"]] == [False, True]
