"""One network from several: the mean of the weights of runs that have a training in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.network import NetworkError, load_image_network
from trainer.run_folder import provenance, write_json

SAME = ("labels", "spec", "window_frames", "min_frames", "input_scale")
"""What the runs must agree in."""


def average(runs: Sequence[Path], out: Path) -> Path:
    """Average the weights of runs, write the network as a run of its own and return its folder.

    Of networks that were fine-tuned from the same one, the mean of the weights is mostly as good as
    the mean of the answers, at the cost of one network. Of networks with nothing in common it is
    worthless.

    Source: M. Wortsman et al., "Model soups", ICML 2022.

    Parameters
    ----------
    runs : sequence of Path
        Folders of runs, at least two; one that is named twice counts twice. What is not averaged,
        such as the lists of the tracks, is the first one's.
    out : Path
        Folder of the new run: `run.json` and `model.keras`.

    Raises
    ------
    NetworkError
        If there are too few runs, one has no network, they differ in labels, grid or window, or
        `out` already holds a run.
    """
    if len(runs) < 2:
        raise NetworkError(f"an average needs two runs or more, not only {runs[0]}")
    if (out / "run.json").exists():
        raise NetworkError(f"--out {out}: already holds a run; choose another folder")
    network, facts = load_image_network(runs[0])
    all_facts = [facts]
    sums = [weights.astype(np.float64) for weights in network.get_weights()]
    for run in runs[1:]:
        other, other_facts = load_image_network(run)
        for name in SAME:
            if other_facts[name] != facts[name]:
                raise NetworkError(
                    f"{run} and {runs[0]} differ in {name} ({other_facts[name]} and "
                    f"{facts[name]}): only networks of one kind can be averaged"
                )
        sums = [total + own for total, own in zip(sums, other.get_weights(), strict=True)]
        all_facts.append(other_facts)
    network.set_weights([total / len(runs) for total in sums])
    out.mkdir(parents=True, exist_ok=True)
    partial = out / "partial.keras"
    network.save(partial)
    partial.replace(out / "model.keras")
    write_json(out / "run.json", _facts(runs, all_facts, out))
    return out


def _facts(runs: Sequence[Path], facts: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """Return what is known about the average: the first run's facts, without its results."""
    first = facts[0]
    learnt = {name for own in facts for name in _learnt(own)}
    heard = {name for own in facts for name in own["background"]["train"]}
    unheard = {name for own in facts for name in own["background"]["valid"]} - heard
    held_back = [*first["split"]["valid"], *first["split"]["test"]]
    notes = list(first["split"]["notes"])
    if leaking := len(learnt.intersection(held_back)):
        notes.append(
            f"{leaking} of the {len(held_back)} valid and test tracks were trained on in one of "
            "the runs of this average: expect less on unknown music"
        )
    # A run that is named twice was trained once.
    seconds = {str(run): own["train_seconds"] for run, own in zip(runs, facts, strict=True)}
    return {
        **first,
        **provenance(),
        "averaged": [
            {"run": str(run), "command": own["command"]}
            for run, own in zip(runs, facts, strict=True)
        ],
        "split": {**first["split"], "notes": notes},
        "background": {"train": sorted(heard), "valid": sorted(unheard)},
        "learnt_before": sorted(learnt),
        "settings": {**first["settings"], "out": str(out)},
        "finished": True,
        "train_seconds": sum(seconds.values()),
        "temperature": 1.0,
        "decision": {},
        "metrics": {},
    }


def _learnt(facts: dict[str, Any]) -> list[str]:
    return [*facts["split"]["train"], *facts.get("learnt_before", ())]
