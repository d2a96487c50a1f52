"""Output of the commands beside their results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from streamer.system.commandline import print_line
from streamer.system.console import silenced_stderr

if TYPE_CHECKING:
    from trainer.tracks import Skipped


def print_skipped(skipped: Iterable[Skipped]) -> None:
    """Print the files that were not used, with their reasons."""
    for entry in skipped:
        print_line(f"skipped {entry.path}: {entry.reason}")


def import_keras() -> None:
    """Import Keras and its backend without what TensorFlow writes to standard error meanwhile."""
    with silenced_stderr():
        import keras

        keras.backend.backend()
