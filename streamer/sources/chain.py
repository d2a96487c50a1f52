"""Chained streams: recordings that follow one another in one file or connection.

Icecast chains an Ogg stream at every title, and files are chained by concatenating them. Each link
has its own headers, so its codec, sample rate, channels and tags may be others. FFmpeg keeps the
decoder of the first link; here, every link is given to FFmpeg as a stream of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import av
from av.container import InputContainer

from streamer.sources.base import AudioBlock, SourceError
from streamer.sources.decoding import (
    BLOCK_SECONDS,
    InactivityTimeout,
    decode,
    open_container,
    warn_once,
)

OGG = b"OggS"
"""The first bytes of every Ogg page (RFC 3533)."""
LINK_STARTS = {
    OGG: None,
    b"fLaC": re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"),
    b"\x1a\x45\xdf\xa3": re.compile(
        rb"\x1a\x45\xdf\xa3.{1,60}?\x42\x82.(?:webm|matroska)", re.DOTALL
    ),
}
"""First bytes of a format that can be chained -> what begins each of its links; for Ogg that is a
page with a flag: FLAC's stream info block, and the EBML header of Matroska and WebM."""
LONGEST_START = 80
"""Bytes that the longest start of a link has, or a few more."""
_PAGE_HEADER = 27
"""Bytes of an Ogg page before its table of segments."""
_BEGINNING_OF_STREAM = 0x02
"""Flag of the first page of each logical stream."""
READ_BYTES = 32768


def is_chainable(head: bytes) -> bool:
    """Return whether the first bytes of a stream are those of a format that can be chained."""
    return head.startswith(tuple(LINK_STARTS))


def is_chainable_file(path: Path) -> bool:
    """Return whether a file has a format that can be chained; `OSError` if it cannot be read."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return is_chainable(file.read(4))


class Chain:
    """The links of a stream, one after the other; a stream of another format is a single link.

    `receive` returns up to a number of bytes as soon as there are any, and none at the end. What it
    raises ends the stream, so that what arrived before is decoded, and is then raised by
    `raise_error`: PyAV would print a traceback of an exception inside its callback.
    """

    def __init__(
        self,
        receive: Callable[[int], bytes],
        name: str,
        options: dict[str, str] | None = None,
        head: bytes = b"",
    ) -> None:
        self.name = name
        self.start = 0
        """Bytes of the stream before the current link."""
        self.cut_short = False
        """Whether the stream ends within an Ogg page, once it was read to its end."""
        self.error: Exception | None = None
        """What `receive` raised."""
        self._receive_bytes = receive
        self._options = options or {}
        self._buffer = bytearray(head)
        self._ended = False
        self._delivered = 0
        # Bytes at the front of the buffer that belong to the current link.
        self._ready = 0
        self._is_complete = False
        self._format: bytes | None = None
        self._page_bytes_left = 0
        self._has_content = False
        self._container: InputContainer | None = None

    def open(self) -> InputContainer:
        """Open the current link; errors are those of `open_container`, or of `receive`."""
        self.close()
        try:
            self._container = open_container(self, options=self._options)
        except Exception:
            self.raise_error()
            raise
        return self._container

    def blocks(
        self,
        title_at: Callable[[int | None], str | None] | None = None,
        timeout: InactivityTimeout | None = None,
        *,
        block_seconds: float = BLOCK_SECONDS,
    ) -> Iterator[AudioBlock]:
        """Decode all links; parameters and errors are those of `decode`.

        A link that cannot be decoded is left out if another one follows.
        """
        begun = False

        def title_in_link(position: int | None) -> str | None:
            assert title_at is not None
            return title_at(None if position is None else self.start + position)

        title = title_in_link if title_at else None
        while True:
            failure: Exception | None = None
            try:
                container = self._container or self.open()
                for block in decode(
                    container,
                    self.name,
                    title,
                    timeout,
                    continued=begun,
                    block_seconds=block_seconds,
                ):
                    begun = True
                    yield block
            except (SourceError, av.FFmpegError) as error:
                self.raise_error()
                if isinstance(error, SourceError) and not error.permanent:
                    raise
                failure = error
            if not self._advance():
                break
            if failure:
                warn_once(f"{self.name}: a part that cannot be decoded is left out")
        self.raise_error()
        if failure:
            raise failure

    def _advance(self) -> bool:
        """Pass over the rest of the current link; return whether another one follows."""
        self.close()
        while self.read(READ_BYTES):
            pass
        if not self._is_complete:
            return False
        self._is_complete, self._has_content = False, False
        self.start = self._delivered
        return True

    def close(self) -> None:
        """Close the container of the current link."""
        container, self._container = self._container, None
        if container is not None:
            container.close()

    def raise_error(self) -> None:
        """Raise what `receive` raised, if it did."""
        if self.error is not None:
            raise self.error from None

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes of the current link; none at its end."""
        while not self._ready:
            if self._is_complete or (self._ended and not self._buffer):
                return b""
            if not self._scan():
                self._receive()
        data = bytes(self._buffer[: min(size, self._ready)])
        del self._buffer[: len(data)]
        self._ready -= len(data)
        self._delivered += len(data)
        return data

    def _receive(self) -> None:
        try:
            data = b"" if self._ended else self._receive_bytes(READ_BYTES)
        except Exception as error:
            self.error = error
            data = b""
        self._buffer += data
        self._ended = not data

    def _scan(self) -> bool:
        """Find out how many bytes belong to the link; return whether any is known to."""
        buffer = self._buffer
        if self._format is None:
            if len(buffer) < 4 and not self._ended:
                return False
            self._format = bytes(buffer[:4])
        if self._format == OGG:
            self._scan_pages()
        elif pattern := LINK_STARTS.get(self._format):
            self._scan_for(pattern)
        else:
            self._ready = len(buffer)
        return self._ready > 0 or self._is_complete

    def _scan_for(self, pattern: re.Pattern[bytes]) -> None:
        """Take everything before the next start of a link, except the link's own."""
        own = 1 if self._delivered == self.start else 0
        found = pattern.search(self._buffer, own)
        if found:
            self._ready, self._is_complete = found.start(), True
        elif self._ended:
            self._ready = len(self._buffer)
        else:
            self._ready = max(0, len(self._buffer) - LONGEST_START)

    def _scan_pages(self) -> None:
        """Take pages before the next link: its first pages begin streams, after others did not."""
        buffer = self._buffer
        while self._ready < len(buffer):
            if self._page_bytes_left:
                taken = min(self._page_bytes_left, len(buffer) - self._ready)
                self._page_bytes_left -= taken
                self._ready += taken
                self.cut_short = self._page_bytes_left > 0
                continue
            # Anything between two pages is left to FFmpeg, which passes over it.
            found = buffer.find(OGG, self._ready)
            if found < 0:
                rest = 0 if self._ended else len(OGG) - 1
                self._ready = max(self._ready, len(buffer) - rest)
                return
            self._ready = found
            header = buffer[found : found + _PAGE_HEADER]
            table = buffer[found + _PAGE_HEADER :][: header[26] if len(header) > 26 else 0]
            if len(header) < _PAGE_HEADER or len(table) < header[26]:
                if self._ended:
                    self._ready, self.cut_short = len(buffer), True
                return
            if header[5] & _BEGINNING_OF_STREAM:
                if self._has_content:
                    self._is_complete = True
                    return
            else:
                self._has_content = True
            self._page_bytes_left = _PAGE_HEADER + len(table) + sum(table)
