"""Gathering the evidence of successive windows into one belief.

Probabilities in, probabilities out, in float64. `streamer.core.decision` restarts the filter and
decides on its belief.
"""

from __future__ import annotations

import copy
import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", bound=np.floating[Any])

Probabilities = NDArray[np.float64]
"""Shape (labels,), summing to 1."""

NOTICED_AFTER_SECONDS = 1.2
"""How long ago a change usually happened when `streamer.core.change` notices it."""

NOT_MUSIC_KEPT = 0.2
"""Share of the belief that there is no music which outlasts a change: in a room without music, one
sound follows another. No genre outlasts it: songs come in any order. See
trainer/EXPERIMENTS.md."""

AGREEMENT = 0.26
"""Agreement of a window with the belief under which `AdaptiveMean` forgets faster. Found on the
valid tracks of GTZAN: see trainer/EXPERIMENTS.md."""

LEAST_PROBABILITY = 1e-9
"""Floor under a window's probabilities: no single window rules a label out for good."""


def softmax(logits: NDArray[Float], temperature: float = 1.0) -> NDArray[Float]:
    """Return `exp(logits / temperature)` divided by its sum over the last axis.

    Computed in float64 without overflow, and returned in the type of `logits`.
    """
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), logits.dtype)


def log_floored(probabilities: Probabilities) -> Probabilities:
    """Return the logarithm, floored at `LEAST_PROBABILITY`."""
    return np.log(np.maximum(probabilities, LEAST_PROBABILITY))


class Smoother:
    """Turns one window's probabilities into a belief, given the windows before.

    This one does not smooth: its belief is the last window's probabilities.
    """

    def restart(self) -> None:
        """Forget all windows so far: the next one shares no sound with them."""

    def forget(self, *, certain: bool = True) -> None:
        """Forget all windows so far, although the next ones still hold some of their sound.

        `certain` if other sound has begun as good as certainly; otherwise a smoother that finds out
        by itself may ignore the call.
        """

    def update(
        self, window: Probabilities, hop_seconds: float, *, whole: bool = False
    ) -> Probabilities:
        """Take the window that ends `hop_seconds` after the last one; return the belief.

        `whole` if it is the first one since `forget` that holds no sound from before.
        """
        return window


class Filter(Smoother):
    """What both filters have in common: windows that overlap, and changes of the sound.

    Windows overlap; each second of sound would count window/hop times. So each window counts with
    the share of it that is new, min(1, h / window) for hop h, and the first one, all of which is
    new, with 1; so does the first one after a change that holds no sound from before it. At a
    change the belief in label `not_music` moves to b' = 1/n + 0.2 (b - 1/n), and all others become
    equally probable.
    """

    def __init__(
        self,
        labels: int,
        *,
        window_seconds: float,
        weight: float = 1.0,
        not_music: int | None = None,
    ) -> None:
        self._not_music = not_music
        self._window_seconds = window_seconds
        self._weight = weight
        """Factor on the share of a window that is new, for those that do not count in full."""
        self._uniform = np.full(labels, 1 / labels)
        self._belief: Probabilities | None = None
        self._new_seconds = 0.0
        """Least new sound in the next window, in seconds."""

    def restart(self) -> None:
        """Forget all windows so far."""
        self._belief = None

    def forget(self, *, certain: bool = True) -> None:
        """Make all labels equally probable again, but for a share of not being music.

        The next window counts with the share of it that is heard since the change.
        """
        if self._belief is not None:
            self._belief = self._after_change(self._belief)
            self._new_seconds = NOTICED_AFTER_SECONDS

    def update(
        self, window: Probabilities, hop_seconds: float, *, whole: bool = False
    ) -> Probabilities:
        """Take the next window, as `Smoother.update` does."""
        weight = 1.0
        if self._belief is not None and not whole:
            new_seconds = max(hop_seconds, self._new_seconds)
            weight = self._weight * min(1.0, new_seconds / self._window_seconds)
        self._new_seconds = 0.0
        before = self._uniform if self._belief is None else self._belief
        self._belief = self._gather(before, window, hop_seconds, weight)
        return self._belief

    def _gather(
        self, belief: Probabilities, window: Probabilities, hop_seconds: float, weight: float
    ) -> Probabilities:
        """Return the belief after a window that counts with `weight`, from the one before."""
        raise NotImplementedError

    def _after_change(self, belief: Probabilities) -> Probabilities:
        if self._not_music is None:
            return self._uniform
        uniform = self._uniform[0]
        kept = uniform + NOT_MUSIC_KEPT * (belief[self._not_music] - uniform)
        after = np.full_like(belief, (1 - kept) / (len(belief) - 1))
        after[self._not_music] = kept
        return after


