"""Who may ask: the token, the origin of the page that asks, and the name by which it reached us."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

from websockets.datastructures import Headers

from streamer.system.urls import HOST_PATTERN, normalise_origin


class RefusedError(Exception):
    """A request is turned away, with an HTTP status and one sentence for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Access:
    """What must be true of a request before it is answered.

    Parameters
    ----------
    token
        What every client must know; None lets everybody in who can reach the port.
    origins
        Origins of pages elsewhere that may connect, such as ``https://radio.example``.
    """

    def __init__(self, token: str | None = None, origins: Iterable[str] = ()) -> None:
        self._token = None if token is None else token.encode()
        self._origins = frozenset(map(normalise_origin, origins))
        own = socket.gethostname().lower()
        first = own.split(".")[0]
        listed = (urlsplit(origin).hostname for origin in self._origins)
        self._hosts = {"localhost", own, first, f"{first}.local", *filter(None, listed)}

    def check_place(self, headers: Headers) -> None:
        """Turn away pages of other sites, so that none a user visits can listen in.

        Without a token the name in the Host header must be ours too: a page of another site may
        have pointed its own name at our address (DNS rebinding), and then it is of the same origin.
        No name is needed to reach an address, so addresses are always good.

        Raises
        ------
        RefusedError
            With status 400 or 403.
        """
        host = single(headers, "Host") or ""
        match = HOST_PATTERN.fullmatch(host)
        if match is None:
            raise RefusedError(400, "the Host header is missing or malformed")
        if self._token is None and not self._is_ours(match["name"].lower()):
            raise RefusedError(
                403, f"{host} is no name of this server; if it is, say --origin http://{host}"
            )
        origin = single(headers, "Origin")
        if origin is not None and not self._is_welcome(origin.lower(), host.lower()):
            raise RefusedError(403, "pages of this origin may not connect; let them with --origin")

    def allowed_origin(self, headers: Headers) -> str | None:
        """Return the Origin header if it is of a listed page elsewhere."""
        origin = single(headers, "Origin")
        return origin if origin is not None and origin.lower() in self._origins else None

    def knows_token(self, headers: Headers, query: str) -> bool:
        """Tell whether a request carries the token, in constant time; True if none is needed."""
        if self._token is None:
            return True
        authorization = single(headers, "Authorization") or ""
        scheme, _, given = authorization.partition(" ")
        # Latin-1 stands for whatever bytes a header has.
        sent = given.strip().encode("latin-1")
        if scheme.lower() != "bearer":
            sent = (parameter(query, "token") or "").strip().encode(errors="replace")
        return hmac.compare_digest(self._token, sent)

    def _is_ours(self, name: str) -> bool:
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _is_welcome(self, origin: str, host: str) -> bool:
        return origin in (f"http://{host}", f"https://{host}") or origin in self._origins


def single(headers: Headers, name: str) -> str | None:
    """Return the value of a header that may be there once.

    Raises
    ------
    RefusedError
        With status 400, if it is there twice.
    """
    values = headers.get_all(name)
    if len(values) > 1:
        raise RefusedError(400, f"the {name} header is there {len(values)} times")
    return values[0] if values else None


def parameter(query: str, name: str) -> str | None:
    """Return the last value of a parameter of a query string.

    Raises
    ------
    RefusedError
        With status 400, if there are too many parameters.
    """
    try:
        values = parse_qs(query, max_num_fields=16).get(name)
    except ValueError:
        raise RefusedError(400, "the query has too many parameters") from None
    return values[-1] if values else None
