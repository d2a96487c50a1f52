from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.decision import (
    Decider,
    Decision,
    DecisionSettings,
    DecisionSettingsError,
    Observation,
    Segment,
    State,
)

LABELS = ("blues", "jazz", "rock", "noise")
WINDOW_SECONDS = 5.0
LOUD = -20.0


class Listening:
    """A decider and the clock of its source."""

    def __init__(self, not_music: str | None = "noise", **settings: Any) -> None:
        self.decider = Decider(
            LABELS, not_music, DecisionSettings(**settings), window_seconds=WINDOW_SECONDS
        )
        self.position = 0.0
        self.segments: list[Segment] = []

    def hear(
        self, window: Mapping[str, float] | None = None, level: float = LOUD, **observed: Any
    ) -> Decision:
        """One hop; labels that `window` does not name share what is left."""
        self.position += 1.0
        probabilities = None
        if window is not None:
            rest = (1 - sum(window.values())) / max(1, len(LABELS) - len(window))
            probabilities = np.array([window.get(label, rest) for label in LABELS])
        decision, segments = self.decider.update(
            Observation(self.position, 1.0, level, probabilities, **observed)
        )
        self.segments += segments
        return decision


SURE = {"jazz": 0.94}


def test_a_sure_window_is_music_at_once() -> None:
    decision = Listening().hear(SURE)
    assert (decision.state, decision.genre) == (State.MUSIC, "jazz")
    assert decision.confidence == pytest.approx(0.94)
    assert decision.confidence == decision.probabilities["jazz"]


def test_silence_carries_no_genre_whatever_the_window_says() -> None:
    listening = Listening()
    listening.hear(SURE)
    decision = listening.hear(SURE, level=-61.0)
    assert (decision.state, decision.genre, decision.confidence) == (State.SILENCE, None, 1.0)
    assert set(decision.probabilities.values()) == {0.25}
    assert set(decision.window_probabilities.values()) == {0.25}


def test_silence_begins_under_the_threshold_and_ends_above_the_hysteresis() -> None:
    listening = Listening(silence_dbfs=-50.0, silence_hysteresis_db=6.0)
    levels = [-49.0, -50.0, -50.1, -49.0, -44.1, -44.0, -49.9, -50.1]
    states = [listening.hear(SURE, level=level).state is State.SILENCE for level in levels]
    assert states == [False, False, True, True, True, False, False, True]


def test_to_ask_whether_a_level_is_silence_changes_nothing() -> None:
    decider = Listening().decider
    assert decider.is_silence(-60.1)
    assert not decider.is_silence(-59.9)


@pytest.mark.parametrize("smoothing", ["hmm", "ema", "none"])
def test_after_silence_the_belief_begins_anew(smoothing: str) -> None:
    listening = Listening(smoothing=smoothing)
    for _ in range(30):
        listening.hear({"blues": 0.97})
    listening.hear(level=-90.0)
    decision = listening.hear(SURE)
    assert decision.genre == "jazz"
    assert decision.probabilities == pytest.approx(decision.window_probabilities)


def test_a_new_title_makes_the_belief_begin_anew() -> None:
    listening = Listening()
    for _ in range(30):
        listening.hear({"blues": 0.97}, title="A - one")
    assert listening.hear({"jazz": 0.7}, title="A - one").genre == "blues"
    assert listening.hear({"jazz": 0.7}, title="B - two").genre == "jazz"


@pytest.mark.parametrize("title", [None, "", "A - one"])
def test_no_title_or_the_same_one_changes_nothing(title: str | None) -> None:
    listening = Listening()
    for _ in range(30):
        listening.hear({"blues": 0.97}, title="A - one")
    assert listening.hear({"jazz": 0.7}, title=title).genre == "blues"


def test_the_first_title_of_a_source_is_no_new_song() -> None:
    listening = Listening()
    for _ in range(30):
        listening.hear({"blues": 0.97})
    assert listening.hear({"jazz": 0.7}, title="A - one").genre == "blues"


def test_a_broken_stream_makes_the_belief_begin_anew() -> None:
    listening = Listening()
    for _ in range(30):
        listening.hear({"blues": 0.97})
    assert listening.hear({"jazz": 0.7}, discontinuity=True).genre == "jazz"


