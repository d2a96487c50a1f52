"""Which engine gets which source: a pure function, which moves as little as possible."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping

TOLERANCE = 1.5
"""An engine keeps up to this many times its share; what engines can do is measured, and varies."""


def place(
    sources: Iterable[str],
    held: Mapping[str, Iterable[str]],
    capacities: Mapping[str, int],
    *,
    even: bool = False,
) -> dict[str, set[str]]:
    """Return the sources of each engine.

    A source stays with the engine that holds it, and others go where the share of the capacity that
    is taken is smallest.

    Parameters
    ----------
    sources
        Names of all sources; none may be left out, so that engines may get more than their capacity
        (their hop grows).
    held
        The sources that engines hold now, each held by one.
    capacities
        How many sources each engine can serve, for all engines there are.
    even
        Whether engines that hold more than `TOLERANCE` times their share give sources to others.

    Examples
    --------
    >>> place("abc", {"one": ["a", "b"]}, {"one": 10, "two": 10}) == {
    ...     "one": {"a", "b"}, "two": {"c"}
    ... }
    True
    """
    wanted = list(dict.fromkeys(sources))
    known = set(wanted)
    placed = {engine: known.intersection(held.get(engine, ())) for engine in capacities}
    if not placed:
        return {}
    if even:
        total = sum(capacities.values())
        for engine, own in placed.items():
            share = len(wanted) * capacities[engine] / total
            if len(own) > math.ceil(TOLERANCE * share):
                own.difference_update(sorted(own)[math.ceil(share) :])
    taken = set().union(*placed.values())
    heap = [((len(own) + 1) / capacities[engine], engine) for engine, own in placed.items()]
    heapq.heapify(heap)
    for name in wanted:
        if name not in taken:
            _, engine = heap[0]
            placed[engine].add(name)
            load = (len(placed[engine]) + 1) / capacities[engine]
            heapq.heapreplace(heap, (load, engine))
    return placed
