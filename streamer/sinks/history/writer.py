"""The history sink: a thread that writes segments and one-minute summaries to one SQLite file.

The daemon continues whatever happens to the disk: rows that cannot be written are kept in memory,
up to a limit, and written when the disk is back. Every transaction is complete or absent, so a kill
at any moment leaves an intact file. A file that is found corrupt is renamed and a new one is begun.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from streamer.core.decision import Decision
from streamer.core.events import PlacedSegment, PlacedState, Published, Sink, SourceState
from streamer.sinks import messages
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
WRITE_STATE = """
INSERT INTO states (session, source, number, start, end, is_open, state, reason)
VALUES (:session, :source, :number, :start, :end, :is_open, :state, :reason)
ON CONFLICT DO UPDATE SET
    start = excluded.start, end = excluded.end, is_open = excluded.is_open
"""
READ_LAST_RUN = """
SELECT session, max(end) FROM states
WHERE session = (SELECT max(session) FROM states WHERE session < ?)
"""
WRITE_NOT_RUNNING = """
INSERT INTO states (session, source, number, start, end, is_open, state, reason)
SELECT :session, :source, 0, :last_end, :start, 0, 'not_running', ''
WHERE :last_end < :start
    AND EXISTS (SELECT 1 FROM states WHERE session = :last_session AND source = :source)