def test_after_a_break_without_a_title_the_next_title_is_that_of_what_is_heard() -> None:
    listening = Listening()
    listening.hear(SURE, title="A - one")
    listening.hear(SURE, discontinuity=True)
    listening.hear(SURE, title="B - two")
    told = [(s.id, s.title, s.final) for s in listening.segments]
    assert told[1:] == [(1, "A - one", True), (2, None, False), (2, "B - two", False)]


def test_a_loud_hop_without_a_window_is_uncertain() -> None:
    listening = Listening()
    decision = listening.hear()
    assert (decision.state, decision.genre, decision.confidence) == (State.UNCERTAIN, None, 0.25)


def test_a_label_that_is_not_music_wins_without_a_genre() -> None:
    decision = Listening().hear({"noise": 0.8})
    assert (decision.state, decision.genre) == (State.NOT_MUSIC, None)
    assert decision.confidence == pytest.approx(0.8)
    assert Listening(not_music=None).hear({"noise": 0.8}).genre == "noise"


def test_too_little_confidence_is_uncertain() -> None:
    settings: dict[str, Any] = {"smoothing": "none", "min_confidence": 0.6, "min_margin": 0.0}
    assert Listening(**settings).hear({"jazz": 0.61}).genre == "jazz"
    decision = Listening(**settings).hear({"jazz": 0.59})
    assert (decision.state, decision.genre) == (State.UNCERTAIN, None)
    assert decision.confidence == pytest.approx(0.59)


def test_two_labels_too_close_are_uncertain() -> None:
    settings: dict[str, Any] = {"smoothing": "none", "min_confidence": 0.3, "min_margin": 0.1}
    assert Listening(**settings).hear({"jazz": 0.52, "rock": 0.41}).genre == "jazz"
    assert Listening(**settings).hear({"jazz": 0.5, "rock": 0.41}).state is State.UNCERTAIN
    # The margin counts against everything, also what is not music.
    assert Listening(**settings).hear({"jazz": 0.5, "noise": 0.41}).state is State.UNCERTAIN
    settings["min_margin"] = 0.25
    assert Listening(**settings).hear({"jazz": 0.5, "rock": 0.25}).genre == "jazz"


def test_what_is_claimed_needs_less_to_stay_than_to_come() -> None:
    listening = Listening(
        smoothing="none", min_confidence=0.6, confidence_hysteresis=0.1, min_margin=0.0
    )
    heard = [0.55, 0.65, 0.55, 0.51, 0.49, 0.55, 0.65]
    claimed = [listening.hear({"jazz": p}).genre is not None for p in heard]
    assert claimed == [False, True, True, True, False, False, True]


def test_the_margin_has_its_own_hysteresis() -> None:
    listening = Listening(
        smoothing="none", min_confidence=0.0, min_margin=0.2, margin_hysteresis=0.15
    )
    margins = [0.1, 0.25, 0.1, 0.06, 0.04, 0.1]
    claimed = [listening.hear({"jazz": 0.35 + m, "rock": 0.35}).genre is not None for m in margins]
    assert claimed == [False, True, True, True, False, False]


def test_another_label_must_earn_its_claim_in_full() -> None:
    listening = Listening(
        smoothing="none", min_confidence=0.6, confidence_hysteresis=0.3, min_margin=0.0
    )
    listening.hear({"jazz": 0.9})
    assert listening.hear({"rock": 0.5}).state is State.UNCERTAIN
    assert listening.hear({"rock": 0.6}).genre == "rock"


@pytest.mark.parametrize(
    "pause", [{"level": -90.0}, {"window": {"jazz": 0.5}, "discontinuity": True}]
)
def test_what_was_claimed_before_a_pause_must_earn_its_claim_again(pause: dict[str, Any]) -> None:
    listening = Listening(
        smoothing="none", min_confidence=0.6, confidence_hysteresis=0.3, min_margin=0.0
    )
    listening.hear({"jazz": 0.9})
    assert listening.hear({"jazz": 0.5}).genre == "jazz"
    listening.hear(**pause)
    assert listening.hear({"jazz": 0.5}).state is State.UNCERTAIN


