"""What an interrupted training continues from: progress, weights and the rows of its history."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import pydantic

from streamer.system.files import atomic_write, write_file, write_json
from trainer.fit.validation import Validation
from trainer.fit_settings import FitSettings
from trainer.network import NO_ROOM, file_size
from trainer.run import DAMAGED_FILE_ERRORS, RunError

DAMAGED = "damaged: restore it from a copy, or start a new run"


@dataclass(slots=True)
class Progress:
    """State of a training between two epochs."""

    epoch: int = 0
    """Finished epochs."""
    best: Validation | None = None
    """Results of the network that is kept."""
    best_epoch: int = 0
    """The epoch whose network is kept, counted from 1; 0 if there is none yet."""
    seconds: float = 0.0
    """Time spent in training epochs."""

    def out_of_patience(self, settings: FitSettings) -> bool:
        """Return whether validation has not improved for `settings.patience` epochs."""
        waited = self.epoch - max(self.best_epoch, settings.unjudged_epochs)
        return 0 < settings.patience <= waited

    def finished(self, settings: FitSettings) -> bool:
        """Return whether no epoch is left to train."""
        return self.epoch >= settings.total_epochs or self.out_of_patience(settings)


class Checkpoints:
    """The folder `checkpoints` of a run: weights with optimiser state, and `state.json`.

    Only `state.json` makes a weights file valid: it is written after it and names its epoch.
    """

    def __init__(self, run: Path) -> None:
        self._folder = run / "checkpoints"
        self._state = self._folder / "state.json"

    def exist(self) -> bool:
        """Return whether an epoch was saved."""
        return self._state.exists()

    def save(self, network: keras.Model, progress: Progress) -> None:
        """Save a compiled network and the progress after an epoch; delete older weights.

        After an OSError the previous checkpoint is still valid.
        """
        weights = self._weights(progress.epoch)
        size = file_size([*network.variables, *network.optimizer.variables])
        with atomic_write(weights, size, advice=NO_ROOM) as partial:
            network.save_weights(partial, overwrite=True)
        write_json(self._state, dataclasses.asdict(progress))
        for old in self._folder.glob("*.weights.h5"):
            if old != weights:
                old.unlink()

    def read_progress(self) -> Progress:
        """Read the progress; raise RunError if the file is damaged."""
        try:
            return pydantic.TypeAdapter(Progress).validate_json(self._state.read_bytes())
        except DAMAGED_FILE_ERRORS as error:
            raise RunError(f"{self._state}: {DAMAGED}") from error

    def load_weights(self, network: keras.Model, epoch: int) -> None:
        """Load weights and optimiser state after an epoch; raise RunError if they are damaged."""
        weights = self._weights(epoch)
        try:
            network.load_weights(weights)
        except DAMAGED_FILE_ERRORS as error:
            raise RunError(f"{weights}: {DAMAGED}") from error

    def _weights(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:04d}.weights.h5"


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One row of `history.csv`."""

    epoch: int
    """Counted from 1."""
    phase: str
    """`head` or `whole`."""
    loss: float
    accuracy: float
    """Means over the training steps."""
    valid_accuracy: float
    valid_nll: float
    valid_not_music: float | None
    """See `Validation`."""
    learning_rate: float
    """Of the last step."""
    seconds: float
    """Duration of the epoch without validation."""
    step_seconds: float
    """The part of it spent in training steps; the rest is waiting for data."""


class History:
    """`history.csv` of a run, a row an epoch."""

    def __init__(self, run: Path) -> None:
        self._path = run / "history.csv"

    def append(self, result: EpochResult) -> None:
        """Add a row."""
        row = dataclasses.asdict(result)
        row = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        self._write([*self._rows(), row])

    def truncate(self, epochs: int) -> None:
        """Keep the rows of the first `epochs`: later ones have no checkpoint and are repeated."""
        if self._path.exists():
            self._write([row for row in self._rows() if int(row["epoch"]) <= epochs])

    def _rows(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(EpochResult)])
        writer.writeheader()
        writer.writerows(rows)
        write_file(self._path, text.getvalue())
