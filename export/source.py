"""A training run as the exporter sees it: facts in `run.json`, the network in `model.keras`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import UsageError, check_utf8
from streamer.core.contract import CONTRACT, ModelContract, ModelError

REQUIRED = (
    "labels",
    "not_music",
    "spec",
    "window_frames",
    "min_frames",
    "input_scale",
    "temperature",
    "decision",
    "seed",
    "split",
)

PARTS = ("train", "valid", "test")
"""The lists of a split."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training run."""

    folder: Path
    """Where it lies."""
    facts: Mapping[str, Any]
    """The content of `run.json`."""
    contract: ModelContract
    """What a model file made from it will promise; its golden answer is still all zeros."""
    input_scale: float
    """Factor by which the network's images are larger than the spectrogram, on both axes."""

    @property
    def network(self) -> Path:
        """The Keras file: images in [-1, 1] to logits."""
        return self.folder / "model.keras"

    @property
    def trained_on(self) -> frozenset[str]:
        """Names of the tracks that the network has learnt from, in this run or in runs before."""
        return frozenset(
            (*self.facts["split"].get("train", ()), *self.facts.get("learnt_before", ()))
        )


def read_run(
    folder: Path, name: str | None = None, version: str = "1", dataset: str | None = None
) -> Run:
    """Read the facts of a finished run and check that they make a contract.

    Parameters
    ----------
    folder : Path
        The run.
    name : str, optional
        What the model will be called; the folder's name by default.
    version : str
        Its version.
    dataset : str, optional
        What it was trained on; the name of the data folder by default.

    Raises
    ------
    UsageError
        If the folder is not a finished run or its facts are incomplete.
    """
    path = folder / "run.json"
    try:
        if not folder.is_dir():
            raise UsageError(f"run {folder} is not a folder: name the run that genre-train made")
        # A metric may be NaN, which JSON does not know: it is exported as null.
        facts = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except OSError as error:
        raise UsageError(
            f"{folder} is not a training run: {path.name} cannot be read ({error.strerror})"
        ) from None
    except ValueError:
        raise UsageError(f"{path} is not JSON: train again or restore the file") from None
    if not isinstance(facts, dict) or not all(
        isinstance(facts.get(part, {}), dict) for part in ("split", "settings")
    ):
        raise UsageError(f"{path} does not describe a training run")
    split = facts.get("split", {})
    if not all(_is_list_of_names(split.get(part, [])) for part in PARTS):
        raise UsageError(f"{path}: split must hold lists of track names")
    if not _is_list_of_names(facts.get("learnt_before", [])):
        raise UsageError(f"{path}: learnt_before must be a list of track names")
    if missing := [field for field in REQUIRED if field not in facts]:
        raise UsageError(f"{path} lacks {', '.join(missing)}: finish the run with --resume")
    if not (folder / "model.keras").is_file():
        raise UsageError(f"run {folder} has no model.keras yet: finish the run with --resume")
    scale = facts["input_scale"]
    if not isinstance(scale, int | float) or not math.isfinite(scale) or scale <= 0:
        raise UsageError(f"{path}: input_scale must be a positive number, not {scale!r}")
    name = name or folder.resolve().name
    check_utf8(name, "give a --name")
    training = _training(facts, dataset)
    check_utf8(training["dataset"], "give a --dataset")
    try:
        contract = _contract(facts, name, version, training)
    except ModelError as error:
        raise UsageError(f"{path}: {error}") from None
    return Run(folder, facts, contract, float(scale))


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _contract(
    facts: Mapping[str, Any], name: str, version: str, training: Mapping[str, Any]
) -> ModelContract:
    labels = facts["labels"]
    no_answer_yet = {
        "spectrogram_sha256": "0" * 64,
        "frames": facts["window_frames"],
        "logits": [0.0] * (len(labels) if isinstance(labels, list) else 0),
    }
    return ModelContract.from_metadata(
        {
            **facts,
            "contract": CONTRACT,
            "name": name,
            "version": version,
            "spectrogram": facts["spec"],
            "training": training,
            "golden": no_answer_yet,
            "precision": "float32",
        }
    )


def _training(facts: Mapping[str, Any], dataset: str | None) -> dict[str, Any]:
    """Return what a user of the model may want to know about its making, without any paths."""
    split, settings = facts["split"], facts.get("settings", {})
    return {
        "dataset": dataset or Path(str(settings.get("data", "unknown"))).name,
        "split": split.get("name", "unknown"),
        "protocol": split.get("protocol", ""),
        "tracks": {part: len(split.get(part, ())) for part in PARTS},
        "seed": facts["seed"],
        "metrics": facts.get("metrics", {}),
    }
