"""The head on the tags and the fusion, on made-up tags."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("sklearn")

from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from trainer.metrics import fit_temperature, negative_log_likelihood
from trainer.run import TagHead, log_odds
from trainer.tag_head import (
    DEGRADED_SHARE,
    NAMED_WEIGHT,
    REGULARISATION,
    Fusion,
    TagHeadError,
    fit_fusion,
    fit_tag_head,
    named_tags,
)

TAGS = 6

WEAK = 28.0
"""Regularisation with which sixty tracks outweigh the penalty by far."""


def made_up(
    classes: int, tracks: int, pieces: int = 8, seed: int = 0
) -> tuple[list[NDArray[np.float32]], list[int]]:
    """Return the tags of tracks in which the tag of the class's number is likelier."""
    random = np.random.default_rng(seed)
    labels = [number % classes for number in range(tracks)]
    tags = []
    for label in labels:
        odds = random.normal(-2, 1, TAGS) + 2 * (np.arange(TAGS) == label)
        tags.append(1 / (1 + np.exp(-(odds + random.normal(0, 0.5, (pieces, TAGS))))))
    return [each.astype(np.float32) for each in tags], labels


def share_right(head: TagHead, tracks: list[NDArray[np.float32]], labels: list[int]) -> float:
    answers = [head.logits(tags).mean(axis=0).argmax() for tags in tracks]
    return float(np.mean(np.equal(answers, labels)))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_head_learns_which_tags_speak_for_a_class(classes: int) -> None:
    head = fit_tag_head(*made_up(classes, 120), classes)
    assert head.weights.shape == (classes, TAGS)
    assert head.bias.shape == (classes,)
    assert share_right(head, *made_up(classes, 80, seed=1)) > 0.8


@pytest.mark.parametrize("named", [None, np.zeros((3, TAGS), np.bool_)])
def test_without_a_named_tag_the_head_is_that_of_scikit_learn(
    named: NDArray[np.bool_] | None,
) -> None:
    tracks, labels = made_up(3, 60)
    copies = list(zip(*made_up(3, 30, pieces=2, seed=1), strict=True))
    head = fit_tag_head(tracks, labels, 3, degraded=copies, named=named)
    tags = np.concatenate([*tracks, *(tags for tags, _ in copies)])
    truth = np.repeat([*labels, *(label for _, label in copies)], [8] * 60 + [2] * 30)
    weights = np.repeat([1 / 8, 60 * DEGRADED_SHARE / 30 / 2], [60 * 8, 30 * 2])
    features = StandardScaler().fit_transform(log_odds(tags), sample_weight=weights)
    regression = LogisticRegression(C=REGULARISATION, tol=1e-9, max_iter=5000)
    regression.fit(features, truth, sample_weight=weights)
    expected = regression.decision_function(features)
    np.testing.assert_allclose(head.logits(tags), expected, atol=1e-3)


def test_a_class_is_recognised_by_the_tag_of_its_name_though_its_few_tracks_lack_it() -> None:
    tracks, labels = made_up(3, 9)
    for tags in tracks:
        # Of these tracks the last tag tells what the tag of the name tells of others.
        tags[:, [2, 5]] = tags[:, [5, 2]]
    named = named_tags(["a", "b", "c"], ["t0", "t1", "C", "t3", "t4", "t5"])
    others = made_up(3, 90, seed=1)[0][2::3]
    plain, drawn = (
        share_right(fit_tag_head(tracks, labels, 3, named=each), others, [2] * len(others))
        for each in (None, named)
    )
    assert drawn > plain + 0.2


def last_layer(units: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (units, TAGS)).astype(np.float32)


def test_with_a_last_layer_the_head_is_that_of_scikit_learn_on_its_features() -> None:
    tracks, labels = made_up(3, 60)
    layer = last_layer(10)
    head = fit_tag_head(tracks, labels, 3, last_layer=layer)
    tags = np.concatenate(tracks)
    features = StandardScaler().fit_transform(log_odds(tags) @ np.linalg.pinv(layer))
    regression = LogisticRegression(C=REGULARISATION / 8, tol=1e-9, max_iter=5000)
    regression.fit(features, np.repeat(labels, 8))
    expected = regression.decision_function(features)
    np.testing.assert_allclose(head.logits(tags), expected, atol=1e-3)


