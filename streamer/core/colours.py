"""A colour for each genre, the same wherever one is shown.

Nine of the ten colours of Petroff, "Accessible color sequences for data visualization" (2021),
which people with any kind of colour vision can tell apart. A green stands for the second of its two
greys; it is as far from the nine as they are from each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FITTING = {
    "blues": "#3f90da",
    "pop": "#ffa90e",
    "rock": "#bd1f01",
    "reggae": "#306830",
    "hiphop": "#832db6",
    "country": "#a96b59",
    "disco": "#e76300",
    "classical": "#b9ac70",
    "metal": "#717581",
    "jazz": "#92dadd",
}
"""Colours that fit a name, in Petroff's order; any other label takes a free one."""
COLOURS = tuple(FITTING.values())


def colours(labels: Sequence[str], own: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a colour for each label, as ``#rrggbb``; from the eleventh on they come again.

    `own` are colours that were chosen for some of the labels; the others keep theirs.

    Examples
    --------
    >>> colours(["jazz", "rock", "polka"])
    {'jazz': '#92dadd', 'rock': '#bd1f01', 'polka': '#3f90da'}
    """
    first = labels[: len(COLOURS)]
    fitting = {label: FITTING[label] for label in first if label in FITTING}
    free = (colour for colour in COLOURS if colour not in fitting.values())
    usual = {
        label: COLOURS[index % len(COLOURS)]
        if index >= len(COLOURS)
        else fitting.get(label) or next(free)
        for index, label in enumerate(labels)
    }
    return {label: (own or {}).get(label, colour) for label, colour in usual.items()}


def ansi(hexadecimal: str) -> str:
    """Return the code that makes a terminal write in a colour (ECMA-48, ITU T.416)."""
    red, green, blue = bytes.fromhex(hexadecimal.removeprefix("#"))
    return f"\x1b[38;2;{red};{green};{blue}m"
