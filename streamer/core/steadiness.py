"""Telling from a source's last windows and its belief that its next window may be left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Columns

LEAST_AGREEMENT = 0.65
"""Share of their probability that two successive windows that agree have in common."""
SETTLED = 0.7
"""Belief in a label from which on it is settled what is heard."""
REPEATS_IF_SETTLED, REPEATS_IF_NOT = 3, 1
"""Hops in a row that may repeat a window that agrees with the one classified before it."""
OTHER_SOUND_DB = 25.0
"""Distance of a hop's spectrum from that of the window before from which it is other sound."""
CLASSIFIED_FIFTHS = (0, 2, 3)
"""How long after a change windows are classified, in fifths of a window; those between and one more
repeat the last one. All these were found on streams of the validation tracks of GTZAN: see
trainer/EXPERIMENTS.md."""


class Steadiness:
    """Tells when the last window of one source may stand for the next one.

    Positions are numbers of samples; a window is `window_samples` long. A window may be repeated if
    it agreed with the one classified before it, more often if it filled its whole length and the
    belief is settled. While it still holds sound from before a change it changes with every hop:
    what it says right after the change it also said before, so the windows that are classified
    are chosen by the time since then. No sound is left out: the next window that is classified
    begins where the last one ended, or before.
    """

    def __init__(self, window_samples: int) -> None:
        self._window_samples = window_samples
        self.restart()

    def restart(self) -> None:
        """Forget all windows so far: the next one shares no sound with them."""
        self._last: NDArray[np.float32] | None = None
        self._classified_at = 0
        self._changed_at: int | None = None
        """Where the latest change was noticed, if there was one."""
        self._whole = False
        """Whether the last window was full."""
        self._agreed = False
        """Whether it agreed with the one before."""
        self._repeats = 0

    def notice_change(self, end: int) -> None:
        """Take note that other sound began shortly before `end`.

        It is the change noticed before as long as windows hold sound from before that one.
        """
        if self._changed_at is None or self._fifths_since_change(end) >= 5:
            self._changed_at = end

    def may_repeat(self, end: int, hop: int, belief: float, distance_db: float) -> bool:
        """Return whether the last window may stand for the one that ends at `end`.

        `hop` is the length of the hop that ends there, `belief` the probability of the most
        probable label after the hop before, given all windows until then, and `distance_db` the
        `spectral_distance` of the hop from the window before.
        """
        if distance_db >= OTHER_SOUND_DB:
            self.notice_change(end)
        if self._last is None or end + hop - self._classified_at > self._window_samples:
            return False
        if self._changed_at is not None and (fifths := self._fifths_since_change(end)) < 5:
            return fifths not in CLASSIFIED_FIFTHS
        is_settled = self._whole and belief >= SETTLED
        most = REPEATS_IF_SETTLED if is_settled else REPEATS_IF_NOT
        return self._agreed and self._repeats < most

    def repeat(self) -> NDArray[np.float32]:
        """Return the probabilities of the last window, to stand for the next one."""
        assert self._last is not None
        self._repeats += 1
        return self._last

    def classified(self, end: int, probabilities: NDArray[np.float32], *, whole: bool) -> None:
        """Take the probabilities of the window that ends at `end`; `whole` if it was full."""
        before, self._last = self._last, probabilities
        self._classified_at, self._repeats, self._whole = end, 0, whole
        common = 0.0 if before is None else float(np.minimum(before, probabilities).sum())
        self._agreed = common >= LEAST_AGREEMENT

    def _fifths_since_change(self, end: int) -> int:
        assert self._changed_at is not None
        return round(5 * (end - self._changed_at) / self._window_samples)


def spectral_distance(first: Columns, second: Columns) -> float:
    """Return the distance of two mean spectra in dB: RMS over the bands; 0 if one is empty.

    It includes the level, which differs between songs.

    Examples
    --------
    >>> spectral_distance(np.array([[0.0], [0.0]]), np.array([[1.0], [7.0]]))
    5.0
    """
    if not first.shape[1] or not second.shape[1]:
        return 0.0
    difference = second.mean(axis=1, dtype=np.float64) - first.mean(axis=1, dtype=np.float64)
    return float(np.sqrt(np.mean(difference**2)))
