from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5
from support.broker import Mosquitto, Noted, Subscriber, mosquitto, subscriber
from support.certificate import make_certificate
from support.published import LABELS, Placer, hello, prediction, segment, source_state
from support.radio import need
from support.schema import check_frame
from support.waiting import wait_until

from streamer.core.broker import Broker
from streamer.core.colours import colours
from streamer.sinks.mqtt import connection as connection_module
from streamer.sinks.mqtt.connection import Connection
from streamer.sinks.mqtt.sink import Mqtt
from streamer.sinks.mqtt.topics import Topics
from streamer.system.backoff import Backoff

SCHEMA = json.loads((Path(__file__).parents[2] / "support/home_assistant.schema.json").read_text())
ROOT = "genre-stream/house"
SILENCE = b'"label":"silence"'


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "Backoff", lambda: Backoff(0.05, 0.1))


@contextmanager
def sink(url: str, *names: str, password: str | None = None, **changes: Any) -> Iterator[Mqtt]:
    """Run a sink that knows the sources `names`, by default "radio"."""
    predictions, owners = changes.pop("predictions", False), changes.pop("owners", None)
    made = Mqtt(
        Broker(**{"url": url, "node": "house"} | changes),
        password,
        labels=LABELS,
        colours=colours(LABELS),
        model="made-up 1",
        predictions=predictions,
        owners=owners,
        hello=lambda: hello(*names),
    )
    for name in names or ("radio",):
        made.add_source(name, "demo")
    made.start()
    try:
        yield made
    finally:
        made.close()


def play(made: Mqtt, source: str = "radio") -> None:
    """Publish what a source says within ten seconds."""
    place = Placer()
    made.publish(source_state("live", source))
    made.publish(prediction(1, source))
    made.publish(place(segment(1, source)))
    made.publish(prediction(2, source))
    made.publish(place(segment(1, source, end=10.0, final=True)))
    made.publish(prediction(11, source))
    made.publish(place(segment(2, source, title=None, state="silence", genre=None)))


@contextmanager
def dead_connection(broker: Mosquitto, *, will: Noted) -> Iterator[Callable[[], None]]:
    """Connect with a last will; give a function that cuts the connection without a goodbye."""
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.will_set(will.topic, will.payload, 1, will.retain)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    wait_until(client.is_connected, "the connection")
    client.loop_stop()
    connected = client.socket()
    assert connected
    with connected:
        yield connected.close


def is_topic(topic: str) -> Any:
    return lambda message: message.topic == topic


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def noting(broker: Mosquitto) -> Iterator[Subscriber]:
    with subscriber(broker) as running:
        yield running


def test_each_topic_has_its_payload_and_is_retained_or_not(
    broker: Mosquitto, noting: Subscriber
) -> None:
    with sink(broker.url, "radio", predictions=True) as made:
        play(made)
        noting.wait_for(lambda each: SILENCE in each.payload)
        noting.wait_for(is_topic(f"{ROOT}/radio/prediction"))
        noting.wait_for(is_topic(f"{ROOT}/radio/segment"))
        noting.wait_for(is_topic(f"{ROOT}/radio/level"))
    noting.wait_for(lambda each: each == Noted(f"{ROOT}/status", b"offline", True))
    kept = {(each.topic, each.retain) for each in noting.messages}
    assert kept == {
        (f"{ROOT}/status", True),
        (f"{ROOT}/hello", True),
        (f"{ROOT}/radio/available", True),
        (f"{ROOT}/radio/state", True),
        (f"{ROOT}/radio/level", False),
        (f"{ROOT}/radio/segment", False),
        (f"{ROOT}/radio/prediction", False),
        (f"{ROOT}/radio/open", True),
        ("homeassistant/device/genre-stream_house_radio/config", True),
    }
    assert b"MQTT" not in b"".join(noting.of(f"{ROOT}/status"))
    for name in ("prediction", "segment"):
        check_frame(json.loads(noting.of(f"{ROOT}/radio/{name}")[0]))
    check_frame(json.loads(noting.of(f"{ROOT}/hello")[-1]))
    state = json.loads(noting.of(f"{ROOT}/radio/state")[-1])
    assert set(state) == {"label", "state", "genre", "confidence", "colour", "since", "title"}
    assert (state["label"], state["genre"], state["colour"]) == ("silence", None, None)
    level = json.loads(noting.of(f"{ROOT}/radio/level")[0])
    assert set(level) == {"level_dbfs", "confidence", "top"}
    assert len(level["top"]) == 3
    assert level["top"][0][0] == "blues"


