"""The figures of a report."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from trainer.figures import confusion_matrix, genre_bars, spectrogram_examples, timeline

NAMES = ["$wag_-_Ra$p", "fado $", "r\\&b_{", "drum & bass"]


def confusions() -> Figure:
    return confusion_matrix(pd.DataFrame(np.eye(4, dtype=int), index=NAMES, columns=NAMES))


def bars() -> Figure:
    scores = {"genre": NAMES, "tracks": 3, "precision": 0.5, "recall": 0.25}
    return genre_bars(pd.DataFrame(scores))


def minutes() -> Figure:
    starts = np.arange(4.0)
    played = pd.DataFrame({"start": starts, "end": starts + 1, "state": "music", "genre": NAMES})
    decisions = pd.DataFrame(
        {"position": starts + 1, "hop_seconds": 1.0, "state": "music", "genre": NAMES}
    )
    return timeline(played, decisions, NAMES)


def examples() -> Figure:
    return spectrogram_examples([(name, [np.zeros((4, 9), np.float32)]) for name in NAMES], 80)


@pytest.mark.parametrize("draw", [confusions, bars, minutes, examples])
def test_dollar_signs_in_names_do_not_start_formulas(
    draw: Callable[[], Figure],
) -> None:
    figure = draw()
    figure.savefig(BytesIO(), format="png")
    texts = [text for text in figure.findobj() if hasattr(text, "get_parse_math")]
    assert texts
    assert not any(text.get_parse_math() for text in texts)
