"""The SQLite file of the history: its tables, how it is opened and how it is read."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streamer.sinks.messages import day_before, encode, timestamp
from streamer.system.commandline import UserError

logger = logging.getLogger(__name__)

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
READ_STATES = """
SELECT source, start, CASE WHEN is_open AND session IS :running THEN NULL ELSE end END,
    state, reason
FROM states
WHERE end >= :from AND start < :to AND (:source IS NULL OR source = :source)
ORDER BY start, source, number LIMIT :limit
"""
KNOWN_SOURCE = """
SELECT EXISTS (SELECT 1 FROM segments WHERE source = :source)
    OR EXISTS (SELECT 1 FROM minutes WHERE source = :source)
"""
SEGMENT_COLUMNS = ("source", "start", "end", "state", "genre", "confidence", "title")
STATE_COLUMNS = ("source", "start", "end", "state", "reason")
MINUTE_COLUMNS = ("source", "minute", "state", "genre", "seconds", "confidence", "level_dbfs")
TABLES = ("segments", "minutes", "states")
APPLICATION_ID = 0x67656E72
"""Marks the file as ours: "genr"."""
APPLICATION_ID_OFFSET = 68
"""Bytes from the beginning of the file (SQLite's file format, 1.3)."""
SCHEMA_VERSION = 2
STATES_SCHEMA = f"""
CREATE TABLE states (           -- since version 2
    session INTEGER NOT NULL,
    source TEXT NOT NULL,
    number INTEGER NOT NULL,    -- of the state within the source and the session
    start REAL NOT NULL,        -- Unix seconds
    end REAL NOT NULL,          -- Unix seconds; while it is open, when it was last known to last
    is_open INTEGER NOT NULL,   -- of an older session: it was cut off
    state TEXT NOT NULL,        -- connecting, live, stalled, reconnecting, failed or not_running
    reason TEXT NOT NULL,
    PRIMARY KEY (session, source, number)
);
CREATE INDEX states_by_end ON states (end);
PRAGMA user_version = {SCHEMA_VERSION};
"""
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
{STATES_SCHEMA}
"""
LOCKED_SECONDS = 0.6
"""How long a transaction waits for a lock of another program; what it has to write is kept."""
READ_LOCKED_SECONDS = 10.0
"""How long reading waits for a lock, which the writer holds while it begins or closes the file: for
as long as a disk takes that is busy with others. Nobody waits for a reader but who asked for it."""
ROW_LIMIT = 50_000
"""Most rows of one table that a query returns by default; beyond it the newest are left out."""

TRANSIENT_ERRORS = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
)
"""SQLite's codes for a disk that is full or missing and for a file that others have locked."""
CORRUPTION_ERRORS = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""SQLite's codes for a file that was a database and no longer is an intact one."""


class HistoryError(UserError):
    """The file cannot be used."""

    def __init__(self, message: str, *, transient: bool = False, damaged: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
        """Whether the cause may go away by itself: a full disk, a lock of another program."""
        self.damaged = damaged
        """Whether it is a history, but corrupt."""


@dataclass(slots=True)
class HistoryQuery:
    """The rows of an open history between two times."""

    connection: sqlite3.Connection
    from_: datetime
    to: datetime
    source: str | None
    running: int | None
    limit: int
    truncated: bool = False
    """Whether one of the tables read so far had more rows than `limit`."""

    def segments(self) -> Iterator[dict[str, Any]]:
        """Yield rows of `SEGMENT_COLUMNS`, oldest first; times are ISO 8601, `end` None if open."""
        for row in self._rows(READ_SEGMENTS):
            cells = dict(zip(SEGMENT_COLUMNS, row, strict=True))
            yield cells | {
                "start": _iso(cells["start"]),
                "end": None if cells["end"] is None else _iso(cells["end"]),
                "confidence": round(cells["confidence"], 4),
            }

    def states(self) -> Iterator[dict[str, Any]]:
        """Yield rows of `STATE_COLUMNS`, oldest first; times are as in `segments`."""
        for row in self._rows(READ_STATES) if self._has_states() else ():
            cells = dict(zip(STATE_COLUMNS, row, strict=True))
            yield cells | {
                "start": _iso(cells["start"]),
                "end": None if cells["end"] is None else _iso(cells["end"]),
            }

    def minutes(self) -> Iterator[dict[str, Any]]:
        """Yield rows of `MINUTE_COLUMNS`, oldest first; `minute` is ISO 8601."""
        for row in self._rows(READ_MINUTES):
            cells = dict(zip(MINUTE_COLUMNS, row, strict=True))
            yield cells | {
                "minute": _iso(cells["minute"]),
                "genre": cells["genre"] or None,
                "seconds": round(cells["seconds"], 3),
                "confidence": round(cells["confidence"], 4),
                "level_dbfs": round(cells["level_dbfs"], 1),
            }

    def seconds_by_minute(self) -> Iterator[tuple[str, float, str, float]]:
        """Yield source, minute in Unix seconds, genre or else state, and seconds in it."""
        for source, minute, state, genre, seconds, *_ in self._rows(READ_MINUTES):
            yield source, minute, genre or state, seconds

    def not_live(self) -> Iterator[tuple[str, str, float, float]]:
        """Yield source, state, start and end in Unix seconds of what was not live, oldest first."""
        for source, start, end, state, _ in self._rows(READ_STATES) if self._has_states() else ():
            if state != "live":
                yield source, state, start, self.to.timestamp() if end is None else end

    def knows_source(self) -> bool:
        """Return whether there is anything of `source` at any time."""
        sql = KNOWN_SOURCE
        if self._has_states():
            sql += " OR EXISTS (SELECT 1 FROM states WHERE source = :source)"
        return bool(self.connection.execute(sql, {"source": self.source}).fetchone()[0])

    def json(self) -> bytes:
        """Return the content of ``/api/history``.

        Encoded row by row: as objects a day of rows would take ten times the memory of the text.
        """
        span = encode({"from": timestamp(self.from_), "to": timestamp(self.to)})
        segments = b",".join(map(encode, self.segments()))
        minutes = b",".join(map(encode, self.minutes()))
        states = b",".join(map(encode, self.states()))
        return b'%b,"segments":[%b],"minutes":[%b],"states":[%b],%b' % (
            span.removesuffix(b"}"),
            segments,
            minutes,
            states,
            encode({"truncated": self.truncated}).removeprefix(b"{"),
        )

    def csv(self, table: str) -> bytes:
        """Return one of `TABLES` as CSV with a line of column names."""
        text = io.StringIO()
        columns, rows = {
            "segments": (SEGMENT_COLUMNS, self.segments),
            "minutes": (MINUTE_COLUMNS, self.minutes),
            "states": (STATE_COLUMNS, self.states),
        }[table]
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows())
        return text.getvalue().encode(errors="replace")

    def _has_states(self) -> bool:
        """Return whether the file has source states: an older daemon may have written it."""
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        return bool(version >= 2)

    def _rows(self, sql: str) -> Iterator[Any]:
        parameters = {
            "from": self.from_.timestamp(),
            "to": self.to.timestamp(),
            "source": self.source,
            "running": self.running,
            "limit": self.limit + 1,
        }
        for number, row in enumerate(self.connection.execute(sql, parameters)):
            if number == self.limit:
                self.truncated = True
                return
            yield row


@contextlib.contextmanager
def open_query(
    path: Path,
    from_: datetime | None = None,
    to: datetime | None = None,
    source: str | None = None,
    *,
    running: int | None = None,
    limit: int = ROW_LIMIT,
) -> Iterator[HistoryQuery]:
    """Open a history for reading, whether or not a daemon is writing it.

    Parameters
    ----------
    path
        The SQLite file.
    from_, to
        Times with a time zone; by default the last 24 hours.
    source
        Name of one source, None for all.
    running
        The session of the daemon that is running; only its open segments have no end.
    limit
        Most rows to read of each table.

    Raises
    ------
    HistoryError
        If the file is missing, corrupt or not a history; also while it is read.
    ValueError
        If `from_` is not given and the calendar has no day before `to`.
    """
    to = to or datetime.now(UTC)
    from_ = from_ or day_before(to)
    try:
        address = f"file:{quote(bytes(path))}?mode=ro"
        with contextlib.closing(
            sqlite3.connect(address, uri=True, timeout=READ_LOCKED_SECONDS)
        ) as connection:
            _check_application(connection, path)
            yield HistoryQuery(connection, from_, to, source, running, limit)
    except sqlite3.Error as error:
        raise HistoryError(f"cannot read the history {path}: {error}") from None


def _iso(seconds: float) -> str:
    """Return a Unix time as ISO 8601."""
    return timestamp(datetime.fromtimestamp(seconds, UTC))


def open_history(path: Path) -> sqlite3.Connection:
    """Open the file for writing; create it if it does not exist.

    `HistoryError` is raised if it cannot be created or used, or is not a history.
    """
    if os.access(path, os.F_OK) and not path.is_file():
        raise HistoryError(f"the history {path} is not a file; choose another name")
    # What plays in a room is private. SQLite gives its -wal and -shm files the same mode.
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        connection = sqlite3.connect(
            path, timeout=LOCKED_SECONDS, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise _unusable("open", path, error) from None
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        _check_application(connection, path)
        if connection.execute("PRAGMA user_version").fetchone() < (2,):
            connection.executescript(f"BEGIN IMMEDIATE; {STATES_SCHEMA} COMMIT;")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        # In KiB: the writer only appends, and would fill the default of 2 MiB within a day.
        connection.execute("PRAGMA cache_size = -256")
    except (sqlite3.Error, HistoryError) as error:
        connection.close()
        if isinstance(error, HistoryError):
            raise
        raise _unusable("use", path, error) from None
    return connection


class HistoryFile:
    """The file as its writer uses it: reopened after errors and when its name is another file's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        """Device and inode of the file that is or was last open."""
        self._verified = False
        """Whether the integrity of that file was checked."""

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open the file unless it is open; close it if anything fails within the context."""
        try:
            if self._connection is not None and self._current_identity() != self._identity:
                self._close_renamed(self._connection)
            if self._connection is None:
                self._connection = open_history(self._path)
                identity = self._current_identity()
                self._verified &= identity == self._identity
                self._identity = identity
            if not self._verified:
                # Reads every page of the file: half a second for 100 MB.
                (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
                if found != "ok":
                    raise _damaged(self._path, " ".join(found.split()))
                self._verified = True
            yield self._connection
        except Exception as error:
            self.close()
            if isinstance(error, sqlite3.Error) and _primary_code(error) in CORRUPTION_ERRORS:
                raise _damaged(self._path, error) from None
            raise

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def set_aside(self) -> Path:
        """Rename the file and those that belong to it; return the new name."""
        self.close()
        now = datetime.now(UTC)
        aside = self._path.with_name(f"{self._path.name}.damaged-{now:%Y%m%dT%H%M%SZ}")
        # The database last: a new one must not find the log of the old one beside it.
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").rename(f"{aside}{suffix}")
        return aside

    def _close_renamed(self, connection: sqlite3.Connection) -> None:
        """Complete a file that no longer has its name, and close it."""
        logger.warning(
            "the history %s was moved, removed or replaced; it is opened anew", self._path
        )
        # SQLite does not do this for a moved file, and would apply the log that remains under the
        # old name to the next file of that name.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.close()

    def _current_identity(self) -> tuple[int, int] | None:
        """Return device and inode of the file of that name, None if there is none."""
        with contextlib.suppress(FileNotFoundError):
            status = self._path.stat()
            return status.st_dev, status.st_ino
        return None


def _damaged(path: Path, why: object) -> HistoryError:
    return HistoryError(f"the history {path} is damaged: {why}", damaged=True)


def _unusable(verb: str, path: Path, error: sqlite3.Error) -> HistoryError:
    code = _primary_code(error)
    if code == sqlite3.SQLITE_CORRUPT and _has_application_id(path):
        return _damaged(path, error)
    transient = code in TRANSIENT_ERRORS or (
        # A writable folder in which no file can be created: the disk may be full.
        code == sqlite3.SQLITE_CANTOPEN and _is_writable(path)
    )
    return HistoryError(f"cannot {verb} the history {path}: {error}", transient=transient)


def _has_application_id(path: Path) -> bool:
    """Return whether a corrupt file has our mark at its place in the file header."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(APPLICATION_ID_OFFSET)
        return file.read(4) == APPLICATION_ID.to_bytes(4, "big")
    return False


def _is_writable(path: Path) -> bool:
    """Return whether this process is permitted to create or change a file."""
    target = path if os.access(path, os.F_OK) else path.parent
    return os.access(target, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)


def _primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, 0 if the error is not from SQLite itself."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _check_application(connection: sqlite3.Connection, path: Path) -> None:
    """Check that a file is a history of a version that we can read."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise HistoryError(f"{path} is not a history of genre-stream; choose another file")
    if version > SCHEMA_VERSION:
        raise HistoryError(
            f"{path} was written by a newer genre-stream (version {version} of the file); update"
        )
