"""What was heard, kept in one SQLite file: segments and one-minute summaries, never sound.

A thread of its own writes. Whatever happens to the disk, the daemon goes on: what cannot be written
waits, bounded, and is written when the disk is back. Every transaction is complete or absent, so a
kill at any moment leaves a sound file.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streamer.timeline import Stretch, Timeline, clock_text

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
READ_SEGMENTS = """
SELECT source, start, CASE WHEN is_open AND session IS :running THEN NULL ELSE end END,
    state, genre, confidence, title
FROM segments
WHERE end >= :from AND start < :to AND (:source IS NULL OR source = :source)
ORDER BY start, source, number LIMIT :limit
"""
READ_MINUTES = """
SELECT source, minute, state, genre, seconds, confidence, level_dbfs
FROM minutes
WHERE minute > :from - 60 AND minute < :to AND (:source IS NULL OR source = :source)
ORDER BY minute, source, state, genre LIMIT :limit
"""
SEGMENT_COLUMNS = ("source", "start", "end", "state", "genre", "confidence", "title")
MINUTE_COLUMNS = ("source", "minute", "state", "genre", "seconds", "confidence", "level_dbfs")
APPLICATION_ID = 0x67656E72
"""Marks the file as ours: "genr"."""
SCHEMA_VERSION = 1
SCHEMA = f"""
CREATE TABLE segments (
    session INTEGER NOT NULL,   -- the run of the daemon, by its start in Unix milliseconds
    source TEXT NOT NULL,
    number INTEGER NOT NULL,    -- of the segment within the source and the session
    start REAL NOT NULL,        -- Unix seconds
    end REAL NOT NULL,          -- Unix seconds; while it is open, when it was last heard
    is_open INTEGER NOT NULL,   -- of an older session: it was cut off
    state TEXT NOT NULL,
    genre TEXT,
    confidence REAL NOT NULL,
    title TEXT,
    PRIMARY KEY (session, source, number)
);
CREATE INDEX segments_by_end ON segments (end);
CREATE TABLE minutes (
    source TEXT NOT NULL,
    minute INTEGER NOT NULL,    -- Unix seconds, a multiple of 60
    state TEXT NOT NULL,
    genre TEXT NOT NULL,        -- '' unless the state is music
    seconds REAL NOT NULL,      -- heard in this state and genre within the minute
    confidence REAL NOT NULL,   -- mean over these seconds
    level_dbfs REAL NOT NULL,   -- mean over these seconds
    PRIMARY KEY (minute, source, state, genre)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
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
LOCKED_SECONDS = 2.0
"""How long a transaction waits for another program that has locked the file."""
TIDY_SECONDS = 3600.0
"""Seconds between two removals of what is too old."""
CLOSE_SECONDS = 1.5
"""How long the last transaction may take when the daemon stops."""
ROW_LIMIT = 50_000
"""Rows of one table that a query returns at most; beyond it the newest are left out."""
DAY = timedelta(days=1)


class HistoryError(Exception):
    """The file cannot be used; the message is one sentence that names it."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """What a query found, oldest first."""

    from_: datetime
    to: datetime
    segments: list[dict[str, Any]]
    """`source`, `start`, `end`, `state`, `genre`, `confidence`, `title`; times as ISO 8601, `end`
    None while open.
    """
    minutes: list[dict[str, Any]]
    """`source`, `minute` (ISO 8601), `state`, `genre`, `seconds`, `confidence`, `level_dbfs`."""
    truncated: bool
    """Whether there is more than a query returns."""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``/api/history`` answers."""
        return {
            "from": clock_text(self.from_),
            "to": clock_text(self.to),
            "segments": self.segments,
            "minutes": self.minutes,
            "truncated": self.truncated,
        }


class _Pending:
    """What is still to be written; the newest of each row."""

    def __init__(self) -> None:
        self.urgent = False
        """Whether a segment began or ended."""
        self._timeline = Timeline()
        self._segments: dict[tuple[str, int], Stretch] = {}
        self._minutes: dict[tuple[int, str, str, str], tuple[float, float, float]] = {}

    def __len__(self) -> int:
        return len(self._segments) + len(self._minutes)

    def add(self, message: Mapping[str, Any]) -> None:
        """Take in a prediction or a segment."""
        if message["type"] == "prediction":
            stretches = self._timeline.hear(message)
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
        if len(self._minutes) > PENDING_LIMIT:
            del self._minutes[next(iter(self._minutes))]

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
        If the file cannot be made, is damaged, or is not a history.
    """

    def __init__(self, path: Path, retention_days: float = 90.0) -> None:
        self.dropped = 0
        """Messages lost because the queue was full."""
        self.write_errors = 0
        """Transactions that failed."""
        self._path = path
        self._retention = timedelta(days=retention_days)
        self._session = time.time_ns() // 1_000_000
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(QUEUE_LIMIT)
        self._failing = False
        _open(path).close()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    @property
    def queue_depth(self) -> int:
        """Messages that wait for the writer."""
        return self._queue.qsize()

    def record(self, message: Mapping[str, Any]) -> None:
        """Keep a published message, if it is one that is kept. Never waits."""
        if message["type"] in ("prediction", "segment"):
            self._put(message)

    def query(
        self, from_: datetime | None = None, to: datetime | None = None, source: str | None = None
    ) -> Excerpt:
        """Return what all sources or one heard between two moments: the last day, unless told.

        Raises
        ------
        HistoryError
            If the file cannot be read.
        """
        return read_history(self._path, from_, to, source, running=self._session)

    def close(self) -> None:
        """Write what waits and stop. A disk that does not answer is not waited for."""
        self._put(None)
        self._thread.join(CLOSE_SECONDS)

    def _put(self, message: Mapping[str, Any] | None) -> None:
        while True:
            try:
                return self._queue.put_nowait(message)
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._queue.get_nowait()
                    self.dropped += 1

    def _run(self) -> None:
        """Write until closed; the thread's whole life."""
        pending = _Pending()
        connection: sqlite3.Connection | None = None
        next_write = next_tidying = time.monotonic()
        going_on = True
        while going_on:
            going_on = self._take(pending, until=next_write)
            try:
                connection = connection or _open(self._path)
                if time.monotonic() >= next_tidying:
                    self._tidy(connection)
                    next_tidying = time.monotonic() + TIDY_SECONDS
                if pending:
                    pending.write(connection, self._session)
            except (sqlite3.Error, HistoryError) as error:
                self._say_failing(error)
                if connection is not None:
                    connection.close()
                    connection = None
                next_write = time.monotonic() + RETRY_SECONDS
            else:
                self._say_working()
                next_write = time.monotonic() + WRITE_SECONDS
        if connection is not None:
            connection.close()

    def _take(self, pending: _Pending, *, until: float) -> bool:
        """Take in messages until it is time to write; False when there will be no more."""
        while (left := until - time.monotonic()) > 0 and (self._failing or not pending.urgent):
            try:
                message = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if message is None:
                return False
            pending.add(message)
        return True

    def _tidy(self, connection: sqlite3.Connection) -> None:
        oldest = (datetime.now(UTC) - self._retention).timestamp()
        connection.execute("DELETE FROM segments WHERE end < ?", (oldest,))
        connection.execute("DELETE FROM minutes WHERE minute < ?", (oldest,))

    def _say_failing(self, error: Exception) -> None:
        self.write_errors += 1
        if not self._failing:
            logger.error(
                "cannot write the history %s: %s; what is heard waits until it can",
                self._path,
                error,
            )
        self._failing = True

    def _say_working(self) -> None:
        if self._failing:
            logger.info("the history %s is written again", self._path)
        self._failing = False


def read_history(
    path: Path,
    from_: datetime | None = None,
    to: datetime | None = None,
    source: str | None = None,
    *,
    running: int | None = None,
    limit: int = ROW_LIMIT,
) -> Excerpt:
    """Read a history, whether or not a daemon is writing it.

    Parameters
    ----------
    path
        The SQLite file.
    from_, to
        Moments with a time zone; the last day unless told.
    source
        Name of one source, None for all.
    running
        The session of the daemon that is running; only its open segments have no end.
    limit
        Rows of each table at most.

    Raises
    ------
    HistoryError
        If the file is missing, damaged, or not a history.
    """
    to = to or datetime.now(UTC)
    from_ = from_ or to - DAY
    found = {
        "from": from_.timestamp(),
        "to": to.timestamp(),
        "source": source,
        "running": running,
        "limit": limit + 1,
    }
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=LOCKED_SECONDS)
        ) as connection:
            _check(connection, path)
            segments = [_segment(*row) for row in connection.execute(READ_SEGMENTS, found)]
            minutes = [_minute(*row) for row in connection.execute(READ_MINUTES, found)]
    except sqlite3.Error as error:
        raise HistoryError(f"cannot read the history {path}: {error}") from None
    truncated = max(len(segments), len(minutes)) > limit
    return Excerpt(from_, to, segments[:limit], minutes[:limit], truncated)


