"""The HTTP pages: dashboard, health, metrics, state and history."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import choose_encoder
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from streamer.sinks import messages
from streamer.sinks.websocket.access import Access, RefusedError, parameter, single
from streamer.system.commandline import UserError
from streamer.system.timestamps import parse_timestamp
from streamer.system.urls import HOST_PATTERN

if TYPE_CHECKING:
    from streamer.core.health import HealthReader
    from streamer.sinks.websocket.hub import Hub
    from streamer.sinks.websocket.interfaces import History, Metrics

DASHBOARD = Path(__file__).parent / "dashboard"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
"""Media types by suffix; files with another suffix are not served."""
HISTORY_QUERIES = 2
"""History queries that run at the same time; further ones wait."""


@dataclass(frozen=True, slots=True)
class Page:
    """Content of an HTTP response."""

    body: bytes
    media_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers beside those of every response."""


def json_page(content: Mapping[str, Any], *, status: int = 200) -> Page:
    """Return a page of JSON."""
    return Page(messages.encode(content), "application/json", status)


def text_page(status: int, text: str, headers: Mapping[str, str] | None = None) -> Page:
    """Return a page with one line of text."""
    return Page(f"{text}\n".encode(), "text/plain; charset=utf-8", status, headers or {})


def read_files(folder: Path) -> dict[str, Page]:
    """Return a page for each file of a folder that can be served, by URL path.

    Requests are answered from this mapping alone, so no path leads to any other file.
    """
    pages = {}
    for file in sorted(folder.rglob("*")):
        media_type = MEDIA_TYPES.get(file.suffix)
        if media_type is None or not file.is_file():
            continue
        body = file.read_bytes()
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        page = Page(body, media_type, headers={"ETag": tag, "Cache-Control": "no-cache"})
        name = file.relative_to(folder).as_posix()
        pages["/" if name == "index.html" else f"/{name}"] = page
    return pages


class Pages:
    """Answers HTTP requests.

    Parameters
    ----------
    hub
        Provides ``/api/state``.
    access
        Checks requests. The files of the dashboard need no token: they are no secret, and a browser
        sends none with a page's own requests for them.
    health
        Provides ``/healthz``.
    history
        Provides ``/api/history``; None if no history is kept.
    metrics
        Provides ``/metrics``; None if there are no metrics.
    """

    def __init__(
        self,
        hub: Hub,
        access: Access,
        *,
        health: HealthReader,
        history: History | None,
        metrics: Metrics | None,
    ) -> None:
        self._hub = hub
        self._access = access
        self._read_health = health
        self._history = history
        self._metrics = metrics
        self._files = read_files(DASHBOARD)
        self._querying = asyncio.Semaphore(HISTORY_QUERIES)

    async def answer(self, request: Request) -> Response:
        """Return the response to a request; that of a refused one is a sentence with the reason."""
        try:
            page = await self._page(request)
        except RefusedError as refusal:
            page = refusal_page(refusal)
        return as_response(page, request, self._access)

    async def _page(self, request: Request) -> Page:
        self._access.check_host_and_origin(request.headers)
        path, _, query = request.path.partition("?")
        if request.method not in ("GET", "HEAD"):
            return text_page(405, "only GET and HEAD are understood", {"Allow": "GET, HEAD"})
        if path in self._files:
            return _unless_cached(self._files[path], request.headers)
        authorised = self._access.is_authorised(request.headers, query)
        if path == "/healthz":
            return self._health(details=authorised)
        if not authorised:
            raise RefusedError(
                401, "this needs the token: Authorization: Bearer TOKEN or ?token=TOKEN"
            )
        accept = single(request.headers, "Accept") or ""
        if path == "/metrics" and self._metrics is not None:
            encode, media_type = choose_encoder(accept)
            return Page(encode(self._metrics.registry), media_type)
        if path == "/api/state":
            return json_page(self._hub.state() | {"history": self._history is not None})
        if path == "/api/history":
            return await self._history_page(query, accept)
        return text_page(
            404, "there is no such page; see / /healthz /metrics /api/state /api/history"
        )

    def _health(self, *, details: bool) -> Page:
        problems = [(health, health.problem()) for health in self._read_health()]
        healthy = not any(problem for _, problem in problems)
        content: dict[str, Any] = {"status": "ok" if healthy else "failing"}
        if details:
            content["sources"] = {
                health.source: {
                    "state": health.state,
                    "healthy": problem is None,
                    "reason": problem,
                    "seconds_since_decision": round(health.quiet_seconds, 1),
                }
                for health, problem in problems
            }
        return json_page(content, status=200 if healthy else 503)

    async def _history_page(self, query: str, accept: str) -> Page:
        if self._history is None:
            return text_page(404, "no history is kept; start the daemon with --history FILE.db")
        request = _HistoryRequest.parse(query, accept)
        async with self._querying:
            try:
                return await asyncio.to_thread(request.run, self._history)
            except UserError as error:
                return text_page(503, str(error))


