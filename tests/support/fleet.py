"""A Ray cluster of several nodes on this machine, a fleet on it, and what its broker hears."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage, MQTTv5

from support.broker import Mosquitto
from support.daemon import COMMAND, Daemon, daemon
from support.waiting import LONGEST_WAIT_SECONDS, wait_until

NAMESPACE = "genre-stream"


@dataclass(frozen=True)
class Heard:
    """A prediction that the broker passed on."""

    time: float
    """`time.monotonic()` of its arrival."""
    node: str
    source: str
    owner: int


class Listeners:
    """Notes every prediction of a fleet."""

    def __init__(self, broker: Mosquitto) -> None:
        self.heard: list[Heard] = []
        self.messages: list[tuple[str, dict[str, Any]]] = []
        """Topic and payload of every prediction and every segment."""
        subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self._client.on_message = self._note
        topics = [(f"genre-stream/+/+/{kind}", 1) for kind in ("prediction", "segment")]
        self._client.on_connect = lambda *_: self._client.subscribe(topics)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert subscribed.wait(LONGEST_WAIT_SECONDS)

    def _note(self, client: Client, data: object, message: MQTTMessage) -> None:
        frame = json.loads(message.payload)
        self.messages.append((message.topic, frame))
        if frame["type"] == "prediction":
            node = message.topic.split("/")[1]
            owner = frame.get("owner", 0)  # a daemon has none
            self.heard.append(Heard(time.monotonic(), node, frame["source"], owner))

    def latest(self, since: float = 0.0) -> dict[str, Heard]:
        """Return the latest prediction of each source, of its newest owner."""
        latest: dict[str, Heard] = {}
        for each in list(self.heard):
            known = latest.get(each.source)
            if each.time >= since and (known is None or each.owner >= known.owner):
                latest[each.source] = each
        return latest

    def frames(self, ending: str) -> list[dict[str, Any]]:
        """Return the messages of topics with an ending."""
        return [frame for topic, frame in list(self.messages) if topic.endswith(ending)]

    def overlap(self) -> float:
        """Return the longest time that an older owner of a source was heard beside a newer one."""
        first: dict[tuple[str, int], float] = {}
        longest = 0.0
        newest: dict[str, int] = {}
        for each in list(self.heard):
            first.setdefault((each.source, each.owner), each.time)
            owner = newest[each.source] = max(newest.get(each.source, 0), each.owner)
            if each.owner < owner:
                longest = max(longest, each.time - first[each.source, owner])
        return longest

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


def listeners(broker: Mosquitto) -> closing[Listeners]:
    """Listen to a broker."""
    return closing(Listeners(broker))


class RayNodes:
    """A Ray cluster whose nodes are processes of this machine."""

    def __init__(self, nodes: int, processors: int) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
        self.ray = pytest.importorskip("ray", reason="needs Ray, the extra fleet")
        self._options = {"num_cpus": processors, "object_store_memory": 80_000_000}
        self._cluster = self._start()
        self.address = self._cluster.address
        self.others = [self.add() for _ in range(nodes - 1)]
        """The nodes but for the head."""

    def _start(self) -> Any:
        """Start the head; Ray waits for 30 s, in which a busy machine may not be done with it."""
        from ray.cluster_utils import Cluster

        head = {**self._options, "include_dashboard": False}
        for attempts_left in (2, 1, 0):
            cluster = Cluster()
            try:
                cluster.add_node(**head)
            except Exception:
                cluster.shutdown()
                if not attempts_left:
                    raise
            else:
                break
        return cluster

    def connect(self) -> None:
        """Let this process ask the fleet."""
        self.ray.init(
            address=self.address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            logging_level="ERROR",
        )

    def add(self) -> Any:
        """Start another node; it is not one of `others`."""
        return self._cluster.add_node(**self._options)

    def remove(self, node: Any) -> None:
        """Kill a node with all that runs on it."""
        self._cluster.remove_node(node, allow_graceful=False)

    def processes_of_head(self) -> list[int]:
        """Return the numbers of the processes of the head, without those of its actors."""
        groups = self._cluster.head_node.all_processes.values()
        return [each.process.pid for group in groups for each in group]

    def sources_on(self, node: Any) -> set[str]:
        """Return the sources of the engines on a node."""
        (raylet,) = node.all_processes["raylet"]
        return {
            source
            for report in self.status().running
            if parent(report.process) == raylet.process.pid
            for source in report.owners
        }

    def status(self) -> Any:
        """Return what the supervisor of the fleet says, None while it does not."""
        try:
            supervisor = self.ray.get_actor("supervisor")
            return self.ray.get(supervisor.status.remote(), timeout=LONGEST_WAIT_SECONDS)
        except (ValueError, self.ray.exceptions.RayError):
            return None

    def kill_engine(self, name: str) -> None:
        """Kill the process of an engine."""
        (report,) = (each.report for each in self.status().engines if each.name == name)
        os.kill(report.process, signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """Kill the supervisor's process, which Ray starts again."""
        self.ray.kill(self.ray.get_actor("supervisor"), no_restart=False)

    def close(self) -> None:
        """Stop the cluster."""
        self.ray.shutdown()
        self._cluster.shutdown()


def parent(process: int) -> int:
    """Return the number of a process's parent."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def ray_nodes(count: int, *, processors: int = 1, connect: bool = True) -> Iterator[RayNodes]:
    """Run a cluster of nodes with so many processors each."""
    nodes = RayNodes(count, processors)
    try:
        if connect:
            nodes.connect()
        yield nodes
    finally:
        nodes.close()


def write_list(path: Path, broker: Mosquitto, sources: Sequence[str], **settings: object) -> Path:
    """Write a list of sources and settings."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    lines += [f'mqtt = "{broker.url}"', "mqtt_predictions = true"]
    path.write_text("\n".join((*lines, f"source = {json.dumps(list(sources))}")) + "\n")
    return path


@contextmanager
def fleet(home: Path, path: Path, *arguments: object) -> Iterator[Daemon]:
    """Run genre-stream fleet."""
    with daemon(home, *arguments, command=(*COMMAND, "fleet", str(path))) as running:
        yield running


def wait_for_all(noting: Listeners, names: Sequence[str], since: float = 0.0) -> None:
    """Wait until every source was decided about."""
    wait_until(lambda: noting.latest(since).keys() >= set(names), "a decision about every source")
