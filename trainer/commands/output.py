"""Output of the commands beside their results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.system.commandline import print_line
from streamer.system.console import silenced_stderr

if TYPE_CHECKING:
    from trainer.tracks import Skipped


MAX_LISTED = 5
"""Files that are listed one by one for the same reason."""


def print_skipped(skipped: Iterable[Skipped]) -> None:
    """Print the files that were not used, with their reasons; many of one reason as one line."""
    by_reason: dict[str, list[Skipped]] = {}
    for entry in skipped:
        by_reason.setdefault(entry.reason, []).append(entry)
    for reason, entries in by_reason.items():
        if len(entries) <= MAX_LISTED:
            for entry in entries:
                print_line(f"skipped {entry.path}: {reason}")
        else:
            first = ", ".join(str(entry.path) for entry in entries[:2])
            print_line(f"skipped {len(entries)} files ({first}, ...): {reason}")


def data_folder(data: Path) -> Path:
    """Return the folder of genres at or inside `data`; say which, if it is inside."""
    from trainer.discovery import find_data_folder

    folder = find_data_folder(data)
    if folder != data:
        print_line(f"taking {folder}, the folder of genres in {data}")
    return folder


def import_keras() -> None:
    """Import Keras and its backend without what TensorFlow writes to standard error meanwhile."""
    with silenced_stderr():
        import keras

        keras.backend.backend()