class HiddenMarkov(Filter):
    """Bayesian filter of a hidden Markov model: its forward pass, one step a window.

    With belief b, labels s (n of them), window x and hop h, a step is::

        predict   b'(s) = 1/n + (b(s) - 1/n) exp(-(h / dwell) n / (n - 1))
        update    b(s) ~ b'(s) p(s|x)^w

    Predict: labels change as a continuous-time Markov chain that leaves a label after `dwell`
    seconds on average, for any other with equal probability, so two half hops are one hop.
    Update: the network's posterior p(s|x) stands for the likelihood p(x|s), to which it is
    proportional where the classes were trained in equal shares; w is `weight` times the share of
    the window that is new, and 1 for the windows that count in full (see `Filter`).

    Sources: forward pass: L. Rabiner, "A tutorial on hidden Markov models", Proc. IEEE 77(2),
    1989, section III.A. Posteriors as scaled likelihoods: H. Bourlard and N. Morgan,
    "Connectionist Speech Recognition", 1994, chapter 7. Chain with equal rates: T. Jukes and
    C. Cantor, "Evolution of protein molecules", 1969, for n = 4.

    Examples
    --------
    >>> belief = HiddenMarkov(2, dwell_seconds=20, window_seconds=5)
    >>> belief.update(np.array([0.8, 0.2]), hop_seconds=1).round(3).tolist()
    [0.8, 0.2]
    >>> belief.update(np.array([0.8, 0.2]), hop_seconds=1).round(3).tolist()
    [0.817, 0.183]
    """

    def __init__(
        self,
        labels: int,
        *,
        dwell_seconds: float,
        window_seconds: float,
        weight: float = 1.0,
        not_music: int | None = None,
    ) -> None:
        super().__init__(labels, window_seconds=window_seconds, weight=weight, not_music=not_music)
        self._change_rate = labels / (labels - 1) / dwell_seconds

    def _gather(
        self, belief: Probabilities, window: Probabilities, hop_seconds: float, weight: float
    ) -> Probabilities:
        kept = math.exp(-hop_seconds * self._change_rate)
        predicted = self._uniform + (belief - self._uniform) * kept
        return softmax(log_floored(predicted) + weight * log_floored(window))


