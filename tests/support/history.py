"""What a history holds, read at once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from streamer.sinks.history.database import HistoryQuery


class Rows(NamedTuple):
    """What a question to a history brings."""

    segments: list[dict[str, Any]]
    minutes: list[dict[str, Any]]
    truncated: bool


def rows(question: AbstractContextManager[HistoryQuery]) -> Rows:
    """Read all that a question, such as `History.ask` opens, brings."""
    with question as query:
        return Rows(list(query.segments()), list(query.minutes()), query.truncated)
