"""The daemon: wires the engine to the sinks, starts everything in order and stops it in order."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamer.core.decision import Decision
from streamer.core.events import Published, SourceStatus
from streamer.engine.watchdog import TERMINAL_STATES, threads_and_tasks
from streamer.inputs import InputError, make_inputs
from streamer.listening import Listening
from streamer.reload import Reloader
from streamer.settings import Settings
from streamer.sinks.history.writer import History
from streamer.sinks.terminal import Terminal
from streamer.sinks.websocket.server import Server
from streamer.system import logs
from streamer.system.background_writer import BackgroundWriter
from streamer.system.commandline import UserError
from streamer.system.console import print_error, unreadable_reason
from streamer.system.memory import return_freed_memory, share_one_heap, trim_memory
from streamer.system.notify import Notifier, ignore_requests, inherited_sockets
from streamer.system.stop_signals import StopSignals, call_on_loop, exit_deadline

STOP_SECONDS = 2.0
"""Longest duration of an orderly stop; after it the process exits with status 1.

The sources, the clients and the outputs limit their shares of it."""
WATCH_SECONDS = 1.0
"""Interval at which progress is checked and reported to the service manager."""

logger = logging.getLogger(__name__)


class Service:
    """The daemon, from start to stop.

    `read_settings` reads the settings again on SIGHUP; there is a `terminal` if standard error is
    one.
    """

    def __init__(
        self,
        settings: Settings,
        read_settings: Callable[[], Settings],
        *,
        notifier: Notifier,
        terminal: Terminal | None = None,
    ) -> None:
        self._notifier = notifier
        self._terminal = terminal
        self._inputs = make_inputs(settings)
        self._status_words: dict[str, str] = {}
        """State or genre of each source, for the service manager's status line."""
        self._history = (
            History(settings.history, settings.retention_days) if settings.history else None
        )
        self._listening = Listening(
            settings, self._inputs, self._note, history=self._history, terminal=terminal
        )
        self._hub = self._listening.hub
        self._outputs = self._listening.outputs
        self._supervisor = self._listening.supervisor
        self._token = read_token(settings)
        self._server = Server(
            self._hub,
            sockets=inherited_sockets() or None,
            health=self._supervisor.health,
            history=self._history.read if self._history else None,
            metrics=self._listening.metrics.registry,
            outputs=self._outputs.health,
            alerts=self._outputs.alerts,
            **server_options(settings, self._token),
        )
        self._reloader = Reloader(
            settings, read_settings, self._inputs, self._supervisor, self._apply_outputs
        )

    async def run(self) -> int:
        """Serve until every source is over or a signal arrives; return the exit status."""
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._listening.open()
        self._start_deadline = exit_deadline(STOP_SECONDS)
        self._stop_signals = StopSignals(self._stop_by_signal, self._start_deadline)
        # Starts the thread of asyncio.to_thread before the sources use up the threads that this
        # process may have.
        await asyncio.to_thread(return_freed_memory)
        await self._server.start()
        call_on_loop(signal.SIGHUP, self._start_reload)
        call_on_loop(signal.SIGUSR1, self._log_diagnostics)
        self._announce()
        self._listening.start()
        self._notifier.ready()
        periodic = [asyncio.create_task(task()) for task in (self._watch, trim_memory)]
        await self._over.wait()
        for task in periodic:
            task.cancel()
        return await self._stop()

    def _announce(self) -> None:
        if self._terminal:
            self._terminal.write(f"Dashboard: {self._server.url}\n")
        else:
            logger.info("computing in %s", self._listening.arithmetic)
            logger.info("serving on %s", self._server.url)
        warn_if_open(self._server, self._token)

    def _note(self, published: Published) -> None:
        """Take note of an event that was published."""
        name = published.source
        if isinstance(published.event, Decision):
            self._status_words[name] = (
                f"{published.event.genre} {published.event.confidence * 100:.0f} %"
                if published.event.genre
                else published.event.state.replace("_", " ")
            )
        elif isinstance(published.event, SourceStatus):
            state = published.event.state
            self._status_words[name] = state
            if state in TERMINAL_STATES and name in self._supervisor.listeners:
                self._end_if_all_over()

    def _end_if_all_over(self) -> None:
        if self._supervisor.is_over() and not self._reloading.locked():
            self._over.set()

    async def _watch(self) -> None:
        """Send the service manager the status, and watchdog pings while decisions are made."""
        interval = min(WATCH_SECONDS, (self._notifier.watchdog_seconds or WATCH_SECONDS) / 2)
        while True:
            if not self._supervisor.needs_restart() and self._notifier.watchdog_seconds:
                self._notifier.watchdog()
            status = ", ".join(
                f"{name}: {words}"
                for name, words in self._status_words.items()
                if name in self._supervisor.listeners
            )
            self._notifier.status(status or "listening")
            await asyncio.sleep(interval)

    def _log_diagnostics(self) -> None:
        """Log the state of every thread, source and queue."""
        lines = list(threads_and_tasks())
        lines += [f"source {health}" for health in self._supervisor.health()]
        mailbox = self._listening.mailbox
        lines.append(f"mailbox: {len(mailbox)} wait, {mailbox.lost} lost")
        queued = [len(outbox) for outbox in self._hub.outboxes]
        lines.append(f"clients: {len(queued)}, {sum(queued)} frames wait")
        lines += [f"output {health}" for health in self._outputs.health()]
        if self._history:
            lines.append(
                f"history: {self._history.queue_depth} wait, {self._history.dropped} dropped, "
                f"{self._history.write_errors} write errors"
            )
        logger.warning("%s", "\n".join(lines))

    def _stop_by_signal(self, number: signal.Signals) -> None:
        logger.info("%s: stopping", number.name)
        self._over.set()

    async def _stop(self) -> int:
        """Stop in order: sources, then clients, outputs and history; return the exit status."""
        ignore_requests()
        self._notifier.stopping()
        self._start_deadline()
        failures = self._supervisor.failures()
        await self._listening.close_sources()
        closing = [self._server.close(), self._outputs.close()]
        if self._history:
            closing.append(asyncio.to_thread(self._history.close))
        await asyncio.gather(*closing)
        self._notifier.close()
        for failure in failures:
            print_error(f"{failure.source}: {failure.detail}")
        return 1 if failures and not self._stop_signals.received else 0

    async def _apply_outputs(self, settings: Settings) -> None:
        """Apply changed settings of outputs and colours; `InputError` if they cannot be used."""
        colours = await self._outputs.reload(settings)
        self._hub.recolour(colours)
        if self._terminal:
            self._terminal.recolour(colours)

    def _start_reload(self) -> None:
        if self._terminal and not self._terminal.isatty():
            logger.info("the terminal was closed: stopping")
            self._over.set()
            return
        task = self._loop.create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        async with self._reloading:
            self._notifier.reloading()
            try:
                await self._reloader.reload()
            finally:
                self._notifier.ready()
        self._end_if_all_over()


