"""Averaging the weights of runs that were fine-tuned from the same network."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from trainer.network import NetworkError, load_image_network, save_image_network
from trainer.provenance import provenance
from trainer.run import RUN_FILE, BackgroundLists, Run, leak_notes, write_run

SAME = ("labels", "spec", "window_frames", "min_frames", "input_scale")
"""Fields of `Run` that the runs must agree in."""


def average(folders: Sequence[Path], out: Path) -> Path:
    """Average the weights of runs, write the network as a run of its own and return its folder.

    The mean of the weights of networks that were fine-tuned from the same one is usually as
    accurate as the mean of their predictions, at the cost of one network. For unrelated networks
    it is useless.

    A run that is named twice counts twice. What is not averaged, such as the lists of the tracks,
    is taken from the first run.

    Source: M. Wortsman et al., "Model soups", ICML 2022.

    Raises
    ------
    NetworkError, RunError
        If there are less than two runs, one has no network, they differ in `SAME`, or `out` already
        holds a run.
    """
    if len(folders) < 2:
        raise NetworkError(f"an average needs two runs or more, not only {folders[0]}")
    if (out / RUN_FILE).exists():
        raise NetworkError(f"--out {out}: already holds a run; choose another folder")
    counts = Counter(folders)
    network, first = load_image_network(folders[0])
    runs = {folders[0]: first}
    sums = [counts[folders[0]] * weights.astype(np.float64) for weights in network.get_weights()]
    for folder in list(counts)[1:]:
        other, runs[folder] = load_image_network(folder)
        for name in SAME:
            own, wanted = getattr(runs[folder], name), getattr(first, name)
            if own != wanted:
                raise NetworkError(
                    f"{folder} and {folders[0]} differ in {name} ({own} and {wanted}): only "
                    "networks of one kind can be averaged"
                )
        sums = [
            total + counts[folder] * weights.astype(np.float64)
            for total, weights in zip(sums, other.get_weights(), strict=True)
        ]
    network.set_weights([total / len(folders) for total in sums])
    out.mkdir(parents=True, exist_ok=True)
    save_image_network(network, out)
    write_run(out, _averaged_run(folders, runs, out))
    return out


def _averaged_run(folders: Sequence[Path], runs: Mapping[Path, Run], out: Path) -> Run:
    """Return the first run with what changes by averaging, and without its results."""
    first = runs[folders[0]]
    trained = {name for run in runs.values() for name in run.trained_tracks}
    sounds = {name for run in runs.values() for name in run.background.train}
    held_back = {name for run in runs.values() for name in run.background.valid} - sounds
    leaks = leak_notes(
        [*first.split.valid, *first.split.test], trained, "one of the runs of this average"
    )
    return dataclasses.replace(
        first,
        **provenance(),
        averaged=tuple({"run": str(folder), "command": runs[folder].command} for folder in folders),
        split=dataclasses.replace(first.split, notes=(*first.split.notes, *leaks)),
        background=BackgroundLists(tuple(sorted(sounds)), tuple(sorted(held_back))),
        trained_on_before=tuple(sorted(trained)),
        settings=dataclasses.replace(first.settings, out=out),
        finished=True,
        train_seconds=sum(run.train_seconds for run in runs.values()),
        temperature=1.0,
        decision={},
        fusion=None,
        metrics={},
    )
