"""`run.json`: what is known about a run, added to by everything that judges it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.gtzan import DatasetError


def read_facts(run: Path) -> dict[str, Any]:
    """Read a run's facts.

    Raises
    ------
    DatasetError
        If the folder holds no readable `run.json`.
    """
    try:
        facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{run} is no run: it has no readable run.json") from error
    return facts


def update_facts(run: Path, changes: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Replace some facts and some metrics; the others stay. A reader sees all of it or none."""
    facts = read_facts(run) | dict(changes)
    facts["metrics"] = {**facts.get("metrics", {}), **metrics}
    write_json(run / "run.json", facts)


def write_json(path: Path, content: object) -> None:
    """Write a file of JSON so that a reader sees all of it or none."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)
