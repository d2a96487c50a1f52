"""A file that another program is still writing."""

from __future__ import annotations

import os
import threading
from pathlib import Path

POLL_SECONDS = 0.2
"""Time between two looks at a file that has not grown."""


class GrowingFile:
    """A file whose end is waited at for more, until `stopped` is set or the file is replaced.

    A file counts as replaced if its path leads to another file, or it has become shorter.
    `OSError` is raised if it cannot be opened.
    """

    def __init__(self, path: Path, stopped: threading.Event) -> None:
        self._path = path
        self._stopped = stopped
        self._file = path.open("rb")

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes as soon as there are any; none when the wait is over."""
        while not self._stopped.is_set():
            data = self._file.read(size)
            if data or self._is_replaced():
                return data
            self._stopped.wait(POLL_SECONDS)
        return b""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _is_replaced(self) -> bool:
        try:
            now = self._path.stat()
        except FileNotFoundError:
            # Between its removal and the creation of another one.
            return False
        is_same = os.path.samestat(now, os.fstat(self._file.fileno()))
        return not is_same or now.st_size < self._file.tell()
