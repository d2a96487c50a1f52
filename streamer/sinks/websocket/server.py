"""The server: WebSocket clients on any path of a port, and HTTP pages, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import websockets.asyncio.server as wire
from prometheus_client import CollectorRegistry
from websockets.http11 import Request, Response

from streamer.core.health import HealthReader, OutputReader
from streamer.sinks.websocket.access import Access, RefusedError, single
from streamer.sinks.websocket.connections import (
    CLIENT_CLOSE_SECONDS,
    HANDSHAKE_SECONDS,
    MAX_PENDING,
    MAX_TURNED_AWAY,
    Client,
    Connection,
    ConnectionRegistry,
    close_connection,
)
from streamer.sinks.websocket.hub import Hub
from streamer.sinks.websocket.pages import Pages, ReadHistory, as_response, refusal_page
from streamer.system.commandline import UserError

MAX_FRAME_BYTES = 4096
"""Largest frame that a client may send."""
SHUTDOWN_SECONDS = 0.4
"""How long clients may take to answer the close frame when the server stops."""
OTHER_FILES = 300
"""Open files that the daemon needs for anything but connections, with a margin."""
BACKLOG = 4096
"""Connections that the kernel may accept ahead of the server."""
ACCEPTED_AT_ONCE = 16
"""Connections that the event loop takes from it before it reads from those taken before: of a herd
that comes back at once, few are unfinished at a time."""
SEND_BUFFER = 64 * 1024
"""Size of the kernel's send buffer in bytes; small, so that a client that does not read is soon
noticed."""
RECEIVE_BUFFER = 4 * 1024
"""Size of the kernel's receive buffer in bytes; limits what one client can make the loop read."""
WRITE_LIMIT = 16 * 1024
"""Bytes beyond the kernel's buffer after which sending waits."""

GOING_AWAY = 1001

logger = logging.getLogger(__name__)


class ServerError(UserError):
    """The server cannot start."""


