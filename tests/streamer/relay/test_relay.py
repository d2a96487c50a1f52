from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import support.daemon
from support.broker import mosquitto, subscriber
from support.model import band_noise
from support.published import hello, prediction, segment, source_state
from support.radio import free_port
from support.relay import node, relay
from support.schema import check_frame
from support.waiting import LONGEST_WAIT_SECONDS, wait_until
from websockets.asyncio.client import connect
from websockets.sync.client import connect as connect_here

from streamer.commands import run as cli
from streamer.engine.publisher import Publisher
from streamer.relay import frames, service
from streamer.relay.nodes import FrameClock, Nodes
from streamer.settings import load
from streamer.sinks import messages
from streamer.sinks.mqtt.connection import Connection
from streamer.system.commandline import UserError
from streamer.system.notify import Notifier

RATE = 22_050


@pytest.fixture
def broker(tmp_path):
    with mosquitto(tmp_path) as running:
        yield running


class Listener:
    """A WebSocket client that notes every frame."""

    def __init__(self, connection):
        self._connection = connection
        self.frames = []

    async def until(self, wanted, *, since=0):
        """Return the first frame from number `since` on of which `wanted` is true."""
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            while not (found := list(filter(wanted, self.frames[since:]))):
                self.frames.append(check_frame(json.loads(await self._connection.recv())))
        return found[0]

    def of(self, kind):
        return [frame for frame in self.frames if frame["type"] == kind]


@contextlib.asynccontextmanager
async def listening(made):
    async with connect(made.server.url.replace("http", "ws")) as connection:
        yield Listener(connection)


def is_seq(number, source=None):
    return lambda frame: (
        frame.get("seq") == number and frame["source"] == (source or frame["source"])
    )


def in_state(name, state):
    return lambda frame: (
        frame["type"] == "source" and frame["source"] == name and frame["state"] == state
    )


def names(made):
    return sorted(states(made))


def states(made):
    return {source["name"]: source["state"] for source in made.hub.hello()["sources"]}


async def until(condition):
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.002)


def test_frames_come_out_as_the_node_made_them(broker):
    async def scenario():
        began = datetime.now(UTC) - timedelta(seconds=30)
        with node(broker, "house", "radio") as house:
            async with relay(broker) as made, listening(made) as client:
                first = await client.until(lambda frame: frame["type"] == "hello")
                events = [
                    source_state("live", time=began),
                    prediction(1, time=began, latency_ms=123.4),
                    segment(1),
                    prediction(2, genre=None, state="uncertain", change=True),
                    segment(1, end=10.0, final=True),
                    segment(2, state="silence", genre=None, title=None),
                    source_state("reconnecting", detail="gone", retry_seconds=30.0),
                    prediction(3),
                ]
                house.publish(*events)
                await client.until(is_seq(3))
                await client.until(in_state("radio", "reconnecting"))
        sent = [check_frame(json.loads(encode(event))) for event in events]
        for kind in ("prediction", "segment"):
            assert client.of(kind) == [each for each in sent if each["type"] == kind]
        (last,) = [each for each in client.of("source") if each["state"] == "reconnecting"]
        wanted = sent[-2]
        assert {**last, "detail": ""} == {**wanted, "detail": ""}
        plain = hello("radio")
        assert {key: first[key] for key in plain if key not in ("server", "sources")} == {
            key: plain[key] for key in plain if key not in ("server", "sources")
        }
        assert first["sources"][0]["name"] == "radio"

    asyncio.run(scenario())


def test_no_field_of_a_decision_is_lost_in_a_frame():
    changes = {"state": "silence", "genre": None, "carried": True, "change": True}
    event = prediction(1, **changes, silence_seconds=7.0, repeated=True, hop_seconds=2.0)
    decision = event.event
    for field in dataclasses.fields(decision):
        if field.name in {"whole", "cut"}:  # of use to the smoothing alone, so not sent
            continue
        assert getattr(decision, field.name) != field.default, (
            f"{field.name}: nothing would be lost"
        )
    assert frames.decision(messages.message(event)) == decision


