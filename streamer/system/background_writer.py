"""Output that nobody waits for: a thread writes it to the terminal, the pipe or the journal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
from collections import deque
from typing import TextIO

LIMIT = 1000
"""Messages that may wait for a reader."""
DRAIN_SECONDS = 0.5
"""How long the end of a program waits for what is not written yet."""

logger = logging.getLogger(__name__)


class BackgroundWriter(io.TextIOBase):
    """A text stream whose `write` returns at once, however slowly the other end is read.

    A terminal stopped with Ctrl-S, or a pipe that nobody reads, makes whoever writes to it wait,
    perhaps for ever. Here that is a thread. What waits for it is bounded: the oldest goes, and the
    log says how much went. Only whole lines are handed on.

    Parameters
    ----------
    stream
        Where the text goes in the end; nobody else should write to it meanwhile.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        stream.flush()
        self._descriptor = stream.fileno()
        self._encoding = stream.encoding
        self._waiting: deque[str] = deque()
        self._lost = 0
        self._begun = ""
        self._due = False
        self._busy = False
        self._change = threading.Condition()
        threading.Thread(target=self._run, name="background writer", daemon=True).start()

    def write(self, text: str) -> int:
        """Leave `text` to be written, up to its last line break; the rest waits for its own."""
        with self._change:
            lines, end, self._begun = (self._begun + text).rpartition("\n")
            if end:
                if len(self._waiting) >= LIMIT:
                    self._waiting.popleft()
                    self._lost += 1
                self._waiting.append(lines + end)
                self._ask()
        return len(text)

    def drain(self, timeout: float = DRAIN_SECONDS) -> bool:
        """Wait up to `timeout` seconds until everything is written; tell whether it is."""
        with self._change:
            return self._change.wait_for(lambda: not (self._due or self._busy), timeout)

    def isatty(self) -> bool:
        """Tell whether a person reads this."""
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        """Return the file descriptor that is written to."""
        return self._descriptor

    def _ask(self) -> None:
        """Make the thread write; with the lock held."""
        self._due = True
        self._change.notify_all()

    def _compose(self, text: str) -> str:
        """Return what is to be written for the lines of `text`; with the lock held."""
        return text

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._due)
                self._due, self._busy = False, True
                output = self._compose("".join(self._waiting))
                self._waiting.clear()
                lost, self._lost = self._lost, 0
            self._hand_on(output)
            if lost:
                logger.warning("%d messages were lost because nobody read them", lost)
            with self._change:
                self._busy = False
                self._change.notify_all()

    def _hand_on(self, output: str) -> None:
        # Not through the stream itself: a thread that waits in there for a reader takes the whole
        # process down when Python wants to flush it at the end.
        waiting = memoryview(output.encode(self._encoding, "backslashreplace"))
        # A terminal that was closed or a disk that is full: there is nobody left to tell.
        with contextlib.suppress(OSError):
            while waiting:
                waiting = waiting[os.write(self._descriptor, waiting) :]