@pytest.mark.parametrize(
    ("faster", "slower"),
    [
        ({"dwell_seconds": 5.0}, {"dwell_seconds": 500.0}),
        ({"evidence_weight": 1.0}, {"evidence_weight": 0.25}),
        ({"smoothing": "ema", "ema_seconds": 2.0}, {"smoothing": "ema", "ema_seconds": 10.0}),
    ],
)
def test_the_settings_say_how_fast_the_belief_turns(
    faster: dict[str, Any], slower: dict[str, Any]
) -> None:
    def seconds_to_turn(settings: dict[str, Any]) -> float:
        listening = Listening(**settings)
        for _ in range(30):
            listening.hear({"jazz": 0.7})
        while listening.hear({"rock": 0.7}).genre != "rock":
            assert listening.position < 200
        return listening.position - 30

    assert seconds_to_turn(faster) < seconds_to_turn(slower)


@pytest.mark.parametrize("smoothing", ["hmm", "ema"])
def test_smoothing_outlasts_one_odd_window_but_not_a_new_song(smoothing: str) -> None:
    listening = Listening(smoothing=smoothing)
    for _ in range(20):
        listening.hear({"jazz": 0.9})
    assert listening.hear({"rock": 0.9}).genre == "jazz"
    assert listening.hear({"jazz": 0.9}).genre == "jazz"
    for _ in range(15):
        decision = listening.hear({"rock": 0.9})
    assert decision.genre == "rock"


def test_probabilities_come_as_they_were_and_as_they_are_believed() -> None:
    listening = Listening()
    listening.hear({"jazz": 0.9})
    decision = listening.hear({"rock": 0.6})
    assert decision.window_probabilities["rock"] == pytest.approx(0.6)
    assert decision.probabilities["jazz"] > decision.probabilities["rock"]
    assert list(decision.probabilities) == list(LABELS)


claims = st.tuples(st.sampled_from(LABELS), st.floats(0.3, 0.97)).map(
    lambda claim: np.array(
        [claim[1] if label == claim[0] else (1 - claim[1]) / 3 for label in LABELS], np.float32
    )
)
anything = (
    st.lists(st.floats(0, 1), min_size=4, max_size=4)
    .filter(lambda p: sum(p) > 1e-3)
    .map(lambda p: np.array(p, np.float32) / np.float32(sum(p)))
)
# Breaks are rare, so that there is much between them.
observations = st.fixed_dictionaries(
    {
        "hop_seconds": st.sampled_from([1.0, 1.0, 0.5]) | st.floats(0.1, 10),
        "level_dbfs": st.sampled_from([-20.0] * 12 + [-120.0, -61.0, -58.0, 0.0]),
        "window_probabilities": st.one_of(claims, claims, claims, anything, st.none()),
        "title": st.sampled_from([None] * 12 + ["", "one", "one", "two"]),
        "discontinuity": st.sampled_from([False] * 15 + [True]),
        "boundary": st.sampled_from([None, 0.3, 1.0, 1.5]),
    }
)


@given(
    observed=st.lists(observations, max_size=40),
    smoothing=st.sampled_from(["hmm", "ema", "none"]),
    not_music=st.sampled_from([None, "noise"]),
    look_back_seconds=st.sampled_from([0.0, 3.0, 10.0]),
)
def test_every_decision_keeps_its_promises(
    observed: list[dict[str, Any]],
    smoothing: Any,
    not_music: str | None,
    look_back_seconds: float,
) -> None:
    settings = DecisionSettings(smoothing=smoothing, look_back_seconds=look_back_seconds)
    decider = Decider(LABELS, not_music, settings, WINDOW_SECONDS)
    position = 0.0
    sent: list[Segment] = []
    for fields in observed:
        position += fields["hop_seconds"]
        hops_ago = fields["boundary"]
        boundary = None if hops_ago is None else position - hops_ago * fields["hop_seconds"]
        decision, segments = decider.update(
            Observation(position=position, **{**fields, "boundary": boundary})
        )
        assert len({segment.id for segment in segments}) == len(segments)
        sent += segments
        assert abs(sum(decision.probabilities.values()) - 1) < 1e-9
        assert abs(sum(decision.window_probabilities.values()) - 1) < 1e-9
        assert 0 <= decision.confidence <= 1
        assert (decision.genre is not None) == (decision.state is State.MUSIC)
        assert decision.genre != not_music or not_music is None
        if decision.state is State.MUSIC:
            assert decision.genre == max(decision.probabilities, key=decision.probabilities.get)  # type: ignore[arg-type]
        if decision.state is State.NOT_MUSIC:
            assert not_music == max(decision.probabilities, key=decision.probabilities.get)  # type: ignore[arg-type]
        if fields["level_dbfs"] < -60:
            assert decision.state is State.SILENCE
        assert_tell_where_we_are(sent, position, decision)
    sent += decider.finish()
    assert_complete(sent, position)


