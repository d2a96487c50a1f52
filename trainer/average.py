"""One network from several: the mean of the weights of runs that have a training in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.network import NetworkError, load_image_network, save_image_network
from trainer.run import leak_notes, learnt_tracks, provenance
from trainer.writing import write_json

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
    NetworkError, DatasetError
        If there are too few runs, one is none or has no network, they differ in labels, grid or
        window, or `out` already holds a run.
    """
    if len(runs) < 2:
        raise NetworkError(f"an average needs two runs or more, not only {runs[0]}")
    if (out / "run.json").exists():
        raise NetworkError(f"--out {out}: already holds a run; choose another folder")
    times = Counter(runs)
    network, first = load_image_network(runs[0])
    facts = {runs[0]: first}
    sums = [times[runs[0]] * weights.astype(np.float64) for weights in network.get_weights()]
    for run in list(times)[1:]:
        other, facts[run] = load_image_network(run)
        for name in SAME:
            if facts[run][name] != first[name]:
                raise NetworkError(
                    f"{run} and {runs[0]} differ in {name} ({facts[run][name]} and "
                    f"{first[name]}): only networks of one kind can be averaged"
                )
        sums = [
            total + times[run] * weights.astype(np.float64)
            for total, weights in zip(sums, other.get_weights(), strict=True)
        ]
    network.set_weights([total / len(runs) for total in sums])
    out.mkdir(parents=True, exist_ok=True)
    save_image_network(network, out)
    write_json(out / "run.json", _facts(runs, facts, out))
    return out


def _facts(runs: Sequence[Path], facts: Mapping[Path, dict[str, Any]], out: Path) -> dict[str, Any]:
    """Return what is known about the average: the first run's facts, without its results."""
    first = facts[runs[0]]
    learnt = {name for own in facts.values() for name in learnt_tracks(own)}
    heard = {name for own in facts.values() for name in own["background"]["train"]}
    unheard = {name for own in facts.values() for name in own["background"]["valid"]} - heard
    held_back = [*first["split"]["valid"], *first["split"]["test"]]
    leaks = leak_notes(held_back, learnt, "one of the runs of this average")
    return {
        **first,
        **provenance(),
        "averaged": [{"run": str(run), "command": facts[run]["command"]} for run in runs],
        "split": {**first["split"], "notes": [*first["split"]["notes"], *leaks]},
        "background": {"train": sorted(heard), "valid": sorted(unheard)},
        "learnt_before": sorted(learnt),
        "settings": {**first["settings"], "out": str(out)},
        "finished": True,
        "train_seconds": sum(own["train_seconds"] for own in facts.values()),
        "temperature": 1.0,
        "decision": {},
        "metrics": {},
    }
