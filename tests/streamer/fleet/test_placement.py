from __future__ import annotations

import hypothesis
from hypothesis import strategies as st

from streamer.fleet.placement import place

ENGINES = ("one", "two", "three")


def test_new_sources_go_where_the_share_of_the_room_that_is_taken_is_smallest() -> None:
    placed = place("abcdef", {}, {"one": 20, "two": 10})
    assert {engine: len(own) for engine, own in placed.items()} == {"one": 4, "two": 2}


def test_sources_of_a_lost_engine_go_to_others_and_no_other_source_moves() -> None:
    held = {"one": ["a", "b"], "two": ["c", "d"], "three": ["e", "f"]}
    placed = place("abcdef", held, {"one": 10, "two": 10})
    assert placed["one"] > {"a", "b"}
    assert placed["two"] > {"c", "d"}
    assert placed["one"] | placed["two"] == set("abcdef")


def test_a_source_that_left_the_list_leaves_its_engine_alone() -> None:
    assert place("ac", {"one": ["a", "b"], "two": ["c"]}, {"one": 10, "two": 10}) == {
        "one": {"a"},
        "two": {"c"},
    }


def test_an_engine_that_joins_gets_sources_only_when_loads_are_evened_out() -> None:
    held = {"one": "abcdefgh"}
    room = {"one": 10, "two": 10}
    assert place("abcdefgh", held, room)["two"] == set()
    assert len(place("abcdefgh", held, room, even=True)["two"]) == 4


def test_loads_that_differ_a_little_are_left_as_they_are() -> None:
    held = {"one": "abcde", "two": "fgh"}
    placed = place("abcdefgh", held, {"one": 10, "two": 12}, even=True)
    assert placed == {"one": set("abcde"), "two": set("fgh")}


def test_without_an_engine_nothing_is_placed() -> None:
    assert place("abc", {"one": "abc"}, {}) == {}


@hypothesis.given(
    st.sets(st.integers(0, 50)),
    st.dictionaries(st.integers(0, 50), st.sampled_from(ENGINES)),
    st.dictionaries(st.sampled_from(ENGINES), st.integers(1, 100), min_size=1),
    st.booleans(),
)
def test_every_source_is_with_exactly_one_engine(
    numbers: set[int], holders: dict[int, str], capacities: dict[str, int], even: bool
) -> None:
    sources = [str(number) for number in sorted(numbers)]
    held: dict[str, set[str]] = {engine: set() for engine in ENGINES}
    for number, engine in holders.items():
        held[engine].add(str(number))
    placed = place(sources, held, capacities, even=even)
    assert placed.keys() == capacities.keys()
    assert sorted(name for own in placed.values() for name in own) == sorted(sources)
