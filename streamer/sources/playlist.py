"""Playlists of streams or files: M3U and PLS."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
from pathlib import Path
from urllib.parse import unquote, urljoin

from streamer.sources.address import is_url

SUFFIXES = (".m3u", ".m3u8", ".pls")
MAX_ENTRIES = 10_000
"""Entries of a playlist from the network that are played."""
_FILE = re.compile(r"File([0-9]{1,9})\s*=\s*(\S.*)", re.IGNORECASE)
"""An entry of a PLS playlist."""


_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le"} | {
    codecs.BOM_UTF16_BE: "utf-16-be"
}


def is_playlist(head: bytes) -> bool:
    """Tell whether the first bytes of a text are those of an M3U with a header, or a PLS."""
    return decode_text(head).lstrip().lower().startswith(("#extm3u", "[playlist]"))


def decode_text(body: bytes, charset: str | None = None) -> str:
    """Return a playlist as text: by its byte order mark, as UTF-8, in `charset`, or as Latin-1.

    Examples
    --------
    >>> decode_text("café.mp3".encode("latin-1"))
    'café.mp3'
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if body.startswith(mark):
            return body[len(mark) :].decode(encoding, errors="replace")
    if b"\0" in body[:4]:
        return body.decode("utf-16-le" if body[1:2] == b"\0" else "utf-16-be", errors="replace")
    for encoding in filter(None, ("utf-8", charset)):
        with contextlib.suppress(UnicodeError, LookupError):
            return body.decode(encoding)
    return body.decode("cp1252", errors="replace")


def local_entries(text: str, folder: Path) -> list[str]:
    """Return the paths and URLs in a playlist of a folder.

    An entry that is no file there may be percent-encoded, have backslashes, or be in Latin-1 on the
    disk; it is taken as the file that exists.
    """
    return [entry if is_url(entry) else _path(entry, folder) for entry in entries(text)]


def _path(entry: str, folder: Path) -> str:
    spellings = [entry, unquote(entry), entry.replace("\\", "/")]
    with contextlib.suppress(UnicodeError):
        spellings.append(os.fsdecode(entry.encode("cp1252")))
    paths = [str(folder / spelling) for spelling in spellings]
    return next((path for path in paths if os.access(path, os.F_OK)), paths[0])


def is_hls(text: str) -> bool:
    """Tell whether an M3U text is an HLS playlist (RFC 8216), which FFmpeg plays by itself."""
    return "#EXT-X-" in text


def hls_keys(text: str, url: str) -> list[str]:
    """Return the URLs of the keys that an HLS playlist names."""
    keys = re.findall(r'^#EXT-X-(?:SESSION-)?KEY:.*?\bURI="([^"]{1,4000})"', text, re.MULTILINE)
    return [found for key in keys if (found := urljoin(url, key)).startswith("http")][:4]


def entries(text: str) -> list[str]:
    r"""Return the locations in an M3U or PLS playlist, in order.

    Examples
    --------
    >>> entries("[playlist]\nFile2=http://b/\nFile1=http://a/\n")
    ['http://a/', 'http://b/']
    """
    text = text.lstrip("\ufeff")
    if text.lstrip().lower().startswith("[playlist]"):
        found = (_FILE.fullmatch(line.strip()) for line in text.splitlines())
        files = [(int(match[1]), match[2]) for match in found if match]
        return [location for _, location in sorted(files, key=lambda file: file[0])]
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def network_entries(text: str, playlist_url: str) -> list[str]:
    """Return the URLs in a playlist from the network, of its first `MAX_ENTRIES` entries.

    Others than streams of the network are left out: the playlist must not make us open files of
    this computer.
    """
    urls = []
    for entry in entries(text)[:MAX_ENTRIES]:
        with contextlib.suppress(ValueError):
            urls.append(urljoin(playlist_url, entry))
    return [url for url in urls if re.match(r"(https?|rtsps?|rtmps?|mmsh?|udp|rtp|srt)://", url)]
