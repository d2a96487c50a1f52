"""The table that a scan writes, as CSV or JSON lines, and reads again to resume."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from streamer.library.answer import FileAnswer

FIRST_COLUMNS = ("path", "seconds", "genre", "confidence")
LAST_COLUMNS = ("tag", "size", "modified_ns", "problem")
SEGMENTS = "segments"

Number = TypeVar("Number", int, float)


class TableError(Exception):
    """A table that cannot be continued; the message says why, without the name of its file."""


@dataclass(frozen=True, slots=True)
class Table:
    """How answers are written: a line or a row each."""

    shares: Sequence[str]
    """Keys of `FileAnswer.shares`, in the order of their columns."""
    segments: bool
    """Whether the segments are written, too."""
    as_json: bool
    """Whether the rows are JSON lines, rather than CSV."""

    def header(self) -> str:
        """Return what comes before the first row."""
        return "" if self.as_json else _csv_row(self._columns)

    def row(self, answer: FileAnswer) -> str:
        """Return the row of an answer, with its line break."""
        shares = [_rounded(answer.shares.get(name), 4) for name in self.shares]
        facts: dict[str, Any] = {
            "path": answer.path,
            "seconds": _rounded(answer.seconds, 3),
            "genre": answer.genre,
            "confidence": _rounded(answer.confidence, 4),
            "shares": dict(zip(self.shares, shares, strict=True)) if answer.shares else {},
            SEGMENTS: answer.segments,
            "tag": answer.tag,
            "size": answer.size,
            "modified_ns": answer.modified_ns,
            "problem": answer.problem,
        }
        if not self.segments:
            del facts[SEGMENTS]
        if self.as_json:
            return json.dumps(facts) + "\n"
        cells = [facts[name] for name in FIRST_COLUMNS] + shares
        if self.segments:
            cells.append(json.dumps(answer.segments))
        return _csv_row(cells + [facts[name] for name in LAST_COLUMNS])

    def read(self, lines: Iterable[str]) -> Iterator[FileAnswer | None]:
        """Yield the answers of a table, and None for a row that is cut off.

        `TableError` is raised if it has other columns.
        """
        read = self._read_json if self.as_json else self._read_csv
        cut_off: list[str] = []
        try:
            for facts in read(_whole(lines, cut_off)):
                yield None if facts is None else _answer(facts)
            if cut_off:
                yield None
        except (csv.Error, KeyError, TypeError, ValueError, AttributeError):
            raise TableError("it holds what no scan has written; name another file") from None

    @property
    def _columns(self) -> list[str]:
        segments = [SEGMENTS] if self.segments else []
        return [*FIRST_COLUMNS, *self.shares, *segments, *LAST_COLUMNS]

    def _read_csv(self, lines: Iterator[str]) -> Iterator[Mapping[str, Any] | None]:
        rows = csv.reader(lines)
        header = next(rows, self._columns)
        if header != self._columns:
            raise self._refusal()
        for row in rows:
            if len(row) != len(header):
                yield None
                continue
            facts: dict[str, Any] = dict(zip(header, row, strict=True))
            facts["shares"] = {name: facts[name] for name in self.shares if facts[name]}
            if self.segments:
                facts[SEGMENTS] = json.loads(facts[SEGMENTS])
            yield facts

    def _read_json(self, lines: Iterator[str]) -> Iterator[Mapping[str, Any]]:
        keys = {*FIRST_COLUMNS, *LAST_COLUMNS, "shares", *([SEGMENTS] if self.segments else [])}
        for line in lines:
            facts = json.loads(line)
            same = isinstance(facts, dict) and facts.keys() == keys
            if not same or facts["shares"].keys() not in (set(), set(self.shares)):
                raise self._refusal()
            yield facts

    def _refusal(self) -> TableError:
        return TableError(
            "it has other columns than this scan, perhaps of another model or --segments; give the "
            "same options or name another file"
        )


def _whole(lines: Iterable[str], cut_off: list[str]) -> Iterator[str]:
    """Yield the lines that have an end; put one that has none into `cut_off`."""
    for line in lines:
        if line.endswith("\n"):
            yield line
        else:
            cut_off.append(line)


def _answer(facts: Mapping[str, Any]) -> FileAnswer:
    return FileAnswer(
        path=str(facts["path"]),
        size=_number(facts["size"], int),
        modified_ns=_number(facts["modified_ns"], int),
        seconds=_number(facts["seconds"], float),
        genre=facts["genre"] or None,
        confidence=_number(facts["confidence"], float),
        shares={name: float(share) for name, share in facts["shares"].items()},
        segments=tuple(facts.get(SEGMENTS, ())),
        tag=facts["tag"],
        problem=facts["problem"],
    )


def _csv_row(cells: Sequence[object]) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="\n").writerow(cells)
    return row.getvalue()


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _number(value: Any, kind: Callable[[Any], Number]) -> Number | None:
    return None if value in ("", None) else kind(value)
