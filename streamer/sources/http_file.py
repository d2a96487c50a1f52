"""A file on a web server that is decoded while it is downloaded, as FFmpeg does with others."""

from __future__ import annotations

import time

from streamer.sources.base import SourceError
from streamer.sources.decoding import InactivityTimeout
from streamer.sources.http_stream import HttpStream, open_stream

RETRY_SECONDS = (0.0, 1.0, 3.0)
"""Waiting times before the attempts to resume a broken transfer."""


class HttpFile:
    """The body of a response with a length; if the connection breaks, the rest is requested.

    `timeout` is that of the connection in seconds, `inactivity` is checked at every read.
    """

    def __init__(self, stream: HttpStream, timeout: float, inactivity: InactivityTimeout) -> None:
        self._stream = stream
        self._url = stream.url
        self._timeout = timeout
        self._inactivity = inactivity
        self._received = 0
        self._length = stream.length

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes as soon as there are any; none at the end of the file.

        `SourceError` is raised if the connection is broken and cannot be resumed.
        """
        self._inactivity.check()
        data = self._read_open(size)
        for delay in RETRY_SECONDS:
            if data or self._received >= self._length:
                break
            time.sleep(delay)
            data = self._resume(size)
        self._received += len(data)
        if not data and self._received < self._length:
            raise SourceError(f"{self._stream.name}: the connection broke and cannot be resumed")
        return data

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def _read_open(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except SourceError:
            return b""

    def _resume(self, size: int) -> bytes:
        self._stream.close()
        try:
            self._stream = open_stream(self._url, self._timeout, offset=self._received)
        except SourceError:
            return b""
        return self._read_open(size)
