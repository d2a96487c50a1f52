"""The relay: takes what nodes tell a broker and serves it to clients, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine
from importlib.metadata import version
from typing import Any

from streamer.core.events import Sink
from streamer.core.health import OutputHealth
from streamer.engine.publisher import Publisher
from streamer.inputs import InputError
from streamer.outputs import missing, read_password
from streamer.relay.nodes import TOPICS, FrameClock, Nodes
from streamer.service import STOP_SECONDS, WATCH_SECONDS, read_token, server_options, warn_if_open
from streamer.settings import Settings
from streamer.sinks.history.writer import History
from streamer.sinks.metrics import Metrics
from streamer.sinks.websocket.hub import Hub
from streamer.sinks.websocket.server import Server
from streamer.system import logs
from streamer.system.background_writer import BackgroundWriter
from streamer.system.commandline import UserError
from streamer.system.console import print_error
from streamer.system.notify import Notifier, inherited_sockets
from streamer.system.stop_signals import StopSignals, exit_deadline

QUEUE_LIMIT = 100_000
"""Messages of the broker that may wait."""
SETTLE_SECONDS = 0.5
"""From the first node to the start of the server: what the broker keeps of others comes then."""
PATIENCE_SECONDS = 10.0
"""Time after which it is said that no node, or no prediction, has come."""
NO_MODEL = {"name": "", "version": ""}

CONNECTION_LOGGER = logging.getLogger("streamer.sinks.mqtt.connection")
logger = logging.getLogger(__name__)


class Relay:
    """Serves what is published at a broker; `InputError` if a setting cannot be used."""

    def __init__(self, settings: Settings, notifier: Notifier) -> None:
        try:
            from streamer.sinks.mqtt.connection import Connection
        except ModuleNotFoundError:
            raise missing("mqtt") from None
        assert settings.mqtt
        self._notifier = notifier
        self._broker = settings.mqtt
        history = History(settings.history, settings.retention_days) if settings.history else None
        self._history = history
        self.hub = Hub({"sources": []})
        clock = FrameClock()
        metrics = Metrics(
            version=version("genre-stream"),
            model=NO_MODEL,
            health=lambda: self.nodes.health(),
            clients=self.hub,
            history=history,
            outputs=self._outputs,
        )
        sinks: list[Sink] = [self.hub, metrics, *([history] if history else [])]
        self.nodes = Nodes(Publisher(sinks, clock), clock, self.hub.greet_with)
        self._prefix = f"{settings.mqtt.prefix}/"
        try:
            self._connection = Connection(
                settings.mqtt,
                read_password(settings),
                status=None,
                subscriptions=[self._prefix + topic for topic in TOPICS],
                received=self._receive,
                queue_limit=QUEUE_LIMIT,
            )
        except OSError as error:
            raise InputError(
                f"mqtt: a certificate or key cannot be used: {error.strerror or error}"
            ) from None
        self._token = read_token(settings)
        self.server = Server(
            self.hub,
            sockets=inherited_sockets() or None,
            health=self.nodes.health,
            history=history.read if history else None,
            metrics=metrics.registry,
            outputs=self._outputs,
            **server_options(settings, self._token),
        )

    async def run(self) -> int:
        """Serve until a signal arrives; return the exit status."""
        self._over = asyncio.Event()
        start_deadline = exit_deadline(STOP_SECONDS)
        StopSignals(self._stop_by_signal, start_deadline)
        try:
            if await self._until_over(self.start()):
                logger.info("serving on %s", self.server.url)
                warn_if_open(self.server, self._token)
                self._notifier.ready()
                await self._until_over(self.watch())
        finally:
            self._notifier.stopping()
            start_deadline()
            await self.close()
            self._notifier.close()
        return 0

    async def start(self) -> None:
        """Wait for the broker and for a node, then serve clients.

        `UserError` is raised if the broker or the port cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        # At the start a broker that cannot be used is an error, which is not logged as well.
        CONNECTION_LOGGER.addFilter(_is_no_warning)
        self._connection.start()
        await self._connect()
        await self.server.start()

    async def close(self) -> None:
        """Close the clients, the connection to the broker and the history."""
        closing = [self.server.close(), asyncio.to_thread(self._connection.close)]
        if self._history:
            closing.append(asyncio.to_thread(self._history.close))
        await asyncio.gather(*closing)

    async def _until_over(self, work: Coroutine[Any, Any, None]) -> bool:
        """Work until it is done or a signal arrives; return whether it is done."""
        working, over = asyncio.create_task(work), asyncio.create_task(self._over.wait())
        await asyncio.wait((working, over), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            over.cancel()
            working.result()
            return True
        working.cancel()
        return False

    async def _connect(self) -> None:
        connection, broker = self._connection, f"MQTT {self._broker.host}:{self._broker.port}"
        while not connection.connected:
            if connection.reason:
                raise UserError(f"{broker}: {connection.reason}", exit_status=1)
            await asyncio.sleep(0.05)
        CONNECTION_LOGGER.removeFilter(_is_no_warning)
        waited = 0.0
        while not self.nodes:
            await asyncio.sleep(0.05)
            waited += 0.05
            if waited - 0.05 < PATIENCE_SECONDS <= waited:
                logger.warning(
                    "%s: no node is there yet; start genre-stream with --mqtt and "
                    "--mqtt-predictions, and the same prefix (%s)",
                    broker,
                    self._broker.prefix,
                )
        await asyncio.sleep(SETTLE_SECONDS)

    async def watch(self) -> None:
        """Report to the service manager, and note when the broker or predictions are missing."""
        warned: set[str] = set()
        silent_since: dict[str, float] = {}
        lost = False
        while True:
            if lost := not self._connection.connected:
                self.nodes.lose(f"MQTT broker: {self._connection.reason or 'not connected'}")
            now = self._loop.time()
            silent = self.nodes.silent()
            silent_since = {node: silent_since.get(node, now) for node in silent}
            for node, since in silent_since.items():
                if node not in warned and now - since >= PATIENCE_SECONDS:
                    warned.add(node)
                    logger.warning(
                        "node %s sends no predictions; start it with --mqtt-predictions", node
                    )
            if self._notifier.watchdog_seconds:
                self._notifier.watchdog()
            live = sum(each.state == "live" for each in self.nodes.health())
            are_live = f"{live} {'source is' if live == 1 else 'sources are'} live"
            self._notifier.status("the broker is gone" if lost else are_live)
            interval = min(WATCH_SECONDS, (self._notifier.watchdog_seconds or WATCH_SECONDS) / 2)
            await asyncio.sleep(interval)

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        """Hand a message to the event loop, on the connection's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(
                self.nodes.receive, topic.removeprefix(self._prefix), payload
            )

    def _outputs(self) -> list[OutputHealth]:
        connection = self._connection
        return [OutputHealth("mqtt", connection.connected, connection.reason)]

    def _stop_by_signal(self, number: signal.Signals) -> None:
        logger.info("%s: stopping", number.name)
        self._over.set()


def _is_no_warning(record: logging.LogRecord) -> bool:
    return record.levelno < logging.WARNING


def run(settings: Settings) -> int:
    """Run the relay; return the exit status."""
    console = BackgroundWriter(sys.stderr)
    logs.configure(settings.log_level, stream=console)
    with contextlib.redirect_stderr(console):
        try:
            return asyncio.run(Relay(settings, Notifier()).run())
        except UserError as error:
            # Here, while standard error cannot block: nobody may be reading it.
            print_error(str(error))
            return error.exit_status
        finally:
            console.drain()
