"""How many sources one daemon keeps up with, and what each of them costs.

``PYTHONPATH=.:tests python -m benchmarks.streams --sources 10 20 40 --seconds 30`` plays files in
real time through a daemon and prints a row for each number of sources. ``--tree DIR`` (repeatable)
runs the daemon of another checkout in turn, so that versions are compared at once. With
``--sources 1 41 81`` the last column is what a source needs beyond the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import websockets
from benchmarks.report import Report

HOP_SECONDS = 1.0
START_SECONDS = 120.0
TICKS = os.sysconf("SC_CLK_TCK")
FILES = 12
"""Different files that the sources play; made from the demo clip unless a folder is given."""


@dataclass
class Usage:
    """What a process has used so far."""

    running: float
    """Processor seconds of all its threads."""
    waiting: float
    """Seconds that its threads were ready to run and had no processor."""

    @classmethod
    def of(cls, pid: int) -> Usage:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        waiting = 0.0
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                waiting += int((task / "schedstat").read_text().split()[1]) / 1e9
            except OSError:
                continue  # the thread has just ended
        return cls((int(fields[11]) + int(fields[12])) / TICKS, waiting)


@dataclass
class Heard:
    """What a client was sent in the measured time."""

    latencies: list[float] = field(default_factory=list)
    """Milliseconds."""
    hops: list[float] = field(default_factory=list)
    decisions: Counter[str] = field(default_factory=Counter)
    repeated: int = 0


def make_files(folder: Path, audio: Path | None) -> list[Path]:
    """Return files of music to play: those of a folder, or pieces of the demo clip as MP3."""
    if audio:
        known = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".au")
        files = sorted(path for path in audio.rglob("*") if path.suffix in known)
        return files[:: max(1, len(files) // FILES)][:FILES]
    clip = next((Path(__file__).parents[2] / "streamer" / "demo").glob("*.opus"))
    files = []
    for number in range(FILES):
        files.append(folder / f"{number}.mp3")
        cut = ["-ss", str(4 * number), "-i", str(clip), "-ar", "44100", "-ac", "2"]
        command = ["ffmpeg", "-v", "error", "-stream_loop", "1", *cut, "-b:a", "128k"]
        subprocess.run([*command, str(files[-1])], check=True)
    return files


async def listen(url: str, seconds: float, warm_up: float, pid: int) -> tuple[Heard, Usage, int]:
    """Return what a client is sent, what the daemon uses, and its memory in bytes."""
    heard, start = Heard(), time.monotonic() + warm_up
    before = None
    async with websockets.connect(url, max_size=None, ping_interval=None) as client:
        await client.send(json.dumps({"type": "subscribe", "messages": ["prediction"]}))
        while (now := time.monotonic()) < start + seconds:
            if before is None and now >= start:
                before = Usage.of(pid)
            try:
                frame = json.loads(await asyncio.wait_for(client.recv(), 1.0))
            except TimeoutError:
                continue
            if before is not None and frame["type"] == "prediction":
                heard.latencies.append(frame["latency_ms"])
                heard.hops.append(frame["hop_seconds"])
                heard.decisions[frame["source"]] += 1
                heard.repeated += frame.get("repeated", False)
    after = Usage.of(pid)
    assert before is not None
    status = Path(f"/proc/{pid}/status").read_text()
    memory = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]
    used = Usage(after.running - before.running, after.waiting - before.waiting)
    return heard, used, memory


def measure(
    tree: Path, files: list[Path], sources: int, seconds: float, warm_up: float, options: list[str]
) -> dict[str, Any]:
    """Run a daemon with so many sources; return what was measured."""
    command = [sys.executable, "-m", "streamer", "--port", "0", "--loop", *options]
    for number in range(sources):
        command += ["--source", f"s{number}={files[number % len(files)]}"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile("w+") as log:
        daemon = subprocess.Popen(command, cwd=tree, env=environment, stderr=log, text=True)
        try:
            deadline, url = time.monotonic() + START_SECONDS, None
            while url is None and time.monotonic() < deadline and daemon.poll() is None:
                log.seek(0)
                url = re.search(r"http://([\d.]+:\d+)/", log.read())
                time.sleep(0.05)
            if url is None:
                log.seek(0)
                raise SystemExit(f"the daemon of {tree} does not start: {log.read()}")
            heard, used, memory = asyncio.run(
                listen(f"ws://{url[1]}/", seconds, warm_up, daemon.pid)
            )
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()
    expected = int(seconds / HOP_SECONDS) - 1
    late = sum(1 for number in range(sources) if heard.decisions[f"s{number}"] < expected)
    p50, p99 = np.percentile(heard.latencies or [np.nan], (50, 99))
    return {
        "sources": sources,
        "decisions a second": len(heard.latencies) / seconds,
        "sources that missed one": late,
        "longest hop s": max(heard.hops, default=0.0),
        "p50 ms": p50,
        "p99 ms": p99,
        "cores": used.running / seconds,
        "waiting for a core": used.waiting / seconds,
        "core ms a decision": 1000 * used.running / max(1, len(heard.latencies)),
        "repeated": heard.repeated / max(1, len(heard.latencies)),
        "memory MB": memory / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.streams")
    parser.add_argument("--sources", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--seconds", type=float, default=30.0, help="measured, for each row")
    parser.add_argument("--warm-up", type=float, default=20.0, help="before that")
    parser.add_argument("--tree", type=Path, action="append", help="a checkout; may be repeated")
    parser.add_argument("--audio", type=Path, help="a folder of music instead of the demo clip")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--option", action="append", default=[], help="of genre-stream")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    given = parser.parse_args()
    trees = given.tree or [Path(__file__).parents[2]]
    report = Report("streams", given.json)
    first: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder), given.audio)
        for _ in range(given.rounds):
            for sources in given.sources:
                for tree in trees:
                    row = measure(
                        tree.resolve(), files, sources, given.seconds, given.warm_up, given.option
                    )
                    fewest = first.setdefault(tree.name, row)
                    more = row["sources"] - fewest["sources"]
                    further = (row["memory MB"] - fewest["memory MB"]) / more if more else np.nan
                    report.add({"tree": tree.name, **row, "MB a further source": further})
    report.write()


if __name__ == "__main__":
    main()
