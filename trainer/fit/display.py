"""What a training prints to standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import keras
from rich.console import Console
from rich.progress import Progress as Bar

from trainer.dataset import TrainingWindows
from trainer.fit.checkpoints import EpochResult
from trainer.fit.data import TrainingData
from trainer.fit.devices import device_count
from trainer.fit.validation import Validation
from trainer.fit_settings import FitSettings, earlier_run, model_file
from trainer.metrics import chance_note
from trainer.progress import duration, progress_bar

SMALL_SET = 200
"""Training tracks under which `--weights gtzan` is proposed."""


def epoch_name(settings: FitSettings, epoch: int) -> str:
    """Return the name of an epoch, counted from 0, as `--head-epochs` and `--epochs` count."""
    if epoch < settings.head_epochs:
        return f"head {epoch + 1}/{settings.head_epochs}"
    return f"epoch {epoch + 1 - settings.head_epochs}/{settings.epochs}"


class EpochBar:
    """Progress of one epoch: a bar, or lines without a terminal; see `progress_bar`."""

    def __init__(self, bar: Bar, name: str, steps: int) -> None:
        self._bar, self._name = bar, name
        self._task = bar.add_task(name, total=steps, left="left in this epoch")

    def step(self, loss: float) -> None:
        """Show a finished training step."""
        self._bar.update(self._task, advance=1, description=f"{self._name}  loss {loss:.3f}  step")

    def validate(self, tracks: int) -> None:
        """Show that so many tracks are validated next."""
        self._bar.reset(self._task, total=tracks, description=f"{self._name}  validating  track")

    def validated(self, tracks: float) -> None:
        """Show that so many more tracks, perhaps only a part of one, have been validated."""
        self._bar.update(self._task, advance=tracks)

    def save(self) -> None:
        """Show that the network is being saved."""
        self._bar.update(self._task, description=f"{self._name}  saving")


class TimeLeft:
    """Time that a training still needs, by its latest epochs of the whole network."""

    def __init__(self, settings: FitSettings) -> None:
        self._settings = settings
        self._seconds: list[float] = []

    def add(self, epoch: int, seconds: float) -> None:
        """Record the duration of an epoch, counted from 0, with its validation."""
        if epoch == self._settings.head_epochs:
            self._seconds.clear()
        self._seconds.append(seconds)

    def after(self, epoch: int) -> float | None:
        """Return the seconds left after an epoch, counted from 0; None while nobody can know.

        Epochs of the head say nothing about those of the whole network.
        """
        settings = self._settings
        if epoch < settings.head_epochs and settings.epochs:
            return None
        return median(self._seconds[-3:]) * (settings.total_epochs - epoch - 1)


class Display:
    """Lines and progress bars of a training."""

    def __init__(self, settings: FitSettings, chance: float, *, quiet: bool = False) -> None:
        self._settings, self._chance, self._quiet = settings, chance, quiet
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self.time_left = TimeLeft(settings)

    def line(self, text: str) -> None:
        """Print a line."""
        self._console.print(text)

    def opening(self, data: TrainingData, windows: TrainingWindows) -> None:
        """Print what is trained on what."""
        settings, split = self._settings, data.division.split
        missing = f", {len(split.missing)} listed tracks not found" if split.missing else ""
        sounds = len(data.background_train) + len(data.background_valid)
        background = f"; {sounds} sounds that are not music" if settings.background else ""
        devices = f", {device_count()} devices" if device_count() > 1 else ""
        self.line(
            f"{len(split.train)} tracks to train on, {len(split.valid)} to validate on, "
            f"{len(split.test)} to test on{missing} ({split.name}){background}\n"
            f"{len(data.division.labels)} labels, windows of {data.spec.n_mels} x {windows.frames} "
            f"({windows.frames * data.spec.hop_seconds:.1f} s), scale {settings.input_scale:g}, "
            f"{windows.steps} steps of {settings.batch} an epoch, "
            f"Keras {keras.__version__} on {keras.backend.backend()}{devices}"
        )
        started = model_file(settings.weights) or earlier_run(settings.weights)
        if len(split.train) < SMALL_SET and not started:
            self.line(
                f"{len(split.train)} tracks are few: --weights gtzan --head-epochs 12 --epochs 0 "
                "starts from the network that ships with genre-stream and trains its last layer"
            )

    @contextmanager
    def epoch(self, epoch: int, steps: int) -> Iterator[EpochBar]:
        """Show the progress of an epoch, counted from 0."""
        with progress_bar(transient=True, quiet=self._quiet) as bar:
            yield EpochBar(bar, epoch_name(self._settings, epoch), steps)

    def result(self, result: EpochResult, *, best: bool) -> None:
        """Print the line of a finished epoch."""
        other = result.valid_not_music
        seconds = self.time_left.after(result.epoch - 1)
        self.line(
            f"{epoch_name(self._settings, result.epoch - 1)}  loss {result.loss:.3f}  "
            f"accuracy {result.accuracy:.1%}  valid {result.valid_accuracy:.1%} "
            f"(chance {self._chance:.1%})"
            + (f"  not music {other:.1%}" if other is not None else "")
            + f"  nll {result.valid_nll:.3f}"
            + ("" if seconds is None else f"  {duration(seconds)} left")
            + ("  best" if best else "")
        )

    def ending(self, best: Validation | None, tracks: int) -> None:
        """Print what to do if the network that is kept has learnt nothing."""
        note = best and chance_note(best.accuracy, self._chance, tracks)
        if note:
            self.line(f"valid: {note}")
