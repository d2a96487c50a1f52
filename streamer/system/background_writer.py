"""A text stream written by a background thread, so that a slow reader blocks nobody."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
from collections import deque
from typing import TextIO

LIMIT = 1000
"""Writes that may be queued."""
DRAIN_SECONDS = 0.5
"""How long the end of a program waits for queued text to be written."""

logger = logging.getLogger(__name__)


class BackgroundWriter(io.TextIOBase):
    """A text stream whose `write` returns at once, however slowly the other end is read.

    A terminal stopped with Ctrl-S, or a pipe that nobody reads, blocks its writers, perhaps for
    ever; here only a thread blocks. Its queue is bounded: when it is full the oldest text is
    dropped, and the number of dropped writes is logged. Only whole lines are written. Nobody else
    should write to `stream` meanwhile.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        stream.flush()
        self._descriptor = stream.fileno()
        self._encoding = stream.encoding
        self._queue: deque[str] = deque()
        self._dropped = 0
        self._unfinished_line = ""
        self._requested = False
        self._writing = False
        self._change = threading.Condition()
        threading.Thread(target=self._run, name="background writer", daemon=True).start()

    def write(self, text: str) -> int:
        """Queue `text` up to its last line break; the rest is kept until its line is complete."""
        with self._change:
            lines, end, self._unfinished_line = (self._unfinished_line + text).rpartition("\n")
            if end:
                if len(self._queue) >= LIMIT:
                    self._queue.popleft()
                    self._dropped += 1
                self._queue.append(lines + end)
                self._request_write()
        return len(text)

    def drain(self, timeout: float = DRAIN_SECONDS) -> bool:
        """Wait up to `timeout` seconds until everything is written; return whether it is."""
        with self._change:
            return self._change.wait_for(lambda: not (self._requested or self._writing), timeout)

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        """Return the file descriptor that is written to."""
        return self._descriptor

    def _request_write(self) -> None:
        """Wake the thread; the caller holds the lock."""
        self._requested = True
        self._change.notify_all()

    def _compose(self, text: str) -> str:
        """Return what to write for the queued lines `text`; the caller holds the lock."""
        return text

    def _redraw_seconds(self) -> float | None:
        """Return after how long to compose without a request, None for never; under the lock."""
        return None

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._requested, self._redraw_seconds())
                self._requested, self._writing = False, True
                output = self._compose("".join(self._queue))
                self._queue.clear()
                dropped, self._dropped = self._dropped, 0
            self._write_out(output)
            if dropped:
                logger.warning("%d messages were lost because nobody read them", dropped)
            with self._change:
                self._writing = False
                self._change.notify_all()

    def _write_out(self, output: str) -> None:
        # Not through the stream object: the interpreter flushes it at exit, and would wait for a
        # thread that is blocked inside it.
        rest = memoryview(output.encode(self._encoding, "backslashreplace"))
        # If the terminal was closed or the disk is full, it cannot be reported to anybody.
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
