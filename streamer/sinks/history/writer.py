"""What was heard, kept in one SQLite file: segments and one-minute summaries, never sound.

A thread of its own writes. Whatever happens to the disk, the daemon goes on: what cannot be written
waits, bounded, and is written when the disk is back. Every transaction is complete or absent, so a
kill at any moment leaves a sound file. A file that is found damaged is kept under another name, and
a new one begun.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from streamer.core.timeline import Stretch, Timeline, clock_offset
from streamer.sinks.history.database import (
    HistoryError,
    HistoryFile,
    HistoryQuery,
    open_history,
    open_query,
)

__all__ = ["History", "HistoryError"]

logger = logging.getLogger(__name__)

WRITE_SEGMENT = """
INSERT INTO segments
    (session, source, number, start, end, is_open, state, genre, confidence, title)
VALUES
    (:session, :source, :number, :start, :end, :is_open, :state, :genre, :confidence, :title)
ON CONFLICT DO UPDATE SET
    start = excluded.start, end = excluded.end, is_open = excluded.is_open, state = excluded.state,
    genre = excluded.genre, confidence = excluded.confidence, title = excluded.title
"""
WRITE_MINUTE = """
INSERT INTO minutes (minute, source, state, genre, seconds, confidence, level_dbfs)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    confidence = (confidence * seconds + excluded.confidence * excluded.seconds)
        / (seconds + excluded.seconds),
    level_dbfs = (level_dbfs * seconds + excluded.level_dbfs * excluded.seconds)
        / (seconds + excluded.seconds),
    seconds = seconds + excluded.seconds