def test_a_source_has_the_time_of_a_window_for_its_first_decision():
    clock = FrameClock()
    nodes = Nodes(Publisher([], clock), clock, lambda hello: None)
    nodes.receive("house/hello", json.dumps(hello("radio")).encode())
    assert [each.quiet_seconds for each in nodes.health()] == [0.0]


def encode(event):
    return messages.encode(messages.message(event))


def test_a_relay_that_starts_later_knows_states_and_open_segments(broker):
    async def scenario():
        with node(broker, "house", "radio") as house:
            house.publish(source_state("live"), prediction(1), segment(1), prediction(2))
            async with relay(broker) as made, listening(made) as client:
                greeting = await client.until(lambda frame: frame["type"] == "hello")
                house.publish(prediction(3))
                await client.until(is_seq(3))
                found = await client.until(lambda frame: frame["type"] == "segment")
                assert found["title"] == "Song 1"
                assert (await state_of(made))["segments"][0]["title"] == "Song 1"
        assert greeting["sources"][0]["state"] == "live"

    asyncio.run(scenario())


async def state_of(made):
    def read():
        with urllib.request.urlopen(f"{made.server.url}api/state") as answer:
            return json.load(answer)

    return await asyncio.to_thread(read)


def test_names_that_two_nodes_have_get_the_name_of_the_node(broker):
    async def scenario():
        with node(broker, "kitchen", "mic", "radio"):
            async with relay(broker) as made, listening(made) as client:
                assert names(made) == ["mic", "radio"]
                with node(broker, "hall", "mic") as hall:
                    await until(lambda: names(made) == ["hall/mic", "kitchen/mic", "radio"])
                    hall.publish(prediction(1, "mic"))
                    await client.until(is_seq(1, "hall/mic"))
                    hall.remove("mic")
                    await until(lambda: names(made) == ["mic", "radio"])

    asyncio.run(scenario())


def test_a_node_that_goes_is_shown_as_gone_until_it_is_back(broker):
    async def scenario():
        with node(broker, "kitchen", "radio", "mic"), node(broker, "hall", "music") as hall:
            hall.publish(source_state("live", "music"))
            async with relay(broker) as made, listening(made) as client:
                await client.until(lambda frame: frame["type"] == "hello")
                await until(lambda: states(made)["music"] == "live")
                hall.close()
                gone = await client.until(in_state("music", "reconnecting"))
                assert gone["detail"] == "node hall is gone"
                with node(broker, "hall", "music") as again:
                    again.publish(source_state("live", "music"))
                    await client.until(in_state("music", "live"), since=client.frames.index(gone))
                assert not [frame for frame in client.of("source") if frame["source"] == "radio"]

    asyncio.run(scenario())


def test_messages_of_an_older_owner_are_dropped(broker):
    async def scenario():
        with (
            node(broker, "engine-1", "radio", owners={"radio": 1}) as old,
            node(broker, "engine-2", "other", owners={"other": 1}) as new,
        ):
            old.publish(source_state("live"), prediction(1))
            async with relay(broker) as made, listening(made) as client:
                await client.until(lambda frame: frame["type"] == "hello")
                old.publish(prediction(2))
                await client.until(is_seq(2))
                new.sink._owners["radio"] = 2
                new.add("radio")
                new.publish(source_state("live"), prediction(101))
                await client.until(is_seq(101))
                # The broker keeps the order of what one sender sends.
                old.publish(prediction(3), segment(1, end=10.0, final=True))
                old.publish(source_state("stalled"))
                old.publish(prediction(4, "radio"))
                await until(lambda: made.nodes.ignored >= 3)
                new.publish(prediction(102))
                await client.until(is_seq(102))
                assert names(made) == ["other", "radio"]
        assert [frame["seq"] for frame in client.of("prediction")][-3:] == [2, 101, 102]
        assert not client.of("segment")
        assert "stalled" not in [frame["state"] for frame in client.of("source")]

    asyncio.run(scenario())


