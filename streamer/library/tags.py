"""The genre in the tags of audio files, by mutagen."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import av
import mutagen
from mutagen.asf import ASF
from mutagen.id3 import ID3, TCON
from mutagen.mp4 import MP4
from mutagen.wave import WAVE

from streamer.library.answer import KEPT, WOULD_WRITE, WRITTEN
from streamer.sources.decoding import open_container
from streamer.system.files import atomic_write


class TagError(Exception):
    """The tag of a file cannot be written; the message says why, without the path."""


def write_genre(path: str, genre: str, *, overwrite: bool, dry_run: bool) -> str:
    """Write a genre into the tags of a file, unless there is one; return what was done.

    A copy in the same folder is written, its audio is compared with that of the file, and only then
    takes the copy the file's place, so the file is whole whenever this is interrupted. With
    `dry_run` nothing is written. `TagError` is raised if it cannot be done.
    """
    file = Path(path)
    try:
        if _has_genre(file) and not overwrite:
            return KEPT
        _open(file)
        if not os.access(file, os.W_OK):
            raise TagError("permission denied")
        if dry_run:
            return WOULD_WRITE
        status = file.stat()
        with atomic_write(file, status.st_size) as copy:
            shutil.copy2(file, copy)
            with suppress(PermissionError):
                os.chown(copy, status.st_uid, status.st_gid)
            _set_genre(copy, genre)
            if _audio_digest(copy) != _audio_digest(file):
                raise TagError("that would have changed its audio")
    except (OSError, av.FFmpegError, mutagen.MutagenError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"{path}: ")
        raise TagError(reason) from None
    return WRITTEN


def _open(path: Path) -> Any:
    """Return a file as mutagen reads it, with tags, even if they are empty."""
    opened = mutagen.File(path)
    if opened is None:
        raise TagError(f"{path.suffix or 'such'} files hold none")
    if opened.tags is None:
        opened.add_tags()
    return opened


def _has_genre(path: Path) -> bool:
    """Return whether a file has a genre in any kind of tags that FFmpeg reads."""
    with open_container(f"file:{path}") as container:
        tags = [container.metadata, *(stream.metadata for stream in container.streams)]
    return any(
        key.lower() == "genre" and value.strip() for tag in tags for key, value in tag.items()
    )


def _set_genre(path: Path, genre: str) -> None:
    opened = _open(path)
    tags: Any = opened.tags
    if isinstance(tags, ID3):
        add: Any = tags.add
        frame: Any = TCON
        add(frame(encoding=3, text=[genre]))
    elif isinstance(opened, MP4):
        tags["\xa9gen"] = [genre]
    elif isinstance(opened, ASF):
        tags["WM/Genre"] = [genre]
    else:  # Vorbis comments and APEv2
        tags["genre"] = genre
    opened.save()
    if isinstance(opened, WAVE):
        _append_info(path, genre)


def _append_info(path: Path, genre: str) -> None:
    """Append a genre to a WAV file as RIFF has tags: many programs do not read ID3 there."""
    text = genre.encode() + b"\0"
    text += b"\0" * (len(text) % 2)
    info = b"INFO" + b"IGNR" + struct.pack("<I", len(text)) + text
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        for kind, start, size in _chunks(file, 12, end):
            file.seek(start)
            if kind == b"LIST" and file.read(4) == b"INFO":
                for key, old, length in _chunks(file, start + 4, start + size):
                    if key == b"IGNR":
                        file.seek(old)
                        file.write(b"\0" * length)
        file.seek(end)
        file.write(b"\0" * (end % 2) + b"LIST" + struct.pack("<I", len(info)) + info)
        end = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", end - 8))


def _chunks(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, position and size of what is in each RIFF chunk between two positions."""
    while start + 8 <= end:
        file.seek(start)
        kind, size = struct.unpack("<4sI", file.read(8))
        yield kind, start + 8, size
        start += 8 + size + size % 2


def _audio_digest(path: Path) -> bytes:
    """Return a hash of the encoded audio of a file, without headers and tags."""
    digest = hashlib.sha256()
    with open_container(f"file:{path}") as container:
        for packet in container.demux(container.streams.audio):
            digest.update(bytes(packet))
    return digest.digest()
