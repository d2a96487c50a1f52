"""How fast a listener goes: how often it decides, and how soon it tries again. No clock in here."""

from __future__ import annotations

import math
import random
from collections import deque
from statistics import median

FULL = 0.9
"""Share of a hop that the work may fill before the hop grows."""
FULL_WHILE_BEHIND = 0.5
"""The same while there is a backlog to work off."""
COMFORT = 0.7
"""Share of the hop that the work fills after a change."""
COMFORT_WHILE_BEHIND = 0.4
"""The same while there is a backlog; it is less than what is full then, so that the hop settles."""
CALM = 0.4
"""Share of the hop under which it shrinks again."""
WATCHED = 5
"""Decisions over whose median the work is measured, so that one hiccup changes nothing."""
LONGEST_HOP_SECONDS = 30.0
"""The hop never grows beyond this."""
BEHIND_SECONDS = 5.0
"""A backlog of more than this is worked off with a longer hop."""
FORGIVE_SECONDS = 30.0
"""Good audio after which earlier failures count no more."""


class HopPacing:
    """Chooses the time between decisions so that the work fits into it.

    Parameters
    ----------
    shortest
        The hop to use while the machine keeps up, in seconds.
    """

    def __init__(self, shortest: float) -> None:
        self.hop_seconds = shortest
        self.shortest = shortest
        self._work: deque[float] = deque(maxlen=WATCHED)

    def observe(self, work: float, lag: float, round_seconds: float = 0.0) -> float:
        """Return the hop to use from now on.

        Parameters
        ----------
        work
            Seconds that the last decision and the audio before it took.
        lag
            Seconds between the last sample's being heard and now.
        round_seconds
            Seconds that one decision about every source takes where sources share the machine. Of
            so many one hiccup changes nothing, so that it counts at once.
        """
        self._work.append(work)
        watched = len(self._work) == WATCHED
        usual = max(median(self._work) if watched else 0.0, round_seconds)
        behind = lag > max(BEHIND_SECONDS, 3 * self.hop_seconds)
        full, comfort = (FULL_WHILE_BEHIND, COMFORT_WHILE_BEHIND) if behind else (FULL, COMFORT)
        if usual > full * self.hop_seconds:
            self._change(max(usual / comfort, self.hop_seconds))
        elif watched and usual < CALM * self.hop_seconds and not behind:
            self._change(max(usual / COMFORT, self.hop_seconds / 2))
        return self.hop_seconds

    def _change(self, hop_seconds: float) -> None:
        hop_seconds = min(max(hop_seconds, self.shortest), LONGEST_HOP_SECONDS)
        if hop_seconds != self.hop_seconds:
            self.hop_seconds = hop_seconds
            self._work.clear()


class Backoff:
    """Waits longer after each failure, at random so that many clients do not return as one.

    Parameters
    ----------
    shortest, longest
        Limits of the wait in seconds.
    """

    def __init__(self, shortest: float = 1.0, longest: float = 60.0) -> None:
        self._shortest = shortest
        self._longest = longest
        self._failures = 0
        self._good_seconds = 0.0

    def good(self, seconds: float) -> None:
        """Count `seconds` of audio heard since the last failure."""
        self._good_seconds += seconds
        if self._good_seconds >= FORGIVE_SECONDS:
            self._failures = 0

    def failed(self) -> float:
        """Count a failure; return the seconds to wait before trying again."""
        self._good_seconds = 0.0
        ceiling = min(math.ldexp(self._shortest, self._failures), self._longest)
        # No power of two beyond the ceiling is ever needed.
        self._failures = min(self._failures + 1, 64)
        return max(self._shortest, ceiling * random.uniform(0.5, 1.0))
