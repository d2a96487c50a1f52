"""The HTTP pages: dashboard, health, metrics, state and history."""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from streamer.core.health import HealthReader, OutputReader
from streamer.sinks import messages
from streamer.sinks.websocket.access import (
    Access,
    RefusedError,
    check_parameters,
    parameter,
    single,
)
from streamer.sinks.websocket.hub import Hub
from streamer.system.commandline import UserError
from streamer.system.timestamps import parse_timestamp
from streamer.system.urls import HOST_PATTERN

DASHBOARD = Path(__file__).parent / "dashboard"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
"""Media types by suffix; files with another suffix are not served."""
ReadHistory = Callable[
    [datetime | None, datetime | None, str | None, str | None, bool], bytes | None
]
"""`History.read`, which takes up to seconds."""
HISTORY_PARAMETERS = ("from", "to", "source", "format", "table")
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


def text_page(status: int, text: str, headers: Mapping[str, str] | None = None) -> Page:
    """Return a page with one line of text."""
    return Page(f"{text}\n".encode(), "text/plain; charset=utf-8", status, headers or {})


def _read_dashboard() -> dict[str, Page]:
    """Return the dashboard's files by URL path.

    Requests are answered from this mapping alone, so no path leads to any other file.
    """
    pages = {}
    for file in DASHBOARD.iterdir():
        if file.suffix in MEDIA_TYPES:
            body = file.read_bytes()
            headers = {
                "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
                "Cache-Control": "no-cache",
            }
            path = "/" if file.name == "index.html" else f"/{file.name}"
            pages[path] = Page(body, MEDIA_TYPES[file.suffix], headers=headers)
    return pages


class Pages:
    """Answers HTTP requests; see `Server` for the parameters.

    The files of the dashboard need no token: they are no secret, and a browser sends none with a
    page's own requests for them.
    """

    def __init__(
        self,
        hub: Hub,
        access: Access,
        *,
        health: HealthReader,
        history: ReadHistory | None,
        metrics: CollectorRegistry | None,
        outputs: OutputReader = tuple,
        alerts: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self._hub = hub
        self._access = access
        self._read_health = health
        self._read_history = history
        self._metrics = metrics
        self._read_outputs = outputs
        self._read_alerts = alerts
        self._files = _read_dashboard()
        self._querying = asyncio.Semaphore(HISTORY_QUERIES)

    async def answer(self, request: Request) -> Page:
        """Return the page that a request asks for; `RefusedError` if it may not have it."""
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
        if path == "/metrics" and self._metrics is not None:
            encode, media_type = choose_encoder(single(request.headers, "Accept") or "")
            return Page(encode(self._metrics), media_type)
        if path == "/api/state":
            state = self._hub.state() | {"history": self._read_history is not None}
            state["outputs"] = [dataclasses.asdict(one) for one in self._read_outputs()]
            state["alerts"] = self._read_alerts()
            return Page(messages.encode(state), "application/json")
        if path == "/api/history":
            return await self._history_page(query, single(request.headers, "Accept") or "")
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
                    "detail": health.detail,
                    "seconds_since_decision": round(health.quiet_seconds, 1),
                    "seconds_of_silence": round(health.silence_seconds, 1),
                }
                for health, problem in problems
            }
        return Page(messages.encode(content), "application/json", 200 if healthy else 503)

    async def _history_page(self, query: str, accept: str) -> Page:
        if self._read_history is None:
            return text_page(404, "no history is kept; start the daemon with --history FILE.db")
        check_parameters(query, HISTORY_PARAMETERS)
        try:
            from_, to = (
                None if (text := parameter(query, name)) is None else parse_timestamp(name, text)
                for name in ("from", "to")
            )
            if to and not from_:
                from_ = messages.day_before(to)
        except ValueError as error:
            raise RefusedError(400, str(error)) from None
        if from_ and from_ > (to or datetime.now(UTC)):
            raise RefusedError(400, "from must not be later than to, which is now by default")
        accepted = "csv" if "text/csv" in accept else "json"
        as_csv = _choice(query, "format", ("json", "csv"), accepted) == "csv"
        table = _choice(query, "table", ("segments", "minutes", "states"), "segments")
        source = parameter(query, "source")
        try:
            async with self._querying:
                body = await asyncio.to_thread(
                    self._read_history,
                    from_,
                    to,
                    source,
                    table if as_csv else None,
                    source is not None and not self._hub.has_source(source),
                )
        except UserError as error:
            return text_page(503, str(error))
        if body is None:
            return text_page(404, f"no source is named {ascii(source)[:80]}; see /api/state")
        return Page(body, "text/csv; charset=utf-8" if as_csv else "application/json")


def _choice(query: str, name: str, known: Sequence[str], default: str) -> str:
    value = parameter(query, name) or default
    if value not in known:
        allowed = f"{', '.join(known[:-1])} or {known[-1]}"
        raise RefusedError(400, f"{name} must be {allowed}")
    return value


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
        "Content-Security-Policy": _security_policy(request.headers.get_all("Host")),
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


def _security_policy(hosts: Iterable[str]) -> str:
    """Return a policy that lets a page load from and connect to this server only."""
    # For older browsers, ws: to the same address is not 'self'.
    named = "".join(f" ws://{host} wss://{host}" for host in hosts if HOST_PATTERN.fullmatch(host))
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src 'self'{named}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
