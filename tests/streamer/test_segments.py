from __future__ import annotations

import numpy as np
import pytest

from streamer.decision import Decider, DecisionSettings, Observation, Segment, State, Titles

LABELS = ("blues", "jazz", "rock")
WINDOW_SECONDS = 5.0
LOUD, SILENT = -20.0, -90.0


class Radio:
    """A source of windows one second apart, whose sound is known."""

    def __init__(self, look_back_seconds: float = 10.0) -> None:
        settings = DecisionSettings(look_back_seconds=look_back_seconds)
        self.decider = Decider(LABELS, None, settings, WINDOW_SECONDS)
        self.sound: list[str | None] = []
        self.titles = Titles()
        self.cut = 0
        self.sent: list[list[Segment]] = []

    def play(
        self,
        label: str | None,
        seconds: int,
        *,
        title: str | None = None,
        boundary: float | None = None,
    ) -> None:
        """Play seconds of a genre, or of silence (None)."""
        if self.titles.is_cut(title):
            self.cut = len(self.sound)
        self.titles.take(title)
        for _ in range(seconds):
            self.sound.append(label)
            now = float(len(self.sound))
            level = SILENT if label is None else LOUD
            window = None if label is None else self.window()
            observation = Observation(now, 1.0, level, window, title, boundary=boundary)
            self.sent.append(self.decider.update(observation)[1])

    def window(self) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
        """What a good model says of the last five seconds since any silence or new title."""
        heard: list[str] = []
        for label in reversed(self.sound[max(self.cut, len(self.sound) - int(WINDOW_SECONDS)) :]):
            if label is None:
                break
            heard.append(label)
        if len(heard) < 3:
            return None
        shares = np.array([heard.count(label) / len(heard) for label in LABELS])
        return 0.85 * shares + 0.05

    def finals(self) -> list[tuple[State, str | None, float, float | None]]:
        everything = [segment for sent in self.sent for segment in sent] + self.decider.finish()
        return [(s.state, s.genre, s.start, s.end) for s in everything if s.final]


def test_one_song_is_one_segment_from_its_first_second() -> None:
    radio = Radio()
    radio.play("jazz", 30)
    assert [len(sent) for sent in radio.sent] == [1, 0, 1] + 27 * [0]
    assert radio.finals() == [(State.MUSIC, "jazz", 0.0, 30.0)]


def test_the_boundary_is_put_where_the_music_changed() -> None:
    radio = Radio()
    radio.play("jazz", 30)
    radio.play("rock", 30)
    (_, _, _, end), (_, genre, start, _) = radio.finals()
    assert genre == "rock"
    assert start == end == pytest.approx(30, abs=1)


@pytest.mark.parametrize("look_back_seconds", [10.0, 60.0])
def test_a_genre_that_comes_back_leaves_what_lay_between_its_length(
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


def test_hesitation_between_two_songs_is_no_segment() -> None:
    radio = Radio()
    for label in ("jazz", "rock", "blues"):
        radio.play(label, 25)
    states = [segment.state for sent in radio.sent for segment in sent]
    assert State.UNCERTAIN in states
    assert [final[1] for final in radio.finals()] == ["jazz", "rock", "blues"]


def test_a_change_is_told_at_once_and_final_when_it_can_no_longer_move() -> None:
    radio = Radio(look_back_seconds=10.0)
    radio.play("jazz", 30)
    radio.play("rock", 30)
    told = next(i for i, sent in enumerate(radio.sent) if any(s.id == 2 for s in sent))
    before, after = radio.sent[told]
    assert (before.id, before.end, before.final) == (1, after.start, False)
    assert (after.id, after.end, after.final) == (2, None, False)
    final = next(i for i, sent in enumerate(radio.sent) if any(s.final for s in sent))
    assert final == told + 10


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


def test_a_boundary_that_is_known_is_kept() -> None:
    radio = Radio()
    radio.play("jazz", 20, title="one")
    radio.play("rock", 20, title="two", boundary=20.3)
    assert [final[2] for final in radio.finals()] == [0.0, 20.3]


def test_a_new_title_begins_a_segment_even_of_the_same_genre() -> None:
    radio = Radio()
    radio.play("jazz", 20, title="one")
    radio.play("jazz", 20, title="two")
    finals = [s for sent in radio.sent for s in sent if s.final] + radio.decider.finish()
    assert [(s.title, s.start, s.end) for s in finals] == [("one", 0.0, 20.0), ("two", 20.0, 40.0)]


def test_a_title_that_comes_late_is_added() -> None:
    radio = Radio()
    radio.play("jazz", 10)
    radio.play("jazz", 1, title="one")
    assert [(s.id, s.title, s.final) for s in radio.sent[-1]] == [(1, "one", False)]
    assert [s.title for s in radio.decider.finish()] == ["one"]


def test_a_title_that_is_taken_back_holds_no_longer_and_the_next_one_is_a_new_song() -> None:
    radio = Radio()
    radio.play("jazz", 20, title="one")
    radio.play("jazz", 20, title="")
    radio.play("jazz", 20, title="two")
    finals = [s for sent in radio.sent for s in sent if s.final] + radio.decider.finish()
    assert [(s.title, s.genre, s.start, s.end) for s in finals] == [
        ("one", "jazz", 0.0, 20.0),
        (None, "jazz", 20.0, 40.0),
        ("two", "jazz", 40.0, 60.0),
    ]


def test_the_confidence_of_a_segment_is_the_mean_of_its_decisions() -> None:
    settings = DecisionSettings(smoothing="none")
    decider = Decider(LABELS, None, settings, WINDOW_SECONDS)
    decider.update(Observation(1.0, 1.0, LOUD, np.array([0.9, 0.05, 0.05])))
    decider.update(Observation(4.0, 3.0, LOUD, np.array([0.7, 0.15, 0.15])))
    (segment,) = decider.finish()
    assert segment.confidence == pytest.approx((0.9 + 3 * 0.7) / 4)


def test_a_source_that_ends_ends_its_segment_where_it_ended() -> None:
    radio = Radio()
    radio.play("jazz", 10)
    assert [segment.end for segment in radio.decider.finish(10.4)] == [10.4]
    assert radio.decider.finish(10.4) == []


def test_a_source_that_was_never_heard_has_no_segments() -> None:
    assert Radio().decider.finish(3.0) == []


def test_a_return_to_the_same_genre_is_not_hidden() -> None:
    radio = Radio()
    radio.play("jazz", 30)
    radio.play("rock", 10)
    radio.play("jazz", 30)
    genres = [final[1] for final in radio.finals()]
    assert genres in (["jazz", None, "jazz"], ["jazz", "rock", "jazz"])
