"""Connections: how much is read from each, what a client is sent, and when it is closed.

Publishing never waits for a client. What a client does not take at once is queued in its `Outbox`,
which a task of the client sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

import websockets.asyncio.server as wire
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from streamer.sinks import messages
from streamer.sinks.websocket.access import RefusedError
from streamer.sinks.websocket.hub import Hub, Outbox, SubscriptionError

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
"""How long each of these may take: the TLS handshake, the request, and reading the response."""
SLOW_CLIENT_SECONDS = 10.0
"""How long a client may be behind, or take to answer a ping."""
HEARTBEAT_SECONDS = 15.0
"""A client that was sent nothing for this long is sent a heartbeat."""
PING_INTERVAL_SECONDS = 10.0
CLIENT_CLOSE_SECONDS = 1.0
"""How long a client may take to answer a close frame."""
MAX_PENDING = 512
"""Connections at a time that are not WebSocket clients, or not yet."""
MAX_TURNED_AWAY = 512
"""Connections at a time that were answered 503 and are about to be closed."""
LATE_HANDSHAKE_SECONDS = 3.0
"""How long the TLS handshake of a client that is turned away may still take."""
TURNED_AWAY = (
    "HTTP/1.1 503 Service Unavailable\r\n"
    "Connection: close\r\n"
    "Content-Type: text/plain; charset=utf-8\r\n"
    "Content-Length: {length}\r\n"
    "Retry-After: {seconds}\r\n\r\n{sentence}"
)
RETRY_SECONDS = 10
"""After which a client that was turned away may try again."""
RECEIVE_BURST = 8 * 1024
"""Bytes that are read from a client without delay."""
RECEIVE_RATE = 1024
"""Bytes per second that are read beyond the burst; the rest waits in the client's kernel."""
MAX_UNREAD = 1024 * 1024
"""Bytes that may be queued for a client that sends pings but does not read the answers."""

TRY_AGAIN_LATER = 1013


