"""The audio files of a library."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from streamer.system.commandline import UserError

AUDIO_SUFFIXES = frozenset(
    {
        *(".aac", ".ac3", ".aif", ".aifc", ".aiff", ".ape", ".au", ".caf", ".dsf", ".flac"),
        *(".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".mpc", ".oga", ".ogg", ".opus", ".snd"),
        *(".spx", ".tta", ".w64", ".wav", ".weba", ".wma", ".wv"),
    }
)
"""Suffixes, in lower case, of the files in a folder that are audio. A file that is named is taken
whatever its suffix."""


def find_files(paths: Iterable[str], unreadable: Callable[[OSError], None]) -> list[str]:
    """Return the files that are named and the audio files of the folders, each of them once.

    Those of a folder are sorted. Files and folders that begin with a dot, pipes and devices are
    left out, and links to folders are not followed. `unreadable` is called for each folder below
    that cannot be read. `UserError` is raised if there is nothing at a path, or no audio in a
    folder.
    """
    # Strings, which need less memory than paths, of which there may be a million.
    found: dict[str, str] = {}
    for text in paths:
        if not os.path.lexists(text):
            raise UserError(f"{text}: no such file or folder; check the path")
        files = [str(Path(text))]
        if Path(text).is_dir():
            files = list(_audio_files(text, unreadable))
            if not files:
                raise UserError(f"{text}: there are no audio files in this folder")
        for file in files:
            found.setdefault(absolute(file), file)
    return list(found.values())


def absolute(path: str) -> str:
    """Return a path from the root on."""
    return path if path.startswith("/") else str(Path(path).absolute())


def _audio_files(folder: str, unreadable: Callable[[OSError], None]) -> Iterator[str]:
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            is_audio = path.suffix.lower() in AUDIO_SUFFIXES and not name.startswith(".")
            if is_audio and not _is_special(path):
                yield str(path)


def _is_special(path: Path) -> bool:
    """Return whether a pipe, socket or device is at `path`, at which reading may never end."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False  # reading it tells why
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
