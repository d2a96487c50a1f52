from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.decision import (
    Decider,
    Decision,
    DecisionSettings,
    Observation,
    Segment,
    State,
)
from streamer.core.decision_settings import DecisionSettingsError, Response

LABELS = ("blues", "jazz", "rock", "noise")
WINDOW_SECONDS = 5.0
LEVEL_DBFS = -20.0


class Source:
    """A decider that gets an observation a second."""

    def __init__(self, not_music: str | None = "noise", **settings: Any) -> None:
        self.decider = Decider(
            LABELS, not_music, DecisionSettings(**settings), window_seconds=WINDOW_SECONDS
        )
        self.position = 0.0

    def observe(self, window: Mapping[str, float] | None = None, **observed: Any) -> Decision:
        """Take one hop; labels that `window` does not name share the rest."""
        self.position += 1.0
        probabilities = None
        if window is not None:
            rest = (1 - sum(window.values())) / max(1, len(LABELS) - len(window))
            probabilities = np.array([window.get(label, rest) for label in LABELS])
        decision, _ = self.decider.update(
            Observation(self.position, 1.0, LEVEL_DBFS, probabilities, **observed)
        )
        return decision


SURE = {"jazz": 0.94}


def test_a_confident_window_is_music_at_once() -> None:
    decision = Source().observe(SURE)
    assert (decision.state, decision.genre) == (State.MUSIC, "jazz")
    assert decision.confidence == pytest.approx(0.94)
    assert decision.confidence == decision.probabilities["jazz"]


def test_silence_has_no_genre_whatever_the_window() -> None:
    source = Source()
    source.observe(SURE)
    decision = source.observe(SURE, silent=True)
    assert (decision.state, decision.genre, decision.confidence) == (State.SILENCE, None, 1.0)
    assert set(decision.probabilities.values()) == {0.25}
    assert set(decision.window_probabilities.values()) == {0.25}


@pytest.mark.parametrize("smoothing", ["hmm", "adaptive", "ema", "none"])
def test_silence_restarts_the_smoothing(smoothing: str) -> None:
    source = Source(smoothing=smoothing)
    for _ in range(30):
        source.observe({"blues": 0.97})
    source.observe(silent=True)
    decision = source.observe(SURE)
    assert decision.genre == "jazz"
    assert decision.probabilities == pytest.approx(decision.window_probabilities)


def test_a_restart_discards_the_evidence_so_far() -> None:
    source = Source()
    for _ in range(30):
        source.observe({"blues": 0.97})
    assert source.observe({"jazz": 0.7}).genre == "blues"
    assert source.observe({"jazz": 0.7}, restart=True).genre == "jazz"


def test_a_change_lets_the_label_follow_sooner_and_keeps_it_until_then() -> None:
    def labels_after(**observed: Any) -> list[str | None]:
        source = Source(dwell_seconds=20.0, evidence_weight=1.0, confidence_hysteresis=0.3)
        for _ in range(20):
            source.observe(SURE)
        source.observe({"rock": 0.6, "jazz": 0.3}, **observed)
        return [source.observe({"rock": 0.9}).genre for _ in range(12)]

    with_hint, without = labels_after(changed=True), labels_after()
    assert with_hint.index("rock") < without.index("rock")
    source = Source(evidence_weight=1.0)
    for _ in range(20):
        source.observe(SURE)
    assert source.observe(SURE, changed=True).genre == "jazz"


def test_the_adaptive_mean_begins_anew_only_at_a_change_that_is_certain() -> None:
    def genre_after(**observed: Any) -> str | None:
        source = Source(smoothing="adaptive")
        for _ in range(20):
            source.observe(SURE)
        return source.observe({"rock": 0.6, "jazz": 0.3}, **observed).genre

    assert genre_after(changed=True) == "jazz"
    assert genre_after(changed=True, cut=True) is None


def test_in_a_room_without_music_one_sound_may_follow_another() -> None:
    def states(label: str) -> set[State]:
        source = Source(min_confidence=0.7, confidence_hysteresis=0.3)
        for _ in range(5):
            source.observe({label: 0.94})
        later = [source.observe({label: 0.6}, changed=number == 0) for number in range(4)]
        return {decision.state for decision in later}

    assert states("noise") == {State.NOT_MUSIC}
    assert State.UNCERTAIN in states("jazz")


