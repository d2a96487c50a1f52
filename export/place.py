"""Puts a finished file in its place, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from export.errors import ExportError, UsageError
from streamer.model import Classifier, ModelError


def check_writable(path: Path) -> None:
    """Refuse a place where no file can be written, before an hour's work is done for it.

    Raises
    ------
    UsageError
        If the folder is missing or read-only, or `path` is a folder.
    """
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder: name a file in it")
    beside = _beside(path)
    try:
        beside.open("xb").close()
        beside.unlink()
    except OSError as error:
        raise UsageError(
            f"--out {path} cannot be written ({error.strerror}): name another file"
        ) from None


def write(path: Path, content: bytes) -> None:
    """Write a model file beside its place, load it as the daemon would, and move it there.

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
        beside.replace(path)
    except OSError as error:
        raise ExportError(f"--out {path} cannot be written ({error.strerror})") from None
    except ModelError as error:
        raise ExportError(f"the file would be refused: {error}") from None
    finally:
        beside.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
