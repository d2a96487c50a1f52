"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from streamer.system.commandline import UserError


def write_json(path: Path, content: object) -> None:
    """Write a JSON file atomically; see `atomic_write`."""
    write_file(path, json.dumps(content, indent=2) + "\n")


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically, text as UTF-8; see `atomic_write`."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_write(path, len(data)) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def atomic_write(
    path: Path, size: int = 0, *, sync: bool = False, advice: str = "make room and try again"
) -> Iterator[Path]:
    """Yield a path to write to; that file replaces `path` when the block ends without an error.

    Readers of `path` see the old content or all of the new one. The yielded path is in the same
    folder and ends like `path`, but is short, as the name of `path` may be as long as names can be.
    Where `path` is a symbolic link, the file that it leads to is replaced. If anything fails, the
    old file is left as it was.

    Parameters
    ----------
    size
        Bytes that will be written, if known. Nothing is begun on a disk with less room, since HDF5
        may crash when the disk is full; `advice` ends the error message then.
    sync
        Flush the new file to the disk before it replaces the old one, so that it also survives a
        power failure.

    Raises
    ------
    OSError
        If the file cannot be written, for one because there is a folder or a device at `path`. The
        message is one line and names `path`. A `RuntimeError` of the block, which is how h5py
        reports a full disk, becomes one too. Other exceptions of the block propagate.
    """
    target = Path(os.path.realpath(path))
    free = shutil.disk_usage(target.parent).free
    if free < size:
        raise OSError(
            f"{path}: {size / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free: {advice}"
        )
    partial = _partial(target)
    try:
        if _is_special(target):
            raise OSError("not a regular file")
        partial.unlink(missing_ok=True)
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(target)
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


def check_writable(path: Path) -> None:
    """Check that `atomic_write` can write `path`, before long work is done for it.

    `UserError` is raised if the folder is missing or read-only, the name is too long, or `path` is
    a folder, a device or a pipe.
    """
    target = Path(os.path.realpath(path))
    probe = _partial(target)
    try:
        if target.is_dir():
            raise UserError(f"{path} is a folder: name a file in it")
        if _is_special(target):
            raise UserError(f"{path} is not a regular file: name another file")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name another file") from None


def _partial(target: Path) -> Path:
    return target.with_name(f".{os.getpid()}.{target.name[-16:]}")


def _is_special(path: Path) -> bool:
    """Return whether a device, pipe or socket is at `path`, which a file must not replace."""
    try:
        mode = path.stat().st_mode  # unlike is_file, it raises for a name that is too long
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