ON CONFLICT DO UPDATE SET end = excluded.end
"""
"""States are numbered from 1 on; 0 is the time before them."""
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
"""Events that wait for the writer; beyond it the oldest is discarded."""
PENDING_LIMIT = 50_000
"""Rows of each table that wait for the disk; beyond it the oldest is discarded."""
WRITE_SECONDS = 10.0
"""Longest time between two transactions. Segments that begin or end are written at once; summaries
and the ends of open segments, which change with every decision, wait, to spare the disk."""
RETRY_SECONDS = 5.0
"""Time from a failed transaction to the next attempt."""
TIDY_SECONDS = 3600.0
"""Time between two removals of rows that are too old."""
CLOSE_SECONDS = 1.5
"""How long `History.close` waits for the last transaction and the one before it; more than twice
the wait for a lock of another program."""


LAG_SECONDS = 2.0
"""How far behind the clock the sound that decisions count may lie: they come at uneven intervals,
and each counts the sound that follows that of the one before."""


class _HeardTime:
    """Which seconds of the clock the decisions about each source count.

    None counts twice. So after a pause, when a station sends some seconds of sound at once, or
    where a file is read faster than it plays, no more is counted than has passed.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        """Unix seconds up to which the sound of each source is counted."""

    def begin(self, source: str, start: float) -> None:
        """Count nothing of a source before `start`, in Unix seconds."""
        self._until[source] = max(self._until.get(source, start), start)

    def count(self, source: str, time: float, seconds: float) -> Iterator[tuple[int, float]]:
        """Take a decision about so many seconds of sound; yield the seconds of each minute."""
        earliest = time - seconds - LAG_SECONDS
        start = self._until.get(source, time - seconds)
        if not earliest <= start <= time:
            # After a pause that nobody announced, or when the clock was set back.
            start = max(earliest, time - seconds) if start > time else earliest
        end = self._until[source] = min(start + seconds, time)
        while start < end:
            minute = int(start // 60 * 60)
            until = min(end, minute + 60)
            yield minute, until - start
            start = until


class _PendingRows:
    """The newest version of each row to be written; beyond `PENDING_LIMIT` the oldest are lost."""

    def __init__(self) -> None:
        self.urgent = False
        """Whether a segment began or ended."""
        self.lost = 0
        """Rows discarded since the start."""
        self._live: set[tuple[str, int]] = set()
        """Source and number of the segments that may still change."""
        self._segments: dict[tuple[str, int], PlacedSegment] = {}
        self._states: dict[tuple[str, int], PlacedState] = {}
        self._open_states: dict[str, PlacedState] = {}
        """The state that each source is in."""
        self._heard = _HeardTime()
        self._minutes: dict[tuple[int, str, str, str], tuple[float, float, float]] = {}
        """Sums of seconds, confidence x seconds and level x seconds, by primary key."""

    def __len__(self) -> int:
        return len(self._segments) + len(self._minutes) + len(self._states)

    def add(self, published: Published) -> None:
        if isinstance(published.event, Decision):
            self._add_to_minute(published, published.event)
        for placed in published.segments:
            key = (placed.source, placed.number)
            self.urgent |= placed.final or key not in self._live
            self._live.add(key)
            if placed.final:
                self._live.remove(key)
            self._segments[key] = placed
        for state in published.states:
            self._add_state(state)
        tables: tuple[dict[Any, Any], ...] = (self._segments, self._minutes, self._states)
        for rows in tables:
            while len(rows) > PENDING_LIMIT:
                del rows[next(iter(rows))]
                self.lost += 1

    def _add_state(self, state: PlacedState) -> None:
        self._states[state.source, state.number] = state
        known = self._open_states.pop(state.source, None)
        self.urgent |= known is None or known.number != state.number or not state.is_open
        if state.is_open:
            self._open_states[state.source] = state
            if state.state is SourceState.LIVE:
                self._heard.begin(state.source, state.start.timestamp())

    def lengthen_states(self, time: datetime) -> None:
        """Note that the sources are in the same states at `time`."""
        for source, state in self._open_states.items():
            if state.end < time:
                state = self._open_states[source] = replace(state, end=time)
                self._states[source, state.number] = state

    def _add_to_minute(self, published: Published, decision: Decision) -> None:
        # As precise as in the protocol's messages.
        own = messages.confidence(decision, messages.shares(decision.probabilities))
        time = published.time.timestamp()
        if published.latency > LAG_SECONDS:
            # What sound was left is decided about when it is noticed that there is no more.
            time -= published.latency
        counted = self._heard.count(published.source, time, round(decision.hop_seconds, 3))
        for minute, seconds in counted:
            key = (minute, published.source, decision.state.value, decision.genre or "")
            known, confidence, level = self._minutes.get(key, (0.0, 0.0, 0.0))
            self._minutes[key] = (
                known + seconds,
                confidence + seconds * own,
                level + seconds * round(decision.level_dbfs, 1),
            )

    def write(
        self, connection: sqlite3.Connection, session: int, last_run: tuple[int, float] | None
    ) -> None:
        """Write all rows in one transaction; if it fails, all of them are kept.

        `last_run` is the session of the daemon's run before, and its end in Unix seconds.
        """
        segments = [_row(session, placed) for placed in self._segments.values()]
        minutes = [
            (*key, seconds, confidence / seconds, level / seconds)
            for key, (seconds, confidence, level) in self._minutes.items()
            if seconds > 0
        ]
        states = [_state_row(session, state) for state in self._states.values()]
        gaps: list[dict[str, Any]] = []
        if last_run:
            last = {"last_session": last_run[0], "last_end": last_run[1]}
            gaps = [row | last for row in states if row["number"] == 1]
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(WRITE_SEGMENT, segments)
            connection.executemany(WRITE_MINUTE, minutes)
            connection.executemany(WRITE_STATE, states)
            connection.executemany(WRITE_NOT_RUNNING, gaps)
        self.clear()

    def clear(self) -> None:
        self._segments.clear()
        self._minutes.clear()
        self._states.clear()
        self.urgent = False


class History(Sink):
    """Keeps decisions, segments and the states of sources in a file.

    Parameters
    ----------
    path
        The SQLite file; created if it does not exist.
    retention_days
        Age beyond which rows are removed.
    now
        The clock; tests replace it.

    Raises
    ------
    HistoryError
        If the file cannot be created, or is not a history. A full disk or a lock of another program
        is waited for and a corrupt file renamed, as they are later on.
    """

    def __init__(
        self,
        path: Path,
        retention_days: float = 90.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.write_errors = 0
        """Failed transactions since the start."""
        self._path = path
        self._now = now
        self._retention = timedelta(days=retention_days)
        self._session = time.time_ns() // 1_000_000
        self._queue: queue.Queue[Published | None] = queue.Queue(QUEUE_LIMIT)
        self._unqueued = 0
        self._pending = _PendingRows()
        self._failing = False
        self._file = HistoryFile(path)
        self._last_run: tuple[int, float] | None = None
        self._next_tidying = 0.0
        """`time.monotonic()` of the next removal of old rows."""
        try:
            open_history(path).close()
        except HistoryError as error:
            if not (error.transient or error.damaged):
                raise
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Events and rows lost since the start."""
        return self._unqueued + self._pending.lost

    @property
    def queue_depth(self) -> int:
        """Events that wait for the writer."""
        return self._queue.qsize()

    def publish(self, published: Published) -> None:
        """Queue an event, if it changes a row."""
        if published.segments or published.states or isinstance(published.event, Decision):
            self._put(published)

    def open_query(
        self, from_: datetime | None = None, to: datetime | None = None, source: str | None = None
    ) -> AbstractContextManager[HistoryQuery]:
        """Open the file for reading, with this session's open segments; see `open_query`."""
        return open_query(self._path, from_, to, source, running=self._session)

    def read(
        self,
        from_: datetime | None,
        to: datetime | None,
        source: str | None,
        table: str | None,
        check_source: bool = False,
    ) -> bytes | None:
        """Return one of `TABLES` as CSV, or all of them as JSON; see `open_query`.

        If `check_source`, the result is None for a source of which nothing is kept.
        """
        with self.open_query(from_, to, source) as query:
            if check_source and not query.knows_source():
                return None
            return query.csv(table) if table else query.json()

    def close(self) -> None:
        """Write what is queued and stop, within `CLOSE_SECONDS` even if the disk hangs."""
        self._put(None)
        self._thread.join(CLOSE_SECONDS)
        with self._queue.mutex:
            lost = sum(item is not None for item in self._queue.queue) + len(self._pending)
        if lost:
            text = "the history %s could not be written before the end: %d rows are lost"
            logger.error(text, self._path, lost)

    def _put(self, item: Published | None) -> None:
        while True:
            try:
                return self._queue.put_nowait(item)
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._queue.get_nowait()
                    self._unqueued += 1

    def _run(self) -> None:
        next_write = time.monotonic()
        running = True
        while running:
            delay = RETRY_SECONDS
            try:
                running = self._receive(until=next_write)
                self._write()
            except (sqlite3.Error, HistoryError, OSError) as error:
                self._log_failure(error)
            except Exception as error:
                # A defect of ours, or a value that SQLite refuses: these rows would fail again.
                self.write_errors += 1
                rows = len(self._pending)
                self._pending.lost += rows
                self._pending.clear()
                reason = f"{type(error).__name__}: {error}"
                logger.error(
                    "cannot write the history %s: %s; %d rows are lost", self._path, reason, rows
                )
            else:
                if self._failing:
                    logger.info("the history %s is written again", self._path)
                self._failing = False
                delay = WRITE_SECONDS
            next_write = time.monotonic() + delay
        self._file.close()

    def _receive(self, *, until: float) -> bool:
        """Take events from the queue until it is time to write; return False after the last."""
        while (left := until - time.monotonic()) > 0 and (
            self._failing or not self._pending.urgent
        ):
            try:
                published = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if published is None:
                return False
            self._pending.add(published)
        return True

    def _write(self) -> None:
        """Write pending rows; if the file is corrupt, to a new one."""
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
            if not self._next_tidying:
                session, end = connection.execute(READ_LAST_RUN, (self._session,)).fetchone()
                self._last_run = None if end is None else (session, end)
            if time.monotonic() >= self._next_tidying:
                oldest = (self._now() - self._retention).timestamp()
                connection.execute("DELETE FROM segments WHERE end < ?", (oldest,))
                connection.execute("DELETE FROM minutes WHERE minute < ?", (oldest,))
                connection.execute("DELETE FROM states WHERE end < ?", (oldest,))
                self._next_tidying = time.monotonic() + TIDY_SECONDS
            self._pending.lengthen_states(self._now())
            if self._pending:
                self._pending.write(connection, self._session, self._last_run)

    def _log_failure(self, error: Exception) -> None:
        self.write_errors += 1
        if not self._failing:
            known = isinstance(error, HistoryError)
            reason = f"{error}" if known else f"cannot write the history {self._path}: {error}"
            logger.error("%s; what is heard waits until it can", reason)
        self._failing = True


def _place(session: int, placed: PlacedSegment | PlacedState) -> dict[str, Any]:
    """Return the parameters that both kinds of rows have."""
    return {
        "session": session,
        "source": placed.source,
        "number": placed.number,
        "start": placed.start.timestamp(),
        "end": placed.end.timestamp(),
        "is_open": placed.is_open,
    }


def _state_row(session: int, placed: PlacedState) -> dict[str, Any]:
    """Return the parameters of `WRITE_STATE`."""
    return {
        **_place(session, placed),
        "state": placed.state.value,
        "reason": placed.reason.encode(errors="replace").decode(),
    }


def _row(session: int, placed: PlacedSegment) -> dict[str, Any]:
    """Return the parameters of `WRITE_SEGMENT`."""
    title = placed.segment.title
    return {
        **_place(session, placed),
        "state": placed.segment.state.value,
        "genre": placed.segment.genre,
        "confidence": round(placed.segment.confidence, 4),
        # SQLite refuses lone surrogates, which a stream's title may hold.
        "title": None if title is None else title.encode(errors="replace").decode(),
    }