def test_damaged_messages_are_ignored_and_said_once_of_each_node(broker, caplog):
    async def scenario():
        with node(broker, "house", "radio") as house, subscriber(broker) as stranger:
            async with relay(broker) as made, listening(made) as client:
                root = "genre-stream/house"
                for payload in (b"", b"no JSON", b"[]", b"{}", b'{"source":"radio"}', b"\xff"):
                    for topic in ("hello", "radio/prediction", "radio/segment", "radio/open"):
                        if payload or topic != "hello":
                            stranger.publish(f"{root}/{topic}", payload)
                broken = {**hello("radio"), "sources": [{"name": "radio", "state": "odd"}]}
                stranger.publish(f"{root}/hello", json.dumps(broken).encode())
                newer = {**hello("other"), "protocol": 2}
                stranger.publish("genre-stream/newer/hello", json.dumps(newer).encode())
                house.publish(prediction(1))
                await client.until(is_seq(1))
                await until(lambda: "newer" in caplog.text)
                assert names(made) == ["radio"]

    asyncio.run(scenario())
    assert [line for line in caplog.messages if "not understood" in line] == [
        "house/hello: not understood, left out (it is not JSON)",
        "newer/hello: not understood, left out (protocol 2, not 1: update this relay)",
    ]


def test_fields_that_a_newer_node_adds_are_ignored(broker):
    def newer(frame):
        return json.dumps(frame | {"mood": "calm"}).encode()

    async def scenario():
        with node(broker, "house", "radio") as house, subscriber(broker) as stranger:
            house.publish(source_state("live"))
            async with relay(broker) as made, listening(made) as client:
                greeting = hello("radio", "hall")
                greeting["sources"][1]["mood"] = "calm"
                stranger.publish("genre-stream/house/hello", newer(greeting))
                await until(lambda: names(made) == ["hall", "radio"])
                event = prediction(1, "hall")
                frame = newer(messages.message(event))
                stranger.publish("genre-stream/house/hall/prediction", frame)
                assert await client.until(is_seq(1, "hall")) == messages.message(event)

    asyncio.run(scenario())


def test_what_a_broker_keeps_of_a_node_that_is_gone_is_shown_as_gone(broker):
    async def scenario():
        with node(broker, "hall", "music") as hall, subscriber(broker) as noting:
            hall.publish(source_state("live", "music"))
            await asyncio.to_thread(
                noting.wait_for,
                lambda each: each.topic.endswith("/hello") and b'"live"' in each.payload,
            )
        with node(broker, "house", "radio") as house, subscriber(broker) as stranger:
            house.publish(source_state("live"))
            async with relay(broker) as made:
                await until(lambda: states(made) == {"music": "reconnecting", "radio": "live"})
                assert made.hub.hello()["sources"][0]["reason"] == "node hall is gone"
                stranger.publish("genre-stream/hall/hello", b"", retain=True)
                await until(lambda: names(made) == ["radio"])

    asyncio.run(scenario())


def test_times_are_those_of_the_nodes_however_wrong_their_clocks(broker, tmp_path):
    async def scenario():
        early, late = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-5, 5))
        with node(broker, "house", "radio", "hall") as house:
            async with (
                relay(broker, history=tmp_path / "h.db") as made,
                listening(made) as client,
            ):
                for number in (1, 2):
                    moment = timedelta(seconds=number)
                    house.publish(
                        prediction(number, "radio", time=early + moment),
                        prediction(number, "hall", time=late + moment),
                    )
                seen = [await client.until(is_seq(2, name)) for name in ("radio", "hall")]
                for frame, time in zip(seen, (early, late), strict=True):
                    told = datetime.fromisoformat(frame["time"])
                    assert abs(told - time - timedelta(seconds=2)) < timedelta(milliseconds=2)
                assert {each["state"] for each in made.hub.hello()["sources"]} == {"connecting"}

    asyncio.run(scenario())