def test_what_tells_two_like_tags_apart_is_learnt_where_the_last_layer_knows_it() -> None:
    random = np.random.default_rng(0)
    # The tags 0 and 1 agree but for a tenth, which is a feature of its own and tells the class.
    layer = np.eye(TAGS, dtype=np.float32)
    layer[:2, :2] = [[1, 1], [0.1, -0.1]]

    def tracks_of(count: int) -> tuple[list[NDArray[np.float32]], list[int]]:
        labels = [number % 2 for number in range(count)]
        features = random.normal(0, 1, (count, 4, TAGS))
        features[:, :, 1] += 2 * np.array(labels)[:, None] - 1
        tags = 1 / (1 + np.exp(-(features @ layer)))
        return list(tags.astype(np.float32)), labels

    learnt, others = tracks_of(40), tracks_of(200)
    plain, known = (
        share_right(fit_tag_head(*learnt, 2, last_layer=each), *others) for each in (None, layer)
    )
    assert known > 0.9
    assert known > plain + 0.1


@pytest.mark.parametrize("layer", [None, last_layer(10)])
def test_without_anything_to_learn_a_class_has_the_weight_of_its_name(
    layer: NDArray[np.float32] | None,
) -> None:
    tracks, labels = made_up(3, 60)
    named = np.eye(3, TAGS, 3, np.bool_)
    head = fit_tag_head(tracks, labels, 3, named=named, last_layer=layer, regularisation=1e-9)
    spread = log_odds(np.concatenate(tracks)).std(axis=0)
    np.testing.assert_allclose(head.weights, NAMED_WEIGHT * named / spread, atol=1e-3)


def test_names_are_compared_without_case_and_hyphens() -> None:
    named = named_tags(["hiphop", "Jazz", "r & b"], ["Hip-Hop", "jazz", "acid jazz", "RnB", "r b"])
    assert named.astype(int).tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_the_same_tags_give_the_same_head() -> None:
    first, second = (fit_tag_head(*made_up(3, 60), 3) for _ in range(2))
    np.testing.assert_array_equal(first.weights, second.weights)
    np.testing.assert_array_equal(first.bias, second.bias)


def test_a_long_track_counts_as_much_as_a_short_one() -> None:
    tracks, labels = made_up(3, 60)
    repeated = [
        np.tile(tags, (5 if label == 0 else 1, 1))
        for tags, label in zip(tracks, labels, strict=True)
    ]
    heads = [fit_tag_head(each, labels, 3) for each in (tracks, repeated)]
    np.testing.assert_allclose(heads[0].weights, heads[1].weights, atol=1e-2)


def test_sounds_that_are_not_music_become_their_class() -> None:
    tracks, labels = made_up(3, 60)
    quiet = [np.full((3, TAGS), 0.003, np.float32) for _ in range(20)]
    head = fit_tag_head(tracks, labels, 4, background=quiet, not_music=3, regularisation=WEAK)
    assert head.logits(quiet[0]).argmax(axis=1).tolist() == [3, 3, 3]
    assert share_right(head, *made_up(3, 60, seed=1)) > 0.8


def test_without_their_class_these_sounds_are_left_out() -> None:
    tracks, labels = made_up(3, 60)
    quiet = [np.full((3, TAGS), 0.003, np.float32)]
    with_them = fit_tag_head(tracks, labels, 3, background=quiet)
    np.testing.assert_array_equal(with_them.bias, fit_tag_head(tracks, labels, 3).bias)


def test_a_tag_that_is_always_the_same_does_no_harm() -> None:
    tracks, labels = made_up(3, 60)
    for tags in tracks:
        tags[:, 5] = 0
    named = np.eye(3, TAGS, 3, np.bool_)
    head = fit_tag_head(tracks, labels, 3, named=named, regularisation=WEAK)
    assert np.isfinite(head.weights).all()
    assert head.weights[:, 5].tolist() == [0, 0, 0]
    assert share_right(head, tracks, labels) > 0.8


