"""Web servers that serve files, or misbehave as a test scripts it."""

from __future__ import annotations

import functools
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Do not log."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing when a client leaves."""


@contextmanager
def files_at(folder: Path) -> Iterator[str]:
    """Serve a folder; the value is its URL."""
    server = _Server(("127.0.0.1", 0), functools.partial(_Files, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Conversation:
    """One request to a `scripted` server."""

    def __init__(self, connection: socket.socket, closing: threading.Event) -> None:
        self._connection = connection
        self.closing = closing
        lines = self._receive_head().decode("latin-1").split("\r\n")
        self.path = lines[0].split(" ")[1]
        pairs = (line.split(": ", 1) for line in lines[1:] if ": " in line)
        self.headers = {name.lower(): value for name, value in pairs}

    def _receive_head(self) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head:
            more = self._connection.recv(4096)
            if not more:
                break
            head += more
        return head

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def answer(self, status: str, *headers: str, body: bytes = b"") -> None:
        head = "\r\n".join([status, *headers, "", ""])
        self.send(head.encode("latin-1") + body)


@contextmanager
def scripted(
    script: Callable[[Conversation], None], *, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Handle each connection by `script`, in a thread of its own; the value is the URL."""
    closing = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def converse(connection: socket.socket) -> None:
        with connection:
            try:
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                script(Conversation(connection, closing))
            except (OSError, IndexError):
                return  # The client closed the connection.

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=converse, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        closing.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