@dataclass(frozen=True, slots=True)
class _HistoryRequest:
    """The parameters of a request for ``/api/history``."""

    from_: datetime | None
    to: datetime | None
    source: str | None
    format: str
    """`json` or `csv`."""
    table: str
    """Table of the CSV, `segments` or `minutes`; JSON has both."""

    @classmethod
    def parse(cls, query: str, accept: str) -> _HistoryRequest:
        """Parse a query string; without `format` in it, the Accept header selects the format.

        Raises
        ------
        RefusedError
            With status 400.
        """
        try:
            from_, to = (_time(query, name) for name in ("from", "to"))
        except ValueError as error:
            raise RefusedError(400, str(error)) from None
        format_ = parameter(query, "format") or ("csv" if "text/csv" in accept else "json")
        table = parameter(query, "table") or "segments"
        if format_ not in ("json", "csv"):
            raise RefusedError(400, "format must be json or csv")
        if table not in ("segments", "minutes"):
            raise RefusedError(400, "table must be segments or minutes")
        return cls(from_, to, parameter(query, "source"), format_, table)

    def run(self, history: History) -> Page:
        """Query the history, which takes up to seconds.

        Raises
        ------
        RefusedError
            With status 400, if the period is not in the calendar.
        UserError
            If the history cannot be read.
        """
        with contextlib.ExitStack() as stack:
            try:
                rows = stack.enter_context(history.open_query(self.from_, self.to, self.source))
            except ValueError as error:
                raise RefusedError(400, str(error)) from None
            if self.format == "json":
                return Page(rows.json(), "application/json")
            return Page(rows.csv(self.table), "text/csv; charset=utf-8")


def _time(query: str, name: str) -> datetime | None:
    text = parameter(query, name)
    return None if text is None else parse_timestamp(name, text)


def _unless_cached(page: Page, headers: Headers) -> Page:
    """Return 304 Not Modified in place of a page that the browser has already."""
    if single(headers, "If-None-Match") == page.headers["ETag"]:
        return Page(b"", page.media_type, 304, page.headers)
    return page


def refusal_page(refusal: RefusedError) -> Page:
    """Return the page for a refused request."""
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "10"}}
    return text_page(refusal.status, str(refusal), headers.get(refusal.status))


def as_response(page: Page, request: Request, access: Access) -> Response:
    """Return the response with a page; for HEAD without the body."""
    fields: dict[str, str] = {
        "Date": email.utils.formatdate(usegmt=True),
        "Connection": "close",
        "Content-Type": page.media_type,
        "Content-Length": str(len(page.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": security_policy(request.headers.get_all("Host")),
        **page.headers,
    }
    origins = request.headers.get_all("Origin")
    if len(origins) == 1 and (origin := access.allowed_origin(request.headers)) is not None:
        fields |= {
            "Access-Control-Allow-Origin": origin,
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Vary": "Origin",
        }
    status = HTTPStatus(page.status)
    if status is HTTPStatus.NOT_MODIFIED:
        del fields["Content-Length"]  # would state the length of the page itself (RFC 9110, 8.6)
    body = b"" if request.method == "HEAD" else page.body
    return Response(status.value, status.phrase, Headers(fields), body)


def security_policy(hosts: Iterable[str]) -> str:
    """Return a policy that lets a page load from and connect to this server only.

    For older browsers ``ws:`` to the same address is not `'self'`, so it is named.
    """
    named = "".join(f" ws://{host} wss://{host}" for host in hosts if HOST_PATTERN.fullmatch(host))
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src 'self'{named}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