def test_music_after_another_sound_is_told_as_soon_as_it_is_known() -> None:
    source = Source(evidence_weight=1.0)
    for _ in range(5):
        source.observe({"noise": 0.94})
    source.observe({"noise": 0.4, "jazz": 0.5}, changed=True)
    source.observe({"jazz": 0.8})
    assert source.observe(SURE, whole=True).genre == "jazz"


def test_a_second_hint_before_the_outcome_of_the_first_forgets_nothing() -> None:
    source, other = Source(evidence_weight=1.0), Source(evidence_weight=1.0)
    for each in (source, other):
        each.observe(SURE)
        each.observe(SURE, changed=True)
    first = source.observe(SURE, changed=True)
    assert first.probabilities == other.observe(SURE).probabilities


def test_a_new_title_keeps_the_label_until_a_window_of_the_new_song() -> None:
    source = Source()
    before = source.observe(SURE)
    kept = [source.observe(restart=True), source.observe()]
    assert [(d.genre, d.confidence, d.carried) for d in kept] == [
        ("jazz", before.confidence, True)
    ] * 2
    assert all(d.probabilities == before.probabilities for d in kept)
    assert {p for d in kept for p in d.window_probabilities.values()} == {0.25}
    assert [d.position for d in kept] == [2.0, 3.0]
    now = source.observe({"rock": 0.94})
    assert (now.genre, now.carried) == ("rock", False)
    assert now.probabilities["rock"] == pytest.approx(0.94)


def test_a_label_is_kept_over_two_windows_of_new_titles_at_most() -> None:
    source = Source()
    source.observe(SURE)
    kept = [source.observe(restart=True).genre for _ in range(12)]
    assert kept == ["jazz"] * 10 + [None] * 2


@pytest.mark.parametrize(
    "between", [{"restart": True, "interrupted": True}, {"silent": True}, {"window": {"jazz": 0.3}}]
)
def test_no_label_is_kept_over_an_interruption_silence_or_doubt(between: dict[str, Any]) -> None:
    source = Source(smoothing="none")
    source.observe(SURE)
    source.observe(**between)
    decision = source.observe(restart=True)
    assert (decision.state, decision.genre, decision.carried) == (State.UNCERTAIN, None, False)


def test_silence_is_counted_from_where_it_began() -> None:
    source = Source()
    source.observe(SURE)
    counted = [source.observe(silent=True, boundary=1.25).silence_seconds]
    counted += [source.observe(silent=True).silence_seconds for _ in range(2)]
    assert counted == [0.75, 1.75, 2.75]
    assert source.observe(SURE, boundary=4.5).silence_seconds == 0
    assert source.observe(silent=True).silence_seconds == 1.0
    interrupted = source.observe(silent=True, restart=True, interrupted=True, boundary=6.25)
    assert interrupted.silence_seconds == 0.75


def test_sound_without_a_window_is_uncertain() -> None:
    source = Source()
    decision = source.observe()
    assert (decision.state, decision.genre, decision.confidence) == (State.UNCERTAIN, None, 0.25)


def test_the_label_for_not_music_is_no_genre() -> None:
    decision = Source().observe({"noise": 0.8})
    assert (decision.state, decision.genre) == (State.NOT_MUSIC, None)
    assert decision.confidence == pytest.approx(0.8)
    assert Source(not_music=None).observe({"noise": 0.8}).genre == "noise"


def test_too_little_confidence_is_uncertain() -> None:
    settings: dict[str, Any] = {"smoothing": "none", "min_confidence": 0.6, "min_margin": 0.0}
    assert Source(**settings).observe({"jazz": 0.61}).genre == "jazz"
    decision = Source(**settings).observe({"jazz": 0.59})
    assert (decision.state, decision.genre) == (State.UNCERTAIN, None)
    assert decision.confidence == pytest.approx(0.59)


def test_two_labels_too_close_are_uncertain() -> None:
    settings: dict[str, Any] = {"smoothing": "none", "min_confidence": 0.3, "min_margin": 0.1}
    assert Source(**settings).observe({"jazz": 0.52, "rock": 0.41}).genre == "jazz"
    assert Source(**settings).observe({"jazz": 0.5, "rock": 0.41}).state is State.UNCERTAIN
    # The margin counts against everything, also what is not music.
    assert Source(**settings).observe({"jazz": 0.5, "noise": 0.41}).state is State.UNCERTAIN
    settings["min_margin"] = 0.25
    assert Source(**settings).observe({"jazz": 0.5, "rock": 0.25}).genre == "jazz"


