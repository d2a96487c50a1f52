"""HTTP for radios: a stream that cannot hang, with the ICY titles taken out of it.

FFmpeg reads HTTP too, but PyAV shows its metadata only as it was when the stream was opened, so the
titles of a radio would never change.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from email.message import Message
from urllib.parse import unquote, urlsplit

from streamer.sources.address import ascii_url
from streamer.sources.base import SourceError, one_line
from streamer.sources.decoding import Patience
from streamer.sources.playlist import ENDINGS
from streamer.system.scheduler import Scheduler
from streamer.system.urls import redact

USER_AGENT = "genre-stream"
PLAYLIST_BYTES = 1 << 20
"""A playlist longer than this is none."""
GONE = (404, 410)
"""Answers after which asking again is pointless."""
_PLAYLIST_TYPES = re.compile(r"mpegurl|x-scpls|pls\+xml", re.IGNORECASE)
_TITLE = re.compile(rb"StreamTitle='(.*?)(?:';\w+=|';?\Z|\Z)", re.DOTALL)
"""The title may hold quotation marks and semicolons, and metadata cut short may lack their end."""


class _StatusLine(io.BufferedReader):
    """A response whose first line may be "ICY 200 OK", as old SHOUTcast servers answer."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(-1 if size is None else size)
        return b"HTTP/1.0" + line[3:] if line.startswith(b"ICY ") else line


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: object, **kwargs: object) -> None:
        super().__init__(sock, *args, **kwargs)  # type: ignore[arg-type]
        self.fp = _StatusLine(self.fp.detach())


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _TlsConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _TlsHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_TlsConnection, req)


@dataclass(frozen=True, slots=True)
class Resource:
    """What an HTTP server answered with."""

    url: str
    """Where it was found after redirects."""
    stream: HttpStream
    """Its bytes."""
    is_audio: bool
    """Whether its type says that it is nothing but audio."""
    is_file: bool
    """Whether it has a length, so that it ends and can be sought in."""
    is_playlist: bool
    """Whether its type or its name says that it is an M3U, PLS or HLS playlist."""


