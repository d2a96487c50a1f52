"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random

RESET_SECONDS = 30.0
"""Success for this long makes the next wait the shortest again."""


class Backoff:
    """Exponential backoff with jitter, so that many clients do not return at the same moment.

    `shortest` and `longest` limit the wait, in seconds.
    """

    def __init__(self, shortest: float = 1.0, longest: float = 60.0) -> None:
        self._shortest = self._ceiling = shortest
        self._longest = longest
        self._good_seconds = 0.0

    def failed(self) -> float:
        """Count a failure; return the seconds to wait before the next attempt."""
        self._good_seconds = 0.0
        ceiling, self._ceiling = self._ceiling, min(2 * self._ceiling, self._longest)
        return max(self._shortest, ceiling * random.uniform(0.5, 1.0))

    def succeeded(self, seconds: float) -> None:
        """Count `seconds` of success; `RESET_SECONDS` without a failure reset the wait."""
        self._good_seconds += seconds
        if self._good_seconds >= RESET_SECONDS:
            self.reset()

    def reset(self) -> None:
        """Let the next wait be the shortest."""
        self._ceiling = self._shortest
