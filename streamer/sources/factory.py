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
    follow: bool = False,
    rate: int | None = None,
    channels: int | None = None,
    charset: str | None = None,
) -> Source:
    """Make the source that `--source` names.

    Parameters
    ----------
    text
        "NAME=LOCATION" or "LOCATION": a path, a URL, a playlist, "demo", or "-" for standard input.
    fast
        Deliver files as fast as they can be decoded rather than in real time.
    loop
        Start again at the end of a file or a playlist; "demo" does so anyway, unless `fast`.
    follow
        Wait for more at the end of a file, until another one takes its place.
    rate, channels
        Format of raw samples on standard input, which is otherwise expected to be a container.
    charset
        Encoding of a radio's titles, which is otherwise found out.

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
        # Someone who tries it out looks around for longer than the clip lasts.
        loop = loop or not fast
        return MediaSource(str(DEMO_CLIP), name=name or "demo", kind="demo", fast=fast, loop=loop)
    location = _in_home(location)
    if problem := _problem(location):
        shown = redact(location) if is_url(location) else Path(location)
        raise SourceError(f"{shown}: {problem}", permanent=True)
    return MediaSource(location, name=name, fast=fast, loop=loop, follow=follow, charset=charset)


def _in_home(location: str) -> str:
    """Expand "~", which a shell leaves alone after "NAME=", and which a settings file may hold."""
    if not location.startswith("~") or os.access(location, os.F_OK):
        return location
    try:
        return str(Path(location).expanduser())
    except RuntimeError:
        return location


def _problem(location: str) -> str | None:
    """Return why a location cannot be opened, as far as that is known without opening it."""
    try:
        if is_url(location):
            ascii_url(location)
        elif stat.S_ISDIR(Path(location).stat().st_mode):
            return "this is a folder; name a file or a playlist"
        elif not os.access(location, os.R_OK):
            return "permission denied; let this user read it"
    except FileNotFoundError:
        return "no such file; check the path"
    except OSError as error:
        return f"{(error.strerror or str(error)).lower()}; check the path"
    except ValueError:
        return (
            "there can be no such host or port; check them (a password's special characters are "
            "written as %2F and the like)"
        )
    return None
