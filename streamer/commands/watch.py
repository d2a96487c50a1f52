"""genre-stream watch: follow a running genre-stream in the terminal."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from streamer.core.colours import COLOURS, ansi, colours
from streamer.core.decision import Decision
from streamer.core.segments import State
from streamer.sinks.messages import PROTOCOL
from streamer.sinks.terminal import DIM, Line, Terminal, decision_line, status_line
from streamer.system.backoff import Backoff
from streamer.system.commandline import ArgumentParser, UserError
from streamer.system.console import print_error, unreadable_reason
from streamer.system.urls import redact

DEFAULT_URL = "ws://127.0.0.1:8765/"
LONGEST_DELAY_SECONDS = 30.0
"""Longest delay between two attempts to connect."""
INACTIVITY_SECONDS = 45.0
"""Three intervals of the heartbeat, after which a server is taken for dead."""
MAX_FRAME_BYTES = 16 * 1024 * 1024
FILE_COLUMNS = 10_000
"""Longest line that is printed where there is no terminal."""

MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Raised while a frame that does not follow the protocol is decoded or shown."""


class WatchError(UserError):
    """The server cannot be watched, and trying again would not help."""

    exit_status = 1


class _ConnectionLostError(Exception):
    """There is no connection; the message says why."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-command's options."""
    parser = ArgumentParser(
        prog="genre-stream watch", description="Follow a running genre-stream in the terminal."
    )
    url_help = "of the server, as ws://, http:// or HOST:PORT (default: %(default)s)"
    parser.add_argument("url", nargs="?", default=DEFAULT_URL, metavar="URL", help=url_help)
    parser.add_argument(
        "--source", action="append", metavar="NAME", help="only this source; may be repeated"
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="file with the token that the server wants"
    )
    parser.add_argument(
        "--json", action="store_true", help="write the frames as they come, one JSON object a line"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Watch until interrupted; return the exit status."""
    arguments = build_parser().parse_args(argv)
    url = websocket_url(arguments.url)
    token = _read_token(arguments.token_file)
    screen = _Screen(arguments.source)
    show = _print_frame if arguments.json else screen.show
    try:
        asyncio.run(_watch(url, token, arguments.source, show))
    finally:
        screen.finish()
    return 0


def websocket_url(text: str) -> str:
    """Return the WebSocket URL of a server, whose scheme and path may be left out.

    Raises
    ------
    UserError
        If `text` is not the address of a server.

    Examples
    --------
    >>> websocket_url("https://radio.example/listen"), websocket_url("localhost:8765")
    ('wss://radio.example/listen', 'ws://localhost:8765/')
    """
    from websockets.exceptions import InvalidURI
    from websockets.uri import parse_uri

    url = text if "://" in text else f"ws://{text}"
    try:
        parts = urlsplit(url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        if scheme not in ("ws", "wss") or not parts.hostname or parts.port == 0:
            raise ValueError
        # Otherwise a malformed name would raise only when the host is looked up.
        parts.hostname.encode("idna")
        url = parts._replace(scheme=scheme, path=parts.path or "/", fragment="").geturl()
        parse_uri(url)
    except (ValueError, InvalidURI):
        raise UserError(f"{text} is no address of a server; write ws://HOST:PORT/") from None
    return url


def _read_token(file: Path | None) -> str | None:
    try:
        return None if file is None else file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = unreadable_reason(error)
        raise UserError(f"cannot read the token file {file}: {reason}") from None


async def _watch(
    url: str, token: str | None, sources: list[str] | None, show: Callable[[str], None]
) -> None:
    """Show the frames of a server, and connect again whenever the connection is lost."""
    backoff = Backoff(longest=LONGEST_DELAY_SECONDS)
    while True:
        try:
            async for frame in _frames(url, token, sources):
                backoff.reset()
                try:
                    show(frame)
                except UnicodeEncodeError:  # the terminal cannot display a character
                    raise
                except MALFORMED:
                    raise WatchError("the server is not a genre-stream") from None
        except _ConnectionLostError as error:
            delay = backoff.failed()
            print_error(f"{_shown(url)}: {error}; trying again in {delay:.0f} s")
            await asyncio.sleep(delay)


async def _frames(url: str, token: str | None, sources: list[str] | None) -> AsyncIterator[str]:
    """Connect and yield each frame; raise `_ConnectionLostError` if trying again may help."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        async with connect(
            url, additional_headers=headers, compression=None, max_size=MAX_FRAME_BYTES
        ) as connection:
            if sources:
                await connection.send(json.dumps({"type": "subscribe", "sources": sources}))
            while True:
                async with asyncio.timeout(INACTIVITY_SECONDS):
                    yield str(await connection.recv())
    except InvalidStatus as error:
        raise _refusal(url, error.response.status_code, bytes(error.response.body or b"")) from None
    except ConnectionClosed as error:
        reason = f": {error.rcvd.reason}" if error.rcvd and error.rcvd.reason else ""
        raise _ConnectionLostError(f"the connection was closed{reason}") from None
    except TimeoutError:
        raise _ConnectionLostError("the server does not answer") from None
    except InvalidHandshake:
        raise _ConnectionLostError("what answers there is not a WebSocket server") from None
    except ssl.SSLCertVerificationError as error:
        raise WatchError(
            f"{_shown(url)}: its certificate is not trusted ({error.verify_message}); "
            "name a file with its authority in SSL_CERT_FILE"
        ) from None
    except OSError as error:
        raise _ConnectionLostError(_network_reason(error)) from None


