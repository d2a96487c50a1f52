"""A history that is fed with made-up events, and what it holds."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from streamer.core.events import Published
from streamer.sinks.history.database import HistoryQuery
from streamer.sinks.history.writer import History
from support.published import Placer

FOREVER_DAYS = 365_000.0
"""A retention that keeps events of any date."""


class PlacingHistory(History):
    """A history that places the segments of made-up events in clock time itself."""

    def __init__(self, path: Path, retention_days: float = FOREVER_DAYS) -> None:
        self.place = Placer()
        super().__init__(path, retention_days)

    def publish(self, published: Published) -> None:
        """Place an event's segments and keep it."""
        super().publish(self.place(published))


class Rows(NamedTuple):
    """The rows of both tables."""

    segments: list[dict[str, Any]]
    minutes: list[dict[str, Any]]
    truncated: bool


def rows(opening: AbstractContextManager[HistoryQuery]) -> Rows:
    """Read all rows of a query, such as `History.open_query` opens."""
    with opening as query:
        return Rows(list(query.segments()), list(query.minutes()), query.truncated)
