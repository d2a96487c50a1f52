"""The few HTTP pages next to the WebSocket: dashboard, health, metrics, state and history."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import choose_encoder
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from streamer.sinks import messages
from streamer.sinks.history.database import HistoryError, day_before, parse_moment
from streamer.sinks.history.writer import History
from streamer.sinks.websocket.access import HOST_PATTERN, Access, RefusedError, parameter, single

if TYPE_CHECKING:
    from streamer.core.health import HealthReader
    from streamer.sinks.metrics import Metrics
    from streamer.sinks.websocket.hub import Hub

DASHBOARD = Path(__file__).parent / "dashboard"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
"""Suffixes of the files that are served; others in the folder are not."""
HISTORY_QUERIES = 2
"""Queries of the history that run at once; further ones wait."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer to a GET."""

    body: bytes
    media_type: str
    status: int = 200
    headers: Mapping[str, str] | None = None
    """Headers beside those that every answer has."""


def json_page(content: Mapping[str, Any], *, status: int = 200) -> Page:
    """Return a page of JSON."""
    return Page(messages.encode(content), "application/json", status)


def text_page(status: int, text: str, headers: Mapping[str, str] | None = None) -> Page:
    """Return a page of one line."""
    return Page(f"{text}\n".encode(), "text/plain; charset=utf-8", status, headers)


def read_files(folder: Path) -> dict[str, Page]:
    """Read the files that are served, by URL path. Nothing else on the disk can be asked for."""
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
        What ``/api/state`` tells.
    access
        Who may ask. The dashboard's files hold nothing secret and need no token: a browser could
        not send it.
    health
        What ``/healthz`` and ``/metrics`` tell about the sources.
    history
        What ``/api/history`` tells; None when there is none.
    metrics
        What ``/metrics`` tells; None when there are none.
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
        """Answer a request; a request that is refused gets one sentence that says why."""
        try:
            page = await self._page(request)
        except RefusedError as refusal:
            page = refusal_page(refusal)
        return as_response(page, request, self._access)

    async def _page(self, request: Request) -> Page:
        self._access.check_place(request.headers)
        path, _, query = request.path.partition("?")
        if request.method not in ("GET", "HEAD"):
            return text_page(405, "only GET and HEAD are understood", {"Allow": "GET, HEAD"})
        if path in self._files:
            return self._file(self._files[path], request.headers)
        trusted = self._access.knows_token(request.headers, query)
        if path == "/healthz":
            return self._health(details=trusted)
        if not trusted:
            raise RefusedError(
                401, "this needs the token: Authorization: Bearer TOKEN or ?token=TOKEN"
            )
        if path == "/metrics" and self._metrics is not None:
            return self._metrics_page(single(request.headers, "Accept") or "")
        if path == "/api/state":
            return json_page(self._hub.state() | {"history": self._history is not None})
        if path == "/api/history":
            return await self._history_page(query, single(request.headers, "Accept") or "")
        return text_page(
            404, "there is no such page; see / /healthz /metrics /api/state /api/history"
        )

    def _file(self, page: Page, headers: Headers) -> Page:
        assert page.headers is not None
        if single(headers, "If-None-Match") == page.headers["ETag"]:
            return Page(b"", page.media_type, 304, page.headers)
        return page

    def _health(self, *, details: bool) -> Page:
        problems = {health.source: health.problem() for health in self._read_health()}
        healthy = not any(problems.values())
        content: dict[str, Any] = {"status": "ok" if healthy else "failing"}
        if details:
            content["sources"] = {
                health.source: {
                    "state": health.state,
                    "healthy": problems[health.source] is None,
                    "reason": problems[health.source],
                    "seconds_since_decision": round(health.quiet_seconds, 1),
                }
                for health in self._read_health()
            }
        return json_page(content, status=200 if healthy else 503)

    def _metrics_page(self, accept: str) -> Page:
        assert self._metrics is not None
        encode, media_type = choose_encoder(accept)
        return Page(encode(self._metrics.registry), media_type)

    async def _history_page(self, query: str, accept: str) -> Page:
        if self._history is None:
            return text_page(404, "no history is kept; start the daemon with --history FILE.db")
        request = _HistoryRequest.parse(query, accept)
        async with self._querying:
            try:
                return await asyncio.to_thread(request.run, self._history)
            except HistoryError as error:
                return text_page(503, str(error))


@dataclass(frozen=True, slots=True)
class _HistoryRequest:
    """What is asked of ``/api/history``."""

    from_: datetime | None
    to: datetime | None
    source: str | None
    form: str
    """`json` or `csv`."""
    table: str
    """Table of the CSV: `segments` or `minutes`; JSON has both."""

    @classmethod
    def parse(cls, query: str, accept: str) -> _HistoryRequest:
        """Read the query; the Accept header chooses the form unless the query does.

        Raises
        ------
        RefusedError
            With status 400.
        """
        try:
            from_, to = (_moment(query, name) for name in ("from", "to"))
            if to is not None and from_ is None:
                from_ = day_before(to)
        except ValueError as error:
            raise RefusedError(400, str(error)) from None
        form = parameter(query, "format") or ("csv" if "text/csv" in accept else "json")
        table = parameter(query, "table") or "segments"
        if form not in ("json", "csv"):
            raise RefusedError(400, "format must be json or csv")
        if table not in ("segments", "minutes"):
            raise RefusedError(400, "table must be segments or minutes")
        return cls(from_, to, parameter(query, "source"), form, table)

    def run(self, history: History) -> Page:
        """Ask the history; takes its time."""
        with history.open_query(self.from_, self.to, self.source) as query:
            if self.form == "json":
                return Page(query.json(), "application/json")
            return Page(query.csv(self.table), "text/csv; charset=utf-8")


def _moment(query: str, name: str) -> datetime | None:
    text = parameter(query, name)
    return None if text is None else parse_moment(name, text)


def refusal_page(refusal: RefusedError) -> Page:
    """Return the page that tells a client why it is turned away."""
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "10"}}
    return text_page(refusal.status, str(refusal), headers.get(refusal.status))


def as_response(page: Page, request: Request, access: Access) -> Response:
    """Turn a page into what goes over the wire; a HEAD gets all but the body."""
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
        **(page.headers or {}),
    }
    allowed = request.headers.get_all("Origin")
    if len(allowed) == 1 and (origin := access.allowed_origin(request.headers)) is not None:
        fields |= {
            "Access-Control-Allow-Origin": origin,
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Vary": "Origin",
        }
    status = HTTPStatus(page.status)
    if status is HTTPStatus.NOT_MODIFIED:
        del fields["Content-Length"]  # it would be taken for that of the page (RFC 9110, 8.6)
    body = b"" if request.method == "HEAD" else page.body
    return Response(status.value, status.phrase, Headers(fields), body)


def security_policy(hosts: Iterable[str]) -> str:
    """Return a policy under which a page loads from here and connects to here, and nothing else.

    Older browsers do not count ``ws:`` to the same address as `'self'`, so it is named.
    """
    named = "".join(f" ws://{host} wss://{host}" for host in hosts if HOST_PATTERN.fullmatch(host))
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src 'self'{named}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
