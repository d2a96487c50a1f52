"""Tracks of a data folder: what one is, why one is skipped, and the error for unusable data.

A data folder holds one folder per genre: `DIR/<genre>/<track>`, either audio, which may lie in
folders of albums, or spectrogram pictures with a `spectrogram.json` beside the genres. Genres have
any names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamer.system.commandline import UserError

AUDIO_SUFFIXES = frozenset(
    {
        *(".au", ".wav", ".flac", ".mp3", ".ogg", ".m4a"),
        *(".aac", ".aif", ".aiff", ".oga", ".opus", ".wma"),
    }
)
"""Suffixes, in lower case, of audio files."""

SPEC_FILE = "spectrogram.json"
"""The spectrogram specification of a picture folder; its presence makes a folder one."""

MIN_SECONDS = 3.0
"""Shortest usable track, in seconds: it fills the smallest window."""


class DatasetError(UserError):
    """A folder, list or picture that cannot be trained on; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Track:
    """One track of a data folder."""

    name: str
    """Unique in its folder: `blues.00012` as the file is called, any other as `genre/stem`, in an
    album `genre/album__stem`."""
    genre: str
    """Name of the genre's folder."""
    path: Path
    """Audio file or picture."""

    @property
    def is_picture(self) -> bool:
        """Whether the track is a spectrogram picture rather than audio."""
        return self.path.suffix.lower() == ".png"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not used."""

    path: Path
    """Printable: bytes of the name that are not UTF-8 are written as `\\xe7`."""
    reason: str
    """A phrase such as `empty file`."""
    genre: str = ""
    """Genre of a track that cannot be used; empty for what is no track."""


def is_picture_folder(folder: Path) -> bool:
    """Tell a folder of spectrogram pictures from a folder of audio."""
    return (folder / SPEC_FILE).is_file()