def test_a_broker_that_goes_is_said_and_comes_back(broker):
    async def scenario():
        with node(broker, "house", "radio") as house:
            house.publish(source_state("live"))
            async with relay(broker) as made, listening(made) as client:
                watching = asyncio.create_task(made.watch())
                await until(lambda: states(made)["radio"] == "live")
                broker.stop()
                lost = await client.until(in_state("radio", "reconnecting"))
                assert lost["detail"].startswith("MQTT broker: ")
                broker.start()
                await client.until(in_state("radio", "live"), since=client.frames.index(lost))
                watching.cancel()

    asyncio.run(scenario())


def sound():
    """Return 12 s of low, 5 s of no and 12 s of high sound, as raw samples."""
    parts = (band_noise("low", 12, RATE), np.zeros(5 * RATE), band_noise("high", 12, RATE))
    return (np.concatenate(parts) * 32767).astype("<i2").tobytes()


def frames_until_the_end(url, started, kept):
    """Keep what a client is sent until the first source has ended or the server closes."""
    with connect_here(url) as connection:
        for text in connection:
            frame = check_frame(json.loads(text))
            if frame["type"] == "hello":
                started.set()
            kept.append(frame)
            if (
                frame["type"] == "source"
                and frame["source"] == "hall"
                and frame["state"] == "ended"
            ):
                return