def test_the_owner_of_a_source_of_a_fleet_is_in_every_message_about_it(
    broker: Mosquitto, noting: Subscriber
) -> None:
    owners = {"radio": 7}
    with sink(broker.url, "radio", predictions=True, owners=owners) as made:
        play(made)
        noting.wait_for(lambda each: SILENCE in each.payload)
        owners["radio"] = 8
        made.add_source("radio", "demo")
        play(made)
        noting.wait_for(lambda each: SILENCE in each.payload and b'"owner":8' in each.payload)
        noting.wait_for(lambda each: each.topic.endswith("/hello") and b'"owner":8' in each.payload)
    about = [each for each in noting.messages if each.topic.startswith(f"{ROOT}/radio/")]
    written = {
        (each.topic.rpartition("/")[2], json.loads(each.payload)["owner"])
        for each in about
        if not each.topic.endswith("/available")
    }
    names = ("state", "level", "segment", "prediction", "open")
    assert written == {(name, owner) for name in names for owner in (7, 8)}
    available = [(each.owner, each.payload) for each in about if each.topic.endswith("/available")]
    assert set(available) >= {("7", b"online"), ("8", b"online")}


def test_states_are_sent_on_change_only_and_levels_every_ten_seconds(
    broker: Mosquitto, noting: Subscriber
) -> None:
    place = Placer()
    with sink(broker.url, "radio") as made:
        made.publish(source_state("live"))
        made.publish(place(segment(1)))
        noting.wait_for(is_topic(f"{ROOT}/radio/state"))
        for seq in range(1, 60):
            made.publish(prediction(seq))
            made.publish(place(segment(1, confidence=0.5 + seq / 200)))
        made.publish(place(segment(1, title="Another")))
        noting.wait_for(lambda each: b"Another" in each.payload)
    noting.wait_for(lambda each: each.payload == b"offline" and each.topic == f"{ROOT}/status")
    titles = [json.loads(payload)["title"] for payload in noting.of(f"{ROOT}/radio/state")]
    # All that is retained is sent again once the connection stands.
    assert list(dict.fromkeys(titles)) == ["Song 1", "Another"]
    assert titles.count("Another") == 1
    assert len(noting.of(f"{ROOT}/radio/level")) == 1
    assert not noting.of(f"{ROOT}/radio/prediction")


def test_the_state_is_the_same_after_a_broker_was_away(broker: Mosquitto) -> None:
    with sink(broker.url, "radio") as made:
        with subscriber(broker) as before:
            before.wait_for(is_topic(f"{ROOT}/radio/available"))
        broker.stop()
        play(made)
        wait_until(lambda: made.health().reason, "the loss to be noticed")
        assert not made.health().reachable
        broker.start()
        with subscriber(broker) as after:
            after.wait_for(lambda each: SILENCE in each.payload)
            after.wait_for(lambda each: each == Noted(f"{ROOT}/status", b"online", True))
            wait_until(lambda: not made.health().queue_depth, "all to be sent")
            assert set(after.latest()) == {
                f"{ROOT}/status",
                f"{ROOT}/hello",
                f"{ROOT}/radio/available",
                f"{ROOT}/radio/state",
                "homeassistant/device/genre-stream_house_radio/config",
            }
            assert after.latest()[f"{ROOT}/radio/available"] == b"online"
        assert made.health().reachable


def test_a_message_that_a_dying_broker_did_not_confirm_is_sent_again(broker: Mosquitto) -> None:
    link = Connection(
        Broker(url=broker.url, node="house"),
        None,
        status=None,
        subscriptions=(),
        received=lambda *_: None,
    )
    with closing(link):
        link.start()
        wait_until(lambda: link.connected, "a connection")
        broker.pause()
        link.send("a", b"1", qos=1, retain=True)
        wait_until(lambda: not link.queue_depth, "the message to be on its way")
        broker.stop()
        broker.start()
        with subscriber(broker) as after:
            after.wait_for(is_topic("a"))
        wait_until(lambda: link.sent == 1, "the broker's answer")
    assert link.dropped == 0