def test_a_class_without_a_track_is_named() -> None:
    with pytest.raises(TagHeadError, match="class 2"):
        fit_tag_head(*made_up(2, 20), 3)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (np.full((3, TAGS), np.nan, np.float32), "track 1: tags must be probabilities"),
        (np.full((3, TAGS), 1.5, np.float32), "track 1: tags must be probabilities"),
        (np.zeros((0, TAGS), np.float32), r"track 1: .*not \(0, 6\)"),
    ],
)
def test_tags_that_are_none_are_refused_with_their_track(
    tags: NDArray[np.float32], reason: str
) -> None:
    tracks, labels = made_up(2, 20)
    tracks[1] = tags
    with pytest.raises(TagHeadError, match=reason):
        fit_tag_head(tracks, labels, 2)


def test_log_odds_are_finite_for_certain_tags() -> None:
    assert log_odds(np.array([0.0, 0.5, 1.0])) == pytest.approx([-9.2102, 0, 9.2102], abs=1e-3)


def networks(noise: tuple[float, float], seed: int = 0) -> tuple[NDArray[np.float64], ...]:
    """Return the logits of two networks that err independently, and the truth."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 4, 2000)
    sharp = 3 * np.eye(4)[truth]
    return *(sharp + random.normal(0, spread, sharp.shape) for spread in noise), truth


def test_two_networks_together_are_likelier_right_than_each() -> None:
    seen, heard, truth = networks((2, 2))
    fusion = fit_fusion(seen, heard, truth)
    assert fusion.spectrogram_weight + fusion.audio_weight == pytest.approx(1)
    assert fusion.audio_weight == pytest.approx(0.5, abs=0.1)
    other_seen, other_heard, other = networks((2, 2), seed=1)
    both = negative_log_likelihood(
        fusion.logits(other_seen, other_heard), other, fusion.temperature
    )
    alone = [negative_log_likelihood(each, other) for each in (other_seen, other_heard)]
    assert both < min(alone) - 0.1


def test_the_network_that_errs_more_weighs_less() -> None:
    fusion = fit_fusion(*networks((4, 1.5)))
    assert fusion.audio_weight > 0.7


@pytest.mark.parametrize("liar", [0.0, -1.0])
def test_a_network_that_knows_nothing_or_the_opposite_weighs_nothing(liar: float) -> None:
    seen, heard, truth = networks((1.5, 1.5))
    fusion = fit_fusion(seen, liar * heard, truth)
    assert (fusion.spectrogram_weight, fusion.audio_weight) == (1, 0)
    assert fusion.temperature == pytest.approx(fit_temperature(seen, truth), rel=1e-3)
    assert fit_fusion(liar * seen, heard, truth).audio_weight == 1


def test_no_other_weights_are_likelier() -> None:
    seen, heard, truth = networks((3, 2))
    fusion = fit_fusion(seen, heard, truth)

    def likelihood(share: float) -> float:
        logits = Fusion(1 - share, share, 1).logits(seen, heard)
        return negative_log_likelihood(logits, truth, fit_temperature(logits, truth))

    assert likelihood(fusion.audio_weight) <= min(map(likelihood, np.linspace(0, 1, 11))) + 1e-6


def test_weighted_logits_are_weighted_log_probabilities() -> None:
    seen, heard, _ = networks((1, 1))
    fusion = Fusion(0.4, 0.6, 1.0)
    expected = log_softmax(0.4 * log_softmax(seen) + 0.6 * log_softmax(heard))
    np.testing.assert_allclose(log_softmax(fusion.logits(seen, heard)), expected, atol=1e-12)


def test_logits_of_other_shapes_are_refused() -> None:
    with pytest.raises(TagHeadError, match=r"\(3, 4\) and \(3, 5\) and 3 labels"):
        fit_fusion(np.zeros((3, 4)), np.zeros((3, 5)), np.zeros(3, np.int64))
