"""Names of one's own for the labels of a model, applied between the model and the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from streamer.core.segments import State
from streamer.core.smoothing import Probabilities


class LabelError(ValueError):
    """A label that cannot be mapped as asked; the message names it."""


class LabelMap:
    """Renames, merges and drops the labels of a model.

    Probabilities of labels that get the same name are added, so they are decided as one. A dropped
    label keeps its name and probability, but is never claimed.

    Parameters
    ----------
    labels, not_music
        Those of the model's `ModelContract`.
    names
        Label of the model to its new name, or to False to drop it. Other labels stay as they are.

    Raises
    ------
    LabelError
        If a label is unknown, a name cannot be used, or fewer than two labels or no label that can
        be claimed would be left.

    Examples
    --------
    >>> names = LabelMap(["jazz", "metal", "rock"], None, {"rock": "guitar", "metal": "guitar"})
    >>> names.labels
    ('jazz', 'guitar')
    >>> names.apply(np.array([0.5, 0.25, 0.25])).tolist()
    [0.5, 0.5]
    """

    def __init__(
        self, labels: Sequence[str], not_music: str | None, names: Mapping[str, str | bool]
    ) -> None:
        _check(labels, names)
        dropped = {label for label, name in names.items() if name is False}
        self.renamed = renamed = tuple(
            label if label in dropped else str(names.get(label, label)) for label in labels
        )
        """The name of each label, in the order of the labels; a dropped one keeps its own."""
        self.labels = tuple(dict.fromkeys(renamed))
        """The names, in the order of the labels that get them first."""
        self.dropped = frozenset(self.labels.index(label) for label in dropped)
        """Indices of the names that are never claimed."""
        for label, name in zip(labels, renamed, strict=True):
            if name in dropped and label != name:
                raise LabelError(f"{label} = {name!r}: {name!r} is dropped; use another name")
        if len(self.labels) < 2 or len(self.dropped) == len(self.labels):
            raise LabelError("at least two labels must be left, and one that can be claimed")
        self.not_music = _renamed_not_music(labels, not_music, renamed)
        """The name that stands for what is not music, None if there is none."""
        self._matrix = None
        if self.labels != tuple(labels):
            self._matrix = np.zeros((len(labels), len(self.labels)))
            for index, name in enumerate(renamed):
                self._matrix[index, self.labels.index(name)] = 1.0

    def apply(self, probabilities: Probabilities) -> Probabilities:
        """Return the probabilities of the names from those of the labels, shape (labels,)."""
        return probabilities if self._matrix is None else probabilities @ self._matrix


def _check(labels: Sequence[str], names: Mapping[str, str | bool]) -> None:
    for label, name in names.items():
        if label not in labels:
            known = ", ".join(labels)
            raise LabelError(f"{label!r} is no label of the model; it has {known}")
        if name is not False and (not isinstance(name, str) or not name):
            raise LabelError(f"{label} = {name!r}: write a name, or false to drop the label")
        if name in set(State) - {State.NOT_MUSIC}:
            raise LabelError(f"{label} = {name!r}: this is the name of a state; use another")


def _renamed_not_music(
    labels: Sequence[str], not_music: str | None, renamed: Sequence[str]
) -> str | None:
    if not_music is not None:
        return renamed[labels.index(not_music)]
    return State.NOT_MUSIC.value if State.NOT_MUSIC in renamed else None
