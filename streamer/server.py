"""The port: WebSocket clients on any path and a few HTTP pages.

The publisher never waits for a client: what a client does not take at once waits in its `Outbox`,
and one task a client sends it from there. One event loop, one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import socket
import ssl
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import websockets.asyncio.server as wire
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from streamer import messages
from streamer.access import Access, RefusedError, single
from streamer.history import History
from streamer.hub import Hub, Outbox, SubscriptionError
from streamer.metrics import Metrics
from streamer.pages import Pages, as_response, refusal_page
from streamer.vitals import VitalsReader

logger = logging.getLogger(__name__)

REQUEST_BYTES = 4096
"""Largest frame that a client may send."""
BEHIND_SECONDS = 10.0
"""How long a client may stay behind."""
HEARTBEAT_SECONDS = 15.0
"""A client that was sent nothing for this long is sent a heartbeat."""
PING_SECONDS = 10.0
"""Seconds between two pings; a client that reads answers them."""
HANDSHAKE_SECONDS = 10.0
"""How long a client may take to send its request, and to take the answer."""
CLOSING_SECONDS = 1.0
"""How long a client may take to answer a close frame."""
STOPPING_SECONDS = 0.4
"""The same when the server stops, which must not take long."""
MAX_CLIENTS = 500
"""WebSocket clients at once, unless set."""
OTHER_FILES = 300
"""Open files that the daemon needs for anything but connections, with room to spare."""
MAX_STRANGERS = 128
"""Connections at once that are not WebSocket clients (yet); when there are more the oldest is cut.
"""
BACKLOG = 256
"""Connections that the kernel completes before we take them."""
SEND_BUFFER = 64 * 1024
"""Bytes the kernel may hold for a client, so that one who does not read is noticed soon."""
RECEIVE_BUFFER = 4 * 1024
"""Bytes the kernel may hold from a client: no more can be thrown at the event loop at once."""
WRITE_LIMIT = 16 * 1024
"""Bytes beyond the kernel's buffer after which sending waits."""
RECEIVED_AT_ONCE = 8 * 1024
"""Bytes that are read from one client without delay."""
RECEIVED_PER_SECOND = 1024
"""Bytes a second that are read after that; a flood waits in the flooder's own kernel."""
UNREAD_LIMIT = 1024 * 1024
"""Bytes that may wait for a client that makes us answer (pings) and does not read."""

GOING_AWAY = 1001
TRY_AGAIN_LATER = 1013


class ServerError(Exception):
    """The server cannot start; the message is one sentence that says why and what to do."""


class _Connections:
    """All connections there are, and which of them are WebSocket clients."""

    def __init__(self, max_clients: int) -> None:
        self.max_clients = max_clients
        self.all: set[_Connection] = set()
        self.strangers: dict[_Connection, None] = {}

    def add(self, connection: _Connection) -> None:
        """Count a new connection; when there are too many strangers, the oldest goes."""
        self.all.add(connection)
        self.strangers[connection] = None
        if len(self.strangers) > MAX_STRANGERS:
            oldest = next(iter(self.strangers))
            del self.strangers[oldest]
            oldest.transport.abort()

    def admit(self, connection: _Connection) -> None:
        """Make a stranger a client.

        Raises
        ------
        RefusedError
            With status 503 if there are enough.
        """
        if len(self.all) - len(self.strangers) >= self.max_clients:
            raise RefusedError(
                503, f"there are {self.max_clients} clients already; try again later"
            )
        self.strangers.pop(connection, None)

    def remove(self, connection: _Connection) -> None:
        """Forget a connection."""
        self.all.discard(connection)
        self.strangers.pop(connection, None)


class _Connection(wire.ServerConnection):
    """A connection that is counted, and of which no more is read than a second allows."""

    def __init__(
        self, protocol: ServerProtocol, server: wire.Server, *, book: _Connections, **limits: Any
    ) -> None:
        super().__init__(protocol, server, **limits)
        self._book = book
        self._may_read = float(RECEIVED_AT_ONCE)
        self._counted_at = self.loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._book.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._book.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
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


class _Client:
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
                    frame = messages.encode(messages.heartbeat(datetime.now(UTC))).encode()
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
        await _close(self._connection, TRY_AGAIN_LATER, reason, CLOSING_SECONDS)

    async def _obey(self) -> None:
        """Do what the client asks for."""
        async for request in self._connection:
            try:
                self._hub.subscribe(self._outbox, _parse_request(request))
            except SubscriptionError as error:
                answer = messages.encode(messages.error(error.code, str(error)))
                self._outbox.offer("error", None, answer.encode())


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


