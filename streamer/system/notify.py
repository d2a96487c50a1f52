"""systemd's notification protocol: readiness, status, watchdog and socket activation.

See sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3).
"""

from __future__ import annotations

import os
import signal
import socket
import time

REQUEST_SIGNALS = (signal.SIGHUP, signal.SIGUSR1)
"""Signals that request a reload and a report of the state."""
FIRST_SOCKET = 3  # SD_LISTEN_FDS_START


class Notifier:
    """Sends notifications to the service manager; does nothing without one."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        if address.startswith("@"):  # an abstract name
            address = f"\0{address[1:]}"
        self._address = address if address[:1] in ("/", "\0") else None
        self.watchdog_seconds = _watchdog_seconds()
        """Longest time between two calls of `watchdog`; None if the watchdog is off."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._last_status = ""

    def ready(self) -> None:
        """Report that clients can connect; also the end of a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that the settings are being read again."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={microseconds}")

    def stopping(self) -> None:
        """Report that an orderly stop has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Report the state in one line; an unchanged line is not sent again."""
        line = " ".join(text.split())
        if line != self._last_status:
            self._last_status = line
            self._send(f"STATUS={line}")

    def watchdog(self) -> None:
        """Reset the watchdog's timer."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self, text: str) -> None:
        try:
            if self._address is not None:
                self._socket.sendto(text.encode(), self._address)
        except OSError:
            # The manager is restarting or its queue is full. Neither may disturb the daemon; the
            # status is sent again with the next change.
            self._last_status = ""


def ignore_requests() -> None:
    """Ignore `REQUEST_SIGNALS` while they are not handled; their default would end the process."""
    for number in REQUEST_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _watchdog_seconds() -> float | None:
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None


def inherited_sockets() -> list[socket.socket]:
    """Return the listening sockets that systemd opened for this process.

    Their variables are removed from the environment, so that no child process takes the sockets
    for its own.
    """
    process = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdecimal():
        return []
    sockets = []
    for descriptor in range(FIRST_SOCKET, FIRST_SOCKET + int(count)):
        os.set_inheritable(descriptor, False)
        inherited = socket.socket(fileno=descriptor)
        inherited.setblocking(False)
        sockets.append(inherited)
    return sockets
