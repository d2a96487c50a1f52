from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streamer.core.rules import Firing, Rule, RuleBook, fill, seconds

START = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def at(position: float) -> datetime:
    return START + timedelta(seconds=position)


class Story:
    """What happens to one source, second by second, and what fires."""

    def __init__(self, **rule: Any) -> None:
        self.book = RuleBook([Rule(**{"name": "it", "run": ("true",)} | rule)])
        self.fired: list[tuple[float, str]] = []
        self.messages: list[str] = []
        self.position = 0.0
        self._note(self.book.status("radio", "live", at(0), at(0)))

    def play(self, length: float, label: str, title: str | None = None) -> Story:
        """Let the source play a genre, or be in a state, for a time."""
        is_state = label in ("silence", "not_music", "uncertain")
        begun = self.position
        for _ in range(int(length)):
            self.position += 1.0
            self._note(
                self.book.hear(
                    "radio",
                    at(self.position),
                    at(begun if label == "silence" else self.position),
                    state=label if is_state else "music",
                    genre=None if is_state else label,
                    title=title,
                )
            )
        return self

    def off(self, length: float, state: str = "reconnecting") -> Story:
        """Let the source be off for a time and come back."""
        self._note(self.book.status("radio", state, at(self.position), at(self.position)))
        for _ in range(int(length)):
            self.position += 1.0
            self._note(self.book.advance(at(self.position)))
        self._note(self.book.status("radio", "live", at(self.position), at(self.position)))
        return self

    def _note(self, firings: list[Firing]) -> None:
        for firing in firings:
            event = firing.values["event"]
            self.fired.append(((firing.time - START).total_seconds(), event))
            self.messages.append(firing.message)


def test_silence_fires_once_after_its_time_and_tells_when_it_is_over() -> None:
    story = Story(when="silence", duration=10).play(5, "jazz").play(30, "silence").play(3, "jazz")
    assert story.fired == [(15.0, "begins"), (36.0, "over")]
    since = at(5).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert story.messages == [
        f"radio: it, silence since {since}",
        "radio: it is over after 31 s",
    ]


def test_nothing_fires_again_within_the_cooldown() -> None:
    story = Story(when="silence", duration=2, cooldown=60)
    for _ in range(5):
        story.play(5, "silence").play(5, "jazz")
    assert [event for _, event in story.fired] == ["begins", "over"]
    story.play(30, "silence")
    assert story.fired[2:] == [(62.0, "begins")]


def test_a_genre_or_group_fires_when_it_begins_and_tells_no_end() -> None:
    story = Story(when="genre", genres=("rock", "metal"), cooldown=0)
    story.play(3, "jazz").play(3, "rock").play(3, "metal").play(3, "jazz").play(3, "metal")
    assert story.fired == [(4.0, "begins"), (13.0, "begins")]


def test_a_rule_may_ask_for_the_end() -> None:
    story = Story(when="genre", genres=("rock",), over=True).play(3, "rock").play(3, "jazz")
    assert story.fired == [(1.0, "begins"), (4.0, "over")]


def test_a_source_that_is_not_live_fires_after_its_time() -> None:
    story = Story(when="not_live", duration=5).play(10, "jazz").off(3).play(10, "jazz").off(8)
    assert story.fired == [(28.0, "begins"), (31.0, "over")]


def test_the_end_of_a_file_is_no_outage() -> None:
    story = Story(when="not_live", duration=5).play(10, "jazz").off(20, "ended")
    assert story.fired == []


def test_a_source_that_comes_back_fires_but_not_at_the_start() -> None:
    story = Story(when="back").play(10, "jazz").off(8)
    assert story.fired == [(18.0, "begins")]


def test_a_title_that_stays_fires_and_another_begins_anew() -> None:
    story = Story(when="title_unchanged", duration=10, cooldown=0)
    story.play(8, "jazz", "A").play(15, "jazz", "B")
    assert story.fired == [(19.0, "begins")]


def test_a_genre_that_is_not_heard_for_a_time_fires() -> None:
    story = Story(when="not_heard", genres=("jazz",), duration=10)
    story.play(5, "jazz").play(20, "rock").play(1, "jazz")
    assert story.fired == [(16.0, "begins"), (26.0, "over")]


def test_an_outage_neither_fires_nor_ends_what_is_about_sound() -> None:
    story = Story(when="silence", duration=5).play(6, "silence").off(30).play(3, "silence")
    assert story.fired == [(5.0, "begins")]
    assert Story(when="silence", duration=5).play(3, "silence").off(30).fired == []


def test_other_sources_are_left_alone() -> None:
    assert Story(when="silence", sources=("hall",)).play(5, "silence").fired == []


def test_it_fires_only_in_its_hours() -> None:
    local = START.astimezone()
    inside = f"{local:%H}:00-{local + timedelta(hours=1):%H}:00"
    later = f"{local:%H}:01-{local + timedelta(hours=1):%H}:00"
    assert Story(when="silence", between=inside).play(120, "silence").fired == [(1.0, "begins")]
    assert Story(when="silence", between=later).play(120, "silence").fired == [(60.0, "begins")]


def test_rules_that_stay_the_same_continue_after_a_reload() -> None:
    story = Story(when="silence", duration=10).play(8, "silence")
    former, story.book = story.book, RuleBook(story.book.rules)
    story.book.take_over(former)
    assert story.play(20, "silence").fired[:1] == [(10.0, "begins")]


def test_the_last_firing_is_listed() -> None:
    story = Story(when="silence", duration=10).play(30, "silence")
    listed = {"name": "it", "fired": at(10), "source": "radio", "active": ["radio"]}
    assert story.book.last_firings() == [listed]


def test_values_are_not_searched_for_placeholders() -> None:
    assert fill("{title} {source}", {"title": "{source}; rm", "source": "a"}) == "{source}; rm a"


@pytest.mark.parametrize(("text", "value"), [(30, 30), ("1.5", 1.5), ("5 min", 300), ("2h", 7200)])
def test_times_may_have_units(text: str | float, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"when": "sunset"}, "when should be one of genre, not_heard, silence"),
        ({"when": "genre"}, "when = 'genre' needs genres"),
        ({"when": "silence", "genres": ("jazz",)}, "when = 'silence' has no genres"),
        ({"when": "silence", "run": ()}, "a rule needs notify or run"),
        ({"when": "silence", "duration": "soon"}, "'soon' should be a time such as 30, '5 min'"),
        ({"when": "silence", "between": "night"}, "between = 'night' should be hours such as"),
        ({"when": "silence", "message": "{mood}"}, "{mood} is unknown; there are {rule}, {event}"),
        ({"when": "silence", "name": ""}, "a rule needs a name"),
        ({"when": "silence", "run_seconds": 0}, "run_seconds should be more than 0"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        Rule(**{"name": "it", "run": ("true",)} | changes)
    assert str(refusal.value).startswith(message)