class Server:
    """Serves a hub on a port.

    Parameters
    ----------
    hub
        What is told.
    host, port
        Where to listen; port 0 takes any free one.
    sockets
        Listening sockets to serve in place of `host` and `port`, such as from systemd.
    token
        What clients must know; None lets in everybody who reaches the port.
    origins
        Origins of web pages elsewhere that may connect.
    tls_cert, tls_key
        Certificate chain and private key (PEM); both or neither. The key may be in the
        certificate's file.
    max_clients
        WebSocket clients at once.
    vitals
        Reads how the sources do, for ``/healthz``.
    history
        Answers ``/api/history``.
    metrics
        Answers ``/metrics``, and counts clients.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        host: str = "127.0.0.1",
        port: int = 8765,
        sockets: Sequence[socket.socket] | None = None,
        token: str | None = None,
        origins: Iterable[str] = (),
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        max_clients: int = MAX_CLIENTS,
        vitals: VitalsReader = tuple,
        history: History | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._hub = hub
        self._host = host
        self._port = port
        self._sockets = sockets
        self._access = Access(token, origins)
        self._tls = None if tls_cert is None else tls_context(tls_cert, tls_key)
        self._connections = _Connections(max_clients)
        self._metrics = metrics
        self._pages = Pages(hub, self._access, vitals=vitals, history=history, metrics=metrics)
        self._servers: list[wire.Server] = []

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the server listens: (host, port) pairs."""
        return [
            listening.getsockname()[:2] for server in self._servers for listening in server.sockets
        ]

    @property
    def url(self) -> str:
        """The address of the dashboard."""
        host, port = self.addresses[0]
        name = f"[{host}]" if ":" in host else host
        return f"{'http' if self._tls is None else 'https'}://{name}:{port}/"

    async def start(self) -> None:
        """Begin to serve.

        Raises
        ------
        ServerError
            If the port cannot be had.
        """
        _allow_open_files(self._connections.max_clients + MAX_STRANGERS + OTHER_FILES)
        places: list[dict[str, Any]] = (
            [{"host": self._host, "port": self._port}]
            if self._sockets is None
            else [{"sock": listening} for listening in self._sockets]
        )
        try:
            for place in places:
                self._servers.append(await self._listen(place))
        except OSError as error:
            raise ServerError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror or error}; "
                "choose another --host or --port"
            ) from None

    async def close(self) -> None:
        """Tell every client that we go, and close the port; takes a second at the most."""
        for server in self._servers:
            server.close(close_connections=False)
        for stranger in list(self._connections.strangers):
            stranger.transport.abort()
        clients = list(self._connections.all)
        await asyncio.gather(
            *(
                _close(client, GOING_AWAY, "the server stops", STOPPING_SECONDS)
                for client in clients
            )
        )
        with contextlib.suppress(TimeoutError):  # somebody may have asked for much history
            async with asyncio.timeout(STOPPING_SECONDS):
                for server in self._servers:
                    await server.wait_closed()

    async def _listen(self, place: dict[str, Any]) -> wire.Server:
        server = await wire.serve(
            self._serve_client,
            **place,
            ssl=self._tls,
            process_request=self._answer,
            create_connection=partial(_Connection, book=self._connections),  # type: ignore[arg-type]
            compression=None,
            server_header=None,
            open_timeout=HANDSHAKE_SECONDS,
            close_timeout=CLOSING_SECONDS,
            ping_interval=None,
            max_size=REQUEST_BYTES,
            max_queue=None,  # the connection itself decides when to read
            write_limit=WRITE_LIMIT,
            logger=_quiet_logger(),
            backlog=BACKLOG,
            start_serving=False,
        )
        for listening in server.sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        await server.start_serving()
        return server

    async def _answer(self, connection: wire.ServerConnection, request: Request) -> Response | None:
        """Answer an HTTP request, or return None to let a WebSocket client in."""
        assert isinstance(connection, _Connection)
        try:
            if (single(request.headers, "Upgrade") or "").lower() != "websocket":
                return await self._pages.answer(request)
            self._access.check_place(request.headers)
            if not self._access.knows_token(request.headers, request.path.partition("?")[2]):
                raise RefusedError(401, "this needs the token: Bearer in a header or ?token=TOKEN")
            self._connections.admit(connection)
        except RefusedError as refusal:
            return as_response(refusal_page(refusal), request, self._access)
        return None

    async def _serve_client(self, connection: wire.ServerConnection) -> None:
        client = _Client(connection, self._hub, self._metrics)
        if self._metrics is None:
            await client.serve()
            return
        with self._metrics.client():
            await client.serve()


def _allow_open_files(count: int) -> None:
    """Raise this process's own limit on open files, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _quiet_logger() -> logging.Logger:
    """Return a logger that never tells requests: their address may hold the token."""
    quiet = logging.getLogger(f"{__name__}.wire")
    quiet.setLevel(logging.WARNING)
    return quiet


def tls_context(cert: Path, key: Path | None) -> ssl.SSLContext:
    """Load a certificate chain and its key (PEM).

    Raises
    ------
    ServerError
        If they cannot be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ServerError(
            f"cannot use the certificate {cert} with the key {key or cert}: "
            f"{error.strerror or error}"
        ) from None
    return context


def _peer(connection: wire.ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "(gone)"


async def _close(connection: wire.ServerConnection, code: int, reason: str, seconds: float) -> None:
    """Close a connection; cut it if the other side does not answer in time."""
    try:
        async with asyncio.timeout(seconds):
            await connection.close(code, reason)
    except TimeoutError:
        pass
    finally:
        connection.transport.abort()
