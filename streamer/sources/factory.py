"""Make the source that a user names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from streamer.sources.address import ascii_url, is_url, split_name
from streamer.sources.base import Source, SourceError
from streamer.sources.media import MediaSource
from streamer.sources.pcm import PipeSource
from streamer.system.urls import redact

DEMO_CLIP = Path(__file__).parents[1] / "demo" / "demo.opus"


def make_source(
    text: str,
    *,
    fast: bool = False,
    loop: bool = False,
    rate: int | None = None,
    channels: int | None = None,
) -> Source:
    """Make the source that `--source` names.

    Parameters
    ----------
    text
        "NAME=LOCATION" or "LOCATION": a path, a URL, a playlist, "demo", or "-" for standard input.
    fast
        Deliver files as fast as they can be decoded rather than in real time.
    loop
        Start again at the end of a file or a playlist.
    rate, channels
        Format of raw samples on standard input, which is otherwise expected to be a container.

    Raises
    ------
    SourceError
        If the location is neither a possible URL nor a readable file; permanent.

    Examples
    --------
    >>> make_source("radio=http://me:secret@host/live").name
    'radio'
    >>> make_source("http://me:secret@host/live").name
    'host/live'
    """
    name, location = split_name(text)
    if location == "-":
        return PipeSource(name=name or "stdin", rate=rate, channels=channels, fast=fast)
    if location == "demo":
        clip = str(DEMO_CLIP)
        return MediaSource(clip, name=name or "demo", kind="demo", fast=fast, loop=loop)
    if is_url(location):
        _check_url(location)
    else:
        _check_path(Path(location))
    return MediaSource(location, name=name, fast=fast, loop=loop)


def _check_url(url: str) -> None:
    try:
        ascii_url(url)
    except ValueError:
        raise SourceError(
            f"{redact(url)}: there can be no such host or port; check them (a password's special "
            "characters are written as %2F and the like)",
            permanent=True,
        ) from None


def _check_path(path: Path) -> None:
    reason = None
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            reason = "this is a folder; name a file or a playlist"
        elif not os.access(path, os.R_OK):
            reason = "permission denied; let this user read it"
    except FileNotFoundError:
        reason = "no such file; check the path"
    except OSError as error:
        reason = f"{(error.strerror or str(error)).lower()}; check the path"
    if reason:
        raise SourceError(f"{path}: {reason}", permanent=True)
