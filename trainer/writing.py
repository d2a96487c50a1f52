"""Writing files so that a reader sees all of one or what was there before."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def write_json(path: Path, content: object) -> None:
    """Write a file of JSON so that a reader sees all of it or what was there before."""
    write_file(path, json.dumps(content, indent=2) + "\n")


def write_table(path: Path, table: pd.DataFrame, *, index: bool = False) -> None:
    """Write a CSV so that a reader sees all of it or what was there before."""
    write_file(path, table.to_csv(index=index))


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees all of it or what was there before."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, len(data)) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path, size: int = 0) -> Iterator[Path]:
    """Give a name to write to, which takes the place of `path` once all is written.

    It ends as that of `path` does, but is short: that one may be as long as names can be.

    Parameters
    ----------
    path : Path
        The file to make or to replace. It stays as it is if this fails.
    size : int
        Bytes that will be written: more than there is room for are not begun, since HDF5 may crash
        on a full disk.

    Raises
    ------
    OSError
        If it cannot be written; the message is one line.
    """
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(
            f"{path}: {size / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free: make room "
            "and try again; a training goes on with --resume"
        )
    partial = path.with_name(f".{os.getpid()}.{path.name[-16:]}")
    try:
        yield partial
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        # Keras and h5py raise either, over several lines.
        number = getattr(error, "errno", None)
        why = os.strerror(number) if number else (str(error) or repr(error)).splitlines()[0]
        failure = OSError(f"{path}: cannot be written ({why}); what was there before is kept")
        failure.errno = number
        raise failure from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
