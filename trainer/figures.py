"""The figures of a report, drawn with matplotlib from tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from streamer.core.spectrogram import Columns

WIDTH = 5.4
"""Inches; narrow enough for text to stay legible on a phone."""

INK = "#1c2430"
BLUE, ORANGE, GREY, LINES = "#2563a8", "#d1631c", "#8a94a3", "#e4e7ec"

GENRE_COLOURS = (
    *("#2563a8", "#d1631c", "#3c8d40", "#b3312c", "#7b55b0", "#7d5442"),
    *("#d26aa8", "#17939e", "#a89a1b", "#5b7fd6", "#e5a23d", "#6d9f71"),
)
"""In the order of the labels; they repeat from the thirteenth on."""

rcParams.update(
    {
        # Otherwise dollar signs in the name of a genre or a track would start a formula.
        "text.parse_math": False,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": LINES,
        "grid.linewidth": 0.7,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
    }
)

STATE_COLOURS = {"silence": "#f0f2f5", "not_music": "#5d6672", "uncertain": "#bcc3cd"}

ROW_SECONDS = 300.0
"""Length of one row of the timeline."""

MAX_ROWS = 6


def _figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots(rows, columns, squeeze=False).ravel().tolist()


def _bar_axes(names: Sequence[str], height: float) -> tuple[Figure, Axes, Any]:
    """Return a figure for horizontal bars from 0 to 1, its axes and the positions of the bars."""
    figure, (axis,) = _figure(0.9 + height * len(names))
    positions = np.arange(len(names))[::-1]
    axis.set_yticks(positions, names)
    axis.set_xlim(0, 1)
    axis.grid(axis="x")
    axis.set_axisbelow(True)
    return figure, axis, positions


def learning_curves(history: pd.DataFrame) -> Figure:
    """Plot loss and accuracy by epoch, from `history.csv`."""
    figure, (loss, accuracy) = _figure(5.0, rows=2)
    epochs = history["epoch"]
    curves = [
        (loss, "loss", BLUE, "training loss"),
        (loss, "valid_nll", ORANGE, "valid NLL of tracks"),
        (accuracy, "accuracy", BLUE, "training, by window"),
        (accuracy, "valid_accuracy", ORANGE, "valid, by track"),
    ]
    if history["valid_not_music"].notna().any():
        curves.append((accuracy, "valid_not_music", GREY, "valid, not music"))
    for axis, column, colour, label in curves:
        axis.plot(epochs, history[column], color=colour, marker=".", label=label)
    loss.set_ylabel("nats")
    accuracy.set(ylabel="share right", xlabel="epoch", ylim=(0, 1))
    for axis in (loss, accuracy):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid()
        axis.legend()
    return figure


def confusion_matrix(table: pd.DataFrame) -> Figure:
    """Draw numbers of tracks by true (rows) and predicted labels (columns), shaded by row."""
    figure, (axis,) = _figure(WIDTH)
    counts = table.to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if len(table) <= 12 else 6
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.55 else INK
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size, "color": colour}
        axis.text(column, row, str(counts[row, column]), **style)
    axis.set_xticks(range(len(table)), table.columns, rotation=60, ha="right", fontsize=size)
    axis.set_yticks(range(len(table)), table.index, fontsize=size)
    axis.set(xlabel="predicted", ylabel="true")
    return figure


def reliability_diagram(table: pd.DataFrame) -> Figure:
    """Plot accuracy by confidence, before and after temperature scaling."""
    figure, (axis,) = _figure(4.4)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
    for when, colour in (("before", ORANGE), ("after", BLUE)):
        own = table[table["temperature"] == when]
        points, label = (own["confidence"], own["accuracy"]), f"{when} temperature scaling"
        sizes = 8 + 120 * own["count"] / max(1, own["count"].max())
        axis.plot(*points, color=colour, linewidth=1)
        axis.scatter(*points, s=sizes, color=colour, alpha=0.8, label=label)
    axis.set(xlabel="confidence of a crop", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    axis.legend(loc="upper left")
    return figure


def genre_bars(table: pd.DataFrame) -> Figure:
    """Draw precision and recall of each genre."""
    names = [f"{row.genre} ({row.tracks})" for row in table.itertuples()]
    figure, axis, positions = _bar_axes(names, 0.42)
    axis.barh(positions + 0.19, table["precision"], 0.36, color=BLUE, label="precision")
    axis.barh(positions - 0.19, table["recall"], 0.36, color=ORANGE, label="recall")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def degradations(table: pd.DataFrame) -> Figure:
    """Draw the accuracy with its interval for each degradation."""
    figure, axis, positions = _bar_axes(list(table["way"]), 0.3)
    errors = [table["accuracy"] - table["low"], table["high"] - table["accuracy"]]
    axis.barh(positions, table["accuracy"], 0.62, color=BLUE)
    axis.errorbar(table["accuracy"], positions, xerr=errors, fmt="none", ecolor=ORANGE, capsize=2)
    axis.axvline(table["accuracy"][0], color=ORANGE, linewidth=0.8, linestyle=":")
    return figure


def accuracy_by_seconds(accuracy_after: Mapping[str, float]) -> Figure:
    """Plot the share of songs with the right label by the seconds since their start."""
    figure, (axis,) = _figure(3.2)
    seconds = [float(at) for at in accuracy_after]
    axis.plot(seconds, list(accuracy_after.values()), color=BLUE, marker="o")
    axis.set_xscale("log")
    axis.set_xticks(seconds, list(accuracy_after))
    axis.minorticks_off()
    axis.set(xlabel="seconds since the start of a song", ylabel="songs labelled right", ylim=(0, 1))
    axis.grid()
    return figure


def timeline(truth: pd.DataFrame, decisions: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Draw the ground truth of a stream above the decisions, five minutes a row, half an hour."""
    end = float(truth["end"].max())
    rows = min(MAX_ROWS, max(1, int(np.ceil(end / ROW_SECONDS))))
    figure, axes = _figure(1.1 + 0.85 * rows, rows=rows)
    decided = decisions.assign(
        start=decisions["position"] - decisions["hop_seconds"], end=decisions["position"]
    )
    for number, axis in enumerate(axes):
        low, high = number * ROW_SECONDS, (number + 1) * ROW_SECONDS
        for table, place in ((truth, 1.0), (decided, 0.0)):
            inside = table[(table["end"] > low) & (table["start"] < high)]
            starts = inside["start"].clip(lower=low)
            labelled = zip(inside["state"], inside["genre"], strict=True)
            axis.barh(
                np.full(len(inside), place),
                inside["end"].clip(upper=high) - starts,
                left=starts,
                height=0.9,
                color=[_colour(state, genre, labels) for state, genre in labelled],
            )
        axis.set(xlim=(low, high), ylim=(-0.5, 1.5))
        axis.set_yticks([0, 1], ["decided", "played"], fontsize=8)
        axis.spines[["left"]].set_visible(False)
        ticks = np.arange(low, high + 1, 60)
        axis.set_xticks(ticks, [f"{tick / 60:.0f}" for tick in ticks], fontsize=8)
    axes[-1].set_xlabel("minutes", fontsize=9)
    names = {label: _colour("music", label, labels) for label in labels if label != "not_music"}
    patches = [Patch(color=paint, label=name) for name, paint in (names | STATE_COLOURS).items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=4)
    return figure


def _colour(state: str, genre: object, labels: Sequence[str]) -> str:
    if state == "music" and genre in labels:
        return GENRE_COLOURS[labels.index(str(genre)) % len(GENRE_COLOURS)]
    return STATE_COLOURS.get(state, GREY)


def spectrogram_examples(
    examples: Sequence[tuple[str, Sequence[Columns]]], top_db: float
) -> Figure:
    """Draw each track's windows, in dB: unchanged (first column) and augmented as in training.

    The colours range over `top_db`.
    """
    columns = len(examples[0][1])
    figure, axes = _figure(1.7 * len(examples), rows=len(examples), columns=columns)
    for row, (name, windows) in enumerate(examples):
        for column, window in enumerate(windows):
            axis = axes[row * columns + column]
            axis.imshow(window, origin="lower", aspect="auto", cmap="magma", vmin=-top_db, vmax=0)
            axis.set(xticks=[], yticks=[])
            title = name if column == 0 else f"augmented, {column}"
            axis.set_title(title, fontsize=8, color=INK)
    return figure
