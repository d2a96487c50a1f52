"""WebSocket clients: how much is read from each, what it is sent, and when it is given up.

The publisher never waits for a client: what a client does not take at once waits in its `Outbox`,
and a task of its own sends it from there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from datetime import UTC, datetime
from typing import Any, cast

import websockets.asyncio.server as wire
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.server import ServerProtocol

from streamer.sinks import messages
from streamer.sinks.metrics import Metrics
from streamer.sinks.websocket.access import RefusedError
from streamer.sinks.websocket.hub import Hub, Outbox, SubscriptionError

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
"""How long a client may take for the handshake of TLS; to send its request; to take the answer."""
BEHIND_SECONDS = 10.0
"""How long a client may stay behind."""
HEARTBEAT_SECONDS = 15.0
"""A client that was sent nothing for this long is sent a heartbeat."""
PING_SECONDS = 10.0
"""Seconds between two pings; a client that reads answers them."""
CLOSING_SECONDS = 1.0
"""How long a client may take to answer a close frame."""
MAX_STRANGERS = 128
"""Connections at once that are not WebSocket clients (yet); when there are more the oldest is cut.
"""
RECEIVED_AT_ONCE = 8 * 1024
"""Bytes that are read from one client without delay."""
RECEIVED_PER_SECOND = 1024
"""Bytes a second that are read after that; a flood waits in the flooder's own kernel."""
UNREAD_LIMIT = 1024 * 1024
"""Bytes that may wait for a client that makes us answer (pings) and does not read."""

TRY_AGAIN_LATER = 1013


