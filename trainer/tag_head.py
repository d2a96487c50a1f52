"""From MusiCNN's tags to genres, and the fusion with the network that sees the spectrogram.

Arrays in, arrays out: no Keras, no files. Everything here is fitted in seconds and gives the same
result for the same input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from streamer.core.model import softmax
from trainer.metrics import fit_temperature, negative_log_likelihood
from trainer.run import TagHead, log_odds

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]

REGULARISATION = 0.03
"""Inverse strength of the penalty (`C` of scikit-learn) where a track has weight 1. Found by
cross-validation over blocks of neighbouring tracks of GTZAN's train list, and on its valid list."""

NAMED_WEIGHT = 6.0
"""Weight of a class for the tag that has its name, per standard deviation of the tag's log-odds, to
which the penalty draws it. A few hundred tracks know too few artists of a genre; what listeners
called so is known from 200,000 songs."""

DEGRADED_SHARE = 0.45
"""Weight of the degraded copies of all tracks, as a share of that of the tracks themselves. With
more, the tracks themselves are less likely; with less, what is heard through rooms and noise is."""

BACKGROUND_SHARE = 0.06
"""Weight of the sounds that are not music, as a share of the weight of all. With more, noisy songs
are taken for noise."""

SHARE_DIGITS = 2
"""Digits of the weights after the point: the likelihood knows no difference beyond."""

LEAST_SPREAD = 1e-6
"""Standard deviation of log-odds below which a tag counts as always the same."""

LEAST_DECREASE = 1e-12
"""The fit of the head ends when a step lowers its loss by a smaller share than this: logits of the
embedded model's head are then exact to 1e-3."""

NEWTON_STEPS, HALVINGS = 20, 20


class TagHeadError(ValueError):
    """Tags or labels that cannot be learnt from; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How the answers of the two networks become one: a weighted sum of their logits."""

    spectrogram_weight: float
    """Weight of the network that sees the spectrogram, 0 to 1."""
    audio_weight: float
    """Weight of the head on the tags; the two weights sum to 1."""
    temperature: float
    """The sum is divided by this before the softmax, which makes the probabilities calibrated."""

    def logits(self, spectrogram_logits: Floats, audio_logits: Floats) -> NDArray[np.float64]:
        """Return the logits of both networks together, before the temperature."""
        seen = self.spectrogram_weight * np.asarray(spectrogram_logits, np.float64)
        return np.asarray(seen + self.audio_weight * np.asarray(audio_logits, np.float64))