class ConnectionRegistry:
    """All open connections, of which at most `max_clients` are WebSocket clients."""

    def __init__(self, max_clients: int) -> None:
        self.max_clients = max_clients
        self.clients: set[Connection] = set()
        """Connections that have completed the WebSocket handshake."""
        self.pending: dict[Connection, None] = {}
        """All others, oldest first, including connections whose TLS handshake has not started."""
        self.turned_away: dict[Connection, None] = {}
        """Connections that are about to be closed, oldest first."""

    def add(self, connection: Connection) -> None:
        """Register a new connection; beyond `MAX_PENDING` the oldest pending one is turned away."""
        self.pending[connection] = None
        if len(self.pending) > MAX_PENDING:
            oldest = next(iter(self.pending))
            del self.pending[oldest]
            self.turned_away[oldest] = None
            logger.warning("%s requests at once are not complete; others get 503", MAX_PENDING)
            oldest.turn_away()
        if len(self.turned_away) > MAX_TURNED_AWAY:
            next(iter(self.turned_away)).transport.abort()

    def admit(self, connection: Connection) -> None:
        """Make a pending connection a client; `RefusedError` if there are too many."""
        if len(self.clients) >= self.max_clients:
            raise RefusedError(
                503, f"there are {self.max_clients} clients already; try again later"
            )
        if connection not in self.pending:
            raise RefusedError(503, "this connection has been turned away")
        del self.pending[connection]
        self.clients.add(connection)

    def remove(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self.clients.discard(connection)
        self.pending.pop(connection, None)
        self.turned_away.pop(connection, None)


class Connection(wire.ServerConnection):
    """A server connection that registers itself and limits the rate at which it reads."""

    def __init__(
        self,
        protocol: ServerProtocol,
        server: wire.Server,
        *,
        registry: ConnectionRegistry,
        tls: ssl.SSLContext | None = None,
        **limits: Any,
    ) -> None:
        super().__init__(protocol, server, **limits)
        self._registry = registry
        self._tls = tls
        self._tls_handshake: asyncio.Task[None] | None = None
        self._established = False
        """Whether the base class handles the connection; with TLS, after the handshake."""
        self._is_turned_away = False
        self._early_data = b""
        """Data that came with the end of the TLS handshake."""
        self._tokens = float(RECEIVE_BURST)
        """Bytes that may be read now."""
        self._tokens_at = self.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection, and start TLS on it if the server uses it."""
        if self._tls is None:
            self._established = True
            super().connection_made(transport)
        else:
            self.transport = cast(asyncio.Transport, transport)
            self._tls_handshake = self.loop.create_task(self._start_tls(self.transport, self._tls))
        self._registry.add(self)

    async def _start_tls(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        # Not left to asyncio's server, which reports a connection only after the handshake, so that
        # connections without one would not be counted.
        try:
            secured = await self.loop.start_tls(
                transport,
                self,
                tls,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=CLIENT_CLOSE_SECONDS,
            )
        except OSError:  # includes ssl.SSLError
            secured = None
        if secured is None:
            transport.abort()
            self._registry.remove(self)
            return
        if self._is_turned_away:
            self.transport = secured
            self._answer_turned_away()
            return
        self._established = True
        super().connection_made(secured)
        if self._early_data:
            self.data_received(self._early_data)

    def turn_away(self) -> None:
        """Answer 503 to a client whose request is not complete, and close the connection.

        With TLS this happens after the handshake.
        """
        self._is_turned_away = True
        if self._tls is None or self._established:
            self._answer_turned_away()
        else:
            self.loop.call_later(LATE_HANDSHAKE_SECONDS, self._abort_handshake)

    def _abort_handshake(self) -> None:
        if self._tls_handshake and not self._tls_handshake.done():
            self.transport.abort()

    def _answer_turned_away(self) -> None:
        if self.transport.is_closing():
            self.transport.abort()
            return
        sentence = "too many connections at once; try again later\n"
        answer = TURNED_AWAY.format(length=len(sentence), seconds=RETRY_SECONDS, sentence=sentence)
        self.transport.write(answer.encode())
        if self.transport.can_write_eof():  # not with TLS
            self.transport.write_eof()
        # Closed when the client does it: a request that comes later would otherwise reset the
        # connection, and the answer would be lost.
        self.loop.call_later(CLIENT_CLOSE_SECONDS, self.transport.abort)

    def send_data(self) -> None:
        """Send what the protocol has to send, unless the client was turned away."""
        if not self._is_turned_away:
            super().send_data()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the registry."""
        self._registry.remove(self)
        if self._established:
            super().connection_lost(exc)

    def eof_received(self) -> None:
        """Handle the end of the incoming data."""
        if self._established and not self._is_turned_away:
            super().eof_received()

    def data_received(self, data: bytes) -> None:
        """Handle incoming data, and pause reading if there was too much of it."""
        if self._is_turned_away:
            return
        if not self._established:
            self._early_data += data
            return
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNREAD:
            self.transport.abort()
        elif self.state is State.OPEN:
            self._throttle(len(data))

    def _throttle(self, received: int) -> None:
        """Consume tokens for the bytes received; pause reading while there are none left."""
        now = self.loop.time()
        refill = (now - self._tokens_at) * RECEIVE_RATE
        self._tokens_at = now
        self._tokens = min(self._tokens + refill, RECEIVE_BURST) - received
        if self._tokens < 0:
            self.transport.pause_reading()
            self.loop.call_later(-self._tokens / RECEIVE_RATE, self._resume_reading)

    def _resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()


class Client:
    """Serves one WebSocket client until it disconnects or is closed for being slow."""

    def __init__(self, connection: wire.ServerConnection, hub: Hub) -> None:
        self._connection = connection
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._last_sent = self._loop.time()
        self._outbox = Outbox(self._write)
        self._closing = False

    async def serve(self) -> None:
        """Send messages and handle requests until the connection is closed."""
        self._hub.join(self._outbox)
        try:
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(self._send()), tasks.create_task(self._ping())]
                await self._handle_requests()
                for task in background:
                    task.cancel()
        except* ConnectionClosed:
            pass
        finally:
            self._hub.leave(self._outbox)

    def _write(self, frame: bytes) -> bool:
        """Write a frame unless earlier data is still buffered; return whether it was written."""
        transport = self._connection.transport
        if transport.get_write_buffer_size():
            return False
        if self._connection.state is State.OPEN and not transport.is_closing():
            # Not `broadcast`, which makes the same frame anew for each of thousands of clients.
            transport.write(_text_frame(frame))
        self._last_sent = self._loop.time()
        return True

    async def _send(self) -> None:
        """Send queued frames, and heartbeats while there are none."""
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
                async with asyncio.timeout(SLOW_CLIENT_SECONDS):
                    while (queued := self._outbox.take()) is not None:
                        await self._connection.send(queued, text=True)
                        self._last_sent = self._loop.time()
                        if self._outbox.overflowed:
                            raise TimeoutError
            except TimeoutError:
                await self._close_slow(f"behind for {SLOW_CLIENT_SECONDS:.0f} s")
                return

    async def _ping(self) -> None:
        """Detect a client that does not read, which the kernels' buffers hide for long."""
        while True:
            await asyncio.sleep(PING_INTERVAL_SECONDS)
            try:
                async with asyncio.timeout(SLOW_CLIENT_SECONDS):
                    await (await self._connection.ping())
            except TimeoutError:
                await self._close_slow(f"no answer for {SLOW_CLIENT_SECONDS:.0f} s")
                return

    async def _close_slow(self, reason: str) -> None:
        if self._closing:
            return
        self._closing = True
        self._hub.slow_clients_closed += 1
        address = self._connection.remote_address
        peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "(gone)"
        logger.info("client %s closed: %s", peer, reason)
        await close_connection(self._connection, TRY_AGAIN_LATER, reason, CLIENT_CLOSE_SECONDS)

    async def _handle_requests(self) -> None:
        async for frame in self._connection:
            try:
                self._hub.subscribe(self._outbox, _parse_request(frame))
            except SubscriptionError as error:
                answer = messages.encode(messages.error(error.code, str(error)))
                self._outbox.offer("error", None, answer)


@lru_cache(maxsize=16)
def _text_frame(text: bytes) -> bytes:
    """Return a text frame as a server sends it, without extensions."""
    return Frame(Opcode.TEXT, text).serialize(mask=False)


def _parse_request(frame: str | bytes) -> dict[str, Any]:
    """Return a subscribe request; `SubscriptionError` if the frame is anything else."""
    if isinstance(frame, bytes):
        raise SubscriptionError("bad_frame", "send text frames, not binary ones")
    try:
        request = json.loads(frame)
    except (ValueError, RecursionError):
        raise SubscriptionError("bad_json", "the frame is not JSON") from None
    if not isinstance(request, dict):
        raise SubscriptionError("bad_json", "the frame is not a JSON object")
    if request.get("type") != "subscribe":
        raise SubscriptionError("unknown_type", "the only type that a client may send is subscribe")
    return request


async def close_connection(
    connection: wire.ServerConnection, code: int, reason: str, seconds: float
) -> None:
    """Close a connection; abort it if the client does not answer within `seconds`."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await connection.close(code, reason)
    finally:
        connection.transport.abort()
