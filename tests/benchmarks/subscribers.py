"""How late thousands of subscribers hear of a prediction, and how fast they come back.

``PYTHONPATH=.:tests python -m benchmarks.subscribers --clients 2000 10000`` serves made-up
predictions, one a second, to clients of a second process. Each row tells how long after publishing
a client read them, and what the server needed. A last row is a herd: ``--herd`` clients that
connect within two seconds beside as many as stay. ``--tree DIR`` (repeatable) runs the server of
another checkout in turn, ``--loop uvloop`` (repeatable) on another event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from benchmarks.report import Report

LABELS = [f"genre {number}" for number in range(11)]
HERD_SECONDS = 2.0
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TIME = re.compile(rb'"type": ?"prediction".*?"time": ?"([^"]+)"')


async def serve(clients: int) -> None:
    """Publish a prediction a second; print the port, and at the end what the process used.

    A line of standard input begins the measurement, the next one ends it.
    """
    from streamer.core.decision import Decision, State
    from streamer.core.events import Published
    from streamer.sinks.websocket.hub import Hub
    from streamer.sinks.websocket.server import Server

    hello = {"type": "hello", "protocol": 1, "server": "benchmark", "model": {}, "labels": LABELS}
    sources = [{"name": "radio", "kind": "media", "state": "live"}]
    hub = Hub({**hello, "colours": {}, "sources": sources})
    server = Server(hub, port=0, max_clients=clients + 100)
    await server.start()
    print(server.addresses[0][1], flush=True)
    shares = dict.fromkeys(LABELS, 1 / len(LABELS))
    marks: list[tuple[float, float]] = []

    def mark() -> None:
        sys.stdin.readline()
        marks.append((time.monotonic(), time.process_time()))

    asyncio.get_running_loop().add_reader(sys.stdin, mark)
    start = time.monotonic()
    for number in itertools.count():
        await asyncio.sleep(max(0.0, start + number - time.monotonic()))
        if len(marks) == 2:
            break
        decision = Decision(float(number), 1.0, State.UNCERTAIN, None, 0.5, shares, shares, -20.0)
        hub.publish(Published("radio", number, datetime.now(UTC), 0.04, decision))
    (began, used), (ended, used_at_end) = marks
    share = (used_at_end - used) / (ended - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"cores": share, "memory MB": memory}), flush=True)
    os._exit(0)


class Subscriber(asyncio.Protocol):
    """A client that notes when it was let in and how late each prediction came."""

    def __init__(self, port: int, latencies: list[float], let_in: list[float]) -> None:
        self._port = port
        self._latencies = latencies
        self._let_in = let_in
        self._waits_for_answer = True
        self.refused = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(REQUEST % self._port)

    def data_received(self, data: bytes) -> None:
        if self._waits_for_answer:
            self._waits_for_answer = False
            self.refused = not data.startswith(b"HTTP/1.1 101")
            if not self.refused:
                self._let_in.append(time.monotonic())
            return
        for found in TIME.finditer(data):
            published = datetime.fromisoformat(found[1].decode()).timestamp()
            self._latencies.append(time.time() - published)
        if data[0] == 0x89:  # a ping
            self.transport.write(bytes([0x8A, 0x80 | data[1], 0, 0, 0, 0]) + data[2 : 2 + data[1]])

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


async def connect(port: int, count: int, seconds: float) -> tuple[list[Subscriber], list[float]]:
    """Connect clients evenly over some seconds; return them and the list of their latencies."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    let_in: list[float] = []

    async def one(number: int) -> Subscriber:
        await asyncio.sleep(number * seconds / count)
        _, client = await loop.create_connection(
            lambda: Subscriber(port, latencies, let_in), "127.0.0.1", port
        )
        return client

    clients = await asyncio.gather(*map(one, range(count)), return_exceptions=True)
    return [client for client in clients if isinstance(client, Subscriber)], latencies


async def subscribe(
    port: int, count: int, herd: int, seconds: float, mark: Callable[[], None]
) -> dict[str, Any]:
    """Return what clients see; call `mark` when the measurement begins and ends."""
    clients, latencies = await connect(port, count, count / 500)
    while sum(not client._waits_for_answer for client in clients) < len(clients):
        await asyncio.sleep(0.1)
    latencies.clear()
    mark()
    row: dict[str, Any] = {"clients": count, "herd": herd}
    if herd:
        began = time.monotonic()
        late, _ = await connect(port, herd, HERD_SECONDS)
        while len(late[0]._let_in) < herd and time.monotonic() < began + 30:
            await asyncio.sleep(0.05)
            if sum(c.refused or c.lost for c in late) + len(late[0]._let_in) >= herd:
                break
        entered = late[0]._let_in
        row["herd let in"] = len(entered)
        row["herd refused"] = sum(client.refused or client.lost for client in late)
        row["last let in after s"] = max(entered, default=began) - began
    else:
        await asyncio.sleep(seconds)
    p50, p99 = np.percentile(latencies or [np.nan], (50, 99))
    row |= {"p50 ms": 1000 * p50, "p99 ms": 1000 * p99}
    row["dropped"] = sum(client.lost or client.refused for client in clients)
    mark()
    return row


def measure(tree: Path, loop: str, clients: int, herd: int, seconds: float) -> dict[str, Any]:
    """Run a server and its clients; return what was measured."""
    command = [sys.executable, "-m", "benchmarks.subscribers", "--serve"]
    here = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{here}"}
    command += ["--clients", str(clients + herd), "--loop", loop]
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    ) as server:
        assert server.stdin
        assert server.stdout
        port, stdin = int(server.stdout.readline()), server.stdin
        row = asyncio.run(subscribe(port, clients, herd, seconds, lambda: _tell(stdin)))
        return row | json.loads(server.stdout.readline())


def _tell(stdin: IO[str]) -> None:
    stdin.write("\n")
    stdin.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.subscribers")
    parser.add_argument("--clients", type=int, nargs="+", default=[1000, 4000, 10_000])
    parser.add_argument("--herd", type=int, default=5000, help="0 for none")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tree", type=Path, action="append", help="a checkout; may be repeated")
    parser.add_argument(
        "--loop", choices=("asyncio", "uvloop"), action="append", help="may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loops = given.loop or ["asyncio"]
    if given.serve:
        factory = importlib.import_module(loops[0]).new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(given.clients[0]))
    report = Report("subscribers", given.json)
    trees = given.tree or [Path(__file__).parents[2]]
    rounds = [(clients, 0) for clients in given.clients] + [(100, given.herd)] * bool(given.herd)
    for clients, herd in rounds * given.rounds:
        for tree, loop in itertools.product(trees, loops):
            row = measure(tree.resolve(), loop, clients, herd, given.seconds)
            report.add({"tree": tree.name, "loop": loop, **row})
    report.write()


if __name__ == "__main__":
    main()
