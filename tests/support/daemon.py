"""Runs genre-stream as a process and reads its log and notifications."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from support.waiting import LONGEST_WAIT_SECONDS

REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "streamer")
PATIENT = (
    sys.executable,
    "-c",
    f"import sys; sys.path.append({str(REPOSITORY / 'tests')!r}); "
    "from support import patience; sys.exit(patience.run_patiently())",
)
"""genre-stream as a daemon with the limits of `support.patience`."""


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return environment variables without settings of the user who runs the tests."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GENRE_STREAM_", "XDG_", "NOTIFY_", "LISTEN_", "WATCHDOG_"))
    }
    return kept | {"HOME": str(home), "PYTHONUNBUFFERED": "1"} | more


def run(
    home: Path, *arguments: object, timeout: float = LONGEST_WAIT_SECONDS, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run genre-stream until it ends."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=environment(home, **more),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def write_tone(path: Path, *parts: tuple[float, float], rate: int = 22050) -> Path:
    """Write tones of (frequency in Hz, seconds) one after the other; frequency 0 is silence."""
    sound = [
        0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
        for frequency, seconds in parts
    ]
    soundfile.write(path, np.concatenate(sound).astype(np.float32), rate)
    return path


class Daemon:
    """A running genre-stream and its log."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._new_line = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        """What the process has written to standard error so far."""
        return "".join(self.lines)

    @property
    def port(self) -> int:
        """The port that it serves on; waits until it is logged."""
        line = self.wait_for_line(lambda line: "serving on http" in line)
        return int(line.rstrip().rstrip("/").rpartition(":")[2])

    def wait_for_line(self, wanted: Callable[[str], bool], *, since: int = 0) -> str:
        """Return the first wanted line of the log, from line number `since` on."""
        found: list[str] = []

        def is_found() -> bool:
            found[:] = [line for line in self.lines[since:] if wanted(line)]
            return bool(found) or not self._reader.is_alive()

        with self._new_line:
            self._new_line.wait_for(is_found, LONGEST_WAIT_SECONDS)
        assert found, f"the line never came; the log:\n{self.log}"
        return found[0]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait until the process ends; return its exit status."""
        status = self.process.wait(LONGEST_WAIT_SECONDS)
        self._reader.join(LONGEST_WAIT_SECONDS)
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._new_line:
                self.lines.append(line)
                self._new_line.notify_all()
        with self._new_line:
            self._new_line.notify_all()


@contextmanager
def daemon(
    home: Path,
    *arguments: object,
    stdin: int | None = subprocess.DEVNULL,
    pass_fds: tuple[int, ...] = (),
    command: tuple[str, ...] = PATIENT,
    variables: Mapping[str, str] | None = None,
    cwd: Path = REPOSITORY,
) -> Iterator[Daemon]:
    """Run genre-stream on a free port for as long as the context lasts."""
    process = subprocess.Popen(
        [*command, "--port", "0", *map(str, arguments)],
        env=environment(home, **(variables or {})),
        cwd=cwd,
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )
    running = Daemon(process)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        running.wait()
        assert process.stderr is not None
        process.stderr.close()


class ServiceManager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(LONGEST_WAIT_SECONDS)

    def next(self) -> str:
        """Wait for the next message and return it."""
        return self._socket.recv(65536).decode()

    def wait_for(self, prefix: str) -> list[str]:
        """Return the messages up to the first that starts with `prefix`."""
        received = [self.next()]
        while not received[-1].startswith(prefix):
            received.append(self.next())
        return received

    def received_within(self, seconds: float) -> list[str]:
        """Return the messages that arrive within a time."""
        received = []
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                received.append(self.next())
            except TimeoutError:
                break
        self._socket.settimeout(LONGEST_WAIT_SECONDS)
        return received

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
