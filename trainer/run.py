"""`run.json`: what is known about a run, added to by everything that judges it."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Any

from trainer.tracks import DatasetError
from trainer.writing import write_json

REQUIRED: dict[str, type | UnionType] = {
    "labels": list,
    "spec": dict,
    "window_frames": int,
    "min_frames": int,
    "input_scale": int | float,
    "seed": int,
    "settings": dict,
    "settings.data": str,
    "split.name": str,
    "split.protocol": str,
    "split.notes": list,
    "split.missing": list,
    "split.train": list,
    "split.valid": list,
    "split.test": list,
    "background.train": list,
    "background.valid": list,
    "command": str,
    "train_seconds": int | float,
}
"""What every run says of itself."""


def read_facts(run: Path) -> dict[str, Any]:
    """Read a run's facts.

    Raises
    ------
    DatasetError
        If the folder holds no readable `run.json` or one in which something is missing.
    """
    try:
        facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{run} is no run: it has no readable run.json") from error
    if missing := [name for name, kind in REQUIRED.items() if not _holds(facts, name, kind)]:
        raise DatasetError(
            f"{run / 'run.json'} lacks {', '.join(missing)}: restore it from a copy, or train again"
        )
    return facts


def _holds(facts: object, name: str, kind: type | UnionType) -> bool:
    """Tell whether a fact is there; the parts of a name are divided by dots."""
    for part in name.split("."):
        if not isinstance(facts, dict) or part not in facts:
            return False
        facts = facts[part]
    return isinstance(facts, kind)


def update_facts(run: Path, changes: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Replace some facts and some metrics; the others stay. A reader sees all of it or none."""
    facts = read_facts(run) | dict(changes)
    facts["metrics"] = {**facts.get("metrics", {}), **metrics}
    write_json(run / "run.json", facts)


def learnt_tracks(facts: Mapping[str, Any]) -> set[str]:
    """Return the tracks that a run's network has learnt from, in it or in runs before it."""
    return {*facts["split"]["train"], *facts.get("learnt_before", ())}


def leak_notes(held_back: Sequence[str], learnt: Iterable[str], where: str) -> list[str]:
    """Return what must be said where tracks to judge on were learnt from; nothing if none was."""
    known = len(set(learnt).intersection(held_back))
    if not known:
        return []
    return [
        f"{known} of the {len(held_back)} valid and test tracks were trained on in {where}: "
        "expect less on unknown music"
    ]


def provenance() -> dict[str, Any]:
    """Return the command, the versions of what computes, and the commit that make a run now."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": _versions(),
        "git": _git_commit(),
    }


def _versions() -> dict[str, str]:
    import keras

    versions = {"python": platform.python_version(), "backend": keras.backend.backend()}
    for package in ("genre-stream", "keras", "numpy", "tensorflow", "torch", "jax"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_commit() -> str | None:
    """Return the commit this code is at, None where it is no git checkout."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
