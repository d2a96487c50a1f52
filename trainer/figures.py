"""The report's figures: tables in, matplotlib figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from streamer.core.spectrogram import Columns

# A dollar sign in the name of a genre or a track begins no formula.
rcParams["text.parse_math"] = False

WIDTH = 5.4
"""Inches: narrow enough that text stays legible on a phone."""

INK = "#1c2430"
BLUE, ORANGE, GREY = "#2563a8", "#d1631c", "#8a94a3"

GENRE_COLOURS = (
    "#2563a8",
    "#d1631c",
    "#3c8d40",
    "#b3312c",
    "#7b55b0",
    "#7d5442",
    "#d26aa8",
    "#17939e",
    "#a89a1b",
    "#5b7fd6",
    "#e5a23d",
    "#6d9f71",
)
"""In the order of the labels, repeated for more."""

STATE_COLOURS = {"silence": "#f0f2f5", "not_music": "#5d6672", "uncertain": "#bcc3cd"}

ROW_SECONDS = 300.0
"""Length of one row of the timeline."""

MOST_ROWS = 6


def _figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9, colors=INK)
    return figure, axes


def learning_curves(history: pd.DataFrame) -> Figure:
    """Draw loss and accuracy by epoch."""
    figure, (loss, accuracy) = _figure(5.0, rows=2)
    epochs = history["epoch"]
    loss.plot(epochs, history["loss"], color=BLUE, marker=".", label="training loss")
    loss.plot(epochs, history["valid_nll"], color=ORANGE, marker=".", label="valid NLL of tracks")
    loss.set_ylabel("nats")
    accuracy.plot(epochs, history["accuracy"], color=BLUE, marker=".", label="training, by window")
    accuracy.plot(
        epochs, history["valid_accuracy"], color=ORANGE, marker=".", label="valid, by track"
    )
    if history["valid_not_music"].notna().any():
        accuracy.plot(
            epochs, history["valid_not_music"], color=GREY, marker=".", label="valid, not music"
        )
    accuracy.set(ylabel="share right", xlabel="epoch", ylim=(0, 1))
    for axis in (loss, accuracy):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(color="#e4e7ec", linewidth=0.7)
        axis.legend(fontsize=8, frameon=False)
    return figure


def confusion_matrix(table: pd.DataFrame) -> Figure:
    """Draw true labels (rows) against predicted ones (columns), shaded by share of the row."""
    figure, (axis,) = _figure(WIDTH)
    counts = table.to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if len(table) <= 12 else 6
    for row, column in zip(*np.nonzero(counts), strict=True):
        axis.text(
            column,
            row,
            str(counts[row, column]),
            ha="center",
            va="center",
            fontsize=size,
            color="white" if shares[row, column] > 0.55 else INK,
        )
    axis.set_xticks(range(len(table)), table.columns, rotation=60, ha="right", fontsize=size)
    axis.set_yticks(range(len(table)), table.index, fontsize=size)
    axis.set(xlabel="taken for", ylabel="is")
    return figure


def reliability_diagram(table: pd.DataFrame) -> Figure:
    """Draw accuracy against confidence, before and after temperature scaling."""
    figure, (axis,) = _figure(4.4)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="as sure as right")
    for when, colour in (("before", ORANGE), ("after", BLUE)):
        own = table[table["temperature"] == when]
        axis.plot(own["confidence"], own["accuracy"], color=colour, linewidth=1)
        axis.scatter(
            own["confidence"],
            own["accuracy"],
            s=8 + 120 * own["count"] / max(1, own["count"].max()),
            color=colour,
            alpha=0.8,
            label=f"{when} temperature scaling",
        )
    axis.set(xlabel="confidence of a crop", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def genre_bars(table: pd.DataFrame) -> Figure:
    """Draw precision and recall of each genre."""
    figure, (axis,) = _figure(0.9 + 0.42 * len(table))
    places = np.arange(len(table))[::-1]
    axis.barh(places + 0.19, table["precision"], 0.36, color=BLUE, label="precision")
    axis.barh(places - 0.19, table["recall"], 0.36, color=ORANGE, label="recall")
    names = [f"{row.genre} ({row.tracks})" for row in table.itertuples()]
    axis.set_yticks(places, names)
    axis.set_xlim(0, 1)
    axis.grid(axis="x", color="#e4e7ec", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def ways_in(table: pd.DataFrame) -> Figure:
    """Draw the accuracy of each way in with its interval."""
    figure, (axis,) = _figure(0.9 + 0.3 * len(table))
    places = np.arange(len(table))[::-1]
    reach = [table["accuracy"] - table["low"], table["high"] - table["accuracy"]]
    axis.barh(places, table["accuracy"], 0.62, color=BLUE)
    axis.errorbar(table["accuracy"], places, xerr=reach, fmt="none", ecolor=ORANGE, capsize=2)
    axis.axvline(table["accuracy"][0], color=ORANGE, linewidth=0.8, linestyle=":")
    axis.set_yticks(places, table["way"])
    axis.set_xlim(0, 1)
    axis.grid(axis="x", color="#e4e7ec", linewidth=0.7)
    axis.set_axisbelow(True)
    return figure


def accuracy_by_seconds(accuracy_after: Mapping[str, float]) -> Figure:
    """Draw the share of songs labelled right against the seconds heard."""
    figure, (axis,) = _figure(3.2)
    seconds = [float(at) for at in accuracy_after]
    axis.plot(seconds, list(accuracy_after.values()), color=BLUE, marker="o")
    axis.set_xscale("log")
    axis.set_xticks(seconds, list(accuracy_after))
    axis.minorticks_off()
    axis.set(xlabel="seconds of a song heard", ylabel="songs labelled right", ylim=(0, 1))
    axis.grid(color="#e4e7ec", linewidth=0.7)
    return figure


def timeline(programme: pd.DataFrame, decisions: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Draw what was played above what was said, five minutes a row, the first half hour."""
    end = float(programme["end"].max())
    rows = min(MOST_ROWS, max(1, int(np.ceil(end / ROW_SECONDS))))
    figure, axes = _figure(1.1 + 0.85 * rows, rows=rows)
    said = pd.DataFrame(
        {
            "start": decisions["position"] - decisions["hop_seconds"],
            "end": decisions["position"],
            "state": decisions["state"],
            "genre": decisions["genre"],
        }
    )
    for number, axis in enumerate(axes):
        low = number * ROW_SECONDS
        for table, place in ((programme, 1.0), (said, 0.0)):
            inside = table[(table["end"] > low) & (table["start"] < low + ROW_SECONDS)]
            starts, ends = inside["start"].clip(lower=low), inside["end"]
            axis.barh(
                np.full(len(inside), place),
                ends.clip(upper=low + ROW_SECONDS) - starts,
                left=starts,
                height=0.9,
                color=[
                    _colour(state, genre, labels)
                    for state, genre in zip(inside["state"], inside["genre"], strict=True)
                ],
            )
        axis.set(xlim=(low, low + min(ROW_SECONDS, max(end, 1))), ylim=(-0.5, 1.5))
        axis.set_yticks([0, 1], ["said", "played"], fontsize=8)
        axis.spines[["left"]].set_visible(False)
        ticks = np.arange(low, low + ROW_SECONDS + 1, 60)
        axis.set_xticks(ticks, [f"{tick / 60:.0f}" for tick in ticks], fontsize=8)
        axis.set_xlim(low, low + ROW_SECONDS)
    axes[-1].set_xlabel("minutes", fontsize=9)
    names = {label: _colour("music", label, labels) for label in labels if label != "not_music"}
    figure.legend(
        handles=[
            Patch(color=colour, label=name) for name, colour in (names | STATE_COLOURS).items()
        ],
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
    return figure


def _colour(state: str, genre: object, labels: Sequence[str]) -> str:
    if state == "music" and genre in labels:
        return GENRE_COLOURS[labels.index(str(genre)) % len(GENRE_COLOURS)]
    return STATE_COLOURS.get(state, GREY)


def spectrogram_examples(
    examples: Sequence[tuple[str, Sequence[Columns]]], top_db: float
) -> Figure:
    """Draw windows as they are (first column) and varied as in training.

    Parameters
    ----------
    examples : sequence of (name, windows)
        Each window of shape (n_mels, frames), in dB.
    top_db : float
        Range of the colours, in dB.
    """
    columns = len(examples[0][1])
    figure, axes = _figure(1.7 * len(examples), rows=len(examples), columns=columns)
    for row, (name, windows) in enumerate(examples):
        for column, window in enumerate(windows):
            axis = axes[row * columns + column]
            axis.imshow(
                window,
                origin="lower",
                aspect="auto",
                cmap=colormaps["magma"],
                vmin=-top_db,
                vmax=0,
            )
            axis.set_xticks([])
            axis.set_yticks([])
            title = name if column == 0 else f"varied, {column}"
            axis.set_title(title, fontsize=8, color=INK)
    return figure
