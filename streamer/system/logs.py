"""How the daemon logs: for the journal without times, for a person with them, never in floods."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Protocol

PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
"""Python's levels as the priorities of syslog(3)."""

REPEATS = 5
"""How often the same message about the same thing is logged within `REPEAT_SECONDS`."""
REPEAT_SECONDS = 60.0


class Stream(Protocol):
    """What a log can be written to."""

    def write(self, text: str, /) -> object:
        """Write a line."""

    def flush(self) -> object:
        """Hand on what was written."""

    def fileno(self) -> int:
        """Return the file descriptor."""


def is_journal(stream: Stream, environment: Mapping[str, str]) -> bool:
    """Tell whether `stream` ends in the journal, as systemd.exec(5) says of JOURNAL_STREAM."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class JournalFormatter(logging.Formatter):
    """Puts a priority before every line; the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with ``<3>`` and the like before each of its lines."""
        level = max((at for at in PRIORITIES if at <= record.levelno), default=logging.DEBUG)
        lines = super().format(record).splitlines() or [""]
        return "\n".join(f"<{PRIORITIES[level]}>{line}" for line in lines)


class RepeatFilter(logging.Filter):
    """Lets a message about one thing through a few times a minute and counts the rest.

    Messages are the same if logger, level, format and first argument (the source's name, by this
    project's habit) are.

    Parameters
    ----------
    clock
        Seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[object, ...], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is logged; the first after a pause says how many were not."""
        first = record.args[0] if isinstance(record.args, tuple) and record.args else None
        key = (record.name, record.levelno, record.msg, str(first))
        now = self._clock()
        began, count = self._seen.get(key, [now, 0.0])
        if now - began >= REPEAT_SECONDS:
            self._forget(now)
            if count > REPEATS:
                record.msg = f"{record.getMessage()} (and {count - REPEATS:.0f} times before)"
                record.args = None
            began, count = now, 0.0
        self._seen[key] = [began, count + 1]
        return count < REPEATS

    def _forget(self, now: float) -> None:
        """Drop what has been quiet for long, so that a month of messages takes no room."""
        old = [key for key, (began, _) in self._seen.items() if now - began > 10 * REPEAT_SECONDS]
        for key in old:
            del self._seen[key]


def configure(
    level: str, *, stream: Stream | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Send the log of this process to `stream` (standard error) in the form that fits it."""
    stream = sys.stderr if stream is None else stream
    environment = os.environ if environment is None else environment
    handler = logging.StreamHandler(stream)
    if is_journal(stream, environment):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Change the least important level that is logged; libraries stay at warning or above."""
    logging.getLogger().setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    logging.getLogger("streamer").setLevel(level.upper())
