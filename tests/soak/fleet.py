"""Kills engines, machines and the supervisor of a fleet at random, and checks every source.

Run it as ``PYTHONPATH=.:tests python tests/soak/fleet.py --rounds 10 --seed 1``. Sixty sources on a
Ray cluster of three nodes, a broker, a relay and a client of it: after each fault every source is
decided about again within 30 s, none is published by two owners for longer, and none is lost. The
client hears no source of two owners in turn. At the end the head of the cluster is killed: the
command and all engines end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.broker import mosquitto
from support.daemon import COMMAND, Daemon, daemon
from support.fleet import Listeners, RayNodes, fleet, listeners, ray_nodes, write_list
from support.model import LABELS, band_noise, make_model
from support.songs import write_audio
from support.waiting import LONGEST_WAIT_SECONDS
from websockets.sync.client import connect

from streamer.fleet.reports import EngineStatus

LIMIT_SECONDS = 30.0
FAULTS = ("engine", "machine", "supervisor", "frozen")
"""A process of an engine is killed, a node is removed, the supervisor is killed, or the process of
an engine is stopped, so that it comes back after others have its sources."""
SETTLE_SECONDS = 25.0
"""Time without a new owner after which the next fault comes; loads are evened out in between."""


HEAD_SECONDS = 90.0
"""Time in which a fleet ends whose head was killed; Ray takes a minute to believe it."""


class RelayClient:
    """Notes the predictions that a relay sends."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        """Predictions of each source."""
        self.restarts: Counter[str] = Counter()
        """How often the positions of a source began anew, as they do with every owner."""
        self.failure: Exception | None = None
        self._position: dict[str, float] = {}

    def listen(self, connection: Iterator[str | bytes]) -> None:
        """Note what comes until the connection ends."""
        try:
            for text in connection:
                frame = json.loads(text)
                if frame["type"] == "prediction":
                    self._note(frame["source"], frame["position"])
        except Exception as error:
            self.failure = error

    def _note(self, source: str, position: float) -> None:
        self.heard[source] += 1
        if position <= self._position.get(source, 0.0):
            self.restarts[source] += 1
        self._position[source] = position


@contextmanager
def relay_client(port: int) -> Iterator[RelayClient]:
    """Listen to a relay."""
    client = RelayClient()
    with connect(f"ws://127.0.0.1:{port}", max_size=None) as connection:
        connection.send(json.dumps({"type": "subscribe", "messages": ["prediction"]}))
        thread = threading.Thread(target=client.listen, args=(connection,), daemon=True)
        thread.start()
        yield client
        if client.failure:
            raise client.failure
    thread.join(LONGEST_WAIT_SECONDS)


def main() -> int:
    """Run the rounds; return 1 if a source was late, doubled or lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sources", type=int, default=60)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--model", type=Path, help="instead of a small one")
    parser.add_argument("--hop-seconds", type=float, default=1.0)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    names = [f"s{number}" for number in range(arguments.sources)]
    with tempfile.TemporaryDirectory() as text, mosquitto(folder := Path(text)) as broker:
        model = arguments.model or make_model(folder / "thirds.onnx")
        songs = [write_audio(folder / f"{label}.flac", band_noise(label, 30.0)) for label in LABELS]
        sources = [f"{name}={songs[number % 3]}" for number, name in enumerate(names)]
        path = write_list(
            folder / "list.toml",
            broker,
            sources,
            loop=True,
            model=str(model),
            hop_seconds=arguments.hop_seconds,
        )
        with (
            ray_nodes(arguments.nodes) as nodes,
            listeners(broker) as noting,
            fleet(folder, path, "--address", nodes.address) as running,
        ):
            since = time.monotonic()
            _wait(lambda: noting.latest().keys() >= set(names), 120.0)
            print(f"all {len(names)} decided after {time.monotonic() - since:.1f} s", flush=True)
            relay = (*COMMAND, "relay", "--mqtt", broker.url)
            with daemon(folder, command=relay) as relaying, relay_client(relaying.port) as client:
                _wait(lambda: client.heard.keys() >= set(names), 120.0)
                known = {name: each.owner for name, each in noting.latest().items()}
                failures = [
                    problem
                    for number in range(arguments.rounds)
                    for fault in [generator.choice(arguments.faults)]
                    for problem in _round(
                        number + 1, fault, generator, nodes, noting, client, names
                    )
                ]
                if (overlap := noting.overlap()) > LIMIT_SECONDS:
                    failures.append(f"two owners for {overlap:.1f} s")
                print(f"longest time with two owners: {overlap:.1f} s")
                owners = {(each.source, each.owner) for each in noting.heard}
                later = Counter(source for source, owner in owners if owner > known[source])
                if in_turn := sorted(client.restarts - later):
                    failures.append(f"the relay told of two owners in turn: {in_turn}")
                print(f"the relay sent {client.heard.total()} predictions to its client")
            failures += _kill_head(nodes, running)
            if failures:
                print(running.log)
    print("\n".join(failures) or "no source was late, doubled or lost")
    return 1 if failures else 0


