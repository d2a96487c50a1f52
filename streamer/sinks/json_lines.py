"""Events as JSON lines: the messages of protocol 1, one per line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

from streamer.core.events import Published, Sink
from streamer.sinks.messages import encode, message


class JsonLines(Sink):
    """Writes every event to a stream at once, in UTF-8 whatever the locale, as JSON has to be."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.error: OSError | None = None
        """Why the stream can no longer be written to; what is published after it is discarded."""

    def publish(self, published: Published) -> None:
        """Write the message of an event."""
        self.write(message(published))

    def write(self, content: Mapping[str, Any]) -> None:
        """Write a message."""
        if self.error:
            return
        try:
            self._stream.write(encode(content) + b"\n")
            self._stream.flush()
        except OSError as error:
            self.error = error