def _segment(
    source: str,
    start: float,
    end: float | None,
    state: str,
    genre: str | None,
    confidence: float,
    title: str | None,
) -> dict[str, Any]:
    return {
        "source": source,
        "start": _unix_text(start),
        "end": None if end is None else _unix_text(end),
        "state": state,
        "genre": genre,
        "confidence": round(confidence, 4),
        "title": title,
    }


def _minute(
    source: str,
    minute: int,
    state: str,
    genre: str,
    seconds: float,
    confidence: float,
    level_dbfs: float,
) -> dict[str, Any]:
    return {
        "source": source,
        "minute": _unix_text(minute),
        "state": state,
        "genre": genre or None,
        "seconds": round(seconds, 3),
        "confidence": round(confidence, 4),
        "level_dbfs": round(level_dbfs, 1),
    }


def _unix_text(seconds: float) -> str:
    return clock_text(datetime.fromtimestamp(seconds, UTC))


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


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV with a line of column names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def parse_moment(name: str, text: str) -> datetime:
    """Read a moment: ISO 8601, in UTC unless it says otherwise.

    Raises
    ------
    ValueError
        With one sentence that names the field.

    Examples
    --------
    >>> parse_moment("from", "2026-05-01T12:00:00Z")
    datetime.datetime(2026, 5, 1, 12, 0, tzinfo=datetime.timezone.utc)
    """
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{name} must be a moment such as 2026-05-01T12:00:00Z, not {ascii(text)[:60]}"
        ) from None


def _open(path: Path) -> sqlite3.Connection:
    """Open the file for writing; make it if it is not there."""
    try:
        connection = sqlite3.connect(
            path, timeout=LOCKED_SECONDS, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise HistoryError(f"cannot open the history {path}: {error}") from None
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    except (sqlite3.Error, HistoryError) as error:
        connection.close()
        if isinstance(error, HistoryError):
            raise
        raise HistoryError(f"cannot use the history {path}: {error}") from None
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Make sure that a file is a history that we understand."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise HistoryError(f"{path} is not a history of genre-stream; choose another file")
    if version > SCHEMA_VERSION:
        raise HistoryError(
            f"{path} was written by a newer genre-stream (version {version} of the file); update"
        )