class AdaptiveMean(Filter):
    """Geometric mean of the windows' probabilities, which forgets what the sound contradicts.

    With belief b, labels s, window x that is new by a share w and hop h in seconds, a step is::

        agree     a = sum over s of b(s) p(s|x)
        forget    d = exp(-h / memory) min(1, a / 0.26)^h
        gather    e(s) = d e(s) + w log p(s|x),   k = d k + w
        mean      b(s) ~ exp(e(s) / max(1, k))

    a is the probability that the belief and the window, each drawn at random, name the same label.
    The windows of one song err together, so they are averaged and do not add up as independent
    evidence would: a label is believed no more than the mean of its windows says, and with less
    than one window of evidence (k < 1), after a change, as much less.

    Sources: C. Genest and J. Zidek, "Combining probability distributions", Statistical Science 1,
    1986 (the logarithmic opinion pool); T. Fortescue, L. Kershenbaum and B. Ydstie, "Implementation
    of self-tuning regulators with variable forgetting factors", Automatica 17(6), 1981.

    Examples
    --------
    >>> belief = AdaptiveMean(2, memory_seconds=10, window_seconds=5)
    >>> belief.update(np.array([0.9, 0.1]), hop_seconds=1).round(3).tolist()
    [0.9, 0.1]
    >>> belief.update(np.array([0.8, 0.2]), hop_seconds=1).round(3).tolist()
    [0.886, 0.114]
    """

    def __init__(
        self,
        labels: int,
        *,
        memory_seconds: float,
        window_seconds: float,
        not_music: int | None = None,
    ) -> None:
        super().__init__(labels, window_seconds=window_seconds, not_music=not_music)
        self._memory_seconds = memory_seconds
        self.restart()

    def restart(self) -> None:
        """Forget all windows so far."""
        super().restart()
        self._evidence, self._gathered = np.zeros_like(self._uniform), 0.0

    def forget(self, *, certain: bool = True) -> None:
        """Forget all windows so far, as `Filter.forget` does, if that is `certain`.

        What is not certain the next windows tell: they contradict the belief, or they do not.
        """
        if certain and self._belief is not None:
            super().forget()
            self._evidence, self._gathered = log_floored(self._belief), 0.0

    def _gather(
        self, belief: Probabilities, window: Probabilities, hop_seconds: float, weight: float
    ) -> Probabilities:
        agreement = max(LEAST_PROBABILITY, float(belief @ window))
        kept = min(1.0, agreement / AGREEMENT) ** hop_seconds
        kept *= math.exp(-hop_seconds / self._memory_seconds)
        self._evidence = kept * self._evidence + weight * log_floored(window)
        self._gathered = kept * self._gathered + weight
        return softmax(self._evidence / max(1.0, self._gathered))


class MovingAverage(Smoother):
    """Exponential moving average of log-probabilities with a time constant in seconds."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self._logs: Probabilities | None = None

    def restart(self) -> None:
        """Forget all windows so far."""
        self._logs = None

    def forget(self, *, certain: bool = True) -> None:
        """Make all labels equally probable again."""
        if self._logs is not None:
            self._logs = np.zeros_like(self._logs)

    def update(
        self, window: Probabilities, hop_seconds: float, *, whole: bool = False
    ) -> Probabilities:
        """Take the next window, as `Smoother.update` does."""
        logs = log_floored(window)
        if self._logs is not None and not whole:
            weight = -math.expm1(-hop_seconds / self._seconds)
            logs = self._logs + (logs - self._logs) * weight
        self._logs = logs
        return softmax(logs)


class Interpolating(Smoother):
    """A smoother some of whose windows are repeated, which it makes good at the next new one.

    Until then a repeated window counts as a new one does. Windows overlap, so those between two
    that were classified lie between them: when the second one comes, the hops that repeated the
    first one are smoothed anew, each with its share of both, interpolated in the logarithm.
    """

    def __init__(self, smoother: Smoother) -> None:
        self._smoother = smoother
        self.restart()

    def restart(self) -> None:
        """Forget all windows so far."""
        self._smoother.restart()
        self._settle(None)

    def forget(self, *, certain: bool = True) -> None:
        """Forget all windows so far, as `Smoother.forget` does."""
        self._smoother.forget(certain=certain)
        self._settle(None)

    def update(
        self,
        window: Probabilities,
        hop_seconds: float,
        *,
        repeated: bool = False,
        whole: bool = False,
    ) -> Probabilities:
        """Take the next window, as `Smoother.update` does; `repeated` if it is the last one."""
        if repeated:
            self._repeated.append(hop_seconds)
            return self._smoother.update(window, hop_seconds)
        if self._repeated and self._last is not None:
            self._smoother = self._before
            first, second = log_floored(self._last), log_floored(window)
            for number, hop in enumerate(self._repeated, 1):
                share = number / (len(self._repeated) + 1)
                self._smoother.update(softmax(first + share * (second - first)), hop)
        belief = self._smoother.update(window, hop_seconds, whole=whole)
        self._settle(window)
        return belief

    def _settle(self, last: Probabilities | None) -> None:
        """Keep the state after the last window that was classified, or None."""
        self._last = last
        self._before = copy.copy(self._smoother)
        self._repeated: list[float] = []