def test_messages_that_wait_for_the_broker_are_bounded_and_counted(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    with sink(broker.url, "radio", predictions=True) as made:
        for seq in range(connection_module.QUEUE_LIMIT + 100):
            made.publish(prediction(seq))
        health = made.health()
        assert health.dropped == 101  # and one level
        assert health.queue_depth <= connection_module.QUEUE_LIMIT + 5


def test_a_broker_that_never_answers_is_a_state_and_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection_module, "ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with sink(f"mqtt://127.0.0.1:{port}", "radio") as made:
            for _ in range(3):
                silent.accept()
            assert made.health().reason == "the broker does not answer"
    assert caplog.messages == [f"MQTT 127.0.0.1:{port}: the broker does not answer"]


def test_a_wrong_password_is_a_state_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    need("mosquitto_passwd")
    users = tmp_path / "users"
    command = ["mosquitto_passwd", "-b", "-c", str(users), "me", "right"]
    subprocess.run(command, check=True, capture_output=True)
    with mosquitto(tmp_path, f"password_file {users}") as broker:
        url = f"mqtt://me:wr%2Fong@127.0.0.1:{broker.port}"
        with sink(url, "radio") as made:
            wait_until(lambda: broker.log.read_text().count("not authorised") > 2, "three refusals")
            assert made.health().reason == "the broker refuses the connection: not authorized"
        assert len(caplog.messages) == 1
        assert "ong" not in caplog.text
        with sink(url, "radio", password="right") as made:
            wait_until(lambda: made.health().reachable, "a connection")


def test_tls_with_a_ca_and_a_client_certificate(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    key.chmod(0o644)
    lines = (f"cafile {cert}", f"certfile {cert}", f"keyfile {key}", "require_certificate true")
    broker = Mosquitto(tmp_path, *lines)
    broker.start()
    try:
        url = f"mqtts://127.0.0.1:{broker.port}"
        with sink(url, "radio", ca_file=cert, cert_file=cert, key_file=key) as made:
            wait_until(lambda: made.health().reachable, "a connection")
        with sink(url, "radio") as made:
            wait_until(lambda: made.health().reason, "a refusal")
            assert "certificate" in made.health().reason
    finally:
        broker.stop()


def test_sensors_are_built_from_the_discovery_payload(
    broker: Mosquitto, noting: Subscriber
) -> None:
    with sink(broker.url, "Küche/1") as made:
        play(made, "Küche/1")
        config = noting.wait_for(lambda each: each.topic.startswith("homeassistant/device/"))
        noting.wait_for(is_topic(f"{ROOT}/K_che_1/level"))
        wait_until(lambda: not made.health().queue_depth, "all to be sent")
    assert config.topic == "homeassistant/device/genre-stream_house_K_che_1/config"
    found = json.loads(config.payload)
    jsonschema.validate(found, SCHEMA)
    assert found["dev"]["name"] == "Küche/1"
    assert [each["t"] for each in found["avty"]] == [
        f"{ROOT}/status",
        f"{ROOT}/K_che_1/available",
    ]
    sensors = found["cmps"]
    assert {key: (each["p"], each["name"]) for key, each in sensors.items()} == {
        "genre": ("sensor", "Genre"),
        "confidence": ("sensor", "Confidence"),
        "music": ("binary_sensor", "Music"),
        "level": ("sensor", "Level"),
        "title": ("sensor", "Title"),
    }
    assert sensors["genre"]["ops"] == [*LABELS, "silence", "not_music", "uncertain"]
    assert len({each["uniq_id"] for each in sensors.values()}) == 5
    assert not sensors["level"]["en"]
    # Each template reads a field that the sensor's topic has.
    noting.wait_for(is_topic(f"{ROOT}/K_che_1/state"))
    for each in sensors.values():
        payload = json.loads(noting.of(each.get("stat_t", found["stat_t"]))[0])
        assert any(f"value_json.{name}" in each["val_tpl"] for name in payload)


def test_a_restart_of_home_assistant_gets_everything_again(
    broker: Mosquitto, noting: Subscriber
) -> None:
    with sink(broker.url, "radio") as made:
        play(made)
        noting.wait_for(lambda each: SILENCE in each.payload)
        wait_until(lambda: not made.health().queue_depth, "all to be sent")
        noting.messages.clear()
        noting.publish("homeassistant/status", b"online")
        noting.wait_for(lambda each: each.topic.endswith("/config"))
        noting.wait_for(lambda each: SILENCE in each.payload)
        noting.wait_for(is_topic(f"{ROOT}/radio/available"))


def test_a_source_that_is_removed_disappears(broker: Mosquitto, noting: Subscriber) -> None:
    with sink(broker.url, "radio", "hall") as made:
        play(made, "hall")
        noting.wait_for(lambda each: SILENCE in each.payload)
        made.remove_source("hall", ())
        noting.wait_for(lambda each: each == Noted(f"{ROOT}/hall/state", b"", True))
        wait_until(lambda: not made.health().queue_depth, "all to be sent")
        assert not [topic for topic in noting.latest() if "hall" in topic]


def test_a_source_that_was_removed_while_the_daemon_was_down_disappears(
    broker: Mosquitto, noting: Subscriber
) -> None:
    with sink(broker.url, "radio", "hall") as made:
        play(made, "hall")
        noting.wait_for(lambda each: SILENCE in each.payload)
    other = "homeassistant/device/lamp/config"
    noting.publish(other, b'{"o": {"name": "lamp"}}', retain=True)
    with sink(broker.url, "radio") as made:
        for name in ("state", "available"):
            noting.wait_for(lambda each, name=name: each == Noted(f"{ROOT}/hall/{name}", b"", True))
        noting.wait_for(lambda each: each.topic.endswith("_hall/config") and each.payload == b"")
        wait_until(lambda: not made.health().queue_depth, "all to be sent")
    with subscriber(broker) as fresh:
        fresh.wait_for(is_topic(other))
        fresh.wait_for(lambda each: each.topic.endswith("_radio/config"))
        assert not [topic for topic in fresh.latest() if "hall" in topic]


def test_a_node_stays_online_if_the_broker_learns_late_that_its_last_connection_broke(
    broker: Mosquitto, noting: Subscriber
) -> None:
    will = Noted(f"{ROOT}/status", b"offline", True)
    said = [b"online", b"offline", b"online"]
    with dead_connection(broker, will=will) as break_it, sink(broker.url):
        noting.wait_for(lambda each: each == Noted(f"{ROOT}/status", b"online", True))
        break_it()
        wait_until(lambda: noting.of(f"{ROOT}/status") == said, "online again")
    wait_until(lambda: noting.of(f"{ROOT}/status") == [*said, b"offline"], "the end")


def test_a_second_daemon_of_a_node_is_named_and_takes_nothing_away(
    broker: Mosquitto, noting: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    with sink(broker.url, "radio") as first:
        play(first)
        noting.wait_for(lambda each: SILENCE in each.payload)
        before = noting.latest()
        of_first = [topic for topic in before if "radio" in topic]
        assert len(of_first) == 3

        def is_there_again(times: int) -> bool:
            removals = [noting.of(topic).count(b"") for topic in of_first]
            latest = noting.latest()
            return removals == [times] * 3 and all(latest.get(t) == before[t] for t in of_first)

        for times in (1, 2):
            with sink(broker.url, "hall"):
                wait_until(lambda times=times: is_there_again(times), "what the first one said")
        wait_until(lambda: noting.latest()[f"{ROOT}/status"] == b"online", "the first one")
    warnings = [each.getMessage() for each in caplog.records if "mqtt.node" in each.getMessage()]
    assert set(warnings) == {
        f"MQTT 127.0.0.1:{broker.port}: {ROOT} is of another genre-stream, too: "
        "set mqtt.node of one"
    }
    assert len(warnings) <= 3  # each of the three says it once


def test_two_sources_never_share_a_topic() -> None:
    topics = Topics("genre-stream", "house", "homeassistant")
    assert topics.source("a b") != topics.source("a/b")
    assert topics.source("a b") == f"{ROOT}/a_b"