def _refusal(url: str, status: int, body: bytes) -> Exception:
    """Return the error for a handshake that the server has answered with an HTTP status."""
    text = body.decode(errors="replace").strip()
    answer = f"{_shown(url)} answered {status}" + (f": {text}" if text else "")
    if status == 401:
        return WatchError(f"{answer}; give the token with --token-file")
    if 400 <= status < 500:
        return WatchError(answer)
    return _ConnectionLostError(f"it answered {status}")


def _network_reason(error: OSError) -> str:
    """Return why there is no connection; asyncio's own messages repeat the address."""
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    if isinstance(error, ssl.SSLError):
        return "what answers there does not speak TLS"
    return os.strerror(error.errno).lower() if error.errno else "nobody answers there"


def _shown(url: str) -> str:
    return redact(url).partition("?")[0]


def _parse(text: str) -> dict[str, Any]:
    """Decode a frame; raise `WatchError` if it is of another protocol or reports an error."""
    frame: dict[str, Any] = json.loads(text)
    if frame["type"] == "hello" and frame["protocol"] != PROTOCOL:
        raise WatchError(f"the server speaks protocol {frame['protocol']}; update genre-stream")
    if frame["type"] == "error":
        raise WatchError(f"the server says: {frame['message']}")
    return frame


def _print_frame(text: str) -> None:
    """Print a frame as one line of JSON."""
    _parse(text)
    print(text, flush=True)


def _line(frame: Mapping[str, Any]) -> Line:
    """Return the line that shows a `prediction` or `source` frame."""
    if frame["type"] == "source":
        retry_at = _retry_at(frame)
        detail = frame["detail"] if retry_at is None else frame["reason"]
        return partial(status_line, frame["source"], frame["state"], detail, retry_at=retry_at)
    # A server of an older version sends fewer fields.
    values = {field.name: frame[field.name] for field in fields(Decision) if field.name in frame}
    decision = Decision(**values | {"state": State(frame["state"])})
    return partial(decision_line, frame["source"], decision)


def _retry_at(frame: Mapping[str, Any]) -> float | None:
    """Return `time.monotonic()` of the next attempt to open a source, None if none is planned."""
    if frame.get("next_attempt") is None:
        return None
    left = datetime.fromisoformat(frame["next_attempt"]) - datetime.now(UTC)
    return time.monotonic() + left.total_seconds()


class _Screen:
    """One coloured line a source on a terminal; elsewhere a line for every change.

    `sources` are the names of those that are shown, None for all.
    """

    def __init__(self, sources: Sequence[str] | None = None) -> None:
        self._sources = sources
        self._states: dict[str, str] = {}
        self._colours: dict[str, str] = {}
        self._terminal = Terminal(sys.stdout) if sys.stdout.isatty() else None
        self._last: dict[str, tuple[str | None, ...]] = {}

    def show(self, text: str) -> None:
        """Show a frame, if it is of a type that is shown."""
        self._show(_parse(text))

    def _show(self, frame: Mapping[str, Any]) -> None:
        genre = frame.get("genre")
        match frame["type"]:
            case "hello":
                self._colours = frame.get("colours") or colours(frame["labels"])
                for source in frame["sources"]:
                    self._greet(source)
            case "prediction" if self._states.get(frame["source"], "live") != "live":
                pass  # it is from before the source went off
            case "prediction" | "source":
                source, line = frame["source"], _line(frame)
                if frame["type"] == "source":
                    self._states[source] = frame["state"]
                change = (frame["type"], frame["state"], genre, frame.get("detail"))
                if self._terminal:
                    colour = DIM if genre is None else ansi(self._colours.get(genre, COLOURS[0]))
                    until = _retry_at(frame)
                    self._terminal.show(source, line, colour, change=change, until=until)
                elif self._last.get(source) != change:
                    self._last[source] = change
                    print(line(FILE_COLUMNS), flush=True)

    def _greet(self, source: dict[str, Any]) -> None:
        """Show a source that no prediction follows: it is not live, or was never heard."""
        name = source["name"]
        self._states[name] = source["state"]
        shown = self._sources is None or "*" in self._sources or name in self._sources
        if shown and (source["state"] != "live" or source.get("heard_until") is None):
            reason = source.get("reason", "")
            self._show(source | {"type": "source", "source": name, "detail": reason})

    def finish(self) -> None:
        """Wait until the terminal has been written to."""
        if self._terminal:
            self._terminal.drain()
