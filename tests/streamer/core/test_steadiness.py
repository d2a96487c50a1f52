"""Windows that are repeated instead of classified, with the effort "saving"."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from support.model import band_noise, make_model

from streamer.core.decision import Decision, State
from streamer.core.decision_settings import Effort
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline
from streamer.core.steadiness import Steadiness

RATE = 22050


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier.load(make_model(tmp_path_factory.mktemp("model") / "thirds.onnx"))


def play(
    classifier: Classifier,
    sound: NDArray[np.float32],
    effort: Effort = "saving",
    *,
    hop_seconds: float = 1.0,
    block: int = RATE,
) -> tuple[Pipeline, list[Decision]]:
    pipeline = Pipeline(classifier, effort=effort, hop_seconds=hop_seconds)
    events = []
    for start in range(0, len(sound), block):
        events += pipeline.feed(sound[start : start + block], RATE)
    events += pipeline.finish()
    return pipeline, [event for event in events if isinstance(event, Decision)]


def test_every_fourth_window_of_steady_sound_is_classified(classifier: Classifier) -> None:
    pipeline, decisions = play(classifier, band_noise("low", 60))
    repeated = [decision.repeated for decision in decisions]
    # The first three are not full.
    assert repeated[:20] == [False, False, True, False] + [True, True, True, False] * 4
    assert pipeline.inferences == repeated.count(False)
    assert {decision.genre for decision in decisions} == {"low"}


def test_with_full_effort_every_window_is_classified(classifier: Classifier) -> None:
    pipeline, decisions = play(classifier, band_noise("low", 20), "full")
    assert pipeline.inferences == len(decisions)
    assert not any(decision.repeated for decision in decisions)


def test_other_sound_is_classified_at_once_and_labelled_as_soon(classifier: Classifier) -> None:
    sound = np.concatenate([band_noise("low", 20.6), band_noise("high", 20)])
    _, saving = play(classifier, sound)
    _, full = play(classifier, sound, "full")
    before, first = (d for d in saving if 19.6 < d.position < 21.6)
    assert (before.repeated, first.repeated) == (True, False)

    def first_high(decisions: list[Decision]) -> float:
        return next(d.position for d in decisions if d.genre == "high")

    assert first_high(saving) == first_high(full)


def test_no_window_is_repeated_from_before_silence_or_a_new_title(classifier: Classifier) -> None:
    silence = np.zeros(4 * RATE, np.float32)
    sound = np.concatenate([band_noise("low", 12), silence, band_noise("low", 12)])
    _, decisions = play(classifier, sound)
    assert not any(d.repeated for d in decisions if 12 < d.position < 16 + 4.5)
    assert any(d.state is State.SILENCE for d in decisions)
    pipeline = Pipeline(classifier, effort="saving")
    pipeline.feed(band_noise("low", 12), RATE, title="one")
    events = pipeline.feed(band_noise("low", 4), RATE, title="two")
    assert not any(e.repeated for e in events if isinstance(e, Decision))


@pytest.mark.parametrize(("hop_seconds", "most"), [(0.5, 3), (1.0, 3), (2.0, 1), (3.0, 0)])
def test_all_sound_is_in_a_window_that_is_classified(
    classifier: Classifier, hop_seconds: float, most: int
) -> None:
    _, decisions = play(classifier, band_noise("low", 60), hop_seconds=hop_seconds)
    runs = "".join("r" if d.repeated else "c" for d in decisions).split("c")
    assert max(map(len, runs)) == most


@pytest.mark.parametrize("block", [997, 4096, 5 * RATE])
def test_what_is_repeated_depends_on_the_samples_alone(classifier: Classifier, block: int) -> None:
    kinds = ("low", "high", "high", "middle", "low")
    sound = np.concatenate([band_noise(kind, 7.3, seed=n) for n, kind in enumerate(kinds)])
    assert play(classifier, sound, block=block)[1] == play(classifier, sound)[1]


def test_the_effort_may_change_between_decisions(classifier: Classifier) -> None:
    pipeline, sound = Pipeline(classifier), band_noise("low", 23)
    pipeline.feed(sound[: 20 * RATE], RATE)
    before = pipeline.inferences
    pipeline.effort = "saving"
    first = pipeline.feed(sound[20 * RATE : 21 * RATE], RATE)
    assert [e.repeated for e in first if isinstance(e, Decision)] == [True]
    assert pipeline.inferences == before
    pipeline.effort = "full"
    second = pipeline.feed(sound[21 * RATE : 22 * RATE], RATE)
    assert [e.repeated for e in second if isinstance(e, Decision)] == [False]


@pytest.mark.parametrize(
    ("before", "last", "belief", "repeats"),
    [
        ((0.9, 0.1), (0.7, 0.3), 0.8, 3),
        ((0.9, 0.1), (0.7, 0.3), 0.6, 1),
        ((0.1, 0.9), (0.9, 0.1), 0.8, 0),
    ],
)
def test_a_window_that_agrees_is_repeated_more_often_if_the_belief_is_settled(
    before: tuple[float, ...], last: tuple[float, ...], belief: float, repeats: int
) -> None:
    second = RATE
    steadiness = Steadiness(10 * second)
    steadiness.classified(second, np.array(before, np.float32), whole=True)
    assert not steadiness.may_repeat(2 * second, second, belief, 0.0)
    steadiness.classified(2 * second, np.array(last, np.float32), whole=True)
    count = 0
    while steadiness.may_repeat((3 + count) * second, second, belief, 0.0):
        assert steadiness.repeat().tolist() == pytest.approx(last)
        count += 1
    assert count == repeats


def test_a_window_that_is_not_whole_is_repeated_once() -> None:
    steadiness, window = Steadiness(10 * RATE), np.array([0.9, 0.1], np.float32)
    for end in (1, 2):
        steadiness.classified(end * RATE, window, whole=False)
    assert steadiness.may_repeat(3 * RATE, RATE, 0.9, 0.0)
    steadiness.repeat()
    assert not steadiness.may_repeat(4 * RATE, RATE, 0.9, 0.0)


@pytest.mark.parametrize("how", ["noticed", "heard"])
def test_windows_with_sound_from_before_a_change_are_chosen_by_their_age(how: str) -> None:
    steadiness, window = Steadiness(5 * RATE), np.array([0.9, 0.1], np.float32)
    repeated = []
    for second in range(1, 14):
        if second == 5 and how == "noticed":
            steadiness.notice_change(second * RATE)
        distance = 30.0 if second == 5 and how == "heard" else 3.0
        repeated.append(steadiness.may_repeat(second * RATE, RATE, 0.9, distance))
        if repeated[-1]:
            steadiness.repeat()
        else:
            steadiness.classified(second * RATE, window, whole=True)
    unchanged = [False, False, True, True]
    assert repeated == [*unchanged, False, True, False, False, True, True, True, False, True]