"""
QUEUE_LIMIT = 10_000
"""Messages that wait for the writer; when there are more the oldest goes."""
PENDING_LIMIT = 50_000
"""Rows that wait for the disk to come back; when there are more the oldest goes."""
WRITE_SECONDS = 10.0
"""Seconds that what changes all the time may wait for the disk, to spare it; segments that begin or
end do not wait.
"""
RETRY_SECONDS = 5.0
"""Seconds from a failed transaction to the next try."""
TIDY_SECONDS = 3600.0
"""Seconds between two removals of what is too old."""
CLOSE_SECONDS = 1.5
"""How long the daemon's stop waits for the last transaction, and the one before it: more than two
waits for another program's lock.
"""

_Item = tuple[Mapping[str, Any], float]
"""A message, and what `clock_offset` was when it came, in seconds."""


class _Pending:
    """What is still to be written; the newest of each row."""

    def __init__(self) -> None:
        self.urgent = False
        """Whether a segment began or ended."""
        self.lost = 0
        """Rows that could not wait any longer."""
        self._timeline = Timeline()
        self._segments: dict[tuple[str, int], Stretch] = {}
        self._minutes: dict[tuple[int, str, str, str], tuple[float, float, float]] = {}

    def __len__(self) -> int:
        return len(self._segments) + len(self._minutes)

    def add(self, message: Mapping[str, Any], offset: float) -> None:
        """Take in a prediction or a segment, and what `clock_offset` was at the time."""
        if message["type"] == "prediction":
            stretches = self._timeline.hear(message, offset)
            self._add_to_minute(message)
        else:
            begun = self._timeline.live(message["source"])
            stretches = [self._timeline.place(message)]
            self.urgent |= stretches[0].number not in {stretch.number for stretch in begun}
        for stretch in stretches:
            self.urgent |= stretch.final
            self._segments[stretch.source, stretch.number] = stretch
        if len(self._segments) > PENDING_LIMIT:
            del self._segments[next(iter(self._segments))]
            self.lost += 1
        if len(self._minutes) > PENDING_LIMIT:
            del self._minutes[next(iter(self._minutes))]
            self.lost += 1

    def _add_to_minute(self, message: Mapping[str, Any]) -> None:
        minute = int(datetime.fromisoformat(message["time"]).timestamp()) // 60 * 60
        key = (minute, message["source"], message["state"], message["genre"] or "")
        seconds = message["hop_seconds"]
        known, confidence, level = self._minutes.get(key, (0.0, 0.0, 0.0))
        self._minutes[key] = (
            known + seconds,
            confidence + seconds * message["confidence"],
            level + seconds * message["level_dbfs"],
        )

    def write(self, connection: sqlite3.Connection, session: int) -> None:
        """Write all in one transaction; if that fails, all of it still waits."""
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                WRITE_SEGMENT,
                [_row(session, stretch) for stretch in self._segments.values()],
            )
            connection.executemany(
                WRITE_MINUTE,
                [
                    (*key, seconds, confidence / seconds, level / seconds)
                    for key, (seconds, confidence, level) in self._minutes.items()
                    if seconds > 0
                ],
            )
        self._clear()

    def give_up(self) -> int:
        """Lose what waits; return how many rows that were."""
        rows = len(self)
        self.lost += rows
        self._clear()
        return rows

    def _clear(self) -> None:
        self._segments.clear()
        self._minutes.clear()
        self.urgent = False


class History:
    """Keeps what is published in a file.

    Parameters
    ----------
    path
        The SQLite file; made if it is not there.
    retention_days
        What is older is removed.

    Raises
    ------
    HistoryError
        If the file cannot be made, or is not a history. A disk that is full and a file that another
        program has locked are waited for, and a damaged file is set aside, as they are later on.
    """

    def __init__(self, path: Path, retention_days: float = 90.0) -> None:
        self.write_errors = 0
        """Transactions that failed."""
        self._path = path
        self._retention = timedelta(days=retention_days)
        self._session = time.time_ns() // 1_000_000
        self._queue: queue.Queue[_Item | None] = queue.Queue(QUEUE_LIMIT)
        self._unqueued = 0
        self._pending = _Pending()
        self._failing = False
        self._file = HistoryFile(path)
        self._next_tidying = 0.0
        """`time.monotonic()` from which on it is time to remove what is too old."""
        try:
            open_history(path).close()
        except HistoryError as error:
            if not (error.passing or error.damaged):
                raise
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """What was lost because the writer or the disk did not keep up, for too long."""
        return self._unqueued + self._pending.lost

    @property
    def queue_depth(self) -> int:
        """Messages that wait for the writer."""
        return self._queue.qsize()

    def record(self, message: Mapping[str, Any]) -> None:
        """Keep a published message, if it is one that is kept. Never waits."""
        if message["type"] in ("prediction", "segment"):
            self._put((message, clock_offset()))

    def ask(
        self, from_: datetime | None = None, to: datetime | None = None, source: str | None = None
    ) -> AbstractContextManager[HistoryQuery]:
        """Ask what all sources or one heard between two moments; see `open_query`."""
        return open_query(self._path, from_, to, source, running=self._session)

    def close(self) -> None:
        """Write what waits and stop. A disk that does not answer is not waited for."""
        self._put(None)
        self._thread.join(CLOSE_SECONDS)
        with self._queue.mutex:
            lost = sum(item is not None for item in self._queue.queue) + len(self._pending)
        if lost:
            logger.error(
                "the history %s could not be written before the end: %d rows are lost",
                self._path,
                lost,
            )

    def _put(self, item: _Item | None) -> None:
        while True:
            try:
                return self._queue.put_nowait(item)
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._queue.get_nowait()
                    self._unqueued += 1

    def _run(self) -> None:
        """Write until closed; the thread's whole life."""
        next_write = time.monotonic()
        going_on = True
        while going_on:
            try:
                going_on = self._take(self._pending, until=next_write)
                self._write()
            except (sqlite3.Error, HistoryError, OSError) as error:
                self._say_failing(error)
                next_write = time.monotonic() + RETRY_SECONDS
            except Exception as error:
                # A defect of ours: what cannot be written now never can, and must not be in the
                # way of what comes after it.
                self._say_lost(error, self._pending.give_up())
                next_write = time.monotonic() + RETRY_SECONDS
            else:
                self._say_working()
                next_write = time.monotonic() + WRITE_SECONDS
        self._file.close()

    def _write(self) -> None:
        """Write what waits; if the file is damaged, into a new one."""
        try:
            self._write_to_file()
        except HistoryError as error:
            if not error.damaged:
                raise
            self.write_errors += 1
            aside = self._file.set_aside()
            logger.error("%s; it is kept as %s, and a new one begins", error, aside)
            self._write_to_file()

    def _write_to_file(self) -> None:
        with self._file.writing() as connection:
            if time.monotonic() >= self._next_tidying:
                self._tidy(connection)
                self._next_tidying = time.monotonic() + TIDY_SECONDS
            if self._pending:
                self._pending.write(connection, self._session)

    def _take(self, pending: _Pending, *, until: float) -> bool:
        """Take in messages until it is time to write; False when there will be no more."""
        while (left := until - time.monotonic()) > 0 and (self._failing or not pending.urgent):
            try:
                item = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if item is None:
                return False
            pending.add(*item)
        return True

    def _tidy(self, connection: sqlite3.Connection) -> None:
        oldest = (datetime.now(UTC) - self._retention).timestamp()
        connection.execute("DELETE FROM segments WHERE end < ?", (oldest,))
        connection.execute("DELETE FROM minutes WHERE minute < ?", (oldest,))

    def _say_failing(self, error: Exception) -> None:
        self.write_errors += 1
        if not self._failing:
            known = isinstance(error, HistoryError)
            said = f"{error}" if known else f"cannot write the history {self._path}: {error}"
            logger.error("%s; what is heard waits until it can", said)
        self._failing = True

    def _say_lost(self, error: Exception, rows: int) -> None:
        self.write_errors += 1
        logger.error(
            "cannot write the history %s: %s: %s; %d rows are lost",
            self._path,
            type(error).__name__,
            error,
            rows,
        )

    def _say_working(self) -> None:
        if self._failing:
            logger.info("the history %s is written again", self._path)
        self._failing = False


def _row(session: int, stretch: Stretch) -> dict[str, Any]:
    """Return what is written of a segment."""
    return {
        "session": session,
        "source": stretch.source,
        "number": stretch.number,
        "start": stretch.start.timestamp(),
        "end": stretch.end.timestamp(),
        "is_open": stretch.is_open,
        "state": stretch.segment["state"],
        "genre": stretch.segment["genre"],
        "confidence": stretch.segment["confidence"],
        "title": _storable(stretch.segment["title"]),
    }


def _storable(title: str | None) -> str | None:
    """Return a title of a stream without half surrogate pairs, which SQLite does not take."""
    return None if title is None else title.encode(errors="replace").decode()
