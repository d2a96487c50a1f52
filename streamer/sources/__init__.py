"""Where samples come from: microphones, media, standard input."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from streamer.core.events import SourceKind, SourceState
from streamer.sources.address import ascii_url, is_url, split_name
from streamer.sources.base import AudioBlock, Source, SourceEnded, SourceError
from streamer.system.urls import redact

DEMO_CLIP = Path(__file__).parents[1] / "demo" / "demo.opus"

__all__ = [
    "AudioBlock",
    "Source",
    "SourceEnded",
    "SourceError",
    "SourceKind",
    "SourceState",
    "list_devices",
    "make_device",
    "make_source",
]


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
        Begin again at the end of a file or a playlist.
    rate, channels
        Format of raw samples on standard input; without them a container is expected there.

    Raises
    ------
    SourceError
        If the location is neither a possible URL nor a file that may be read; permanent.

    Examples
    --------
    >>> make_source("radio=http://me:secret@host/live").name
    'radio'
    >>> make_source("http://me:secret@host/live").name
    'host/live'
    """
    from streamer.sources.media import MediaSource
    from streamer.sources.pcm import PipeSource

    name, location = split_name(text)
    if location == "-":
        return PipeSource(name=name or "stdin", rate=rate, channels=channels, fast=fast)
    if location == "demo":
        demo = str(DEMO_CLIP)
        return MediaSource(demo, name=name or "demo", kind="demo", fast=fast, loop=loop)
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
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file; check the path", permanent=True) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SourceError(f"{path}: {reason}; check the path", permanent=True) from None
    if is_folder:
        raise SourceError(f"{path}: this is a folder; name a file or a playlist", permanent=True)
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: permission denied; let this user read it", permanent=True)


def make_device(text: str) -> Source:
    """Make the source that `--device` names.

    Parameters
    ----------
    text
        "mic" (the default input), "loopback" (what the computer plays), an index, a device's name
        or any part of it; "NAME=" in front gives it another name.

    Raises
    ------
    SourceError
        If there is no such device, or no PortAudio; permanent.
    """
    from streamer.sources.microphone import make_microphone

    name, device = split_name(text)
    return make_microphone(device, name=name)


def list_devices() -> str:
    """Return a table of the input devices: index, name, channels, rates, and which is default.

    Raises
    ------
    SourceError
        If PortAudio is missing.
    """
    from streamer.sources.microphone import device_table, find_devices

    return device_table(find_devices(rates=True))