class Connections:
    """All connections there are: WebSocket clients, and strangers who are not (yet)."""

    def __init__(self, max_clients: int) -> None:
        self.max_clients = max_clients
        self.clients: set[Connection] = set()
        self.strangers: dict[Connection, None] = {}

    def add(self, connection: Connection) -> None:
        """Count a new connection; when there are too many strangers, the oldest goes."""
        self.strangers[connection] = None
        if len(self.strangers) > MAX_STRANGERS:
            oldest = next(iter(self.strangers))
            del self.strangers[oldest]
            oldest.transport.abort()

    def admit(self, connection: Connection) -> None:
        """Make a stranger a client.

        Raises
        ------
        RefusedError
            With status 503 if there are enough.
        """
        if len(self.clients) >= self.max_clients:
            raise RefusedError(
                503, f"there are {self.max_clients} clients already; try again later"
            )
        if connection in self.strangers:  # else it has been cut meanwhile
            del self.strangers[connection]
            self.clients.add(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        self.clients.discard(connection)
        self.strangers.pop(connection, None)


class Connection(wire.ServerConnection):
    """A connection that is counted, and of which no more is read than a second allows."""

    def __init__(
        self,
        protocol: ServerProtocol,
        server: wire.Server,
        *,
        book: Connections,
        tls: ssl.SSLContext | None = None,
        **limits: Any,
    ) -> None:
        super().__init__(protocol, server, **limits)
        self._book = book
        self._tls = tls
        self._securing: asyncio.Task[None] | None = None
        self._begun = False
        """Whether what comes is for the library: with TLS, not before the handshake is over."""
        self._early = b""
        """What came with the end of that handshake."""
        self._may_read = float(RECEIVED_AT_ONCE)
        self._counted_at = self.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to count this connection: also one that is still to say a word of TLS."""
        if self._tls is None:
            self._begun = True
            super().connection_made(transport)
        else:
            self.transport = cast(asyncio.Transport, transport)
            self._securing = self.loop.create_task(self._secure(self.transport, self._tls))
        self._book.add(self)

    async def _secure(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        """Make the connection one of TLS.

        Done here, since asyncio's server would tell us of a connection only after the handshake.
        """
        try:
            secured = await self.loop.start_tls(
                transport,
                self,
                tls,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=CLOSING_SECONDS,
            )
        except OSError:  # TLS's own errors, too
            secured = None
        if secured is None or self not in self._book.strangers:
            transport.abort()
            self._book.remove(self)
            return
        self._begun = True
        super().connection_made(secured)
        if self._early:
            self.data_received(self._early)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self._book.remove(self)
        if self._begun:
            super().connection_lost(exc)

    def eof_received(self) -> None:
        """Take note that nothing more will come."""
        if self._begun:
            super().eof_received()

    def data_received(self, data: bytes) -> None:
        """Take what came, and think about when to take more."""
        if not self._begun:
            self._early += data
            return
        super().data_received(data)
        if self.transport.get_write_buffer_size() > UNREAD_LIMIT:
            self.transport.abort()
        elif self.state is State.OPEN:
            self._slow_down(len(data))

    def _slow_down(self, received: int) -> None:
        """Stop reading until what came is paid for at `RECEIVED_PER_SECOND`."""
        now = self.loop.time()
        earned = (now - self._counted_at) * RECEIVED_PER_SECOND
        self._counted_at = now
        self._may_read = min(self._may_read + earned, RECEIVED_AT_ONCE) - received
        if self._may_read < 0:
            self.transport.pause_reading()
            self.loop.call_later(-self._may_read / RECEIVED_PER_SECOND, self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()


class Client:
    """One WebSocket client while it is connected."""

    def __init__(
        self, connection: wire.ServerConnection, hub: Hub, metrics: Metrics | None
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._last_sent = self._loop.time()
        self._outbox = Outbox(self._write)
        self._dropped = False

    async def serve(self) -> None:
        """Tell the client what it wants to know until it leaves."""
        self._hub.join(self._outbox)
        try:
            async with asyncio.TaskGroup() as tasks:
                companions = [tasks.create_task(self._send()), tasks.create_task(self._ping())]
                await self._obey()
                for companion in companions:
                    companion.cancel()
        except* ConnectionClosed:
            pass
        finally:
            self._hub.leave(self._outbox)

    def _write(self, frame: bytes) -> bool:
        """Write a frame if everything before it has left for the network."""
        if self._connection.transport.get_write_buffer_size():
            return False
        wire.broadcast((self._connection,), frame, text=True)
        self._last_sent = self._loop.time()
        return True

    async def _send(self) -> None:
        """Send what waits, and a heartbeat when nothing did for long."""
        while True:
            try:
                async with asyncio.timeout_at(self._last_sent + HEARTBEAT_SECONDS):
                    await self._outbox.waiting.wait()
            except TimeoutError:
                if self._loop.time() >= self._last_sent + HEARTBEAT_SECONDS:
                    frame = messages.encode(messages.heartbeat(datetime.now(UTC)))
                    self._outbox.offer("heartbeat", None, frame)
                continue
            try:
                async with asyncio.timeout(BEHIND_SECONDS):
                    await self._send_all()
            except TimeoutError:
                await self._drop(f"behind for {BEHIND_SECONDS:.0f} s")
                return

    async def _send_all(self) -> None:
        """Send until nothing waits; how fast is up to the client."""
        while (frame := self._outbox.take()) is not None:
            await self._connection.send(frame, text=True)
            self._last_sent = self._loop.time()
            if self._outbox.overflowed:
                raise TimeoutError

    async def _ping(self) -> None:
        """Ask for a sign that the client reads; the kernels hide for long that it does not."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            try:
                async with asyncio.timeout(BEHIND_SECONDS):
                    await (await self._connection.ping())
            except TimeoutError:
                await self._drop(f"no answer for {BEHIND_SECONDS:.0f} s")
                return

    async def _drop(self, reason: str) -> None:
        if self._dropped:
            return
        self._dropped = True
        if self._metrics is not None:
            self._metrics.slow_client_closed()
        logger.info("client %s closed: %s", _peer(self._connection), reason)
        await close_connection(self._connection, TRY_AGAIN_LATER, reason, CLOSING_SECONDS)

    async def _obey(self) -> None:
        """Do what the client asks for."""
        async for request in self._connection:
            try:
                self._hub.subscribe(self._outbox, _parse_request(request))
            except SubscriptionError as error:
                answer = messages.encode(messages.error(error.code, str(error)))
                self._outbox.offer("error", None, answer)


def _parse_request(text: str | bytes) -> dict[str, Any]:
    """Return a subscribe frame.

    Raises
    ------
    SubscriptionError
        If it is anything else.
    """
    if isinstance(text, bytes):
        raise SubscriptionError("bad_frame", "send text frames, not binary ones")
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        raise SubscriptionError("bad_json", "the frame is not JSON") from None
    if not isinstance(request, dict):
        raise SubscriptionError("bad_json", "the frame is not a JSON object")
    if request.get("type") != "subscribe":
        raise SubscriptionError("unknown_type", "the only type that a client may send is subscribe")
    return request


def _peer(connection: wire.ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "(gone)"


async def close_connection(
    connection: wire.ServerConnection, code: int, reason: str, seconds: float
) -> None:
    """Close a connection; cut it if the other side does not answer in time."""
    try:
        async with asyncio.timeout(seconds):
            await connection.close(code, reason)
    except TimeoutError:
        pass
    finally:
        connection.transport.abort()
