"""Where samples come from: microphones, media, standard input."""

from __future__ import annotations

from pathlib import Path

from streamer.sources.address import redact, split_name
from streamer.sources.base import (
    AudioBlock,
    Source,
    SourceEnded,
    SourceError,
    SourceKind,
    SourceState,
)

DEMO_CLIP = Path(__file__).parents[1] / "demo" / "demo.opus"

__all__ = [
    "AudioBlock",
    "Source",
    "SourceEnded",
    "SourceError",
    "SourceKind",
    "SourceState",
    "make_source",
    "redact",
]


def make_source(text: str, *, fast: bool = False, loop: bool = False) -> Source:
    """Make the source that `--source` names.

    Parameters
    ----------
    text
        "NAME=LOCATION" or "LOCATION": a path, a URL, a playlist, "demo", or "-" for standard input.
    fast
        Deliver files as fast as they can be decoded rather than in real time.
    loop
        Begin again at the end of a file or a playlist.

    Raises
    ------
    SourceError
        If the location names no file and is no URL.

    Examples
    --------
    >>> make_source("radio=http://me:secret@host/live").name
    'radio'
    >>> make_source("http://me:secret@host/live").name
    'host/live'
    """
    from streamer.sources.media import MediaSource

    name, location = split_name(text)
    if location == "demo":
        return MediaSource(str(DEMO_CLIP), name=name or "demo", kind="demo", fast=fast, loop=loop)
    return MediaSource(location, name=name, fast=fast, loop=loop)
