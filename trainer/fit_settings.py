"""Settings of a training, with the limits and help of the command line; needs no Keras."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamer.core.model import DEFAULT_MODEL
from trainer.augment import Augmentation

KEPT_EPOCHS = ("best", "last")
TRAINED_LISTS = ("train", "train+valid")
DEVICES = ("one", "all")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
"""Keras' dtype policies."""
NAMED_WEIGHTS = ("imagenet", "gtzan", "none")
"""What `--weights` takes beside paths; `gtzan` is the network that ships with genre-stream."""

MAX_SEED = 2**32 - 1
"""Largest seed of numpy and Keras."""


def _number(default: float, least: float, most: float, text: str) -> Any:
    """Declare a number that is also an option: its default, inclusive limits and help sentence."""
    return field(default=default, metadata={"least": least, "most": most, "help": text})


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Settings of one training, as `run.json` records them.

    The metadata of a number holds its limits (`least`, `most`) and the `help` of its option.
    """

    data: Path
    """Folder of spectrogram pictures (contract 4.4)."""
    out: Path
    """Run folder."""
    weights: str = "imagenet"
    """`imagenet`, `none`, the path of InceptionV3 notop weights, the folder of an earlier run, the
    path of a model file (`.onnx`), or `gtzan` for the one that ships with genre-stream."""
    split: tuple[str, ...] = ()
    """As `trainer.splits.split_tracks` takes it."""
    exclude_faults: bool = False
    """Leave GTZAN's known faulty tracks out of a stratified split."""
    background: Path | None = None
    """Picture folder of sounds for the label `not_music`."""
    seed: int = _number(0, 0, MAX_SEED, "decides everything that is left to chance")
    """Seed of initial weights, order, windows and augmentation."""
    epochs: int = _number(40, 0, 100_000, "passes over the training tracks with the whole network")
    """0 keeps the best network of the head phase."""
    head_epochs: int = _number(
        1, 0, 100_000, "passes before them in which only the new layer learns"
    )
    batch: int = _number(16, 1, 4096, "windows in a step")
    input_scale: float = _number(
        2.0, 0.1, 20, "factor on both axes of the spectrogram before InceptionV3"
    )
    window_seconds: float = _number(5.0, 1, 300, "length of a window")
    windows_per_song: int = _number(2, 1, 1000, "windows of each track in an epoch")
    background_share: float = _number(0.1, 0, 1, "share of an epoch's windows that are no music")
    """Strictly between 0 and 1; see `problem`."""
    learning_rate: float = _number(3e-4, 0, 10, "highest rate of the whole network")
    """Reached after the warm-up."""
    head_learning_rate: float = _number(
        1e-3, 0, 10, "rate of the new layer while the rest is frozen"
    )
    weight_decay: float = _number(0.05, 0, 10, "AdamW's decoupled decay")
    label_smoothing: float = _number(0.1, 0, 0.99, "share of the target spread over all labels")
    dropout: float = _number(0.5, 0, 0.99, "share of features dropped in training")
    averaging: float = _number(0.99, 0, 0.999999, "momentum of the averaged weights that are kept")
    """Momentum per step of the exponential moving average that is validated and kept."""
    patience: int = _number(
        0, 0, 100_000, "epochs without a better validation before it stops; at 0 it never does"
    )
    """Counts epochs of the whole network only."""
    freeze_batch_norms: bool = False
    """Keep statistics, scales and offsets of the batch norms: steps cost less, and windows of one
    batch do not influence each other. Always so with the weights of a model file."""
    keep: str = "best"
    """Epoch whose averaged weights are kept: the `best` by validation or the `last`, whose accuracy
    is not biased by selection on the validation list."""
    precision: str = "float32"
    """One of `PRECISIONS`."""
    devices: str = "one"
    """One of `DEVICES`: whether batches are divided among all devices of JAX."""
    train_on: str = "train"
    """One of `TRAINED_LISTS`. With the valid list in it nothing can be chosen by that list."""
    tagger: str = "musicnn"
    """The second network, which is fitted at the end where there are tags; `none` for none."""
    tensorboard: bool = False
    """Also write TensorBoard logs."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Strength of each augmentation."""

    @property
    def total_epochs(self) -> int:
        """Epochs of both phases, head and whole network."""
        return self.head_epochs + self.epochs

    @property
    def unjudged_epochs(self) -> int:
        """Epochs at the start whose networks are never kept: the head's, if others follow."""
        return self.head_epochs if self.epochs else 0

    def problem(self) -> str | None:
        """Return why these settings contradict each other, as one sentence; None if they do not."""
        if self.keep == "last" and self.patience:
            return (
                f"--patience {self.patience} stops after the best epoch and --keep last keeps the "
                "last: leave out one"
            )
        if self.train_on != "train" and self.keep != "last":
            return (
                f"--train-on {self.train_on} leaves no list to choose the best epoch by: add "
                "--keep last"
            )
        if self.freeze_batch_norms and self.weights == "none":
            return (
                "--freeze-batch-norms keeps statistics that --weights none does not have: leave "
                "out one"
            )
        if not 0 < self.background_share < 1:
            return f"--background-share {self.background_share:g}: must be above 0 and under 1"
        return None


@dataclass(frozen=True, slots=True)
class Group:
    """The processes, one a machine, that train one run together."""

    coordinator: str
    """`HOST:PORT` under which all of them reach process 0."""
    processes: int
    """How many they are."""
    process: int
    """Which of them this one is, counted from 0; 0 alone writes the run."""


NUMBERS = tuple(each for each in dataclasses.fields(FitSettings) if "help" in each.metadata)
"""The fields that are numbers with limits, in the order of `--help`."""


def earlier_run(weights: str) -> Path | None:
    """Return the run folder that `--weights` names; None if it names anything else."""
    folder = Path(weights)
    return folder if weights not in NAMED_WEIGHTS and folder.is_dir() else None


def model_file(weights: str) -> Path | None:
    """Return the model file that `--weights` names; None if it names anything else."""
    if weights == "gtzan":
        return DEFAULT_MODEL
    return Path(weights) if weights.endswith(".onnx") else None
