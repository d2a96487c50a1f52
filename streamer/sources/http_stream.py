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
import time
import urllib.error
import urllib.request
import zlib
from base64 import b64encode
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import unquote, urlsplit

from streamer.sources import http_status, playlist
from streamer.sources.address import ascii_url
from streamer.sources.base import SourceError, one_line
from streamer.sources.decoding import InactivityTimeout
from streamer.sources.titles import TitleDecoder
from streamer.system.fair_semaphore import FairSemaphore
from streamer.system.urls import redact

USER_AGENT = "genre-stream"
MAX_PLAYLIST_BYTES = 1 << 20
PEEKED_BYTES = 64
"""Bytes of a body that are looked at before it is decoded."""
GZIP = b"\x1f\x8b"
"""The first bytes of what gzip has compressed."""
_PLAYLIST_TYPES = re.compile(r"mpegurl|x-scpls|pls\+xml", re.IGNORECASE)
_FOREIGN_TYPES = re.compile(
    r"text/|image/|font/|application/([a-z0-9.-]+\+)?(json|xml)|application/(pdf|javascript)"
)
"""Content types that are not audio."""
_FOREIGN_PLAYLISTS = re.compile(r"xspf|x-ms-(asf|wax|wvx)|smil")
_FOREIGN_STARTS = {
    b"\x89PNG\r\n": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"GIF8": "a picture (GIF)",
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
}
"""First bytes of what is not audio, whatever the content type is."""
_TUNNEL = re.compile(r"Tunnel connection failed: (\d+)")
"""What urllib says if a proxy refuses to connect to a server."""
_TITLE = re.compile(rb"StreamTitle='(.*?)(?:';\w+=|';?\Z|\Z)", re.DOTALL)
"""A title may contain quotation marks and semicolons, and the end may be cut off."""


class _Deadline(io.RawIOBase):
    """A socket's bytes, with a time limit for all of them until `remove` is called.

    The timeout of a socket begins anew with each byte.
    """

    def __init__(self, raw: io.RawIOBase, seconds: float | None) -> None:
        self._raw = raw
        self._end = None if seconds is None else time.monotonic() + seconds

    def remove(self) -> None:
        """Let bytes take as long as they like."""
        self._end = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """Read up to the length of the buffer; `TimeoutError` if it is too late."""
        if self._end is not None and time.monotonic() > self._end:
            raise TimeoutError
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """Close the connection."""
        self._raw.close()
        super().close()


