"""Puts a finished file in its place, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from export.errors import ExportError, UsageError
from streamer.core.model import Classifier, ModelError


def check_writable(path: Path) -> None:
    """Refuse a place where no file can be written, before an hour's work is done for it.

    Raises
    ------
    UsageError
        If the folder is missing or read-only, or `path` is a folder, a device or a pipe.
    """
    beside = _beside(path)
    try:
        if path.is_dir():
            raise UsageError(f"--out {path} is a folder: name a file in it")
        if path.exists() and not path.is_file():
            raise UsageError(f"--out {path} is not a regular file: name another file")
        beside.open("xb").close()
        beside.unlink()
    except OSError as error:
        raise UsageError(
            f"--out {path} cannot be written ({error.strerror}): name another file"
        ) from None


def write(path: Path, content: bytes) -> None:
    """Write a model file beside its place, load it as the daemon would, and move it there.

    A link stays: the file that it leads to is replaced.

    Raises
    ------
    ExportError
        If the disk is full or the file does not load; what was at `path` before is still there.
    """
    beside = _beside(path)
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Classifier.load(beside)
        beside.replace(_place(path))
    except OSError as error:
        raise ExportError(f"--out {path} cannot be written ({error.strerror})") from None
    except ModelError as error:
        raise ExportError(f"the file would be refused: {error}") from None
    finally:
        beside.unlink(missing_ok=True)


def _place(path: Path) -> Path:
    """Return where the file lies that `path` leads to; /dev/stdout, for one, is a link."""
    return Path(os.path.realpath(path))


def _beside(path: Path) -> Path:
    place = _place(path)
    return place.with_name(f".{place.name}.{os.getpid()}.tmp")
