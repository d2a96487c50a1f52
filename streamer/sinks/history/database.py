"""The file of the history: its tables, how it is opened, and what is read from it."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streamer.sinks.messages import encode, timestamp
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
SEGMENT_COLUMNS = ("source", "start", "end", "state", "genre", "confidence", "title")
MINUTE_COLUMNS = ("source", "minute", "state", "genre", "seconds", "confidence", "level_dbfs")
APPLICATION_ID = 0x67656E72
"""Marks the file as ours: "genr"."""
APPLICATION_ID_OFFSET = 68
"""Bytes from the beginning of the file (SQLite's file format, 1.3)."""
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
LOCKED_SECONDS = 0.6
"""How long a transaction waits for another program that has locked the file."""
ROW_LIMIT = 50_000
"""Rows of one table that a query returns at most; beyond it the newest are left out."""
DAY = timedelta(days=1)


FAILURES_THAT_PASS = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
)
"""What SQLite says of a disk that is full or away and of a file that others have locked."""

DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""What SQLite says when a file that was a database no longer is a sound one."""


class HistoryError(UserError):
    """The file cannot be used.

    Parameters
    ----------
    message
        One sentence that names it.
    passing
        Whether that may change by itself: the disk is full, another program has locked the file.
    damaged
        Whether it is a history that is no longer sound.
    """

    def __init__(self, message: str, *, passing: bool = False, damaged: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        self.damaged = damaged


@dataclass(slots=True)
class HistoryQuery:
    """A question to an open history."""

    connection: sqlite3.Connection
    from_: datetime
    to: datetime
    source: str | None
    running: int | None
    limit: int
    truncated: bool = False
    """Whether rows of those asked for so far had to be left out: the newest."""

    def segments(self) -> Iterator[dict[str, Any]]:
        """Yield `source`, `start`, `end`, `state`, `genre`, `confidence`, `title`, oldest first.

        Times are ISO 8601, `end` is None while open.
        """
        return self._rows(READ_SEGMENTS, _segment)

    def minutes(self) -> Iterator[dict[str, Any]]:
        """Yield `source`, `minute`, `state`, `genre`, `seconds`, `confidence`, `level_dbfs`.

        Oldest first; `minute` is ISO 8601.
        """
        return self._rows(READ_MINUTES, _minute)

    def json(self) -> bytes:
        """Return what ``/api/history`` answers.

        Encoded row by row: as objects a day of rows would take ten times the length of the answer.
        """
        answer = io.BytesIO()
        span = {"from": timestamp(self.from_), "to": timestamp(self.to)}
        answer.write(encode(span).removesuffix(b"}"))
        for name, rows in (("segments", self.segments()), ("minutes", self.minutes())):
            answer.write(f',"{name}":['.encode())
            for number, row in enumerate(rows):
                answer.write(b"," * (number > 0) + encode(row))
            answer.write(b"]")
        answer.write(b"," + encode({"truncated": self.truncated}).removeprefix(b"{"))
        return answer.getvalue()

    def csv(self, table: str) -> bytes:
        """Return one table, `segments` or `minutes`, as CSV."""
        text = (
            to_csv(self.segments(), SEGMENT_COLUMNS)
            if table == "segments"
            else to_csv(self.minutes(), MINUTE_COLUMNS)
        )
        return text.encode(errors="replace")

    def _rows(self, sql: str, row_of: Callable[..., dict[str, Any]]) -> Iterator[dict[str, Any]]:
        found = {
            "from": self.from_.timestamp(),
            "to": self.to.timestamp(),
            "source": self.source,
            "running": self.running,
            "limit": self.limit + 1,
        }
        for number, row in enumerate(self.connection.execute(sql, found)):
            if number == self.limit:
                self.truncated = True
                return
            yield row_of(*row)


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
    """Open a history for one question, whether or not a daemon is writing it.

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
        If the file is missing, damaged, or not a history; also while it is read.
    ValueError
        If `from_` is not told and the calendar has no day before `to`.
    """
    to = to or datetime.now(UTC)
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(bytes(path))}?mode=ro", uri=True, timeout=LOCKED_SECONDS)
        ) as connection:
            _check(connection, path)
            yield HistoryQuery(connection, from_ or day_before(to), to, source, running, limit)
    except sqlite3.Error as error:
        raise HistoryError(f"cannot read the history {path}: {error}") from None


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
    return timestamp(datetime.fromtimestamp(seconds, UTC))


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV with a line of column names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def day_before(to: datetime) -> datetime:
    """Return from when on a history is read unless told.

    Raises
    ------
    ValueError
        With one sentence, if the calendar has no such moment.
    """
    try:
        return to - DAY
    except OverflowError:
        raise ValueError(f"there is no day before {timestamp(to)}; say from, too") from None


def open_history(path: Path) -> sqlite3.Connection:
    """Open the file for writing; make it if it is not there.

    Raises
    ------
    HistoryError
        If the file cannot be made or used, or is not a history.
    """
    if os.access(path, os.F_OK) and not path.is_file():
        raise HistoryError(f"the history {path} is not a file; choose another name")
    # What is heard in a room is nobody else's business; the files beside it get the same mode.
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
        _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        # Kibibytes: it only appends, and the default of 2 MiB fills in a day.
        connection.execute("PRAGMA cache_size = -256")
    except (sqlite3.Error, HistoryError) as error:
        connection.close()
        if isinstance(error, HistoryError):
            raise
        raise _unusable("use", path, error) from None
    return connection


class HistoryFile:
    """The file as its writer needs it: open, sound, and still the one of that name.

    Parameters
    ----------
    path
        Its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        """Device and inode of the file that is open, or was last."""
        self._sound = False
        """Whether all of that file was looked at."""

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open the file, unless it is open; let go of it if anything fails.

        Raises
        ------
        HistoryError
            If the file cannot be used.
        """
        try:
            if self._connection is not None and _identity(self._path) != self._identity:
                self._leave(self._connection)
            if self._connection is None:
                self._connection = open_history(self._path)
                identity = _identity(self._path)
                self._sound = self._sound and identity == self._identity
                self._identity = identity
            if not self._sound:
                _check_soundness(self._connection, self._path)
                self._sound = True
            yield self._connection
        except Exception as error:
            self.close()
            if isinstance(error, sqlite3.Error) and _code(error) in DAMAGE:
                raise _damaged(self._path, error) from None
            raise

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def set_aside(self) -> Path:
        """Give the file, and what belongs to it, another name; return that name."""
        self.close()
        now = datetime.now(UTC)
        aside = self._path.with_name(f"{self._path.name}.damaged-{now:%Y%m%dT%H%M%SZ}")
        # The file itself last: nothing that belonged to it may be left for a new one.
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").rename(f"{aside}{suffix}")
        return aside

    def _leave(self, connection: sqlite3.Connection) -> None:
        """Complete a file that has lost its name, and let go of it."""
        logger.warning(
            "the history %s was moved, removed or replaced; it is opened anew", self._path
        )
        # SQLite does not do this for a moved file, and would take what stays behind under the old
        # name for the log of whatever file comes to bear it.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file of a name, None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _check_soundness(connection: sqlite3.Connection, path: Path) -> None:
    """Look at every page of the file; takes about half a second for 100 MB."""
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _damaged(path, " ".join(found.split()))


def _damaged(path: Path, why: object) -> HistoryError:
    return HistoryError(f"the history {path} is damaged: {why}", damaged=True)


def _unusable(verb: str, path: Path, error: sqlite3.Error) -> HistoryError:
    code = _code(error)
    if code == sqlite3.SQLITE_CORRUPT and _is_ours(path):
        return _damaged(path, error)
    passing = code in FAILURES_THAT_PASS or (
        # A full disk may have no room for a new name; else the name is wrong.
        code == sqlite3.SQLITE_CANTOPEN and _may_be_written(path)
    )
    return HistoryError(f"cannot {verb} the history {path}: {error}", passing=passing)


def _is_ours(path: Path) -> bool:
    """Tell whether a damaged file bears our mark where SQLite keeps it."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(APPLICATION_ID_OFFSET)
        return file.read(4) == APPLICATION_ID.to_bytes(4, "big")
    return False


def _may_be_written(path: Path) -> bool:
    """Tell whether this process is allowed to make or to change a file."""
    place = path if os.access(path, os.F_OK) else path.parent
    return os.access(place, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)


def _code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code; None if the error is not from SQLite itself."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


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