def test_a_claim_needs_less_confidence_to_last_than_to_begin() -> None:
    source = Source(smoothing="none", min_confidence=0.6, confidence_hysteresis=0.1, min_margin=0.0)
    observed = [0.55, 0.65, 0.55, 0.51, 0.49, 0.55, 0.65]
    claimed = [source.observe({"jazz": p}).genre is not None for p in observed]
    assert claimed == [False, True, True, True, False, False, True]


def test_the_margin_has_its_own_hysteresis() -> None:
    source = Source(smoothing="none", min_confidence=0.0, min_margin=0.2, margin_hysteresis=0.15)
    margins = [0.1, 0.25, 0.1, 0.06, 0.04, 0.1]
    claimed = [source.observe({"jazz": 0.35 + m, "rock": 0.35}).genre is not None for m in margins]
    assert claimed == [False, True, True, True, False, False]


def test_hysteresis_does_not_help_another_label() -> None:
    source = Source(smoothing="none", min_confidence=0.6, confidence_hysteresis=0.3, min_margin=0.0)
    source.observe({"jazz": 0.9})
    assert source.observe({"rock": 0.5}).state is State.UNCERTAIN
    assert source.observe({"rock": 0.6}).genre == "rock"


@pytest.mark.parametrize(
    "interruption", [{"silent": True}, {"window": {"jazz": 0.5}, "restart": True}]
)
def test_hysteresis_ends_with_silence_or_a_restart(interruption: dict[str, Any]) -> None:
    source = Source(smoothing="none", min_confidence=0.6, confidence_hysteresis=0.3, min_margin=0.0)
    source.observe({"jazz": 0.9})
    assert source.observe({"jazz": 0.5}).genre == "jazz"
    source.observe(**interruption)
    assert source.observe({"jazz": 0.5}).state is State.UNCERTAIN


@pytest.mark.parametrize(
    ("faster", "slower"),
    [
        ({"dwell_seconds": 5.0}, {"dwell_seconds": 500.0}),
        ({"evidence_weight": 1.0}, {"evidence_weight": 0.25}),
        ({"smoothing": "ema", "ema_seconds": 2.0}, {"smoothing": "ema", "ema_seconds": 10.0}),
        (
            {"smoothing": "adaptive", "memory_seconds": 2.0},
            {"smoothing": "adaptive", "memory_seconds": 30.0},
        ),
    ],
)
def test_the_settings_decide_how_fast_the_label_changes(
    faster: dict[str, Any], slower: dict[str, Any]
) -> None:
    def seconds_to_change(settings: dict[str, Any]) -> float:
        source = Source(**settings)
        for _ in range(30):
            source.observe({"jazz": 0.7})
        while source.observe({"rock": 0.7}).genre != "rock":
            assert source.position < 200
        return source.position - 30

    assert seconds_to_change(faster) < seconds_to_change(slower)


@pytest.mark.parametrize("smoothing", ["hmm", "adaptive", "ema"])
def test_smoothing_bridges_one_odd_window_but_not_a_new_song(smoothing: str) -> None:
    source = Source(smoothing=smoothing)
    for _ in range(20):
        source.observe({"jazz": 0.9})
    assert source.observe({"rock": 0.9}).genre == "jazz"
    assert source.observe({"jazz": 0.9}).genre == "jazz"
    for _ in range(15):
        decision = source.observe({"rock": 0.9})
    assert decision.genre == "rock"


def test_a_decision_has_probabilities_before_and_after_smoothing() -> None:
    source = Source()
    source.observe({"jazz": 0.9})
    decision = source.observe({"rock": 0.6})
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
# Interruptions are rare, so that segments last for several hops.
observations = st.fixed_dictionaries(
    {
        "hop_seconds": st.sampled_from([1.0, 1.0, 0.5]) | st.floats(0.1, 10),
        "silent": st.sampled_from([False] * 12 + [True]),
        "window_probabilities": st.one_of(claims, claims, claims, anything, st.none()),
        "title": st.sampled_from([None] * 12 + ["", "one", "one", "two"]),
        "restart": st.sampled_from([False] * 15 + [True]),
        "boundary": st.sampled_from([None] * 8 + [0.3, 1.0, 1.5]),
    }
)


