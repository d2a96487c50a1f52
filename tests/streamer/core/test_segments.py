from __future__ import annotations

import pickle

import numpy as np
import pytest

from streamer.core.decision import Decider, Decision, DecisionSettings, Observation, Segment, State
from streamer.core.titles import Titles

LABELS = ("blues", "jazz", "rock")
WINDOW_SECONDS = 5.0
LEVEL_DBFS = -20.0


class Radio:
    """A source of known sound with a window a second, as a pipeline would observe it."""

    def __init__(self, look_back_seconds: float = 10.0) -> None:
        settings = DecisionSettings(look_back_seconds=look_back_seconds)
        self.decider = Decider(LABELS, None, settings, WINDOW_SECONDS)
        self.sound: list[str | None] = []
        self.titles = Titles()
        self.cut = 0
        self.sent: list[list[Segment]] = []
        self.decisions: list[Decision] = []

    def play(
        self,
        label: str | None,
        seconds: int,
        *,
        title: str | None = None,
        boundary: float | None = None,
    ) -> None:
        """Play seconds of a genre, or of silence (None)."""
        cut = self.titles.is_cut(title)
        untitled = title == "" and bool(self.titles.current)
        if cut:
            self.cut = len(self.sound)
        self.titles.take(title)
        for second in range(seconds):
            silence_changed = (label is None) != (bool(self.sound) and self.sound[-1] is None)
            if boundary is None and (silence_changed or ((cut or untitled) and second == 0)):
                boundary = float(len(self.sound))
            self.sound.append(label)
            observation = Observation(
                position=float(len(self.sound)),
                hop_seconds=1.0,
                level_dbfs=LEVEL_DBFS,
                window_probabilities=None if label is None else self.window(),
                title=self.titles.current,
                silent=label is None,
                restart=cut and second == 0,
                boundary=boundary,
            )
            boundary = None
            decision, segments = self.decider.update(observation)
            self.decisions.append(decision)
            self.sent.append(segments)

    def finish(self) -> list[Segment]:
        """End the source where it was last played."""
        return self.decider.finish(float(len(self.sound)))

    def window(self) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
        """Return what a good model predicts for the last five seconds since a silence or a cut."""
        labels: list[str] = []
        for label in reversed(self.sound[max(self.cut, len(self.sound) - int(WINDOW_SECONDS)) :]):
            if label is None:
                break
            labels.append(label)
        if len(labels) < 3:
            return None
        shares = np.array([labels.count(label) / len(labels) for label in LABELS])
        return 0.85 * shares + 0.05

    def finals(self) -> list[tuple[State, str | None, float, float | None]]:
        everything = [segment for sent in self.sent for segment in sent] + self.finish()
        return [(s.state, s.genre, s.start, s.end) for s in everything if s.final]


def test_one_song_is_one_segment_from_its_first_second() -> None:
    radio = Radio()
    radio.play("jazz", 30)
    assert [len(sent) for sent in radio.sent] == [1, 0, 1] + 27 * [0]
    assert radio.finals() == [(State.MUSIC, "jazz", 0.0, 30.0)]


def test_the_boundary_lies_where_the_music_changed() -> None:
    radio = Radio()
    radio.play("jazz", 30)
    radio.play("rock", 30)
    (_, _, _, end), (_, genre, start, _) = radio.finals()
    assert genre == "rock"
    assert start == end == pytest.approx(30, abs=1)


@pytest.mark.parametrize("look_back_seconds", [10.0, 60.0])
def test_a_genre_that_returns_does_not_stretch_into_the_one_between(
    look_back_seconds: float,
) -> None:
    radio = Radio(look_back_seconds)
    radio.play("jazz", 60)
    radio.play("rock", 15)
    radio.play("jazz", 60)
    assert [final[1:] for final in radio.finals()] == [
        ("jazz", 0.0, 60.0),
        ("rock", 60.0, 75.0),
        ("jazz", 75.0, 135.0),
    ]


def test_an_uncertain_transition_is_no_segment() -> None:
    radio = Radio()
    for label in ("jazz", "rock", "blues"):
        radio.play(label, 25)
    states = [segment.state for sent in radio.sent for segment in sent]
    assert State.UNCERTAIN in states
    assert [final[1] for final in radio.finals()] == ["jazz", "rock", "blues"]


def test_a_change_is_emitted_at_once_and_final_after_the_look_back() -> None:
    radio = Radio(look_back_seconds=10.0)
    radio.play("jazz", 30)
    radio.play("rock", 30)
    changed = next(i for i, sent in enumerate(radio.sent) if any(s.id == 2 for s in sent))
    before, after = radio.sent[changed]
    assert (before.id, before.end, before.final) == (1, after.start, False)
    assert (after.id, after.end, after.final) == (2, None, False)
    final = next(i for i, sent in enumerate(radio.sent) if any(s.final for s in sent))
    assert final == changed + 10