class _StatusLine(io.BufferedReader):
    """A response that may begin with "ICY 200 OK", as that of an old SHOUTcast server does."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(-1 if size is None else size)
        return b"HTTP/1.0" + line[3:] if line.startswith(b"ICY ") else line


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: object, **kwargs: object) -> None:
        super().__init__(sock, *args, **kwargs)  # type: ignore[arg-type]
        self._headers_deadline = _Deadline(self.fp.detach(), sock.gettimeout())
        self.fp = _StatusLine(self._headers_deadline)

    def begin(self) -> None:
        """Read the status and the headers."""
        super().begin()
        self._headers_deadline.remove()


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


def open_stream(
    url: str, timeout: float, *, offset: int = 0, titles: TitleDecoder | None = None
) -> HttpStream:
    """Request `url` and follow redirects; credentials in it are sent as Basic authentication.

    `titles` decodes the titles of the source. After `timeout` seconds without data, or without all
    headers, the connection counts as broken. `SourceError` is raised if the server cannot be
    reached or refuses, or does not send the body from the byte `offset` on.
    """
    display_name = redact(url)
    proxy = ""
    try:
        url = ascii_url(url)
        request = _request(url)
        proxy = _proxy(request, display_name)
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        response = _opener().open(request, timeout=timeout)
        if response.status == http.HTTPStatus.NO_CONTENT:
            response.close()
            raise SourceError(f"{display_name}: {http_status.describe(response.status)}")
        stream = HttpStream(response, url, timeout, titles or TitleDecoder())
        if offset and not stream.is_part:
            stream.close()
            raise SourceError(f"{display_name}: the server does not send parts of a file")
        return stream
    except urllib.error.HTTPError as error:
        error.close()
        message = f"{display_name}: {http_status.describe(error.code)}"
        raise SourceError(message, permanent=error.code in http_status.PERMANENT) from None
    except TimeoutError:
        through = f" from it or from {proxy}" if proxy else ""
        message = f"{display_name}: no answer{through} within {timeout:g} s"
        raise SourceError(message) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SourceError(f"{display_name}: {_reason(error, proxy)}") from None


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


def _proxy(request: urllib.request.Request, display_name: str) -> str:
    """Return how the proxy for a request is called in errors, empty if there is none.

    `SourceError` is raised if the environment names one that is not possible.
    """
    scheme, host = request.type, request.host
    address = urllib.request.getproxies().get(scheme)
    if not address or urllib.request.proxy_bypass(host):
        return ""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        possible = parts.scheme in ("", "http", "https") and parts.port != 0
        possible = possible and re.fullmatch(r"[\w.:-]+", parts.hostname or "") is not None
    except ValueError:
        possible = False
    if not possible:
        raise SourceError(
            f"{display_name}: {scheme}_proxy={redact(address)} is no address of a proxy; write it "
            "as http://HOST:PORT",
            permanent=True,
        )
    return f"the proxy {parts.netloc.rpartition('@')[2]}"


def _with_credentials(url: str, requested: str) -> str:
    """Return `url` with the credentials of the requested URL if both have the same origin."""
    found, asked = urlsplit(url), urlsplit(requested)
    if (found.scheme, found.hostname, found.port) != (asked.scheme, asked.hostname, asked.port):
        return url
    return found._replace(netloc=asked.netloc).geturl()


def _reason(error: Exception, proxy: str = "") -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if refused := _TUNNEL.match(str(cause)):
        return http_status.describe(int(refused[1]), proxy or "the proxy")
    if proxy and isinstance(error, urllib.error.URLError) and not isinstance(cause, ssl.SSLError):
        # What fails on the way to a server fails on the way to the proxy.
        return f"{proxy}: {_reason(error)}"
    if isinstance(cause, socket.gaierror):
        return "the host name cannot be resolved"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, http.client.IncompleteRead):
        return "the connection broke"
    if isinstance(cause, http.client.BadStatusLine) and not isinstance(cause, ConnectionError):
        return "it does not answer in HTTP"
    if isinstance(cause, http.client.HTTPException) and not isinstance(cause, ConnectionError):
        return "its answer is not understood"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return redact(str(cause)) or type(cause).__name__


class HttpStream:
    """The body of a response: audio, and the titles between it."""

    def __init__(
        self,
        response: http.client.HTTPResponse,
        requested_url: str,
        timeout_seconds: float,
        titles: TitleDecoder,
    ) -> None:
        headers = response.headers
        is_radio = any(name.lower().startswith("icy-") for name in headers)
        is_media = headers.get_content_maintype() in ("audio", "video")
        path = urlsplit(response.url).path.lower().removesuffix(".gz")
        has_playlist_name = path.endswith(playlist.SUFFIXES)
        has_playlist_type = _PLAYLIST_TYPES.search(headers.get_content_type()) is not None
        interval = headers.get("icy-metaint", "")
        self.url = _with_credentials(response.url, requested_url)
        """URL after redirects."""
        self.name = redact(self.url)
        """The same without credentials."""
        is_typed = "content-type" in headers
        self.content_type = one_line(headers.get_content_type(), 87) if is_typed else ""
        """The content type without parameters; empty if the server names none."""
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
        self._charset = headers.get_content_charset()
        compression = headers.get("content-encoding", "").strip().lower()
        self.is_compressed = compression in ("gzip", "x-gzip", "deflate")
        """Whether the server compresses the body, which it was not asked to do."""
        # 32: with the header of gzip or of zlib.
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS + 32) if self.is_compressed else None
        self._title_decoder = titles
        self._peeked = b""
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
        if self._peeked:
            data, self._peeked = self._peeked[:size], self._peeked[size:]
            self._position += len(data)
            return data
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

    def looks_like_playlist(self) -> bool:
        """Return whether a body that is sent as text begins as a playlist does."""
        return self.content_type.startswith("text/") and playlist.is_playlist(self._peek())

    def _peek(self) -> bytes:
        """Return the first bytes of the body, which `read` returns again."""
        head = b""
        while len(head) < PEEKED_BYTES and (data := self.read(PEEKED_BYTES - len(head))):
            head += data
        self._peeked = head
        self._position -= len(head)
        return head

    def text(self) -> str:
        """Return the body as text, up to `MAX_PLAYLIST_BYTES`; gzip is unpacked."""
        body = b""
        while len(body) < MAX_PLAYLIST_BYTES and (data := self.read(MAX_PLAYLIST_BYTES)):
            body += data
        if body.startswith(GZIP):
            try:
                body = zlib.decompressobj(zlib.MAX_WBITS + 32).decompress(body, MAX_PLAYLIST_BYTES)
            except zlib.error:
                reason = "the playlist is compressed, and damaged"
                raise SourceError(f"{self.name}: {reason}") from None
        return playlist.decode_text(body, self._charset)

    def foreign_start(self) -> str | None:
        """Return what is wrong with the first bytes, as a phrase, or None if nothing is."""
        head = self._peek().lstrip().lower()
        for start, what in _FOREIGN_STARTS.items():
            if head.startswith(start.lower()):
                said = f" as {self.content_type}" if self.content_type else ""
                sentence = f"the server sent {what}{said}, not audio; check the address"
                return self.foreign_content() or sentence
        return None

    def foreign_content(self) -> str | None:
        """Return what is wrong with the content type, as a phrase, or None if nothing is."""
        if _FOREIGN_PLAYLISTS.search(self.content_type):
            return (
                f"the server sent {self.content_type}, a playlist of a kind that is not "
                "supported; M3U, PLS and HLS are"
            )
        if _FOREIGN_TYPES.match(self.content_type):
            return f"the server sent {self.content_type}, not audio; check the address"
        return None

    def close(self) -> None:
        """Close the connection."""
        self._response.close()

    def _receive(self, size: int, *, exactly: bool = False) -> bytes:
        """Return bytes of the body, unpacked if it is compressed."""
        if self._unpacker is None:
            return self._receive_packed(size, exactly=exactly)
        data = b""
        try:
            while not data or (exactly and len(data) < size):
                packed = self._unpacker.unconsumed_tail or self._receive_packed(size)
                if not packed:
                    break
                data += self._unpacker.decompress(packed, size - len(data))
        except zlib.error:
            raise SourceError(f"{self.name}: its compressed answer is damaged") from None
        return data

    def _receive_packed(self, size: int, *, exactly: bool = False) -> bytes:
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
        title = self._title_decoder.decode(found[1], self._charset)
        if self._titles[0][1] is None:
            # The first title applies to the audio before it, too.
            self._titles.clear()
        self._titles.append((self._position, title))
