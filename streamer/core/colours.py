"""A colour for each genre, the same wherever one is shown; the dashboard has its own copy.

The ten colours of Petroff, "Accessible color sequences for data visualization" (2021), which people
with any kind of colour vision can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence

COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
FITTING = {
    "blues": "#3f90da",
    "classical": "#b9ac70",
    "country": "#a96b59",
    "disco": "#e76300",
    "hiphop": "#832db6",
    "jazz": "#92dadd",
    "metal": "#717581",
    "pop": "#ffa90e",
    "reggae": "#94a4a2",
    "rock": "#bd1f01",
}
"""Colours that fit a name; any other label takes a free one."""


def colours(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each label, as ``#rrggbb``; from the eleventh on they come again.

    Examples
    --------
    >>> colours(["jazz", "rock", "polka"])
    {'jazz': '#92dadd', 'rock': '#bd1f01', 'polka': '#3f90da'}
    """
    first = labels[: len(COLOURS)]
    fitting = {label: FITTING[label] for label in first if label in FITTING}
    free = (colour for colour in COLOURS if colour not in fitting.values())
    return {
        label: COLOURS[index % len(COLOURS)]
        if index >= len(COLOURS)
        else fitting.get(label) or next(free)
        for index, label in enumerate(labels)
    }


def ansi(hexadecimal: str) -> str:
    """Return the code that makes a terminal write in a colour (ECMA-48, ITU T.416)."""
    red, green, blue = bytes.fromhex(hexadecimal.removeprefix("#"))
    return f"\x1b[38;2;{red};{green};{blue}m"
