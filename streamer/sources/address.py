"""What users write for a source: a name, a URL, a path."""

from __future__ import annotations

import os
import re
import string
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

_NAME = re.compile(r"[^/\\:=?#@]{1,64}")


def is_url(location: str) -> bool:
    """Return whether `location` has a scheme, which a Windows drive is not."""
    return re.match(r"[a-z][a-z0-9+.-]+:(//|$)", location, re.IGNORECASE) is not None


def ascii_url(url: str) -> str:
    """Return a URL as it is requested: its host in IDNA, the rest percent-encoded as UTF-8.

    `ValueError` is raised if its host or port is not possible.

    Examples
    --------
    >>> ascii_url("https://köln.example:8000/Süd live?q=ä%20")
    'https://xn--kln-sna.example:8000/S%C3%BCd%20live?q=%C3%A4%20'
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").encode("idna").decode()
    if not host and parts.scheme in ("http", "https"):
        raise ValueError("it names no host")
    credentials, at, _ = parts.netloc.rpartition("@")
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port is None else f":{parts.port}"
    netloc = f"{credentials}{at}{host}{port}"
    # Existing escapes are kept, as urllib does with redirects.
    return quote(
        parts._replace(netloc=netloc).geturl(), safe=string.punctuation, errors="surrogateescape"
    )


def split_name(text: str) -> tuple[str | None, str]:
    """Split "NAME=LOCATION" into the name and the location.

    The name is None if there is none, or if `text` is the path of an existing file.

    Examples
    --------
    >>> split_name("radio=http://host/live?a=b")
    ('radio', 'http://host/live?a=b')
    >>> split_name("http://host/live?a=b")
    (None, 'http://host/live?a=b')
    """
    name, _, location = text.partition("=")
    if location and _NAME.fullmatch(name.strip()) and not os.access(text, os.F_OK):
        return _valid_unicode(name.strip()), location
    return None, text


def default_name(location: str) -> str:
    r"""Return the name of a source without one: a file's stem, a URL's host and path.

    Examples
    --------
    >>> default_name("/music/caf\udce9.wav")  # not UTF-8 on the disk
    'caf?'
    """
    if not is_url(location):
        return _valid_unicode(Path(location).stem or location)
    parts = urlsplit(location)
    if parts.scheme == "file":
        return _valid_unicode(Path(unquote(parts.path)).stem)
    authority = parts.netloc.rpartition("@")[2]
    return _valid_unicode((authority + parts.path).strip("/") or parts.scheme)


def _valid_unicode(name: str) -> str:
    """Replace bytes of a path that are not UTF-8 by `?`, so that the name can be encoded."""
    return name.encode(errors="replace").decode()