def named_tags(labels: Sequence[str], tags: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which tags have the name of which class, shape (classes, tags).

    Letters and digits count, case does not: "hiphop" is "Hip-Hop".
    """
    classes, heard = (
        ["".join(filter(str.isalnum, name.casefold())) for name in names]
        for names in (labels, tags)
    )
    return np.array([[tag == label for tag in heard] for label in classes])


def fit_tag_head(
    tracks: Sequence[NDArray[np.float32]],
    labels: Sequence[int],
    classes: int,
    *,
    degraded: Sequence[tuple[NDArray[np.float32], int]] = (),
    background: Sequence[NDArray[np.float32]] = (),
    not_music: int | None = None,
    background_share: float = BACKGROUND_SHARE,
    named: NDArray[np.bool_] | None = None,
    last_layer: NDArray[np.float32] | None = None,
    regularisation: float = REGULARISATION,
) -> TagHead:
    """Fit the head by logistic regression on the log-odds of single pieces.

    Single pieces teach better than the means over windows that the head is asked about, which
    have seen less variety. Every track counts as much, however long it is. A penalty draws the
    weights to 0, but that of a class for the tag of its name to `NAMED_WEIGHT`.

    The penalty is that of a regression on the features of which the tagger's last layer makes the
    log-odds, each in units of its standard deviation, as far as the log-odds tell them. Many tags
    say nearly the same; what tells them apart is small in log-odds, but not in features.

    Parameters
    ----------
    tracks : sequence of float32, shape (pieces, tags)
        Probabilities of the tags of each track's pieces.
    labels : sequence of int
        Class of each track.
    classes : int
        Number of classes.
    degraded : sequence of (float32, shape (pieces, tags), and int)
        Tags of copies of tracks through rooms, noise and the like, and the class of each; they may
        be of some tracks alone. Together they weigh `DEGRADED_SHARE` of the tracks.
    background : sequence of float32, shape (pieces, tags)
        The same of recordings that are not music.
    not_music : int or None
        Their class; None leaves them out.
    background_share : float
        Their weight as a share of the weight of all, 0 to 1.
    named : bool, shape (classes, tags), or None
        Which tags have the name of which class, from `named_tags`; None is for no tag.
    last_layer : float32, shape (features, tags), or None
        The tagger's weights from features to log-odds. None takes the log-odds as features.
    regularisation : float
        Inverse strength of the penalty.

    Raises
    ------
    TagHeadError
        If a class has nothing to learn from, or tags are not probabilities.
    """
    if len(tracks) != len(labels):
        raise TagHeadError(f"{len(tracks)} tracks have tags and {len(labels)} a label")
    groups = [(tags, int(label), 1.0) for tags, label in zip(tracks, labels, strict=True)]
    if degraded:
        each = len(tracks) * DEGRADED_SHARE / len(degraded)
        groups += [(tags, int(label), each) for tags, label in degraded]
    if not_music is not None and background:
        each = len(tracks) * background_share / (1 - background_share) / len(background)
        groups += [(tags, not_music, each) for tags in background]
    for number, (tags, _, _) in enumerate(groups):
        _check(tags, f"track {number}")
    truth = np.concatenate([np.full(len(tags), label) for tags, label, _ in groups])
    if missing := sorted(set(range(classes)) - set(truth.tolist())):
        raise TagHeadError(f"no tags of class {missing[0]} to learn from")
    weights = np.concatenate([np.full(len(tags), each / len(tags)) for tags, _, each in groups])
    odds = log_odds(np.concatenate([tags for tags, _, _ in groups]))
    if last_layer is None:
        last_layer = np.eye(odds.shape[1], dtype=np.float32)
    mean = np.average(odds, axis=0, weights=weights)
    odds -= mean
    # The smallest features that give the log-odds, in units of their standard deviation. They span
    # no more dimensions than there are tags: a rotation leaves the penalty as it is.
    to_features = np.linalg.pinv(last_layer.astype(np.float64))
    left, scale, _ = np.linalg.svd(
        to_features / _spread(odds @ to_features, weights), full_matrices=False
    )
    basis = left * scale
    prior = np.zeros((classes, odds.shape[1]))
    if named is not None:
        prior = named * (NAMED_WEIGHT / _spread(odds, weights))
    solution, bias = _regression(
        odds @ basis,
        np.eye(classes)[truth],
        regularisation * weights,
        prior @ np.linalg.pinv(basis).T,
    )
    # The map takes log-odds as they are.
    solution = solution @ basis.T
    bias = bias - solution @ mean
    return TagHead(np.asarray(solution, np.float32), np.asarray(bias, np.float32))


def _spread(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return standard deviations about 0, infinite for what is always the same."""
    spread = np.sqrt(np.average(values**2, axis=0, weights=weights))
    return np.where(spread < LEAST_SPREAD, np.inf, spread)


def _check(tags: NDArray[np.float32], name: str) -> None:
    if tags.ndim != 2 or not len(tags):
        raise TagHeadError(f"{name}: tags must have shape (pieces, tags), not {tags.shape}")
    if not ((tags >= 0) & (tags <= 1)).all():
        raise TagHeadError(f"{name}: tags must be probabilities, 0 to 1")


def _regression(
    features: NDArray[np.float64],
    truth: NDArray[np.float64],
    weights: NDArray[np.float64],
    prior: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weights and bias of the logistic regression whose penalty draws them to a prior.

    They minimise the weighted sum of `-log p(truth)` and half the squared distance from the prior.
    `truth` is one-hot. The bias is the weight of one more feature, without a penalty.
    """
    features = np.column_stack([features, np.ones(len(features))])
    start = np.column_stack([prior, np.zeros(len(prior))])
    wanted = weights[:, None] * truth

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        solution = flat.reshape(start.shape)
        away = solution - start
        away[:, -1] = 0
        log_p = log_softmax(features @ solution.T, axis=1)
        slope = (weights[:, None] * np.exp(log_p) - wanted).T @ features + away
        return (away**2).sum() / 2 - (wanted * log_p).sum(), slope.ravel()

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", tol=LEAST_DECREASE)
    solution = found.x.reshape(start.shape)
    return solution[:, :-1], solution[:, -1]


def fit_fusion(spectrogram_logits: Floats, audio_logits: Floats, truth: Indices) -> Fusion:
    """Find the weights and the temperature under which held-back windows are likeliest.

    Parameters
    ----------
    spectrogram_logits, audio_logits : shape (n, classes)
        What each network says alone about windows that neither was trained on.
    truth : int, shape (n,)
        Their classes.

    Raises
    ------
    TagHeadError
        If the shapes do not fit.
    """
    if spectrogram_logits.shape != audio_logits.shape or len(truth) != len(audio_logits):
        raise TagHeadError(
            f"logits of shape {spectrogram_logits.shape} and {audio_logits.shape} and "
            f"{len(truth)} labels do not fit together"
        )

    networks = np.stack([spectrogram_logits, audio_logits]).astype(np.float64)
    factors = _likeliest_factors(networks, np.asarray(truth))
    # A convex function whose minimum lies beyond an edge is least on the edge.
    for number in np.flatnonzero(factors <= 0):
        factors[number], other = 0.0, 1 - number
        factors[other] = 1 / fit_temperature(networks[other], truth)
    share = round(float(factors[1] / factors.sum()), SHARE_DIGITS)
    rest = round(1 - share, SHARE_DIGITS)
    together = Fusion(rest, share, 1.0).logits(*networks)
    return Fusion(rest, share, fit_temperature(together, truth))


def _likeliest_factors(networks: NDArray[np.float64], truth: Indices) -> NDArray[np.float64]:
    """Return by what to multiply each network's logits before they are added.

    `-log p(truth)` is convex in the factors, so Newton's method finds its minimum.
    """
    factors = np.zeros(len(networks))
    one_hot = np.eye(networks.shape[2])[truth]
    for _ in range(NEWTON_STEPS):
        logits = np.tensordot(factors, networks, 1)
        probabilities = softmax(logits)
        expected = (networks * probabilities).sum(axis=2)
        gradient = (expected - (networks * one_hot).sum(axis=2)).mean(axis=1)
        deviations = networks - expected[:, :, None]
        curvature = np.einsum("inc,jnc,nc->ij", deviations, deviations, probabilities) / len(truth)
        step = np.linalg.lstsq(curvature, gradient, rcond=1e-9)[0]
        before = negative_log_likelihood(logits, truth)
        for _ in range(HALVINGS):
            tried = np.tensordot(factors - step, networks, 1)
            if negative_log_likelihood(tried, truth) <= before:
                break
            step = step / 2
        factors = factors - step
    return np.asarray(factors)