@given(
    observed=st.lists(observations, max_size=40),
    smoothing=st.sampled_from(["hmm", "adaptive", "ema", "none"]),
    not_music=st.sampled_from([None, "noise"]),
    look_back_seconds=st.sampled_from([0.0, 3.0, 10.0]),
)
def test_decisions_and_segments_keep_their_invariants(
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
            Observation(
                position=position, level_dbfs=LEVEL_DBFS, **{**fields, "boundary": boundary}
            )
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
        assert (decision.state is State.SILENCE) == fields["silent"]
        assert_open_segment_matches(sent, position, decision)
    sent += decider.finish(position)
    assert_complete(sent, position)


def assert_open_segment_matches(sent: list[Segment], position: float, decision: Decision) -> None:
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
def test_impossible_probabilities_are_refused(window: list[Any]) -> None:
    with pytest.raises(ValueError, match="window_probabilities must be 4 finite probabilities"):
        Source().decider.update(Observation(1.0, 1.0, LEVEL_DBFS, np.array(window)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"smoothing": "median"},
            "smoothing must be one of hmm, adaptive, ema, none, not 'median'",
        ),
        ({"silence_dbfs": 3.0}, "silence_dbfs must be a number from -120 to 0, not 3.0"),
        ({"min_confidence": 45}, "min_confidence must be a number from 0 to 1, not 45"),
        ({"min_margin": float("nan")}, "min_margin must be a number from 0 to 1, not nan"),
        ({"dwell_seconds": "20"}, "dwell_seconds must be a number from 1 to 86400, not '20'"),
        ({"ema_seconds": True}, "ema_seconds must be a number from 0.1 to 3600, not True"),
    ],
)
def test_impossible_settings_are_refused_by_name_and_value(
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
def test_the_limits_of_a_setting_are_allowed_and_nothing_beyond(name: str) -> None:
    low, high = RANGES[name]
    for value in (low, high):
        assert getattr(DecisionSettings.from_mapping({name: value}), name) == value
    for value in (low - 0.001, high + 0.001):
        with pytest.raises(DecisionSettingsError, match=f"{name} must be a number from"):
            DecisionSettings.from_mapping({name: value})


def test_settings_of_the_user_override_those_of_the_model() -> None:
    settings = DecisionSettings.from_mapping(
        {"dwell_seconds": 30.0, "smoothing": "ema"}, {"smoothing": "none", "min_margin": None}
    )
    assert settings == DecisionSettings(smoothing="none", dwell_seconds=30.0)
    with pytest.raises(DecisionSettingsError, match="unknown decision settings: mood"):
        DecisionSettings.from_mapping({"mood": 1.0})


@pytest.mark.parametrize("own", [0.0, 0.3, 0.45, 0.66, 0.9, 1.0])
def test_calm_asks_for_more_and_fast_for_less_than_the_model_does_whatever_that_is(
    own: float,
) -> None:
    by_response = {
        response: DecisionSettings.from_mapping({"min_confidence": own}, response=response)
        for response in get_args(Response)
    }
    assert by_response["normal"] == DecisionSettings(min_confidence=own)
    calm, fast = by_response["calm"], by_response["fast"]
    assert fast.min_confidence <= own <= calm.min_confidence
    assert (fast.min_confidence == own) == (own == 0)
    assert (calm.min_confidence == own) == (own == 1)
    assert (fast.dwell_seconds, fast.evidence_weight) == (10.0, 0.875)
    assert calm == DecisionSettings(min_confidence=calm.min_confidence)


@pytest.mark.parametrize("response", get_args(Response))
def test_settings_of_the_user_override_those_of_a_response(response: Response) -> None:
    own = {"min_confidence": 0.7, "dwell_seconds": 1.0, "evidence_weight": 10.0}
    settings = DecisionSettings.from_mapping({"min_margin": 0.0}, own, response)
    assert settings == DecisionSettings.from_mapping({"min_margin": 0.0, **own})


def test_a_response_stays_within_the_ranges() -> None:
    own = {"min_confidence": 1.0, "dwell_seconds": 1.0, "evidence_weight": 10.0}
    fast = DecisionSettings.from_mapping(own, response="fast")
    assert (fast.dwell_seconds, fast.evidence_weight) == (1.0, 10.0)