def test_silence_is_a_segment_with_sharp_edges() -> None:
    radio = Radio()
    radio.play("jazz", 20)
    radio.play(None, 4)
    radio.play("rock", 20)
    assert radio.finals() == [
        (State.MUSIC, "jazz", 0.0, 20.0),
        (State.SILENCE, None, 20.0, 24.0),
        (State.MUSIC, "rock", 24.0, 44.0),
    ]


def test_a_known_boundary_is_kept() -> None:
    radio = Radio()
    radio.play("jazz", 20, title="one")
    radio.play("rock", 20, title="two", boundary=20.3)
    assert [final[2] for final in radio.finals()] == [0.0, 20.3]


def test_a_new_title_begins_a_segment_even_of_the_same_genre() -> None:
    radio = Radio()
    radio.play("jazz", 20, title="one")
    radio.play("jazz", 20, title="two")
    finals = [s for sent in radio.sent for s in sent if s.final] + radio.finish()
    assert [(s.title, s.start, s.end) for s in finals] == [("one", 0.0, 20.0), ("two", 20.0, 40.0)]


def test_a_title_that_comes_late_is_added_to_the_segment() -> None:
    radio = Radio()
    radio.play("jazz", 10)
    radio.play("jazz", 1, title="one")
    assert [(s.id, s.title, s.final) for s in radio.sent[-1]] == [(1, "one", False)]
    assert [s.title for s in radio.finish()] == ["one"]


def test_a_title_lasts_until_another_is_announced() -> None:
    radio = Radio()
    radio.play("jazz", 10, title="one")
    radio.play("jazz", 10)
    radio.play(None, 4)
    radio.play("jazz", 10)
    finals = [s for sent in radio.sent for s in sent if s.final] + radio.finish()
    assert [(s.title, s.end) for s in finals] == [("one", 20.0), ("one", 24.0), ("one", 34.0)]


def test_an_empty_title_ends_a_title() -> None:
    radio = Radio()
    radio.play("jazz", 20, title="one")
    radio.play("jazz", 20, title="")
    radio.play("jazz", 20, title="two")
    finals = [s for sent in radio.sent for s in sent if s.final] + radio.finish()
    assert [(s.title, s.genre, s.start, s.end) for s in finals] == [
        ("one", "jazz", 0.0, 20.0),
        (None, "jazz", 20.0, 40.0),
        ("two", "jazz", 40.0, 60.0),
    ]


def test_the_confidence_of_a_segment_is_the_mean_of_its_decisions() -> None:
    settings = DecisionSettings(smoothing="none")
    decider = Decider(LABELS, None, settings, WINDOW_SECONDS)
    decider.update(Observation(1.0, 1.0, LEVEL_DBFS, np.array([0.9, 0.05, 0.05])))
    decider.update(Observation(4.0, 3.0, LEVEL_DBFS, np.array([0.7, 0.15, 0.15])))
    (segment,) = decider.finish(4.0)
    assert segment.confidence == pytest.approx((0.9 + 3 * 0.7) / 4)


def test_the_last_segment_ends_where_the_source_ends() -> None:
    radio = Radio()
    radio.play("jazz", 10)
    assert [segment.end for segment in radio.decider.finish(10.4)] == [10.4]
    assert radio.decider.finish(10.4) == []


def test_a_source_without_decisions_has_no_segments() -> None:
    assert Radio().decider.finish(3.0) == []


def test_a_short_change_of_genre_is_a_segment() -> None:
    radio = Radio()
    radio.play("jazz", 30)
    radio.play("rock", 10)
    radio.play("jazz", 30)
    genres = [final[1] for final in radio.finals()]
    assert genres in (["jazz", None, "jazz"], ["jazz", "rock", "jazz"])


JAZZ, ROCK = np.array([0.05, 0.9, 0.05]), np.array([0.05, 0.05, 0.9])
BLUES = np.array([0.9, 0.05, 0.05])
UNSURE = np.array([0.38, 0.22, 0.4])
"""Blues or rock."""
RATHER_JAZZ = np.array([0.29, 0.42, 0.29])
"""Too little confidence for a claim."""


def decided(*windows: tuple[np.ndarray, int]) -> list[tuple[str, float, float | None]]:
    """Return the final segments of windows one second apart, without smoothing."""
    decider = Decider(LABELS, None, DecisionSettings(smoothing="none"), WINDOW_SECONDS)
    repeated = [window for window, seconds in windows for _ in range(seconds)]
    sent: list[Segment] = []
    for now, window in enumerate(repeated, 1):
        sent += decider.update(Observation(float(now), 1.0, LEVEL_DBFS, window))[1]
    finals = [
        segment for segment in [*sent, *decider.finish(float(len(repeated)))] if segment.final
    ]
    return [(s.genre or s.state.value, s.start, s.end) for s in finals]


def test_a_claimed_genre_is_a_segment_however_short() -> None:
    assert decided((JAZZ, 20), (ROCK, 3), (BLUES, 20)) == [
        ("jazz", 0.0, 18.0),
        ("rock", 18.0, 21.0),
        ("blues", 21.0, 43.0),
    ]


