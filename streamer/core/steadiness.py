"""Telling from a source's last windows and its belief that its next window may be left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_AGREEMENT = 0.65
"""Share of their probability that two successive windows that agree have in common."""
SETTLED = 0.7
"""Belief in a label from which on it is settled what is heard."""
REPEATS_IF_SETTLED, REPEATS_IF_NOT = 3, 1
"""Hops in a row that may repeat a window that agrees with the one classified before it. All these
were found on streams of the validation tracks of GTZAN: see trainer/EXPERIMENTS.md."""


class Steadiness:
    """Tells when the last window of one source may stand for the next one.

    Positions are numbers of samples; a window is `window_samples` long. A window may be repeated if
    it filled its whole length and agreed with the one classified before it, more often if the
    belief is settled. No sound is left out: the next window that is classified begins where the
    last one ended, or before.
    """

    def __init__(self, window_samples: int) -> None:
        self._window_samples = window_samples
        self.restart()

    def restart(self) -> None:
        """Forget all windows so far, as something has changed."""
        self._last: NDArray[np.float32] | None = None
        self._classified_at = 0
        self._agreed = False
        """Whether the last window was whole and agreed with the one before."""
        self._repeats = 0

    def may_repeat(self, end: int, hop: int, belief: float) -> bool:
        """Return whether the last window may stand for the one that ends at `end`.

        `hop` is the length of the hop that ends there, `belief` the probability of the most
        probable label after the hop before, given all windows until then.
        """
        most = REPEATS_IF_SETTLED if belief >= SETTLED else REPEATS_IF_NOT
        is_all_heard = end + hop - self._classified_at <= self._window_samples
        return self._agreed and self._repeats < most and is_all_heard

    def repeat(self) -> NDArray[np.float32]:
        """Return the probabilities of the last window, to stand for the next one."""
        assert self._last is not None
        self._repeats += 1
        return self._last

    def classified(self, end: int, probabilities: NDArray[np.float32], *, whole: bool) -> None:
        """Take the probabilities of the window that ends at `end`; `whole` if it was full."""
        before, self._last = self._last, probabilities
        self._classified_at, self._repeats = end, 0
        self._agreed = (
            whole
            and before is not None
            and float(np.minimum(before, probabilities).sum()) >= LEAST_AGREEMENT
        )
