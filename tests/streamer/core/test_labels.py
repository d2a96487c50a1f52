from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.decision import Decider, Decision, DecisionSettings, Observation, State
from streamer.core.labels import LabelError, LabelMap
from streamer.core.model import Classifier, ModelContract
from streamer.core.pipeline import Pipeline

LABELS = ("jazz", "metal", "rock", "talk")


def decide(window: list[float], names: dict[str, str | bool], **settings: float) -> Decision:
    """Return the decision of one window."""
    mapped = LabelMap(LABELS, "talk", names)
    decider = Decider(LABELS, "talk", DecisionSettings(**settings), 5.0, mapped)
    decision, _ = decider.update(Observation(1.0, 1.0, -20.0, np.array(window)))
    return decision


def test_labels_with_one_name_are_claimed_as_one() -> None:
    window = [0.4, 0.28, 0.28, 0.04]
    assert decide(window, {}).state is State.UNCERTAIN
    merged = decide(window, {"metal": "guitar", "rock": "guitar"})
    assert merged.genre == "guitar"
    assert merged.probabilities == pytest.approx({"jazz": 0.4, "guitar": 0.56, "talk": 0.04})
    assert merged.window_probabilities["guitar"] == pytest.approx(0.56)


def test_a_name_may_be_another_label() -> None:
    assert LabelMap(LABELS, None, {"rock": "metal"}).labels == ("jazz", "metal", "talk")


def test_a_dropped_label_keeps_its_probability_but_is_not_claimed() -> None:
    decision = decide([0.9, 0.05, 0.03, 0.02], {"jazz": False})
    assert (decision.state, decision.genre) == (State.UNCERTAIN, None)
    assert decision.probabilities["jazz"] == pytest.approx(0.9)


def test_what_is_not_music_may_be_renamed() -> None:
    assert decide([0.0, 0.0, 0.0, 1.0], {"talk": "speech"}).state is State.NOT_MUSIC
    assert decide([0.0, 0.0, 1.0, 0.0], {"rock": "talk"}).state is State.NOT_MUSIC


def test_a_label_may_be_declared_not_to_be_music() -> None:
    assert LabelMap(LABELS, None, {"talk": "not_music"}).not_music == "not_music"


def test_without_names_nothing_changes() -> None:
    probabilities = np.array([0.1, 0.2, 0.3, 0.4])
    assert LabelMap(LABELS, None, {}).apply(probabilities) is probabilities


@given(
    st.lists(st.floats(0.001, 1), min_size=4, max_size=4),
    st.dictionaries(st.sampled_from(LABELS), st.sampled_from(["a", "b", False])),
)
def test_probabilities_sum_to_one_whatever_the_names(
    weights: list[float], names: dict[str, str | bool]
) -> None:
    window = (np.array(weights) / sum(weights)).tolist()
    try:
        decision = decide(window, names)
    except LabelError:
        return
    assert sum(decision.probabilities.values()) == pytest.approx(1)
    assert decision.genre not in [label for label, name in names.items() if name is False]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"polka": "x"}, "'polka' is no label of the model; it has jazz, metal, rock, talk"),
        ({"jazz": ""}, "jazz = '': write a name, or false to drop the label"),
        ({"jazz": True}, "jazz = True: write a name, or false to drop the label"),
        ({"jazz": "silence"}, "jazz = 'silence': this is the name of a state; use another"),
        ({"jazz": False, "rock": "jazz"}, "rock = 'jazz': 'jazz' is dropped; use another name"),
        (
            dict.fromkeys(LABELS, "all"),
            "at least two labels must be left, and one that can be claimed",
        ),
        (
            dict.fromkeys(LABELS, False),
            "at least two labels must be left, and one that can be claimed",
        ),
    ],
)
def test_names_that_cannot_be_used_are_refused(names: dict[str, str | bool], message: str) -> None:
    with pytest.raises(LabelError) as refusal:
        LabelMap(LABELS, "talk", names)
    assert str(refusal.value) == message


def test_a_classifier_of_one_s_own_has_the_labels_of_its_contract(classifier: Classifier) -> None:
    class Own(Classifier):
        def __init__(self, contract: ModelContract) -> None:
            self.contract = contract

    own = Own(classifier.contract)
    assert own.names.labels == classifier.contract.labels
    assert Pipeline(own).hop_seconds == 1.0
