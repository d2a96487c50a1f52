"""The training run that is exported, with the contract of its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.errors import check_utf8
from streamer.core.contract import ModelContract, ModelError
from streamer.system.commandline import UserError
from trainer.run import NETWORK_FILE, RUN_FILE, Run, TagHead, read_head, read_run


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A training run with a network."""

    run: Run
    network: Path
    """The Keras file: images in [-1, 1] to logits."""
    contract: ModelContract
    """Contract of the model file; its golden answer is still all zeros."""
    head: TagHead | None = None
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
    head = read_head(folder, run) if run.fusion else None
    return ExportSource(run, network, contract, head)
