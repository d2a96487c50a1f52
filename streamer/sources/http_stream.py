"""HTTP for radios: a stream with timeouts, whose ICY titles are separated from the audio.

FFmpeg reads HTTP as well, but PyAV provides its metadata only as they were when the stream was
opened, so that the title of a radio would never change.
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
from urllib.parse import unquote, urlsplit

from streamer.sources.address import ascii_url
from streamer.sources.base import SourceError, one_line
from streamer.sources.decoding import InactivityTimeout
from streamer.sources.playlist import SUFFIXES
from streamer.system.fair_semaphore import FairSemaphore
from streamer.system.urls import redact

USER_AGENT = "genre-stream"
MAX_PLAYLIST_BYTES = 1 << 20
PERMANENT_STATUSES = (404, 410)
"""HTTP statuses after which another request is pointless."""
_PLAYLIST_TYPES = re.compile(r"mpegurl|x-scpls|pls\+xml", re.IGNORECASE)
_TITLE = re.compile(rb"StreamTitle='(.*?)(?:';\w+=|';?\Z|\Z)", re.DOTALL)
"""A title may contain quotation marks and semicolons, and the end may be cut off."""


class _StatusLine(io.BufferedReader):
    """A response that may begin with "ICY 200 OK", as that of an old SHOUTcast server does."""

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
    https_request = urllib.request.HTTPHandler.http_request

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_TlsConnection, req)


def open_stream(url: str, timeout: float, *, offset: int = 0) -> HttpStream:
    """Request `url` and follow redirects; credentials in it are sent as Basic authentication.

    After `timeout` seconds without data the connection counts as broken. `SourceError` is raised if
    the server cannot be reached or refuses, or does not send the body from the byte `offset` on.
    """
    display_name = redact(url)
    try:
        url = ascii_url(url)
        request = _request(url)
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        stream = HttpStream(_opener().open(request, timeout=timeout), url, timeout)
        if offset and not stream.is_part:
            stream.close()
            raise SourceError(f"{display_name}: the server does not send parts of a file")
        return stream
    except urllib.error.HTTPError as error:
        error.close()
        message = f"{display_name}: the server answered {error.code} {error.reason}"
        raise SourceError(message, permanent=error.code in PERMANENT_STATUSES) from None
    except TimeoutError:
        raise SourceError(f"{display_name}: no answer within {timeout:g} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SourceError(f"{display_name}: {_reason(error)}") from None


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for HTTP only, so that no redirect leads to FTP or a file."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        _Handler,
    ):
        opener.add_handler(handler())
    return opener


def _request(url: str) -> urllib.request.Request:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(
        parts._replace(netloc=host, fragment="").geturl(),
        headers={"User-Agent": USER_AGENT, "Icy-MetaData": "1", "Accept": "*/*"},
    )
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        encoded = b64encode(credentials.encode()).decode()
        # The password is for this host, not for one to which it redirects.
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    return request


def _with_credentials(url: str, requested: str) -> str:
    """Return `url` with the credentials of the requested URL if both have the same origin."""
    found, asked = urlsplit(url), urlsplit(requested)
    if (found.scheme, found.hostname, found.port) != (asked.scheme, asked.hostname, asked.port):
        return url
    return found._replace(netloc=asked.netloc).geturl()


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
    """The body of a response: audio, and the titles between it."""

    def __init__(
        self, response: http.client.HTTPResponse, requested_url: str, timeout_seconds: float
    ) -> None:
        headers = response.headers
        is_radio = any(name.lower().startswith("icy-") for name in headers)
        is_media = headers.get_content_maintype() in ("audio", "video")
        has_playlist_name = urlsplit(response.url).path.lower().endswith(SUFFIXES)
        has_playlist_type = _PLAYLIST_TYPES.search(headers.get_content_type()) is not None
        interval = headers.get("icy-metaint", "")
        self.url = _with_credentials(response.url, requested_url)
        """URL after redirects."""
        self.name = redact(self.url)
        """The same without credentials."""
        self.is_audio = headers.get_content_maintype() == "audio"
        """Whether the content type is audio, without video."""
        self.is_file = "content-length" in headers and not is_radio
        """Whether it has a length, so that it ends and is seekable."""
        self.is_part = response.status == http.HTTPStatus.PARTIAL_CONTENT
        """Whether it is the part of a file that was asked for."""
        length = headers.get("content-length", "")
        self.length = int(length) if length.isdecimal() else 0
        """Bytes of the body; 0 if that is not known."""
        self.is_playlist = has_playlist_type or (has_playlist_name and not is_media)
        """Whether the content type or name is that of an M3U, PLS or HLS playlist."""
        self.timeout: InactivityTimeout | None = None
        """Checked at every read, since a demuxer that finds no packets reads on for ever."""
        self._response = response
        self._metadata_interval = int(interval) if re.fullmatch("[0-9]{1,9}", interval) else 0
        """Audio bytes between two blocks of ICY metadata; 0 if there are none."""
        self._timeout_seconds = timeout_seconds
        self._until_metadata = self._metadata_interval
        self._position = 0
        self._titles: deque[tuple[int, str | None]] = deque([(0, None)])
        self._slots: FairSemaphore | None = None

    @contextmanager
    def decoding(self, slots: FairSemaphore) -> Iterator[None]:
        """Hold a slot for decoding, but not while `read` waits for the network."""
        with slots.slot():
            self._slots = slots
            try:
                yield
            finally:
                self._slots = None

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of audio as soon as there are any; none at the end."""
        if self.timeout:
            self.timeout.check()
        if self._metadata_interval:
            if self._until_metadata == 0:
                self._read_metadata()
            size = min(size, self._until_metadata)
        data = self._receive(size)
        self._until_metadata -= len(data)
        self._position += len(data)
        return data

    def title_at(self, position: int | None) -> str | None:
        """Return the title at a byte position of the audio (None: the latest).

        Positions must not decrease. The title is empty if the stream announced that there is none,
        None if it announced nothing.
        """
        while len(self._titles) > 1 and (position is None or self._titles[1][0] <= position):
            self._titles.popleft()
        return self._titles[0][1]

    def text(self) -> str:
        """Return the body as text, up to `MAX_PLAYLIST_BYTES`."""
        body = b""
        while len(body) < MAX_PLAYLIST_BYTES and (data := self.read(MAX_PLAYLIST_BYTES)):
            body += data
        return body.decode("utf-8", errors="replace")

    def close(self) -> None:
        """Close the connection."""
        self._response.close()

    def _receive(self, size: int, *, exactly: bool = False) -> bytes:
        read = self._response.read if exactly else self._response.read1
        try:
            with self._slots.released() if self._slots else nullcontext():
                return read(size)
        except TimeoutError:
            raise SourceError(f"{self.name}: no data for {self._timeout_seconds:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SourceError(f"{self.name}: {_reason(error)}") from None

    def _read_metadata(self) -> None:
        length = self._receive(1)
        metadata = self._receive(length[0] * 16, exactly=True) if length else b""
        self._until_metadata = self._metadata_interval
        found = _TITLE.search(metadata.rstrip(b"\0"))
        if not found:
            return
        try:
            title = found[1].decode()
        except UnicodeDecodeError:
            # A superset of Latin-1, with quotation marks in place of control characters.
            title = found[1].decode("cp1252", errors="replace")
        if self._titles[0][1] is None:
            # The first title applies to the audio before it, too.
            self._titles.clear()
        self._titles.append((self._position, one_line(title)))
