"""What a source costs in a fleet, beside what it costs a daemon.

``PYTHONPATH=.:tests python -m benchmarks.fleet --sources 6 --seconds 60 --rounds 3`` plays the same
files through a daemon and through a fleet with one engine on this machine, in turn, both telling
every prediction to mosquitto. It counts processor time, so that other work on the machine matters
little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.report import Report
from benchmarks.streams import TICKS, make_files
from support.broker import Mosquitto, mosquitto
from support.daemon import Daemon, daemon
from support.fleet import fleet, listeners, parent, write_list

START_SECONDS = 300.0
"""How long a start may take on a busy machine."""


def family(process: int) -> list[int]:
    """Return a process and all that it has started, directly or not."""
    members = [process]
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = parent(int(folder.name))
            except (OSError, IndexError):
                continue  # it has just ended
    for member in members:
        members += [child for child, own in parents.items() if own == member]
    return members


def is_engine(process: int) -> bool:
    """Return whether a process is an engine of a fleet, as Ray names it."""
    return b"Engine" in Path(f"/proc/{process}/cmdline").read_bytes()


def cpu_seconds(processes: Iterable[int]) -> float:
    """Return the processor time of processes so far."""
    fields = (
        Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in processes
    )
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS


def memory(processes: Iterable[int]) -> float:
    """Return the memory of processes in MB, of what they share each its part."""
    texts = (Path(f"/proc/{each}/smaps_rollup").read_text() for each in processes)
    return sum(int(text.split("Pss:")[1].split()[0]) for text in texts) / 1000


def run_daemon(
    folder: Path, broker: Mosquitto, sources: list[str], hop_seconds: float
) -> AbstractContextManager[Daemon]:
    options = ["--mqtt", broker.url, "--mqtt-predictions", "--hop-seconds", hop_seconds, "--loop"]
    return daemon(folder, *options, *(part for text in sources for part in ("--source", text)))


def run_fleet(
    folder: Path, broker: Mosquitto, sources: list[str], hop_seconds: float
) -> AbstractContextManager[Daemon]:
    path = write_list(folder / "list.toml", broker, sources, loop=True, hop_seconds=hop_seconds)
    return fleet(folder, path, "--engines", 1)


RUNS = {"daemon": run_daemon, "fleet": run_fleet}


def measure(
    what: str, folder: Path, sources: list[str], given: argparse.Namespace
) -> dict[str, Any]:
    """Run a daemon or a fleet with these sources; return what it used."""
    home = folder / what
    home.mkdir(exist_ok=True)
    names = {text.partition("=")[0] for text in sources}
    with (
        mosquitto(home) as broker,
        listeners(broker) as noting,
        RUNS[what](home, broker, sources, given.hop_seconds) as running,
    ):
        deadline = time.monotonic() + START_SECONDS
        while not noting.latest().keys() >= names:
            if time.monotonic() > deadline or running.process.poll() is not None:
                raise SystemExit(f"the {what} does not start:\n{running.log}")
            time.sleep(0.2)
        time.sleep(given.warm_up)
        members = family(running.process.pid)
        engines = [each for each in members if is_engine(each)] or members
        others = [each for each in members if each not in engines]
        began, heard = time.monotonic(), len(noting.heard)
        before = cpu_seconds(engines), cpu_seconds(others)
        time.sleep(given.seconds)
        seconds = time.monotonic() - began
        return {
            "what": what,
            "sources": len(sources),
            "predictions a second": (len(noting.heard) - heard) / seconds,
            "ms a second of a source": 1000
            * (cpu_seconds(engines) - before[0])
            / seconds
            / len(sources),
            "memory MB": memory(engines),
            "ms a second of Ray": 1000 * (cpu_seconds(others) - before[1]) / seconds,
            "Ray's memory MB": memory(others),
        }


def main() -> None:
    """Measure in turn and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.fleet")
    parser.add_argument("--sources", type=int, default=6)
    parser.add_argument("--hop-seconds", type=float, default=2.5)
    parser.add_argument("--seconds", type=float, default=60.0, help="measured, for each row")
    parser.add_argument("--warm-up", type=float, default=15.0, help="before that")
    parser.add_argument("--audio", type=Path, help="a folder of music instead of the demo clip")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    given = parser.parse_args()
    report = Report("fleet", given.json)
    with tempfile.TemporaryDirectory() as text:
        files = make_files(folder := Path(text), given.audio)
        sources = [f"s{number}={files[number % len(files)]}" for number in range(given.sources)]
        for _ in range(given.rounds):
            for what in RUNS:
                report.add(measure(what, folder, sources, given))
    cost = {
        what: statistics.median(
            row["ms a second of a source"] for row in report.rows if row["what"] == what
        )
        for what in RUNS
    }
    print(f"a source costs {cost['fleet'] / cost['daemon'] - 1:+.1%} in a fleet")
    report.write()


if __name__ == "__main__":
    main()
