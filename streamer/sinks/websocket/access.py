"""Access control: token, Host header and origin of a request."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qs, urlsplit

from websockets.datastructures import Headers

from streamer.system.urls import HOST_PATTERN, normalise_origin

MAX_PARAMETERS = 16
"""Most parameters of a query."""


class RefusedError(Exception):
    """A request is refused, with an HTTP status and one sentence for the client.

    `advice` is a sentence for the log: what was refused, and which setting would allow it.
    """

    def __init__(self, status: int, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.advice = advice


class Access:
    """Decides which requests are answered.

    Clients must send the `token`; None admits everybody who can reach the port. Pages of other web
    sites may connect if their origin, such as ``https://radio.example``, is one of `origins`.
    """

    def __init__(self, token: str | None = None, origins: Iterable[str] = ()) -> None:
        self._token = None if token is None else token.encode()
        self._origins = frozenset(map(normalise_origin, origins))
        name = socket.gethostname().lower()
        short = name.split(".")[0]
        listed = (urlsplit(origin).hostname for origin in self._origins)
        self._host_names = {"localhost", name, short, f"{short}.local", *filter(None, listed)}

    def check_host_and_origin(self, headers: Headers) -> None:
        """Refuse requests that a page of another web site makes through a user's browser.

        The Origin header names the site that a page is from. Without a token, the Host header must
        also be a name of this machine or an address: a site may let its own name resolve to our
        address (DNS rebinding), and its pages then have the same origin as ours. A site cannot do
        that with an address. The refusal is a `RefusedError` with status 400 or 403.
        """
        host = single(headers, "Host") or ""
        match = HOST_PATTERN.fullmatch(host)
        if match is None:
            raise RefusedError(400, "the Host header is missing or malformed")
        if self._token is None and not self._is_own_host(match["name"].lower()):
            advice = f"{host} is no name of this server; if it is, say --origin http://{host}"
            raise RefusedError(403, advice, advice=f"refused a request: {advice}")
        origin = single(headers, "Origin")
        own = {f"http://{host.lower()}", f"https://{host.lower()}"}
        if origin is not None and origin.lower() not in own | self._origins:
            raise RefusedError(
                403,
                "pages of this origin may not connect; let them with --origin",
                advice=_origin_advice(origin),
            )

    def allowed_origin(self, headers: Headers) -> str | None:
        """Return the Origin header if it is one of the configured origins."""
        origin = single(headers, "Origin")
        return origin if origin is not None and origin.lower() in self._origins else None

    def is_authorised(self, headers: Headers, query: str) -> bool:
        """Return whether a request has the token, or none is needed; takes constant time."""
        if self._token is None:
            return True
        authorization = single(headers, "Authorization") or ""
        scheme, _, credentials = authorization.partition(" ")
        # websockets decodes headers as Latin-1, which maps every byte to one character.
        sent = credentials.strip().encode("latin-1")
        if scheme.lower() != "bearer":
            sent = (parameter(query, "token") or "").strip().encode(errors="replace")
        return hmac.compare_digest(self._token, sent)

    def _is_own_host(self, name: str) -> bool:
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name.strip("[]"))
            return True
        return name in self._host_names


def _origin_advice(origin: str) -> str:
    """Return the sentence for the log about a web page that may not connect."""
    try:
        spelled = normalise_origin(origin)
    except ValueError:
        return f"refused a web page with the malformed origin {ascii(origin)[:80]}"
    page = "a file or sandboxed page" if spelled == "null" else f"a page of {spelled}"
    return f"refused {page}; if it may connect, say --origin {spelled}"


def single(headers: Headers, name: str) -> str | None:
    """Return the value of a header; `RefusedError` if it occurs more than once."""
    values = headers.get_all(name)
    if len(values) > 1:
        raise RefusedError(400, f"the {name} header is there {len(values)} times")
    return values[0] if values else None


def check_parameters(query: str, known: Sequence[str]) -> None:
    """Raise `RefusedError` if a query has another parameter than those and the token."""
    for name in _parameters(query):
        if name not in (*known, "token"):
            raise RefusedError(
                400, f"{ascii(name)[:80]} is no parameter; there are {', '.join(known)}"
            )


def parameter(query: str, name: str) -> str | None:
    """Return the last value of a query's parameter; `RefusedError` if there are too many."""
    values = _parameters(query).get(name)
    return (values[-1] or None) if values else None


def _parameters(query: str) -> dict[str, list[str]]:
    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise RefusedError(400, "the query has too many parameters") from None
