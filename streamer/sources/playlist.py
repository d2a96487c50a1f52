"""Playlists of streams or files: M3U and PLS."""

from __future__ import annotations

import contextlib
import re
from urllib.parse import urljoin

SUFFIXES = (".m3u", ".m3u8", ".pls")
MAX_ENTRIES = 10_000
"""Entries of a playlist from the network that are played."""
_FILE = re.compile(r"File([0-9]{1,9})\s*=\s*(\S.*)", re.IGNORECASE)
"""An entry of a PLS playlist."""


def is_hls(text: str) -> bool:
    """Tell whether an M3U text is an HLS playlist (RFC 8216), which FFmpeg plays by itself."""
    return "#EXT-X-" in text


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
