"""The training run that is exported, with the contract of its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import check_utf8
from streamer.core.contract import ModelContract, ModelError
from streamer.system.commandline import UserError
from trainer.run import (
    DAMAGED_FILE_ERRORS,
    HEAD_FILE,
    NETWORK_FILE,
    RUN_FILE,
    Run,
    first_line,
    read_run,
)


@dataclass(frozen=True, slots=True)
class Head:
    """A linear map from the log-odds of tags to logits."""

    weights: NDArray[np.float32]
    """Shape (classes, tags)."""
    bias: NDArray[np.float32]
    """Shape (classes,)."""


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A training run with a network."""

    run: Run
    network: Path
    """The Keras file: images in [-1, 1] to logits."""
    contract: ModelContract
    """Contract of the model file; its golden answer is still all zeros."""
    head: Head | None = None
    """The head on the tags of the second network; None if the run has none."""


def read_source(
    folder: Path, name: str | None = None, version: str = "1", dataset: str | None = None
) -> ExportSource:
    """Read a training run and make the contract of its model.

    By default, the model is named after the run's folder and the dataset after the data's.

    Raises
    ------
    UserError
        If the folder is not a run, has no network yet, or a value in its `run.json` is not allowed.
    """
    run = read_run(folder)
    network = folder / NETWORK_FILE
    if not network.is_file():
        raise UserError(f"run {folder} has no {NETWORK_FILE} yet: finish the run with --resume")
    name = name or folder.resolve().name
    check_utf8(name, "give a --name")
    dataset = dataset or run.settings.data.name
    check_utf8(dataset, "give a --dataset")
    try:
        contract = run.contract(name, version, dataset)
    except ModelError as error:
        raise UserError(f"{folder / RUN_FILE}: {error}") from None
    return ExportSource(run, network, contract, _read_head(folder, contract))


def _read_head(folder: Path, contract: ModelContract) -> Head | None:
    if contract.fusion is None:
        return None
    path = folder / HEAD_FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            head = Head(*(np.asarray(file[name], np.float32) for name in ("weights", "bias")))
    except DAMAGED_FILE_ERRORS as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}): make it again with genre-train fuse"
        ) from None
    classes, tags = len(contract.labels), len(contract.fusion.tags)
    if head.weights.shape != (classes, tags) or head.bias.shape != (classes,):
        raise UserError(
            f"{path} has shapes {head.weights.shape} and {head.bias.shape} and {classes} labels "
            f"and {tags} tags need ({classes}, {tags}) and ({classes},): make it again with "
            "genre-train fuse"
        )
    if not (np.isfinite(head.weights).all() and np.isfinite(head.bias).all()):
        raise UserError(f"{path} holds NaN or infinity: make it again with genre-train fuse")
    return head
