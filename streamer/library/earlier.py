"""What the table of an earlier scan has, in little memory: it may have a million rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from streamer.library.answer import FileAnswer
from streamer.library.files import absolute
from streamer.library.table import Table, TableError
from streamer.system.commandline import UserError
from streamer.system.console import unreadable_reason
from streamer.system.files import atomic_write


class Known(NamedTuple):
    """What a table has of a file."""

    size: int | None
    """None if the file could not be analysed."""
    modified_ns: int | None
    """The same."""
    is_wanted: bool
    """Whether its row is to be read again."""

    def is_current(self, path: str) -> bool:
        """Return whether the file was analysed, and has not changed since then."""
        try:
            status = Path(path).stat()
        except OSError:
            return False
        return (self.size, self.modified_ns) == (status.st_size, status.st_mtime_ns)


def read_earlier(
    target: Path, table: Table, is_wanted: Callable[[FileAnswer], bool]
) -> dict[str, Known]:
    """Return what a table has of each file, by absolute path, and prepare it for more rows.

    It then has one row of each. `UserError` is raised if the table cannot be continued.
    """
    known: dict[str, Known] = {}
    rows, is_whole = 0, True
    try:
        with open_table(target) as file:
            for answer in table.read(file):
                if answer is None:
                    is_whole = False
                    continue
                rows += 1
                is_analysed = answer.seconds is not None
                known[absolute(answer.path)] = Known(
                    answer.size if is_analysed else None,
                    answer.modified_ns if is_analysed else None,
                    is_wanted(answer),
                )
    except TableError as error:
        raise UserError(f"{target}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = unreadable_reason(error)
        raise UserError(f"{target}: cannot be continued: {reason}") from None
    if rows > len(known) or not is_whole:
        compact(target, table)
    return known


def read_again(target: Path, table: Table, rows: int) -> Iterator[FileAnswer]:
    """Yield the answers of the first rows of a table; more may be added meanwhile.

    `UserError` is raised if it cannot be read any more.
    """
    try:
        with open_table(target) as file:
            yield from filter(None, itertools.islice(table.read(file), rows))
    except TableError as error:
        raise UserError(f"{target}: {error}", exit_status=1) from None
    except OSError as error:
        reason = unreadable_reason(error)
        raise UserError(f"{target}: cannot be read again: {reason}", exit_status=1) from None


def compact(target: Path, table: Table) -> None:
    """Leave the last row of each file in a table; `UserError` if it cannot be written."""
    try:
        last: dict[str, int] = {}
        with open_table(target) as file:
            for number, answer in enumerate(table.read(file)):
                if answer:
                    last[absolute(answer.path)] = number
        with (
            open_table(target) as file,
            atomic_write(target, target.stat().st_size) as partial,
            partial.open("wb") as rows,
        ):
            rows.write(encoded(table.header()))
            for number, answer in enumerate(table.read(file)):
                if answer and last[absolute(answer.path)] == number:
                    rows.write(encoded(table.row(answer)))
    except OSError as error:  # tells the file itself
        raise UserError(str(error), exit_status=1) from None


def open_table(target: Path) -> TextIO:
    """Open a table; names of files that are not UTF-8 are read as the system gives them."""
    return target.open(encoding="utf-8", errors="surrogateescape", newline="")


def encoded(text: str) -> bytes:
    """Return rows as they are written: names that are not UTF-8 as the bytes that they are."""
    return text.encode("utf-8", "surrogateescape")