def page_of(part, page):
    """Return the JSON of a page, also of one that reports a failure."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{part.port}/{page}") as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


def pages_of(part):
    """Return what the pages say about a source that has ended and one that was never reached."""
    state, history, health = (
        page_of(part, page) for page in ("api/state", "api/history", "healthz")
    )
    ended, retried = state["sources"]
    # These follow from latencies, positions and levels, which frames have rounded.
    del ended["heard_until"], history["minutes"]
    for row in (*state["segments"], *history["segments"]):
        del row["start"]
        row["end"] = row["end"] is not None
    for changing in ("since", "next_attempt", "detail", "heard_until"):
        del retried[changing]
    # A relay that starts later, or is told of two states at once, knows of fewer.
    del state["states"], history["states"]
    for changing in (state.pop("time"), history.pop("from"), history.pop("to")):
        assert datetime.fromisoformat(changing)
    assert [each["reachable"] for each in state.pop("outputs")] == [True]
    del health["sources"]["hall"]["seconds_since_decision"]
    return state, history, health["sources"]["hall"], health["sources"]["off"]["state"]


def test_frames_and_pages_about_a_recording_are_the_same_by_daemon_and_relay(
    model, tmp_path, broker
):
    raw = ("--source", "hall=-", "--rate", RATE, "--channels", 1, "--fast", "--model", model)
    unreachable = ("--source", f"off=http://127.0.0.1:{free_port()}/")
    to_broker = ("--mqtt", broker.url, "--mqtt-predictions", "--history", tmp_path / "daemon.db")
    to_relay = ("--mqtt", broker.url, "--history", tmp_path / "relay.db")
    with (
        support.daemon.daemon(
            tmp_path, *raw, *unreachable, *to_broker, stdin=subprocess.PIPE
        ) as daemon,
        support.daemon.daemon(
            tmp_path, *to_relay, command=(*support.daemon.PATIENT, "relay")
        ) as relaying,
    ):
        received = {}
        threads = []
        for part in (daemon, relaying):
            started, kept = threading.Event(), received.setdefault(part, [])
            url = f"ws://127.0.0.1:{part.port}"
            thread = threading.Thread(target=frames_until_the_end, args=(url, started, kept))
            thread.start()
            threads.append(thread)
            assert started.wait(LONGEST_WAIT_SECONDS)
        daemon.process.stdin.buffer.write(sound())
        daemon.process.stdin.close()
        for thread in threads:
            thread.join(LONGEST_WAIT_SECONDS)
        # What ended last is still on its way to the histories.
        wait_until(lambda: pages_of(relaying) == pages_of(daemon), "the same pages")
        for part in (relaying, daemon):
            part.signal(signal.SIGTERM)
            assert part.wait() == 0
    for kind in ("prediction", "segment"):
        heard, relayed = (
            [frame for frame in kept if frame["type"] == kind] for kept in received.values()
        )
        assert heard == relayed
        assert heard
    assert {frame["genre"] for frame in heard} == {"low", "high", None}


WRONG_USAGE = [
    (["--port", "0"], "a relay needs a broker: --mqtt mqtt[s]://[user:password@]host[:port]"),
    (["--mqtt", "http://host"], "should be mqtt[s]://[user:password@]host[:port]"),
    (["--sorce", "x"], "unrecognized arguments: --sorce x; see genre-stream relay --help"),
    (
        ["--mqtt", "mqtt://host", "--token-file", "/none"],
        "token_file /none cannot be read: No such file or directory",
    ),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG_USAGE)
def test_wrong_usage_of_a_relay_is_one_line_and_status_2(
    arguments, sentence, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["relay", *arguments]) == 2
    written = capfd.readouterr().err
    assert written.startswith("genre-stream: ")
    assert written.endswith(f"{sentence}\n")
    assert written.count("\n") == 1


def log_of_refused_relay(home, url):
    """Return what a relay logs before it ends with status 1."""
    command = (*support.daemon.PATIENT, "relay", "--mqtt", url)
    with support.daemon.daemon(home, command=command) as running:
        assert running.wait() == 1, running.log
    return running.log


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
def test_a_broker_that_cannot_be_reached_is_one_line(host, tmp_path):
    port = free_port()
    log = log_of_refused_relay(tmp_path, f"mqtt://{host}:{port}")
    assert re.fullmatch(rf"genre-stream: MQTT {re.escape(host)}:{port}: .*\n", log), log


def test_a_broker_that_has_failed_before_the_relay_waits_for_it_is_one_line(monkeypatch, caplog):
    begin = Connection.start

    def begin_and_fail(connection):
        begin(connection)
        wait_until(lambda: connection.reason, "the connection to fail")

    monkeypatch.setattr(Connection, "start", begin_and_fail)
    monkeypatch.setattr(service.CONNECTION_LOGGER, "filters", [])  # they outlast a failed start

    async def scenario():
        settings = load({"mqtt": f"mqtt://127.0.0.1:{free_port()}", "port": 0}).settings
        made = service.Relay(settings, Notifier())
        try:
            await made.start()
        finally:
            await made.close()

    with pytest.raises(UserError, match="MQTT 127"):
        asyncio.run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_refusing_broker_is_one_line(tmp_path):
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "me", "secret"], check=True)
    with mosquitto(tmp_path, f"password_file {passwords}") as broker:
        url = broker.url.replace("//", "//me:wrong@")
        log = log_of_refused_relay(tmp_path, url)
    where = f"genre-stream: MQTT 127.0.0.1:{broker.port}: "
    assert log.startswith(f"{where}the broker refuses the connection: not authorized")
    assert log.count("\n") == 1


def test_a_relay_says_that_no_node_or_no_prediction_has_come(broker, monkeypatch, caplog):
    monkeypatch.setattr(service, "PATIENCE_SECONDS", 0.1)

    async def scenario():
        starting = asyncio.create_task(started())
        await until(lambda: "no node is there yet; start genre-stream with --mqtt" in caplog.text)
        with node(broker, "house", "radio", predictions=False) as house:
            house.publish(source_state("live"))
            await starting

    async def started():
        async with relay(broker) as made:
            watching = asyncio.create_task(made.watch())
            await until(lambda: "node house sends no predictions; start it with" in caplog.text)
            watching.cancel()

    asyncio.run(scenario())