def server_options(settings: Settings, token: str | None) -> dict[str, Any]:
    """Return the arguments of a `Server` that the settings determine."""
    return {
        "host": settings.host,
        "port": settings.port,
        "token": token,
        "origins": settings.origin,
        "max_clients": settings.max_clients,
        "tls_cert": settings.tls_cert,
        "tls_key": settings.tls_key,
    }


def warn_if_open(server: Server, token: str | None) -> None:
    """Log a warning if anybody in the network can be a client."""
    is_private = all(ipaddress.ip_address(host).is_loopback for host, _ in server.addresses)
    if token is None and not is_private:
        logger.warning("anybody who reaches %s may listen in; set token_file", server.url)


def read_token(settings: Settings) -> str | None:
    """Return the token that clients must present, from `token_file` or systemd's credentials.

    `InputError` is raised if a file cannot be read, or `token_file` is empty.
    """
    path = settings.token_file
    if path is None and (credentials := os.environ.get("CREDENTIALS_DIRECTORY")):
        path = Path(credentials) / "token"
    if path is None:
        return None
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and not settings.token_file:
            return None
        reason = unreadable_reason(error)
        raise InputError(f"token_file {path} cannot be read: {reason}") from None
    if settings.token_file and not token:
        raise InputError(f"token_file {path} is empty; write a long random word into it")
    return token or None


def run(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Run the daemon; return the exit status."""
    faulthandler.enable()
    share_one_heap()
    terminal = Terminal(sys.stderr) if sys.stderr.isatty() else None
    console = terminal or BackgroundWriter(sys.stderr)
    # The live lines show states already.
    level = "warning" if terminal and settings.log_level == "info" else settings.log_level
    logs.configure(level, stream=console)
    with contextlib.redirect_stderr(console):
        try:
            notifier = Notifier()
            notifier.status("loading the model")
            service = Service(settings, reload, notifier=notifier, terminal=terminal)
            return asyncio.run(service.run())
        except UserError as error:
            # Here, while standard error cannot block: nobody may be reading it.
            print_error(str(error))
            return error.exit_status
        finally:
            console.drain()
