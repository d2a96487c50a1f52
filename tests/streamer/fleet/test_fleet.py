from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import support.daemon
from support.broker import Mosquitto, mosquitto
from support.daemon import Daemon, daemon, run
from support.fleet import (
    Listeners,
    RayNodes,
    fleet,
    listeners,
    ray_nodes,
    wait_for_all,
    write_list,
)
from support.model import band_noise
from support.radio import free_port
from support.relay import node
from support.waiting import LONGEST_WAIT_SECONDS, wait_until
from websockets.sync.client import connect

from streamer.commands.fleet import main
from streamer.system.commandline import UserError

# A fleet moves the sources of engines that do not answer for seconds.
pytestmark = pytest.mark.alone

PATIENT = ("--patience", int(LONGEST_WAIT_SECONDS))
"""No source moves because the machine lets an engine wait."""
CHANGING = ("time", "latency_ms", "owner")
"""Fields that differ from run to run."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes(1, processors=2) as running:
        yield running


@pytest.fixture
def noting(broker: Mosquitto) -> Iterator[Listeners]:
    with listeners(broker) as running:
        yield running


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.flac"
    parts = [band_noise(third, 12.0, seed=seed) for seed, third in enumerate(("low", "high"))]
    soundfile.write(path, np.concatenate(parts), 22050)
    return path


def steady(frame: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in frame.items() if name not in CHANGING}


def test_a_recording_gives_the_same_decisions_by_daemon_fleet_and_relay(
    nodes: RayNodes, broker: Mosquitto, noting: Listeners, model: Path, song: Path, tmp_path: Path
) -> None:
    alone = run(tmp_path, "--source", f"a={song}", "--fast", "--json", "--model", model)
    frames = [json.loads(line) for line in alone.stdout.splitlines()]
    wanted = {
        kind: [steady(frame) for frame in frames if frame["type"] == kind and is_final(frame)]
        for kind in ("prediction", "segment")
    }
    assert len(wanted["prediction"]) > 20
    assert len(wanted["segment"]) == 2
    path = write_list(
        tmp_path / "list.toml",
        broker,
        [f"a={song}", f"b={song}"],
        fast=True,
        model=str(model),
    )
    relay = (*support.daemon.PATIENT, "relay", "--mqtt", broker.url)
    with (
        node(broker, "other"),  # a relay waits for a node before it serves
        daemon(tmp_path, command=relay) as relaying,
        final_segments(relaying.port) as relayed,
        fleet(tmp_path, path, "--address", nodes.address, *PATIENT) as running,
    ):
        assert running.wait() == 0, running.log
        wait_until(lambda: len(relayed) == 4, "the segments from the relay")
    for source in "ab":
        told = [steady(frame) for frame in relayed if frame["source"] == source]
        assert told == [{**frame, "source": source} for frame in wanted["segment"]]
        for kind, own in wanted.items():
            ending = f"/{source}/{kind}"
            wait_until(lambda: len(noting.frames(ending)) >= len(own), "the last messages")  # noqa: B023
            heard = [steady(frame) for frame in noting.frames(ending)]
            assert heard == [{**frame, "source": source} for frame in own]
    assert {topic.split("/")[1] for topic, _ in noting.messages} == {"fleet-1", "fleet-2"}


@contextmanager
def final_segments(port: int) -> Iterator[list[dict[str, Any]]]:
    """Return the list that the final segments of a relay are added to as they come."""
    segments: list[dict[str, Any]] = []
    with connect(f"ws://127.0.0.1:{port}", open_timeout=LONGEST_WAIT_SECONDS) as connection:

        def read() -> None:
            for text in connection:
                frame = json.loads(text)
                if frame["type"] == "segment" and frame["final"]:
                    segments.append(frame)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        yield segments
    thread.join(LONGEST_WAIT_SECONDS)


def is_final(frame: dict[str, Any]) -> bool:
    return bool(frame.get("final", True))


def test_sources_survive_their_engine_and_the_supervisor_and_follow_the_list(
    nodes: RayNodes,
    broker: Mosquitto,
    noting: Listeners,
    model: Path,
    song: Path,
    tmp_path: Path,
) -> None:
    names = ["s1", "s2", "s3", "s4"]
    path = tmp_path / "list.toml"

    def write(names: list[str]) -> None:
        sources = [f"{name}={song}" for name in names]
        write_list(path, broker, sources, loop=True, model=str(model))

    write(names)
    with fleet(tmp_path, path, "--address", nodes.address, *PATIENT) as running:
        wait_for_all(noting, names)
        first = noting.latest()
        assert {each.node for each in first.values()} == {"fleet-1", "fleet-2"}

        nodes.kill_engine("fleet-1")
        lost = {name for name, each in first.items() if each.node == "fleet-1"}
        wait_until(
            lambda: all(noting.latest()[name].owner > first[name].owner for name in lost),
            "other owners of the sources of a lost engine",
        )
        second = noting.latest()
        assert all(second[name].owner == first[name].owner for name in first.keys() - lost)

        nodes.kill_supervisor()
        wait_until(lambda: answers_with_list(nodes, 4), "the supervisor")
        since = noting.heard[-1].time
        wait_for_all(noting, names, since)
        third = noting.latest(since)
        assert {name: each.owner for name, each in third.items()} == {
            name: each.owner for name, each in second.items()
        }

        write([*names[1:], "s5"])
        running.signal(signal.SIGHUP)
        wait_for_all(noting, [*names[1:], "s5"], noting.heard[-1].time)
        wait_until(lambda: answers_with_list(nodes, 4, "s5"), "the new list")
        moved = noting.latest()
        assert all(moved[name].owner == third[name].owner for name in names[1:])

        lines = run(tmp_path, "fleet", "status", "--address", nodes.address).stdout.splitlines()
        assert lines[0].split()[:4] == ["ENGINE", "MACHINE", "SOURCES", "ROOM"]
        assert {line.split()[0] for line in lines[1:3]} == {"fleet-1", "fleet-2"}
        assert lines[3].endswith("4 live")
        text = metrics(running)
        assert 'genre_stream_fleet_sources{state="live"} 4.0' in text
        assert 'genre_stream_engine_up{engine="fleet-2"' in text

        running.signal(signal.SIGTERM)
        assert running.wait() == 0, running.log
    assert nodes.status() is None
    assert "Traceback" not in running.log


def test_a_fleet_follows_one_command_and_a_second_fleet_has_another_name(
    nodes: RayNodes, broker: Mosquitto, noting: Listeners, model: Path, song: Path, tmp_path: Path
) -> None:
    lists = {
        name: write_list(
            tmp_path / f"{name}.toml", broker, [f"{name}={song}"], loop=True, model=str(model)
        )
        for name in ("one", "two")
    }
    where = ("--address", nodes.address, *PATIENT)
    with fleet(tmp_path, lists["one"], *where) as first:
        wait_for_all(noting, ["one"])
        with fleet(tmp_path, lists["two"], *where) as refused:
            assert refused.wait() == 1
        assert refused.log.splitlines()[-1] == (
            f"genre-stream: the fleet genre-stream of this cluster follows process "
            f"{first.process.pid} on {socket.gethostname()}: stop that one first, or give this one "
            "another --name"
        )
        with fleet(tmp_path, lists["two"], *where, "--name", "second") as second:
            wait_for_all(noting, ["two"])
            assert noting.latest()["two"].node == "second-1"
            first.process.kill()
            first.wait()
            with fleet(tmp_path, lists["one"], *where) as successor:
                wait_until(lambda: follows(nodes, successor), "the successor")
                for running in (successor, second):
                    running.signal(signal.SIGTERM)
                    assert running.wait() == 0, running.log
    owners = {each.owner for each in noting.heard if each.source == "one"}
    assert len(owners) == 1


def follows(nodes: RayNodes, command: Daemon) -> bool:
    status = nodes.status()
    return status is not None and f"process {command.process.pid} " in status.command


def answers_with_list(nodes: RayNodes, sources: int, name: str | None = None) -> bool:
    """Return whether the supervisor knows where every source is."""
    status = nodes.status()
    if status is None or status.states != {"live": sources}:
        return False
    return name is None or any(name in report.owners for report in status.running)


def metrics(running: Daemon) -> str:
    line = running.wait_for_line(lambda line: "metrics on http" in line)
    url = line.split("metrics on ")[1].strip()
    return urllib.request.urlopen(url).read().decode()


def refusal(tmp_path: Path, text: str, *arguments: str) -> str:
    path = tmp_path / "list.toml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        main([str(path), *arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_error_at_the_start_is_one_line(
    broker: Mosquitto, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = f'mqtt = "{broker.url}"\nmodel = "{model}"\nsource = "demo"\n'
    port = free_port()
    assert refusal(tmp_path, good, "--mqtt", f"mqtt://127.0.0.1:{port}") == (
        f"mqtt 127.0.0.1:{port}: connection refused"
    )
    assert refusal(tmp_path, good, "--address", f"127.0.0.1:{port}") == (
        f"--address 127.0.0.1:{port}: the cluster cannot be reached (Connection refused); is "
        "'ray start --head' running there?"
    )
    assert refusal(tmp_path, good, "--address", "ray://head") == (
        "--address ray://head: should be auto, or HOST:PORT of the head of a cluster"
    )
    assert "no such file; check the path" in refusal(
        tmp_path, good.replace('"demo"', '"gone.flac"')
    )
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refusal(tmp_path, good) == (
        "fleet needs ray; install it with: pip install 'genre-stream[fleet]'"
    )