def _round(
    number: int,
    kind: str,
    generator: random.Random,
    nodes: RayNodes,
    noting: Listeners,
    client: RelayClient,
    names: list[str],
) -> list[str]:
    """Cause a fault and return what is wrong after it."""
    before, restarts = noting.latest(), Counter(client.restarts)
    hit: set[str] = set()
    _wait(lambda: _holders(nodes), LIMIT_SECONDS)
    began = time.monotonic()
    process = 0
    if kind in ("engine", "frozen"):
        engine = generator.choice(_holders(nodes))
        hit, process = set(engine.report.owners), engine.report.process
        os.kill(process, signal.SIGKILL if kind == "engine" else signal.SIGSTOP)
    elif kind == "machine":
        node = nodes.others.pop(generator.randrange(len(nodes.others)))
        hit = nodes.sources_on(node)
        nodes.remove(node)
    else:
        nodes.kill_supervisor()
    again = _wait(
        lambda: all(
            name in (latest := noting.latest(began))
            and latest[name].owner > before[name].owner
            and client.restarts[name] > restarts[name]
            for name in hit
        ),
        LIMIT_SECONDS,
    )
    seconds = time.monotonic() - began
    problems = [] if again else [f"round {number}: {kind}: not all of {len(hit)} are back in time"]
    if kind == "machine":
        nodes.others.append(nodes.add())
    elif kind == "frozen":
        os.kill(process, signal.SIGCONT)
    heard = Counter(client.heard)
    _settle(noting)
    if silent := set(names) - (client.heard - heard).keys():
        problems.append(f"round {number}: {kind}: the relay is silent about {sorted(silent)}")
    late = set(names) - noting.latest(time.monotonic() - LIMIT_SECONDS).keys()
    if late:
        problems.append(f"round {number}: {kind}: lost {sorted(late)}")
    latest = noting.latest()
    moved = sum(latest[name].owner > before[name].owner for name in names)
    if kind == "supervisor" and moved:
        problems.append(f"round {number}: the supervisor's end moved {moved} sources")
    gap = _longest_gap(noting, began, names)
    print(
        f"round {number}: {kind}, {len(hit)} sources hit, back after {seconds:.1f} s; "
        f"{moved} moved in all, longest gap {gap:.1f} s",
        flush=True,
    )
    return problems


def _kill_head(nodes: RayNodes, running: Daemon) -> list[str]:
    """Kill the head of the cluster; return what is wrong with the end of the fleet."""
    engines = [each.report.process for each in _holders(nodes)]
    nodes.ray.shutdown()
    began = time.monotonic()
    for process in nodes.processes_of_head():
        os.kill(process, signal.SIGKILL)
    _wait(lambda: running.process.poll() is not None and not any(map(_runs, engines)), HEAD_SECONDS)
    problems = [f"engine {process} runs without its head" for process in engines if _runs(process)]
    if (status := running.process.poll()) != 1:
        problems.append(f"without the head the command has the status {status}")
    if "Traceback" in running.log:
        problems.append("the command ended with a traceback")
    print(f"without the head the fleet ended after {time.monotonic() - began:.1f} s")
    return problems


def _runs(process: int) -> bool:
    """Return whether a process runs and is no zombie."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def _holders(nodes: RayNodes) -> list[EngineStatus]:
    """Return the engines that answer and have sources."""
    status = nodes.status()
    return [each for each in status.engines if each.report and each.report.owners] if status else []


def _settle(noting: Listeners) -> None:
    """Wait until no source has had a new owner for a while."""
    known, since = noting.latest(), time.monotonic()
    while time.monotonic() - since < SETTLE_SECONDS:
        time.sleep(1.0)
        latest = noting.latest()
        if any(each.owner > known[name].owner for name, each in latest.items()):
            known, since = latest, time.monotonic()


def _longest_gap(noting: Listeners, began: float, names: list[str]) -> float:
    """Return the longest time without a decision about a source since `began`."""
    times = {name: [began] for name in names}
    for each in list(noting.heard):
        if each.time > began:
            times[each.source].append(each.time)
    return max(
        later - earlier
        for own in times.values()
        for earlier, later in zip(own, [*own[1:], time.monotonic()], strict=True)
    )


def _wait(condition: Callable[[], object], seconds: float) -> object:
    """Return the condition's value as soon as it is true, or what it is after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return value


if __name__ == "__main__":
    sys.exit(main())
