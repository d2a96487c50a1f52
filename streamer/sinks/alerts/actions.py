"""What alerts do: notify by apprise, or run a program. Each action has a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import threading

import apprise

from streamer.core.rules import Firing, Rule, fill

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 20
"""Firings that wait for one action; beyond it the oldest is discarded."""


class Action:
    """Does one thing for each firing, one after the other, on a daemon thread."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.done = 0
        self.failed = 0
        self.dropped = 0
        self.reason = ""
        """Why it failed the last time; empty if it did not."""
        self._stopped = False
        self._queue: queue.Queue[Firing | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    @property
    def queue_depth(self) -> int:
        """Firings that wait."""
        return self._queue.qsize()

    def start(self, firing: Firing) -> None:
        """Queue a firing."""
        self._queue.put(firing)
        if self._queue.qsize() > QUEUE_LIMIT:
            with contextlib.suppress(queue.Empty):
                self._queue.get_nowait()
                self.dropped += 1
        if self._thread is None:
            name = f"alert {self.rule.name}"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()

    def perform(self, firing: Firing) -> str:
        """Do it now; return why it failed, or nothing."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what is running, and do nothing any more."""
        self._stopped = True
        self._queue.put(None)

    def _work(self) -> None:
        while (firing := self._queue.get()) is not None and not self._stopped:
            self.reason = self.perform(firing)
            if self.reason:
                self.failed += 1
                logger.warning("alert %s: %s", self.rule.name, self.reason)
            else:
                self.done += 1


class Notification(Action):
    """Sends the message to one address of apprise."""

    def __init__(self, rule: Rule, address: str) -> None:
        super().__init__(rule)
        # Its own threads would keep the process from ending while a server hangs.
        self._apprise = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False))
        self._scheme = address.partition("://")[0]
        if not self._apprise.add(address):
            raise ValueError(f"{self._scheme}://… is no address that apprise knows")

    def perform(self, firing: Firing) -> str:
        """Send the message."""
        kind = apprise.NotifyType.SUCCESS if firing.is_over else apprise.NotifyType.WARNING
        sent = self._apprise.notify(
            body=firing.message, title=f"genre-stream: {firing.rule.name}", notify_type=kind
        )
        return "" if sent else f"{self._scheme}://… did not take the message"


class Command(Action):
    """Runs a program, without a shell; its arguments are replaced, never parsed."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()

    def perform(self, firing: Firing) -> str:
        """Run the program to its end, or stop it after its time."""
        arguments = [fill(argument, firing.values) for argument in self.rule.run]
        program = arguments[0]
        with self._starting:
            if self._stopped:
                return "genre-stream is stopping"
            try:
                self._process = subprocess.Popen(
                    [argument.replace("\0", "") for argument in arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                return f"{program}: {(error.strerror or str(error)).lower()}"
        try:
            status = self._process.wait(self.rule.run_seconds)
        except subprocess.TimeoutExpired:
            self._kill()
            return f"{program} was stopped after {self.rule.run_seconds:g} s"
        return f"{program} ended with status {status}" if status else ""

    def stop(self) -> None:
        """Kill the program and what it has started, and start no other one."""
        super().stop()
        with self._starting:
            self._kill()

    def _kill(self) -> None:
        if self._process and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def actions(rule: Rule) -> list[Action]:
    """Make the actions of a rule; `ValueError` if an address is unknown."""
    made: list[Action] = [Notification(rule, address) for address in rule.notify]
    return [*made, Command(rule)] if rule.run else made