def assert_tell_where_we_are(sent: list[Segment], position: float, decision: Decision) -> None:
    latest = {segment.id: segment for segment in sent}
    opened = [segment for segment in latest.values() if segment.end is None]
    assert [segment.id for segment in opened] == [max(latest)]
    assert (opened[0].state, opened[0].genre) == (decision.state, decision.genre)
    assert opened[0].start < position
    for number in range(1, max(latest)):
        assert latest[number].end == latest[number + 1].start


def assert_complete(sent: list[Segment], position: float) -> None:
    finals = [segment for segment in sent if segment.final]
    assert [segment.id for segment in finals] == list(range(1, len(finals) + 1))
    assert {segment.id for segment in sent} == {segment.id for segment in finals}
    for index, segment in enumerate(sent):
        assert not (segment.final and any(later.id == segment.id for later in sent[index + 1 :]))
    if not finals:
        assert position == 0
        return
    assert finals[0].start == 0
    assert finals[-1].end == position
    for before, after in itertools.pairwise(finals):
        assert before.end == after.start
    for segment in finals:
        assert segment.end is not None
        assert segment.start < segment.end
        assert 0 <= segment.confidence <= 1
        assert (segment.genre is not None) == (segment.state is State.MUSIC)


@pytest.mark.parametrize(
    "window",
    [
        [0.5, 0.5],
        [0.0] * 4,
        [0.5, 0.5, np.nan, 0.0],
        [np.inf, 0.0, 0.0, 0.0],
        [1.5, -0.5, 0.0, 0.0],
        [[1.0, 0.0, 0.0, 0.0]],
    ],
)
def test_probabilities_that_are_none_are_refused(window: list[Any]) -> None:
    with pytest.raises(ValueError, match="window_probabilities must be 4 finite probabilities"):
        Listening().decider.update(Observation(1.0, 1.0, LOUD, np.array(window)))


@pytest.mark.parametrize(
    ("labels", "not_music", "message"),
    [
        (("jazz",), None, r"labels must be at least 2, not \['jazz'\]"),
        (("jazz", "rock"), "speech", "not_music 'speech' is none of the labels"),
    ],
)
def test_labels_that_cannot_be_decided_between_are_refused(
    labels: tuple[str, ...], not_music: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Decider(labels, not_music, DecisionSettings(), WINDOW_SECONDS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smoothing": "median"}, "smoothing must be one of hmm, ema, none, not 'median'"),
        ({"silence_dbfs": 3.0}, "silence_dbfs must be a number from -120 to 0, not 3.0"),
        ({"min_confidence": 45}, "min_confidence must be a number from 0 to 1, not 45"),
        ({"min_margin": float("nan")}, "min_margin must be a number from 0 to 1, not nan"),
        ({"dwell_seconds": "20"}, "dwell_seconds must be a number from 1 to 86400, not '20'"),
        ({"ema_seconds": True}, "ema_seconds must be a number from 0.1 to 3600, not True"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name_and_value(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DecisionSettingsError) as refusal:
        DecisionSettings.from_mapping(settings)
    assert str(refusal.value) == message


RANGES = {
    setting.name: setting.metadata["range"]
    for setting in dataclasses.fields(DecisionSettings)
    if setting.name != "smoothing"
}


@pytest.mark.parametrize("name", RANGES)
def test_a_setting_may_have_its_least_and_its_greatest_value_and_none_beyond(name: str) -> None:
    low, high = RANGES[name]
    for value in (low, high):
        assert getattr(DecisionSettings.from_mapping({name: value}), name) == value
    for value in (low - 0.001, high + 0.001):
        with pytest.raises(DecisionSettingsError, match=f"{name} must be a number from"):
            DecisionSettings.from_mapping({name: value})


def test_settings_come_from_the_model_and_then_from_the_user() -> None:
    settings = DecisionSettings.from_mapping(
        {"dwell_seconds": 30.0, "smoothing": "ema"}, {"smoothing": "none", "min_margin": None}
    )
    assert settings == DecisionSettings(smoothing="none", dwell_seconds=30.0)
    with pytest.raises(DecisionSettingsError, match="unknown decision settings: mood"):
        DecisionSettings.from_mapping({"mood": 1.0})