class Server:
    """Serves a hub and the HTTP pages on a port.

    Parameters
    ----------
    host, port
        Address to listen on; port 0 selects a free one.
    sockets
        Listening sockets to use in place of `host` and `port`, such as those of systemd.
    token, origins
        As for `Access`.
    tls_cert, tls_key
        Certificate chain and private key (PEM). The key may be in the certificate's file.
    health, history, metrics, outputs, alerts
        Provide ``/healthz``, ``/api/history``, ``/metrics``, and two fields of ``/api/state``.

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
        max_clients: int = 500,
        health: HealthReader = tuple,
        history: ReadHistory | None = None,
        metrics: CollectorRegistry | None = None,
        outputs: OutputReader = tuple,
        alerts: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        for inherited in sockets or ():
            family, kind = inherited.family, inherited.type
            if family not in (socket.AF_INET, socket.AF_INET6) or kind != socket.SOCK_STREAM:
                raise ServerError(
                    f"the socket {inherited.getsockname()} that was handed over is not one of TCP; "
                    "say ListenStream=ADDRESS:PORT in its unit"
                )
        self._hub = hub
        self._host = host
        self._port = port
        self._sockets = sockets
        self._access = Access(token, origins)
        self._tls = None if tls_cert is None else tls_context(tls_cert, tls_key)
        self._registry = ConnectionRegistry(max_clients)
        self._pages = Pages(
            hub,
            self._access,
            health=health,
            history=history,
            metrics=metrics,
            outputs=outputs,
            alerts=alerts,
        )
        self._servers: list[wire.Server] = []

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The (host, port) pairs that the server listens on."""
        return [
            listening.getsockname()[:2] for server in self._servers for listening in server.sockets
        ]

    @property
    def url(self) -> str:
        """URL of the dashboard."""
        host, port = self.addresses[0]
        name = f"[{host}]" if ":" in host else host
        return f"{'http' if self._tls is None else 'https'}://{name}:{port}/"

    async def start(self) -> None:
        """Start serving; `ServerError` if the port cannot be listened on."""
        _allow_open_files(self._registry.max_clients + MAX_PENDING + MAX_TURNED_AWAY + OTHER_FILES)
        try:
            for endpoint in self._endpoints():
                self._servers.append(await self._listen(endpoint))
        except OSError as error:
            raise ServerError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror or error}; "
                "choose another --host or --port",
                exit_status=1,
            ) from None

    async def close(self) -> None:
        """Close every client with 1001, and the port; takes a second at most."""
        for server in self._servers:
            server.close(close_connections=False)
        for connection in [*self._registry.pending, *self._registry.turned_away]:
            connection.transport.abort()
        await asyncio.gather(
            *(
                close_connection(client, GOING_AWAY, "the server stops", SHUTDOWN_SECONDS)
                for client in self._registry.clients
            )
        )
        # Waits no longer, since a large history query may still be running.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_SECONDS):
                for server in self._servers:
                    await server.wait_closed()

    def _endpoints(self) -> list[dict[str, Any]]:
        """Return where to listen, as arguments of `asyncio`; `OSError` if that is impossible."""
        if self._sockets is not None:
            return [{"sock": inherited} for inherited in self._sockets]
        if self._host == "::" and socket.has_dualstack_ipv6():
            # asyncio would listen for IPv6 alone.
            every = socket.create_server(
                (self._host, self._port), family=socket.AF_INET6, dualstack_ipv6=True
            )
            return [{"sock": every}]
        return [{"host": self._host, "port": self._port}]

    async def _listen(self, endpoint: dict[str, Any]) -> wire.Server:
        wire_logger = logging.getLogger(f"{__name__}.wire")
        wire_logger.setLevel(logging.WARNING)  # requests may contain the token
        server = await wire.serve(
            self._serve_client,
            **endpoint,
            process_request=self._answer,
            create_connection=partial(  # type: ignore[arg-type]
                Connection, registry=self._registry, tls=self._tls
            ),
            compression=None,
            server_header=None,
            open_timeout=HANDSHAKE_SECONDS,
            close_timeout=CLIENT_CLOSE_SECONDS,
            ping_interval=None,  # `Client` pings
            max_size=MAX_FRAME_BYTES,
            max_queue=None,  # `Connection` limits what is read
            write_limit=WRITE_LIMIT,
            logger=wire_logger,
            backlog=ACCEPTED_AT_ONCE,
            start_serving=False,
        )
        for listening in server.sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        await server.start_serving()
        for listening in server.sockets:
            # asyncio takes as many connections at once as it lets the kernel accept ahead.
            with socket.socket(fileno=os.dup(listening.fileno())) as same:
                same.listen(BACKLOG)
        return server

    async def _answer(self, connection: wire.ServerConnection, request: Request) -> Response | None:
        """Return the response to an HTTP request, or None to accept a WebSocket client."""
        assert isinstance(connection, Connection)
        try:
            if (single(request.headers, "Upgrade") or "").lower() != "websocket":
                page = await self._pages.answer(request)
            else:
                self._access.check_host_and_origin(request.headers)
                if not self._access.is_authorised(request.headers, request.path.partition("?")[2]):
                    raise RefusedError(
                        401, "this needs the token: Bearer in a header or ?token=TOKEN"
                    )
                self._registry.admit(connection)
                return None
        except RefusedError as refusal:
            if refusal.advice:
                logger.warning("%s: %s", self.url, refusal.advice)
            page = refusal_page(refusal)
        return as_response(page, request, self._access)

    async def _serve_client(self, connection: wire.ServerConnection) -> None:
        await Client(connection, self._hub).serve()


def _allow_open_files(count: int) -> None:
    """Raise the limit on open files of this process, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def tls_context(cert: Path, key: Path | None) -> ssl.SSLContext:
    """Load a certificate chain and its key (PEM).

    Raises
    ------
    ServerError
        If they cannot be used.
    """

    def refuse_passphrase() -> NoReturn:
        raise ServerError(
            f"the key {key or cert} is locked with a passphrase, which nobody types when a service "
            "starts; unlock it: openssl pkey -in KEY -out UNLOCKED"
        )

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, refuse_passphrase)
    except (OSError, ssl.SSLError) as error:
        raise ServerError(
            f"cannot use the certificate {cert} with the key {key or cert}: "
            f"{error.strerror or error}"
        ) from None
    return context
