"""Many short runs that are stopped by SIGTERM at random moments; each must end with status 0.

Run it as ``python tests/soak/stopping.py --runs 300 --jobs 4``. It prints every run that ended
otherwise or wrote an error, with the Python stack of its threads, and exits with 1 if there was
one. More jobs than processors are runs under load. A signal that comes before Python has begun to
run genre-stream ends the process by itself; those runs are counted apart. On a busy machine a stop
takes as long as the machine lets it wait, so that time is told too.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.daemon import environment, write_tone
from support.waiting import LONGEST_WAIT_SECONDS
from support.web import files_at

PROGRAM = (sys.executable, "-m", "streamer")
MODES = {
    "file": ("--source", "{url}/song.wav", "--fast", "--json"),
    "loop": ("--source", "{url}/song.wav", "--fast", "--loop", "--json"),
    "server": ("--source", "{url}/song.wav", "--fast", "--loop", "--port", "0"),
}
"""Ways to run genre-stream."""
SONG_SECONDS = 600


@dataclass(frozen=True)
class Run:
    """One run and how it ended."""

    mode: str
    delay: float
    status: int
    errors: str
    seconds: float
    """From the signal to the end."""
    computed: float
    """Of these, how long all threads together ran."""
    waited: float
    """Of these, how long the main thread was ready to run but had no processor."""
    is_before_start: bool
    """Whether the signal came before Python had begun to run genre-stream."""

    @property
    def is_orderly(self) -> bool:
        """Whether it ended as it should."""
        return self.status == 0 and not self.errors


def handles_sigterm(process: int) -> bool:
    """Return whether a process has set a handler of SIGTERM."""
    status = Path(f"/proc/{process}/status").read_text()
    (caught,) = re.findall(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def processor_time(process: int) -> tuple[float, float]:
    """Return how long a process has run, and how long its main thread waited for a processor."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    waited = int(Path(f"/proc/{process}/schedstat").read_text().split()[1])
    return ticks / os.sysconf("SC_CLK_TCK"), waited / 1e9


def run_once(mode: str, url: str, home: Path, delay: float) -> Run:
    """Start genre-stream, send SIGTERM after `delay` seconds and wait for its end."""
    arguments = [argument.format(url=url) for argument in MODES[mode]]
    with subprocess.Popen(
        [*PROGRAM, *arguments, "--log-level", "error"],
        env=environment(home, PYTHONFAULTHANDLER="1"),
        cwd=Path.cwd(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        time.sleep(delay)
        is_before_start = not handles_sigterm(process.pid)
        before = processor_time(process.pid)
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        limit = threading.Timer(LONGEST_WAIT_SECONDS, process.kill)
        limit.start()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        limit.cancel()
        seconds = time.monotonic() - sent
        after = processor_time(process.pid)
        _, errors = process.communicate()
        computed, waited = (own - former for own, former in zip(after, before, strict=True))
        return Run(
            mode, delay, process.returncode, errors, seconds, computed, waited, is_before_start
        )


def main() -> int:
    """Run everything; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--earliest", type=float, default=0.0, help="earliest signal, in seconds")
    parser.add_argument("--latest", type=float, default=5.0, help="latest signal, in seconds")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        write_tone(
            Path(folder, "song.wav"), *[(220.0 + n, 10.0) for n in range(SONG_SECONDS // 10)]
        )
        with files_at(Path(folder)) as url:
            plan = [
                (draw.choice(options.modes), draw.uniform(options.earliest, options.latest))
                for _ in range(options.runs)
            ]
            for run in pool.map(lambda step: run_once(step[0], url, Path(folder), step[1]), plan):
                runs.append(run)
                if not (run.is_orderly or run.is_before_start):
                    print(f"{run.mode}, SIGTERM after {run.delay:.3f} s: status {run.status}")
                    print(run.errors, flush=True)
    bad = [run for run in runs if not (run.is_orderly or run.is_before_start)]
    early = sum(run.is_before_start for run in runs)
    statuses = collections.Counter(run.status for run in runs)
    print(f"{len(runs)} runs, {len(bad)} not orderly, {early} before the start; {dict(statuses)}")
    for name, own in (
        ("longest stop", max(runs, key=lambda run: run.seconds)),
        ("most computed", max(runs, key=lambda run: run.computed)),
        ("longest without waiting", max(runs, key=lambda run: run.seconds - run.waited)),
    ):
        print(
            f"{name}: {own.seconds:.2f} s after {own.delay:.2f} s ({own.mode}), in which it "
            f"computed {own.computed:.2f} s and its main thread waited {own.waited:.2f} s for a "
            "processor"
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
