"""Logging set-up: priorities for the journal, times elsewhere, and a limit on repeated messages."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable
from typing import TextIO

from streamer.system.console import is_journal

PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
"""Priorities of syslog(3) by Python's logging level."""

MAX_REPEATS = 5
"""How often the same message about the same thing is logged within `REPEAT_SECONDS`."""
REPEAT_SECONDS = 60.0


class JournalFormatter(logging.Formatter):
    """Formats records for the journal, which reads a priority before every line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with a prefix such as ``<3>`` before each of its lines."""
        level = max((at for at in PRIORITIES if at <= record.levelno), default=logging.DEBUG)
        lines = super().format(record).splitlines() or [""]
        return "\n".join(f"<{PRIORITIES[level]}>{line}" for line in lines)


class RepeatFilter(logging.Filter):
    """Suppresses messages that repeat more than `MAX_REPEATS` times in `REPEAT_SECONDS`.

    Two messages are the same if logger, level, format and first argument are; throughout this
    project the first argument is the name of the source.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[object, ...], tuple[float, int]] = {}
        """Start of the current period and number of messages in it, by message."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record; the first of a period reports the suppressed ones."""
        first = record.args[0] if isinstance(record.args, tuple) and record.args else None
        key = (record.name, record.levelno, record.msg, str(first))
        now = self._clock()
        start, count = self._windows.get(key, (now, 0))
        if now - start >= REPEAT_SECONDS:
            # Bound the memory: remove messages that have not come for ten periods.
            self._windows = {
                key: window
                for key, window in self._windows.items()
                if now - window[0] <= 10 * REPEAT_SECONDS
            }
            if count > MAX_REPEATS:
                record.msg = f"{record.getMessage()} (and {count - MAX_REPEATS} times before)"
                record.args = None
            start, count = now, 0
        self._windows[key] = (start, count + 1)
        return count < MAX_REPEATS


def configure(level: str, *, stream: TextIO | io.TextIOBase | None = None) -> None:
    """Log to `stream` (standard error by default), in the journal's format if it is the journal."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    if is_journal(stream):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    handler.addFilter(RepeatFilter())
    logging.getLogger().handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Set the lowest level that is logged; for libraries it is at least warning."""
    logging.getLogger().setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    logging.getLogger("streamer").setLevel(level.upper())