def test_an_uncertain_transition_belongs_to_the_new_genre() -> None:
    assert decided((JAZZ, 20), (UNSURE, 4), (ROCK, 20)) == [
        ("jazz", 0.0, 18.0),
        ("rock", 18.0, 44.0),
    ]
    assert decided((JAZZ, 20), (UNSURE, 4), (JAZZ, 20)) == [
        ("jazz", 0.0, 18.0),
        ("uncertain", 18.0, 22.0),
        ("jazz", 22.0, 44.0),
    ]


def test_uncertainty_longer_than_a_window_is_a_segment() -> None:
    assert [what for what, _, _ in decided((JAZZ, 20), (UNSURE, 8), (ROCK, 20))] == [
        "jazz",
        "uncertain",
        "rock",
    ]


def test_a_short_uncertain_start_belongs_to_the_first_genre() -> None:
    assert decided((RATHER_JAZZ, 5), (JAZZ, 20)) == [("jazz", 0.0, 25.0)]
    assert [what for what, _, _ in decided((RATHER_JAZZ, 15), (JAZZ, 20))] == ["uncertain", "jazz"]
    assert decided((UNSURE, 5), (JAZZ, 20)) == [("uncertain", 0.0, 3.0), ("jazz", 3.0, 25.0)]


def test_an_uncertain_start_does_not_count_for_the_confidence() -> None:
    decider = Decider(LABELS, None, DecisionSettings(smoothing="none"), WINDOW_SECONDS)
    for now, window in enumerate([RATHER_JAZZ, RATHER_JAZZ, JAZZ, JAZZ], 1):
        decider.update(Observation(float(now), 1.0, LEVEL_DBFS, window))
    assert [segment.confidence for segment in decider.finish(4.0)] == [pytest.approx(0.9)]


def test_a_boundary_moves_when_a_transition_is_attributed() -> None:
    decider = Decider(LABELS, None, DecisionSettings(smoothing="none"), WINDOW_SECONDS)
    rather_blues = np.array([0.42, 0.33, 0.25])
    sent = []
    for now, window in enumerate([*[JAZZ] * 20, *[rather_blues] * 3, *[ROCK] * 20], 1):
        segments = decider.update(Observation(float(now), 1.0, LEVEL_DBFS, window))[1]
        if segments:
            sent.append((now, [(s.id, s.genre, s.start, s.end, s.final) for s in segments]))
    assert sent == [
        (1, [(1, "jazz", 0.0, None, False)]),
        (21, [(1, "jazz", 0.0, 18.0, False), (2, None, 18.0, None, False)]),
        (24, [(1, "jazz", 0.0, 21.0, False), (2, "rock", 21.0, None, False)]),
        (31, [(1, "jazz", 0.0, 21.0, True)]),
    ]


@pytest.mark.parametrize("boundary", [19.4, 20.0])
def test_silence_from_before_a_new_title_takes_over_its_segment(
    boundary: float,
) -> None:
    radio = Radio()
    radio.play("jazz", 20, title="one")
    radio.play("jazz", 1, title="two")
    radio.play(None, 4, boundary=boundary)
    radio.play("rock", 10)
    assert radio.finals() == [
        (State.MUSIC, "jazz", 0.0, 20.0),
        (State.SILENCE, None, 20.0, 25.0),
        (State.MUSIC, "rock", 25.0, 35.0),
    ]


def test_memory_does_not_grow_with_time() -> None:
    radio = Radio()
    radio.play("jazz", 60)
    radio.play("rock", 60)
    size = len(pickle.dumps(radio.decider))
    radio.play("rock", 600)
    assert len(pickle.dumps(radio.decider)) == size


def test_a_segment_with_a_new_title_has_the_old_label_until_it_has_its_own() -> None:
    radio = Radio()
    radio.play("jazz", 20, title="one")
    radio.play("rock", 12, title="two")
    latest = [
        [(s.id, s.genre, s.start, s.title) for s in sent if not s.final] for sent in radio.sent[20:]
    ]
    assert latest[:2] == [[(2, "jazz", 20.0, "two")], []]
    assert latest[2] == [(2, "rock", 20.0, "two")]
    radio.finish()
    assert radio.finals()[0] == (State.MUSIC, "jazz", 0.0, 20.0)


def test_a_kept_label_that_is_confirmed_counts_from_its_own_windows() -> None:
    radio = Radio()
    radio.play("jazz", 20, title="one")
    radio.play("jazz", 12, title="two")
    confidences = [d.confidence for d in radio.decisions[-10:]]
    (last,) = radio.finish()
    assert (last.genre, last.start, last.title) == ("jazz", 20.0, "two")
    assert last.confidence == pytest.approx(np.mean(confidences))


def test_a_segment_that_ends_with_a_kept_label_is_uncertain() -> None:
    radio = Radio()
    radio.play("jazz", 20, title="one")
    radio.play("rock", 2, title="two")
    radio.play("rock", 12, title="three")
    radio.finish()
    assert radio.finals()[:2] == [
        (State.MUSIC, "jazz", 0.0, 20.0),
        (State.UNCERTAIN, None, 20.0, 22.0),
    ]
