"""How far a scan is: files a second and the time that is left, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from streamer.system.console import plural

TERMINAL_SECONDS, LOG_SECONDS = 0.2, 30.0
"""Least time between two updates of the line of a terminal, and between two lines of a log."""


class Progress:
    """Counts files, and shows how far it is: one line on a terminal, else a line now and then."""

    def __init__(
        self,
        total: int,
        *,
        shown: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done = 0
        """Files that are done."""
        self._total = total
        self._stream = stream or sys.stderr
        self._shown = shown
        self._on_terminal = shown and self._stream.isatty()
        self._clock = clock
        self._began = self._last = clock()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    def advance(self) -> None:
        """Count a file, and show it if it is time to."""
        self.done += 1
        now = self._clock()
        least = TERMINAL_SECONDS if self._on_terminal else LOG_SECONDS
        if self._shown and now - self._last >= least:
            self._last = now
            line = self.describe()
            self._write(f"\r{line}\x1b[K" if self._on_terminal else f"{line}\n")

    def clear(self) -> None:
        """Remove the line, before something else is written."""
        if self._on_terminal:
            self._write("\r\x1b[K")

    def describe(self) -> str:
        """Return how many files are done, how many a second, and how long the rest will take."""
        rate = self.done / max(self.seconds, 1e-9)
        left = (self._total - self.done) / rate if rate else 0.0
        files = f"{self.done} of {plural(self._total, 'file')}"
        return f"{files}, {rate:.3g} files a second, {duration(left)} left"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def duration(seconds: float) -> str:
    """Return a time to be read by people.

    Examples
    --------
    >>> duration(42.4), duration(150), duration(7500), duration(200_000)
    ('42 s', '2 min 30 s', '2 h 5 min', '2 d 7 h')
    """
    whole = round(seconds)
    for size, unit, part, small in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {small}"
    return f"{whole} s"