def open_resource(url: str, timeout: float) -> Resource:
    """Ask for `url`, following redirects; a user name and password in it are sent as Basic.

    Parameters
    ----------
    url
        An http or https URL.
    timeout
        Seconds without a byte after which the connection counts as broken.

    Raises
    ------
    SourceError
        If the server cannot be reached or refuses.
    """
    shown = redact(url)
    try:
        url = ascii_url(url)
        response = _opener().open(_request(url), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"the server answered {error.code} {error.reason}"
        raise SourceError(f"{shown}: {reason}", permanent=error.code in GONE) from None
    except TimeoutError:
        raise SourceError(f"{shown}: no answer within {timeout:g} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SourceError(f"{shown}: {_reason(error)}") from None
    headers = response.headers
    interval = headers.get("icy-metaint", "")
    metadata_every = int(interval) if re.fullmatch("[0-9]{1,9}", interval) else 0
    path = urlsplit(response.url).path.lower()
    return Resource(
        url=_with_credentials(response.url, url),
        stream=HttpStream(response, metadata_every, timeout),
        is_audio=headers.get_content_maintype() == "audio",
        is_file="content-length" in headers and not _is_radio(headers),
        is_playlist=bool(_PLAYLIST_TYPES.search(headers.get_content_type()))
        or (path.endswith(ENDINGS) and not _is_audio(headers)),
    )


def _opener() -> urllib.request.OpenerDirector:
    """Return what speaks HTTP and nothing else: a redirect could lead to FTP, too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        _Handler,
        _TlsHandler,
    ):
        opener.add_handler(handler())
    return opener


def _is_radio(headers: Message) -> bool:
    return any(name.lower().startswith("icy-") for name in headers)


def _is_audio(headers: Message) -> bool:
    return headers.get_content_maintype() in ("audio", "video")


def _request(url: str) -> urllib.request.Request:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(
        parts._replace(netloc=host, fragment="").geturl(),
        headers={"User-Agent": USER_AGENT, "Icy-MetaData": "1", "Accept": "*/*"},
    )
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        # Unredirected: the password is for this host, not for one that it points to.
        request.add_unredirected_header("Authorization", f"Basic {b64encode(secret).decode()}")
    return request


def _with_credentials(found: str, asked: str) -> str:
    """Give `found` the user name and password of `asked` if both are on the same host."""
    there, here = urlsplit(found), urlsplit(asked)
    if (there.scheme, there.hostname, there.port) != (here.scheme, here.hostname, here.port):
        return found
    return there._replace(netloc=here.netloc).geturl()


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return "the host name cannot be resolved"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return redact(str(cause)) or type(cause).__name__


class HttpStream:
    """The audio bytes of a response, and the titles that came between them.

    Parameters
    ----------
    response
        An open response.
    interval
        Audio bytes between two ICY metadata blocks; 0 without metadata.
    timeout
        The socket's timeout in seconds, for the message.

    Attributes
    ----------
    patience : Patience or None
        Asked at every read: a demuxer that finds nothing in what it reads would go on for ever.
    """

    def __init__(self, response: http.client.HTTPResponse, interval: int, timeout: float) -> None:
        self.name = redact(response.url)
        self.patience: Patience | None = None
        self._response = response
        self._interval = interval
        self._timeout = timeout
        self._until_metadata = interval
        self._position = 0
        self._titles: deque[tuple[int, str | None]] = deque([(0, None)])
        self._first = True
        self._scheduler: Scheduler | None = None

    @contextmanager
    def decoded_in_turn(self, scheduler: Scheduler) -> Iterator[None]:
        """Wait for a turn to decode; whenever a read waits for the network others have it."""
        with scheduler.turn():
            self._scheduler = scheduler
            try:
                yield
            finally:
                self._scheduler = None

    def read(self, size: int) -> bytes:
        """Return up to `size` audio bytes as soon as there are any; none at the end."""
        if self.patience:
            self.patience.check()
        if self._interval:
            if self._until_metadata == 0:
                self._read_metadata()
            size = min(size, self._until_metadata)
        data = self._receive(size)
        self._until_metadata -= len(data)
        self._position += len(data)
        return data

    def title_at(self, position: int | None) -> str | None:
        """Return the title that held at audio byte `position` (None: now); earlier ones go.

        Empty if the stream said that there is none, None if it said nothing.
        """
        while len(self._titles) > 1 and (position is None or self._titles[1][0] <= position):
            self._titles.popleft()
        return self._titles[0][1]

    def text(self) -> str:
        """Return the whole body as text, up to `PLAYLIST_BYTES`."""
        body = b""
        while len(body) < PLAYLIST_BYTES and (data := self.read(PLAYLIST_BYTES)):
            body += data
        return body.decode("utf-8", errors="replace")

    def close(self) -> None:
        """Hang up."""
        self._response.close()

    def _receive(self, size: int) -> bytes:
        try:
            with self._scheduler.pause() if self._scheduler else nullcontext():
                return self._response.read1(size)
        except TimeoutError:
            raise SourceError(f"{self.name}: no data for {self._timeout:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SourceError(f"{self.name}: {_reason(error)}") from None

    def _receive_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._receive(size - len(data))
            if not more:
                return b""
            data += more
        return data

    def _read_metadata(self) -> None:
        length = self._receive_exactly(1)
        metadata = self._receive_exactly(length[0] * 16) if length else b""
        self._until_metadata = self._interval
        found = _TITLE.search(metadata.rstrip(b"\0"))
        if found:
            if self._first:
                # It was playing when we came; only nobody had told us yet.
                self._titles.clear()
            self._first = False
            self._titles.append((self._position, _text(found.group(1))))


def _text(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        # What browsers take for Latin-1: it has quotation marks where that has control characters.
        text = raw.decode("cp1252", errors="replace")
    return one_line(text)
