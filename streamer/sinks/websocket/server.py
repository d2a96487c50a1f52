"""The port: WebSocket clients on any path and a few HTTP pages, all on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import websockets.asyncio.server as wire
from websockets.http11 import Request, Response

from streamer.core.health import HealthReader
from streamer.sinks.history.writer import History
from streamer.sinks.metrics import Metrics
from streamer.sinks.websocket.access import Access, RefusedError, single
from streamer.sinks.websocket.connections import (
    CLOSING_SECONDS,
    HANDSHAKE_SECONDS,
    MAX_STRANGERS,
    Client,
    Connection,
    Connections,
    close_connection,
)
from streamer.sinks.websocket.hub import Hub
from streamer.sinks.websocket.pages import Pages, as_response, refusal_page

REQUEST_BYTES = 4096
"""Largest frame that a client may send."""
STOPPING_SECONDS = 0.4
"""How long clients may take to say goodbye when the server stops."""
MAX_CLIENTS = 500
"""WebSocket clients at once, unless set."""
OTHER_FILES = 300
"""Open files that the daemon needs for anything but connections, with room to spare."""
BACKLOG = 256
"""Connections that the kernel completes before we take them."""
SEND_BUFFER = 64 * 1024
"""Bytes the kernel may hold for a client, so that one who does not read is noticed soon."""
RECEIVE_BUFFER = 4 * 1024
"""Bytes the kernel may hold from a client: no more can be thrown at the event loop at once."""
WRITE_LIMIT = 16 * 1024
"""Bytes beyond the kernel's buffer after which sending waits."""

GOING_AWAY = 1001


class ServerError(Exception):
    """The server cannot start; the message is one sentence that says why and what to do."""


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
    health
        Reads how the sources do, for ``/healthz``.
    history
        Answers ``/api/history``.
    metrics
        Answers ``/metrics``, and counts clients.

    Raises
    ------
    ServerError
        If the certificate or a socket cannot be used.
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
        health: HealthReader = tuple,
        history: History | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        for listening in sockets or ():
            _check_inherited(listening)
        self._hub = hub
        self._host = host
        self._port = port
        self._sockets = sockets
        self._access = Access(token, origins)
        self._tls = None if tls_cert is None else tls_context(tls_cert, tls_key)
        self._connections = Connections(max_clients)
        self._metrics = metrics
        self._pages = Pages(hub, self._access, health=health, history=history, metrics=metrics)
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
        clients = list(self._connections.clients)
        await asyncio.gather(
            *(
                close_connection(client, GOING_AWAY, "the server stops", STOPPING_SECONDS)
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
            process_request=self._answer,
            create_connection=partial(  # type: ignore[arg-type]
                Connection, book=self._connections, tls=self._tls
            ),
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
        assert isinstance(connection, Connection)
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
        client = Client(connection, self._hub, self._metrics)
        if self._metrics is None:
            await client.serve()
            return
        with self._metrics.client():
            await client.serve()


def _check_inherited(listening: socket.socket) -> None:
    """Refuse a socket on which nobody finds a URL.

    Raises
    ------
    ServerError
        If it is not one of TCP.
    """
    if (
        listening.family not in (socket.AF_INET, socket.AF_INET6)
        or listening.type != socket.SOCK_STREAM
    ):
        raise ServerError(
            f"the socket {listening.getsockname()} that was handed over is not one of TCP; "
            "say ListenStream=ADDRESS:PORT in its unit"
        )


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

    def refuse_to_ask() -> NoReturn:
        raise ServerError(
            f"the key {key or cert} is locked with a passphrase, which nobody types when a service "
            "starts; unlock it: openssl pkey -in KEY -out UNLOCKED"
        )

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, refuse_to_ask)
    except (OSError, ssl.SSLError) as error:
        raise ServerError(
            f"cannot use the certificate {cert} with the key {key or cert}: "
            f"{error.strerror or error}"
        ) from None
    return context
