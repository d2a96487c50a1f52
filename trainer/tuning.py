"""Search for the decision settings that suit a model best, without running its network again."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamer.core.contract import ModelContract
from streamer.core.decision import Decider, Decision, DecisionSettings, Observation
from streamer.core.segments import State
from streamer.core.smoothing import softmax
from trainer.metrics import fit_temperature
from trainer.stream_test import StreamResult, StreamTest, measure

SMOOTHINGS: tuple[dict[str, Any], ...] = (
    *(
        {"smoothing": "hmm", "dwell_seconds": dwell, "evidence_weight": weight}
        for dwell in (2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0)
        for weight in (0.3, 0.6, 1.0, 1.3, 1.6, 2.0)
    ),
    *({"smoothing": "adaptive", "memory_seconds": seconds} for seconds in (5.0, 10.0, 15.0)),
    *({"smoothing": "ema", "ema_seconds": seconds} for seconds in (2.0, 4.0, 8.0, 16.0)),
    {"smoothing": "none"},
)
"""Smoothing settings that are tried at the present thresholds."""

THRESHOLDS: tuple[dict[str, Any], ...] = tuple(
    {"min_confidence": confidence, "min_margin": margin, "confidence_hysteresis": hysteresis}
    for confidence in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    for margin in (0.0, 0.2)
    for hysteresis in (0.1, 0.2, 0.3)
)
"""Thresholds that are tried with each of the best smoothings."""

FINALISTS = 4
"""Number of smoothings with which all thresholds are tried."""


def tune(
    test: StreamTest, contract: ModelContract, right_of_claimed: float | None = None
) -> StreamTest:
    """Return the test of the same stream with the best decision settings.

    Smoothings are compared at the present thresholds first, then thresholds for the best ones.

    Parameters
    ----------
    right_of_claimed : float, optional
        Take the settings that claim a genre for most of the music among those with which at least
        this share of the claims is right or, if there are none, those with the highest share. By
        default the settings with the highest `StreamResult.objective` are taken.
    """
    segments = test.stream.segments
    observations = observations_of(test.decisions, contract)

    def decide(changes: Mapping[str, Any]) -> StreamTest:
        settings = {**contract.decision, **changes}
        decisions = decide_again(observations, contract, DecisionSettings.from_mapping(settings))
        result = measure(segments, decisions, contract)
        return dataclasses.replace(test, decisions=decisions, result=result, settings=settings)

    def rank(result: StreamResult) -> tuple[float, ...]:
        if right_of_claimed is None:
            return (result.objective,)
        missing = max(0.0, right_of_claimed - result.right_of_claimed)
        return (-missing, result.claimed_in_music - result.change_cost)

    smoothed = [(changes, decide(changes).result) for changes in SMOOTHINGS]
    finalists = sorted(smoothed, key=lambda tried: tried[1].objective, reverse=True)[:FINALISTS]
    combined = [smoothing | thresholds for smoothing, _ in finalists for thresholds in THRESHOLDS]
    tried = [*finalists, *((changes, decide(changes).result) for changes in combined)]
    best, _ = max(tried, key=lambda one: rank(one[1]))
    return decide(best)


def observations_of(decisions: Sequence[Decision], contract: ModelContract) -> list[Observation]:
    """Return the observations that led to decisions."""
    observations = []
    hinted = False
    for decision in decisions:
        own = np.array([decision.window_probabilities[label] for label in contract.labels])
        classified = np.ptp(own) > 0  # they are all equal where no window was classified
        observations.append(
            Observation(
                position=decision.position,
                hop_seconds=decision.hop_seconds,
                level_dbfs=decision.level_dbfs,
                window_probabilities=own if classified else None,
                silent=decision.state is State.SILENCE,
                repeated=decision.repeated,
                changed=decision.change and not hinted,
                whole=decision.whole,
                cut=decision.cut,
            )
        )
        hinted = decision.change
    return observations


def judge_alone(test: StreamTest, contract: ModelContract) -> dict[str, StreamResult]:
    """Return the metrics of the decisions that each of two networks alone would lead to.

    The temperature of each is fitted on the stream's own music, so its figures are optimistic.
    """
    observations = observations_of(test.decisions, contract)
    classified = [
        number for number, each in enumerate(observations) if each.window_probabilities is not None
    ]
    # A window that is repeated says what it said before.
    said = list(itertools.accumulate(not observations[n].repeated for n in classified))
    assert (said[-1] if said else 0) == len(test.said)
    ends = np.array([segment.end + 1e-6 for segment in test.stream.segments])
    genres = [
        test.stream.segments[min(int(np.searchsorted(ends, each.position)), len(ends) - 1)].genre
        for each in observations
    ]
    settings = DecisionSettings.from_mapping(test.settings)
    results = {}
    answers = np.stack(test.said, axis=1)[:, np.array(said) - 1] if test.said else ()
    for name, logits in zip(("spectrograms", "tags"), answers, strict=False):
        known = [place for place, number in enumerate(classified) if genres[number] is not None]
        truth = [contract.labels.index(genres[classified[place]] or "") for place in known]
        temperature = fit_temperature(logits[known], np.array(truth))
        alone = list(observations)
        for number, own in zip(classified, softmax(logits, temperature), strict=True):
            alone[number] = dataclasses.replace(alone[number], window_probabilities=own)
        decisions = decide_again(alone, contract, settings)
        results[name] = measure(test.stream.segments, decisions, contract)
    return results


def decide_again(
    observations: Sequence[Observation], contract: ModelContract, settings: DecisionSettings
) -> list[Decision]:
    """Return the decisions that other settings lead to."""
    decider = Decider(contract.labels, contract.not_music, settings, contract.window_seconds)
    return [decider.update(observation)[0] for observation in observations]
