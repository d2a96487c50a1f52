"""What systemd and the daemon tell each other: readiness, status, watchdog, listening sockets.

See sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3).
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Mapping, MutableMapping

REQUESTS = (signal.SIGHUP, signal.SIGUSR1)
"""Signals that ask for something and must not end the process: read the settings, describe."""
FIRST_SOCKET = 3
"""File descriptor of the first socket handed over, SD_LISTEN_FDS_START."""


class Notifier:
    """Tells the service manager how the daemon is; tells nobody when there is none.

    Parameters
    ----------
    environment
        Where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked up.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_seconds = _watchdog_seconds(environment)
        """Seconds within which the service manager expects a sign of life; None: it does not."""
        self._socket: socket.socket | None = None
        self._last_status = ""

    def ready(self) -> None:
        """Say that clients can connect (also after `reloading`)."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that settings are being read again."""
        self._send(
            f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
        )

    def stopping(self) -> None:
        """Say that an orderly stop has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Say in one line what is going on; the same line is not sent twice."""
        line = " ".join(text.split())
        if line != self._last_status:
            self._last_status = line
            self._send(f"STATUS={line}")

    def watchdog(self) -> None:
        """Give a sign of life."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError:
            # A manager that is restarting or behind must not stop the music; the next line
            # reaches it.
            self._last_status = ""


def ignore_requests() -> None:
    """Let requests pass, which would end a process that does not answer them yet, or no more."""
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)


def _address(text: str) -> str | None:
    """Return the address of a path, or of an abstract name written with @, else None."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None


def inherited_sockets(environment: MutableMapping[str, str] | None = None) -> list[socket.socket]:
    """Take over the listening sockets that systemd opened for this process.

    The variables are removed from `environment`, so that no child believes them to be its own.
    """
    environment = os.environ if environment is None else environment
    process = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdecimal():
        return []
    sockets = []
    for descriptor in range(FIRST_SOCKET, FIRST_SOCKET + int(count)):
        os.set_inheritable(descriptor, False)
        inherited = socket.socket(fileno=descriptor)
        inherited.setblocking(False)
        sockets.append(inherited)
    return sockets
