"""Web addresses as the settings, the server and the sources need them: origins, and redaction."""

from __future__ import annotations

import re

HOST_PATTERN = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
"""A Host header; whatever matches may be repeated in another header."""
PUNCTUATION = ":,;.)\"'"
SCHEME_PORTS = {"http": ":80", "https": ":443"}
"""Ports that browsers leave out of an origin."""

_URL = re.compile(r"[a-z][a-z0-9+.-]{1,31}://(?:[^\s<>@/:]*:[^@/\n]*@)?[^\s<>]+", re.IGNORECASE)
"""The length of the scheme is bounded because remote servers write some of the text that is
searched: without a bound the search time grows with the square of the length. A password may hold
blanks."""


def normalise_origin(text: str) -> str:
    """Return the origin of a web page as browsers spell it in the Origin header.

    `ValueError` is raised if `text` is not an origin.

    Examples
    --------
    >>> normalise_origin("https://Köln.example:443/")
    'https://xn--kln-sna.example'
    """
    if text == "null":
        return text
    scheme, _, host = text.lower().removesuffix("/").partition("://")
    try:
        host = host.encode("idna").decode().removesuffix(SCHEME_PORTS.get(scheme, " "))
    except UnicodeError:
        host = ""
    if not re.fullmatch("[a-z][a-z0-9+.-]*", scheme) or not HOST_PATTERN.fullmatch(host):
        raise ValueError(
            "is not the origin of a page: that is its scheme, host and port without a path, "
            "such as https://example.org or http://example.org:8080"
        )
    return f"{scheme}://{host}"


def redact(text: str) -> str:
    """Return `text` with user names, passwords and queries removed from every URL in it.

    The whole query is removed, since any of its values may be a token.

    Examples
    --------
    >>> redact("cannot open http://me:secret@host:8000/live?token=1: refused")
    'cannot open http://host:8000/live?…: refused'
    """
    return _URL.sub(lambda match: _redact_url(match.group()), text)


def _redact_url(url: str) -> str:
    scheme, rest = url.split("://", 1)
    authority, slash, path = rest.partition("/")
    if ":" in authority and "@" not in authority and re.search(r"[^/]@", path):
        # A slash inside a password that was not escaped.
        authority, slash, path = rest.rpartition("@")[2].partition("/")
    host = authority.rpartition("@")[2]
    shown, *query = re.split("(?=[?#])", host + slash + path, maxsplit=1)
    # A proxy's path may be another URL.
    shown = re.sub("://[^/@]*@", "://", shown)
    for secret in query:
        # Punctuation after the URL belongs to the sentence around it.
        shown += f"{secret[0]}…{secret[len(secret.rstrip(PUNCTUATION)) :]}"
    return f"{scheme}://{shown}"
