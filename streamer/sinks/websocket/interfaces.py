"""What the server needs of the history and the metrics, which are sinks of their own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from prometheus_client import CollectorRegistry


class HistoryQuery(Protocol):
    """The segments and minutes of a period of time."""

    def json(self) -> bytes:
        """Return both tables as JSON."""

    def csv(self, table: str) -> bytes:
        """Return one table, `segments` or `minutes`, as CSV."""


class History(Protocol):
    """Reads what was published in the past."""

    def open_query(
        self, from_: datetime | None = None, to: datetime | None = None, source: str | None = None
    ) -> AbstractContextManager[HistoryQuery]:
        """Return a query for a period (by default the last day) and a source (by default all).

        Raises
        ------
        UserError
            If the history cannot be read; also from within the context.
        """


class Metrics(Protocol):
    """Counts clients, and has a registry for Prometheus."""

    registry: CollectorRegistry

    def client(self) -> AbstractContextManager[object]:
        """Return a context manager that counts a client while it is entered."""

    def slow_client_closed(self) -> None:
        """Count a client that was closed because it stayed behind."""
