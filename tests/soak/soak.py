"""A day of operation in less time: three sources, changing clients and faults from a seed.

Run it as ``python tests/soak/soak.py --hours 24``. It prints what it measured and exits with 1 if
anything leaked or was lost. The sources are a repeated file, a pipe and a radio, all as fast as
they can be read. The radio breaks off, sends garbage, refuses or stalls; the pipe pauses; clients
vanish, never read, send garbage or request everything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import soundfile
from support.daemon import Daemon, daemon
from support.model import make_model
from support.waiting import LONGEST_WAIT_SECONDS
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

RATE = 8000
"""Sample rate of all sound here, in Hz."""
RADIO_SPEED = 60.0
"""How much faster than real time the radio sends; unlike files and pipes it waits for nobody."""
CHURN = 3
"""Clients at a time that connect and leave again."""
GROWTH_LIMIT = 0.02
"""Largest growth of memory after the first tenth of a day, as a share."""
RESOURCES = ("threads", "descriptors", "tasks")
"""Fields of `Sample` that must not grow."""
SLACK = 2
"""Tolerated momentary growth of each, while a source is between two connections."""


def programme(seed: int, seconds: float) -> np.ndarray:
    """Return int16 samples: tones that a model tells apart, noise and silence, in seeded order."""
    rng = np.random.default_rng(seed)
    parts, length = [], 0.0
    while length < seconds:
        part_seconds = float(rng.uniform(4, 40))
        at = np.arange(int(part_seconds * RATE)) / RATE
        frequency = rng.choice([0.0, 150.0, 2000.0, 3900.0])
        noise = rng.normal(0, 0.02, len(at)) if rng.random() < 0.7 else 0.0
        parts.append(0.4 * np.sin(2 * np.pi * frequency * at) + noise)
        length += part_seconds
    return (np.concatenate(parts) * 32767).astype("<i2")


def wav_header() -> bytes:
    """Return the header of a WAV file of unlimited length."""
    endless = 0xFFFFFFFF
    head = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    return (
        b"RIFF" + struct.pack("<I", endless) + b"WAVEfmt " + struct.pack("<I", len(head)) + head
        + b"data" + struct.pack("<I", endless)
    )  # fmt: skip


class Radio:
    """A radio station with faults from a seed."""

    def __init__(self, seed: int, faults: Counter[str]) -> None:
        rng = random.Random(seed)
        sound = programme(seed, 600).tobytes()
        block = RATE // 2 * 2

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                if rng.random() < 0.2:
                    faults["radio refuses"] += 1
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "audio/wav")
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(wav_header())
                    self._play()

            def _play(self) -> None:
                started = time.monotonic()
                length = rng.uniform(60, 1800) * RATE * 2
                sent = 0
                while sent < length:
                    at = sent % len(sound)
                    self.wfile.write(sound[at : at + block])
                    sent += block
                    ahead = sent / (2 * RATE) / RADIO_SPEED - (time.monotonic() - started)
                    if ahead > 0:
                        time.sleep(ahead)
                fault = rng.choice(["breaks off", "sends garbage", "goes quiet"])
                faults[f"radio {fault}"] += 1
                if fault == "sends garbage":
                    self.wfile.write(rng.randbytes(20_000))
                elif fault == "goes quiet":
                    time.sleep(12)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/live"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()


def feed(pipe: int, seed: int, stop: threading.Event, faults: Counter[str]) -> None:
    """Write sound into a pipe as fast as it is read, with pauses from a seed."""
    rng = random.Random(seed)
    sound = programme(seed, 600).tobytes()
    block = RATE * 2
    with os.fdopen(pipe, "wb", buffering=0) as out, contextlib.suppress(BrokenPipeError):
        while not stop.is_set():
            for at in range(0, len(sound), block):
                out.write(sound[at : at + block])
                if stop.is_set():
                    return
            if rng.random() < 0.02:
                faults["pipe pauses"] += 1
                stop.wait(rng.uniform(0.5, 5))


@dataclass
class Witness:
    """A client that stays connected throughout and counts the frames."""

    url: str
    seen: Counter[str] = field(default_factory=Counter)
    """Predictions received, by source."""
    last: dict[str, int] = field(default_factory=dict)
    """`seq` of the last prediction, by source."""
    first: dict[str, int] = field(default_factory=dict)
    disorder: int = 0
    """Predictions out of order or repeated, and segments that do not follow the one before."""
    finals: Counter[str] = field(default_factory=Counter)
    segment_ends: dict[str, float] = field(default_factory=dict)
    lost: str = ""
    """Why the connection ended early."""

    def watch(self, ready: threading.Event, stop: threading.Event) -> None:
        """Count until `stop` is set or the connection ends."""
        with connect(self.url, max_size=None) as connection:
            while not stop.is_set():
                try:
                    frame = json.loads(connection.recv(timeout=0.5))
                except TimeoutError:
                    continue
                except ConnectionClosed as closed:
                    self.lost = "" if closed.rcvd and closed.rcvd.code == 1001 else str(closed)
                    return
                ready.set()
                self._count(frame)

    def _count(self, frame: dict[str, object]) -> None:
        source = str(frame.get("source"))
        if frame["type"] == "prediction":
            number = int(str(frame["seq"]))
            self.first.setdefault(source, number)
            self.disorder += number <= self.last.get(source, -1)
            self.last[source] = number
            self.seen[source] += 1
        elif frame["type"] == "segment" and frame["final"]:
            start, end = float(str(frame["start"])), float(str(frame["end"]))
            self.disorder += abs(start - self.segment_ends.get(source, start)) > 0.01
            self.segment_ends[source] = end
            self.finals[source] += 1


def churn(
    port: int, seed: int, stop: threading.Event, pause: threading.Event, resting: threading.Event
) -> None:
    """Connect as one client after the other, most of them ill-behaved."""
    rng = random.Random(seed)
    visits: list[Callable[[int, random.Random], None]] = [
        _read_for_a_while, _read_for_a_while, _never_read, _send_garbage, _request_pages, _vanish,
    ]  # fmt: skip
    while not stop.is_set():
        resting.clear()
        if pause.is_set():
            resting.set()
            stop.wait(0.2)
            continue
        with contextlib.suppress(OSError, WebSocketException, EOFError):
            rng.choice(visits)(port, rng)
        stop.wait(rng.uniform(0.01, 0.1))


def _read_for_a_while(port: int, rng: random.Random) -> None:
    with connect(f"ws://127.0.0.1:{port}/", open_timeout=30) as connection:
        everything = ["prediction", "segment", "source", "spectrogram"]
        connection.send(json.dumps({"type": "subscribe", "messages": everything}))
        for _ in range(rng.randrange(200)):
            connection.recv(timeout=5)


def _never_read(port: int, rng: random.Random) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as deaf:
        deaf.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        time.sleep(rng.uniform(0, 2))


def _send_garbage(port: int, rng: random.Random) -> None:
    with connect(f"ws://127.0.0.1:{port}/", open_timeout=30) as connection:
        connection.send(rng.choice(["{", "[]", '{"type": "x"}', "x" * 5000]))
        connection.send(rng.randbytes(50))
        for _ in range(4):
            connection.recv(timeout=5)


def _request_pages(port: int, rng: random.Random) -> None:
    path = rng.choice(["", "api/state", "metrics", "healthz", "../etc/passwd", "api/history"])
    with (
        contextlib.suppress(urllib.error.URLError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as answer,
    ):
        answer.read()


def _vanish(port: int, rng: random.Random) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as half:
        half.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nUpg")
        time.sleep(rng.uniform(0, 0.5))


@dataclass(frozen=True)
class Sample:
    """The resources of the daemon at one moment."""

    hours: float
    """Simulated hours of the slower of the file and the pipe."""
    memory: int
    """Resident, in KiB."""
    threads: int
    descriptors: int
    tasks: int


def metrics(port: int) -> dict[str, float]:
    """Read the metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def _memory(process: int) -> int:
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def measure(running: Daemon, port: int, hours: float) -> Sample:
    """Measure the resources while no client but the witness is connected."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while metrics(port)["genre_stream_clients"] > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    since = len(running.lines)
    running.signal(signal.SIGUSR1)
    tasks = running.wait_for_line(lambda line: "event loop:" in line, since=since)
    process = running.process.pid
    return Sample(
        hours,
        _memory(process),
        len(list(Path(f"/proc/{process}/task").iterdir())),
        len(list(Path(f"/proc/{process}/fd").iterdir())),
        int(tasks.split("event loop:")[1].split()[0]),
    )


@dataclass
class Report:
    """The results of a soak test."""

    samples: list[Sample]
    faults: Counter[str]
    hours: dict[str, float]
    """Simulated hours heard, by source."""
    predictions: dict[str, int]
    """Predictions published, by source."""
    received: dict[str, int]
    """Those that the witness received."""
    skipped: dict[str, int]
    """Those that a newer one replaced because the witness was behind."""
    problems: list[str]
    wall_seconds: float

    @property
    def growth(self) -> float:
        """Growth of memory from just after the first tenth to the end, as a share."""
        settled = [sample.memory for sample in self.samples if sample.hours >= self._total / 10]
        few = max(1, len(settled) // 8)
        return statistics.median(settled[-few:]) / statistics.median(settled[:few]) - 1

    def most(self, what: str) -> int:
        """Return the maximum of a resource in the first half, while pools fill."""
        half = [sample for sample in self.samples if sample.hours <= self._total / 2]
        return max(getattr(sample, what) for sample in half)

    @property
    def _total(self) -> float:
        return self.samples[-1].hours

    def lines(self) -> Iterator[str]:
        """Yield the report line by line."""
        last = self.samples[-1]
        yield f"simulated        {self._total:.2f} h in {self.wall_seconds:.0f} s"
        for name, hours in self.hours.items():
            yield (
                f"  {name:<14} {hours:.2f} h, {self.predictions[name]} predictions: "
                f"{self.received[name]} received, {self.skipped[name]} overtaken"
            )
        yield f"memory           {last.memory / 1024:.1f} MiB, {self.growth:+.2%} after a tenth"
        tenths = self.samples[:: max(1, len(self.samples) // 10)]
        yield f"  at each tenth    {' '.join(f'{sample.memory / 1024:.1f}' for sample in tenths)}"
        for what in RESOURCES:
            early, late = self.most(what), getattr(last, what)
            yield f"{what:<16} at most {early} in the first half, {late} at last"
        for fault, count in sorted(self.faults.items()):
            yield f"  {fault:<26} {count}"
        for problem in self.problems:
            yield f"WRONG: {problem}"


class Soak:
    """One run: a daemon, its sources, its clients."""

    def __init__(
        self, hours: float, seed: int, folder: Path, growth_limit: float = GROWTH_LIMIT
    ) -> None:
        self.hours = hours
        self.seed = seed
        self.folder = folder
        self.growth_limit = growth_limit
        self.faults: Counter[str] = Counter()
        self.stop = threading.Event()
        self.pause = threading.Event()
        self.resting = [threading.Event() for _ in range(CHURN)]
        self.threads: list[threading.Thread] = []

    def run(self) -> Report:
        """Run to the end and check the results."""
        started = time.monotonic()
        model = make_model(self.folder / "thirds.onnx", noise=True)
        song = self.folder / "song.wav"
        soundfile.write(song, programme(self.seed, 1200), RATE)
        radio = Radio(self.seed, self.faults)
        reading, writing = os.pipe()
        self._start(feed, writing, self.seed, self.stop, self.faults)
        arguments = (
            *("--model", model, "--source", f"file={song}", "--loop", "--fast"),
            *("--source", "pipe=-", "--rate", RATE, "--channels", 1),
            *("--source", f"radio={radio.url}", "--history", self.folder / "heard.db"),
        )
        with daemon(self.folder, *arguments, stdin=reading) as running:
            os.close(reading)
            try:
                return self._live(running, started)
            finally:
                self.stop.set()
                radio.close()
                for thread in self.threads:
                    thread.join(LONGEST_WAIT_SECONDS)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        self.threads.append(thread)

    def _live(self, running: Daemon, started: float) -> Report:
        port = running.port
        witness = Witness(f"ws://127.0.0.1:{port}/")
        ready = threading.Event()
        self._start(witness.watch, ready, self.stop)
        assert ready.wait(LONGEST_WAIT_SECONDS)
        for number, resting in enumerate(self.resting):
            self._start(churn, port, self.seed + number, self.stop, self.pause, resting)
        samples = self._sample_until_the_end(running, port)
        figures = self._final_figures(port)
        running.signal(signal.SIGTERM)
        status = running.wait()
        self.threads[1].join(LONGEST_WAIT_SECONDS)
        return self._judge(witness, samples, figures, status, running.log, started)

    def _sample_until_the_end(self, running: Daemon, port: int) -> list[Sample]:
        step = self.hours / 40
        samples: list[Sample] = []
        while not samples or samples[-1].hours < self.hours:
            time.sleep(0.2)
            assert running.process.poll() is None, running.log
            heard = self._heard(metrics(port))
            hours = min(heard.get("file", 0), heard.get("pipe", 0))
            if hours < step * (len(samples) + 1):
                continue
            self._rest()
            samples.append(measure(running, port, hours))
            self.pause.clear()
        return samples

    def _rest(self) -> None:
        """Wait until all changing clients have left, and let none connect."""
        self.pause.set()
        for resting in self.resting:
            assert resting.wait(LONGEST_WAIT_SECONDS)

    @staticmethod
    def _heard(figures: dict[str, float]) -> dict[str, float]:
        start = 'genre_stream_audio_seconds_total{source="'
        return {
            name.removeprefix(start).removesuffix('"}'): value / 3600
            for name, value in figures.items()
            if name.startswith(start)
        }

    def _final_figures(self, port: int) -> dict[str, float]:
        self._rest()
        return metrics(port)

    def _judge(
        self,
        witness: Witness,
        samples: list[Sample],
        figures: dict[str, float],
        status: int,
        log: str,
        started: float,
    ) -> Report:
        predictions = {name: number + 1 for name, number in witness.last.items()}
        gaps = {
            name: count - witness.seen[name] - witness.first[name]
            for name, count in predictions.items()
        }
        report = Report(
            samples,
            self.faults,
            self._heard(figures),
            predictions,
            dict(witness.seen),
            gaps,
            [],
            time.monotonic() - started,
        )
        report.problems = list(self._problems(report, witness, figures, status, log))
        return report

    def _problems(
        self, report: Report, witness: Witness, figures: dict[str, float], status: int, log: str
    ) -> Iterator[str]:
        last = report.samples[-1]
        if report.growth > self.growth_limit:
            yield f"memory grew by {report.growth:.2%}"
        for what in RESOURCES:
            if getattr(last, what) > report.most(what) + SLACK:
                yield f"{what} leaked: {report.most(what)} -> {getattr(last, what)}"
        if witness.lost:
            yield f"the client that stays was lost: {witness.lost}"
        if witness.disorder:
            yield f"{witness.disorder} frames out of order"
        if status:
            yield f"the daemon left with {status}"
        if "Traceback" in log or "crashed" in log:
            yield f"the daemon crashed: {log[-2000:]}"
        # Decisions fall every second of sound, but for the window that a new beginning fills.
        for name in ("file", "pipe"):
            expected = report.hours[name] * 3600
            if report.predictions[name] < 0.97 * expected - 10:
                yield f"{name}: {report.predictions[name]} decisions in {expected:.0f} s of sound"
        published = figures['genre_stream_messages_total{type="prediction"}']
        if sum(report.predictions.values()) < published:
            yield f"{published:.0f} predictions were published, fewer are accounted for"
        if figures["genre_stream_history_dropped_total"]:
            yield "the history dropped messages"


def main() -> int:
    """Run a soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=24.0, help="simulated hours (default: 24)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (default: 1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Soak(arguments.hours, arguments.seed, Path(folder)).run()
    print("\n".join(report.lines()))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
