"""Names of one's own for labels in the stream test: what merging labels wins."""

from __future__ import annotations

import numpy as np
import pytest
from support.model import make_model

from streamer.core.contract import ModelContract
from streamer.core.decision import Decider, DecisionSettings, Observation, State
from streamer.core.model import Classifier
from streamer.system.commandline import UserError
from trainer.label_names import AFTERWARDS, AS_ONE, judge_names, named_as_text, read_names
from trainer.stream_test import StreamTest, measure
from trainer.synthetic_stream import SyntheticStream, TrueSegment

SETTINGS = {"smoothing": "none", "min_confidence": 0.6}


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> ModelContract:
    file = tmp_path_factory.mktemp("model") / "thirds.onnx"
    return Classifier.load(make_model(file, noise=True)).contract


def stream(contract: ModelContract, *parts: tuple[str, tuple[float, ...]]) -> StreamTest:
    """Return the test of a stream: each part has a genre and the answer to its windows."""
    settings = DecisionSettings.from_mapping(SETTINGS)
    decider = Decider(contract.labels, contract.not_music, settings, contract.window_seconds)
    decisions, segments = [], []
    for number, (genre, answer) in enumerate(parts):
        start, end = 10.0 * number, 10.0 * number + 10
        segments.append(TrueSegment(State.MUSIC, genre, genre, start, end))
        decisions += [
            decider.update(Observation(start + second, 1.0, -20.0, np.array(answer)))[0]
            for second in range(1, 11)
        ]
    result = measure(segments, decisions, contract)
    return StreamTest(SyntheticStream(segments, [], []), decisions, result, SETTINGS)


def test_labels_between_which_the_model_hesitates_are_claimed_as_one(
    contract: ModelContract,
) -> None:
    test = stream(
        contract,
        ("low", (0.5, 0.4, 0.05, 0.05)),
        ("middle", (0.7, 0.1, 0.1, 0.1)),
        ("high", (0.0, 0.1, 0.8, 0.1)),
    )
    names = read_names(contract, {"low": "deep", "middle": "deep"})
    results = judge_names(test, contract, names)
    assert (test.result.claimed_in_music, test.result.right_of_claimed) == (2 / 3, 1 / 2)
    as_one, afterwards = results[AS_ONE], results[AFTERWARDS]
    assert (as_one.claimed_in_music, as_one.right_of_claimed) == (1, 1)
    assert (afterwards.claimed_in_music, afterwards.right_of_claimed) == (2 / 3, 1)
    text = named_as_text(results, names).splitlines()
    assert text[0] == "  labels deep, high, noise:"
    assert text[1].startswith("  decided as one: 100.0% of seconds right, 100.0% of music gets")
    assert text[2].startswith("  named after the decision: 66.7% of seconds right, 66.7% of music")


def test_a_dropped_label_is_not_claimed_and_its_songs_are_not_right(
    contract: ModelContract,
) -> None:
    test = stream(contract, ("low", (0.9, 0.1, 0.0, 0.0)), ("high", (0.1, 0.0, 0.9, 0.0)))
    results = judge_names(test, contract, read_names(contract, {"low": False}))
    for result in results.values():
        assert (result.right, result.claimed_in_music, result.uncertain) == (0.5, 0.5, 0.5)


def test_a_genre_that_is_named_as_no_music_is_right_as_such(contract: ModelContract) -> None:
    test = stream(contract, ("low", (0.9, 0.1, 0.0, 0.0)), ("high", (0.1, 0.0, 0.9, 0.0)))
    results = judge_names(test, contract, read_names(contract, {"low": "noise"}))
    for result in results.values():
        assert (result.right, result.claimed_in_music, result.songs) == (1, 1, 1)


def test_a_label_that_the_model_lacks_is_refused(contract: ModelContract) -> None:
    with pytest.raises(UserError, match="--labels: 'polka' is no label of the model; it has low,"):
        read_names(contract, {"polka": "dance"})


def test_a_new_name_alone_changes_no_figure(contract: ModelContract) -> None:
    test = stream(contract, ("low", (0.5, 0.4, 0.05, 0.05)), ("high", (0.1, 0.0, 0.9, 0.0)))
    results = judge_names(test, contract, read_names(contract, {"low": "bass"}))
    assert results[AS_ONE] == results[AFTERWARDS] == test.result
