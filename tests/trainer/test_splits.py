"""Splitting tracks into train, valid and test sets."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.discovery import check_genres
from trainer.splits import Split, fault_filtered_names, split_tracks, without_faults
from trainer.tracks import DatasetError, Track

GENRES = (
    "blues classical country disco hiphop jazz metal pop reggae rock".split()  # noqa: SIM905
)


def tracks_named(names: Iterable[str]) -> list[Track]:
    return [Track(name, name.partition(".")[0], Path(f"{name}.png")) for name in names]


def gtzan() -> list[Track]:
    return tracks_named(f"{genre}.{number:05}" for genre in GENRES for number in range(100))


def own_tracks(genres: dict[str, int]) -> list[Track]:
    return tracks_named(
        f"{genre}.{number:05}" for genre, count in genres.items() for number in range(count)
    )


def names_of(split: Split) -> list[set[str]]:
    return [{track.name for track in tracks} for tracks in split.sets().values()]


def assert_disjoint(split: Split) -> None:
    for one, other in itertools.combinations(names_of(split), 2):
        assert not one & other
    for tracks in split.sets().values():
        assert len({track.name for track in tracks}) == len(tracks)


def test_a_genre_with_fewer_than_five_tracks_is_refused() -> None:
    with pytest.raises(DatasetError, match="genre fado has 4 usable tracks; at least 5"):
        check_genres(own_tracks({"fado": 4, "tango": 9}))


def test_a_single_genre_is_refused() -> None:
    with pytest.raises(DatasetError, match="only one genre found"):
        split_tracks(own_tracks({"fado": 20}))


def test_the_fault_filtered_lists_have_their_published_sizes() -> None:
    names = fault_filtered_names()
    assert {name: len(listed) for name, listed in names.items()} == {
        "train": 443,
        "valid": 197,
        "test": 290,
    }
    assert len(set(itertools.chain(*names.values()))) == 930


def test_the_fault_filtered_split_is_the_default_for_gtzan() -> None:
    split = split_tracks(gtzan())
    assert split.name == "fault-filtered"
    assert [len(names) for names in names_of(split)] == [443, 197, 290]
    assert not split.missing
    assert split.notes == ["70 tracks of the folder are in none of the lists and are not used"]
    assert "no artist in two" in split.protocol


def test_missing_tracks_are_counted_by_list() -> None:
    held_back = set(fault_filtered_names()["test"])
    split = split_tracks(
        [track for track in without_faults(gtzan()) if track.name not in held_back]
    )
    assert split.test == []
    assert len(split.missing) == 290
    assert split.notes == ["290 of 290 listed test tracks were not found"]


def test_the_stratified_split_is_the_default_for_other_music() -> None:
    split = split_tracks(own_tracks({"fado": 20, "tango": 10}))
    assert split.name == "stratified"
    assert not split.notes


def test_a_stratified_split_of_gtzan_warns_of_leaking_artists() -> None:
    split = split_tracks(gtzan(), ["stratified"])
    assert [len(names) for names in names_of(split)] == [800, 100, 100]
    (warning,) = split.notes
    assert "about three test tracks in four have their artist in training" in warning


def test_the_known_faulty_tracks_can_be_excluded() -> None:
    assert len(without_faults(gtzan())) == 930
    assert len(without_faults(own_tracks({"fado": 20}))) == 20
    split = split_tracks(gtzan(), ["stratified"], exclude_faults=True)
    used = set.union(*names_of(split))
    assert used == set(itertools.chain(*fault_filtered_names().values()))


def test_a_stratified_split_depends_on_the_seed_and_not_on_the_order() -> None:
    tracks = own_tracks({"fado": 30, "tango": 30})
    assert split_tracks(tracks, seed=1) == split_tracks(tracks[::-1], seed=1)
    assert names_of(split_tracks(tracks, seed=1)) != names_of(split_tracks(tracks, seed=2))


@settings(deadline=None)
@given(
    counts=st.dictionaries(
        st.sampled_from(["fado", "tango", "polka", "ska"]), st.integers(5, 60), min_size=2
    ),
    seed=st.integers(0, 1000),
)
def test_a_stratified_split_has_every_genre_in_every_set(counts: dict[str, int], seed: int) -> None:
    split = split_tracks(own_tracks(counts), ["stratified"], seed=seed)
    assert_disjoint(split)
    assert sum(len(names) for names in names_of(split)) == sum(counts.values())
    for tracks in split.sets().values():
        assert {track.genre for track in tracks} == set(counts)


@pytest.mark.parametrize("how", [["fault-filtered"], ["stratified"]])
def test_no_track_is_in_two_sets(how: list[str]) -> None:
    assert_disjoint(split_tracks(gtzan(), how))


def write_artists(path: Path, tracks: list[Track], per_artist: int) -> Path:
    lines = ["track,artist"]
    lines += [
        f"{track.genre}/{track.path.stem}.mp3,{track.genre} band {number // per_artist}"
        for number, track in enumerate(tracks)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("seed", range(5))
def test_a_grouped_split_keeps_every_artist_in_one_set(tmp_path: Path, seed: int) -> None:
    tracks = own_tracks({"fado": 100, "tango": 60})
    table = write_artists(tmp_path / "artists.csv", tracks, per_artist=4)
    split = split_tracks(tracks, [str(table)], seed=seed)
    assert split.name == "grouped"
    assert_disjoint(split)
    artist = {track.name: (track.genre, number // 4) for number, track in enumerate(tracks)}
    owners = [{artist[name] for name in names} for names in names_of(split)]
    assert sum(map(len, owners)) == len(set.union(*owners))
    sizes = [len(names) for names in names_of(split)]
    assert sum(sizes) == 160
    assert sizes[0] == pytest.approx(128, abs=8)
    for tracks_of_set in split.sets().values():
        assert Counter(track.genre for track in tracks_of_set).keys() == {"fado", "tango"}
    assert not split.notes
    assert "no artist in two sets" in split.protocol


def test_a_note_counts_the_tracks_without_an_artist(tmp_path: Path) -> None:
    tracks = own_tracks({"fado": 40, "tango": 40})
    table = write_artists(tmp_path / "artists.csv", tracks[:70], per_artist=2)
    split = split_tracks(tracks, [str(table)])
    assert_disjoint(split)
    assert split.notes[0].startswith("10 tracks have no artist in artists.csv")


def test_a_note_names_the_genre_that_a_set_lacks(tmp_path: Path) -> None:
    tracks = own_tracks({"fado": 40, "tango": 10})
    table = tmp_path / "artists.csv"
    rows = [f"{track.name},{track.name if track.genre == 'fado' else 'one'}" for track in tracks]
    table.write_text("\n".join(["track,artist", *rows]))
    split = split_tracks(tracks, [str(table)])
    assert "the valid set has no tango: too few artists" in split.notes
    assert "the test set has no tango: too few artists" in split.notes


def write_lists(folder: Path, *lists: Iterable[str]) -> list[str]:
    paths = [folder / f"list{number}.txt" for number in range(len(lists))]
    for path, names in zip(paths, lists, strict=True):
        path.write_text("\n".join(names) + "\n")
    return [str(path) for path in paths]


def test_three_lists_may_name_tracks_as_files(tmp_path: Path) -> None:
    tracks = own_tracks({"fado": 10, "tango": 10})
    names = [track.name for track in tracks]
    files = [f"{name.partition('.')[0]}/{name}.wav" for name in names[:12]]
    split = split_tracks(tracks, write_lists(tmp_path, files, names[12:15], names[15:]))
    assert split.name == "lists"
    assert_disjoint(split)
    assert [len(names) for names in names_of(split)] == [12, 3, 5]


def test_a_track_that_a_list_spells_in_two_ways_is_used_once(tmp_path: Path) -> None:
    tracks = own_tracks({"fado": 10, "tango": 10})
    names = [track.name for track in tracks]
    twice = [*names[:12], f"fado/{names[0]}", f"fado/{names[0]}.wav", "fado.99999"]
    split = split_tracks(tracks, write_lists(tmp_path, twice, names[12:15], names[15:]))
    assert_disjoint(split)
    assert len(split.train) == 12
    assert split.missing == ["fado.99999"]
    assert split.notes == ["1 of 13 listed train tracks were not found"]


def test_lists_and_tables_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    tracks = own_tracks({"fado": 10, "tango": 10})
    names = [track.name for track in tracks]
    paths = write_lists(tmp_path, names[:12], names[12:15], names[15:])
    table = str(write_artists(tmp_path / "artists.csv", tracks, per_artist=2))
    expected = [split_tracks(tracks, how) for how in (paths, [table])]
    for path in (*paths, table):
        Path(path).write_text(Path(path).read_text(), encoding="utf-8-sig")
    assert [split_tracks(tracks, how) for how in (paths, [table])] == expected
    assert not expected[0].missing


def test_a_table_row_without_a_track_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "artists.csv"
    table.write_text("artist,track\nAmália,fado.00000\n,\nfoo\n")
    with pytest.raises(DatasetError, match="a row has the artist foo and no track; complete it"):
        split_tracks(own_tracks({"fado": 10, "tango": 10}), [str(table)])


def test_a_track_in_two_lists_is_refused(tmp_path: Path) -> None:
    tracks = own_tracks({"fado": 10, "tango": 10})
    names = [track.name for track in tracks]
    with pytest.raises(DatasetError, match=r"fado\.00009 is in both the train and the valid list"):
        split_tracks(tracks, write_lists(tmp_path, names[:10], names[9:15], names[15:]))


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (["nonsense"], "cannot read the artists in nonsense"),
        (["a", "b"], "--split a b: give fault-filtered, stratified"),
        (["a", "b", "c"], "cannot read the split list a"),
        ([__file__], "must be a CSV with the columns track,artist"),
        (["fault-filtered"], "none of the 443 tracks in the train list"),
        (["70/30"], "--split 70/30: give three shares, for train, valid and test"),
        (["stratified", "0/50/50"], "give three shares"),
        (["fault-filtered", "70/15/15"], "give fault-filtered, stratified"),
    ],
)
def test_an_unusable_split_option_is_refused_with_the_reason(how: list[str], sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        split_tracks(own_tracks({"fado": 10, "tango": 10}), how)


@pytest.mark.parametrize("how", [["60/25/15"], ["stratified", "60/25/15"], ["12/5/3"]])
def test_a_stratified_split_has_the_shares_that_were_asked_for(how: list[str]) -> None:
    split = split_tracks(own_tracks({"fado": 40, "tango": 20}), how, seed=2)
    assert_disjoint(split)
    for part, sizes in {"train": (24, 12), "valid": (10, 5), "test": (6, 3)}.items():
        counts = Counter(track.genre for track in split.sets()[part])
        assert (counts["fado"], counts["tango"]) == sizes
    assert split.protocol.startswith(f"stratified by genre, {how[-1]}, seed 2")


def test_a_share_of_nothing_leaves_no_test_tracks() -> None:
    split = split_tracks(own_tracks({"fado": 10, "tango": 10}), ["80/20/0"])
    assert [len(tracks) for tracks in split.sets().values()] == [16, 4, 0]


def test_a_split_by_artist_has_about_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    tracks = own_tracks({"fado": 100, "tango": 100})
    table = tmp_path / "artists.csv"
    rows = (f"{track.name},{track.name[:-1]}" for track in tracks)
    table.write_text("track,artist\n" + "\n".join(rows))
    split = split_tracks(tracks, [str(table), "50/30/20"])
    assert [len(own) for own in split.sets().values()] == [100, 60, 40]
    assert "about 50/30/20" in split.protocol


def test_a_part_of_gtzan_in_one_list_is_divided_by_genre_and_this_is_said() -> None:
    listed = fault_filtered_names()["valid"]
    split = split_tracks(tracks_named(name for name in listed if name[:4] in ("blue", "jazz")))
    count = sum(len(names) for names in names_of(split))
    assert split.name == "stratified"
    assert all(names_of(split))
    sentence, leak = split.notes
    assert sentence == (
        f"all {count} tracks are in the valid list of the fault-filtered split, so they were "
        "divided by genre alone (stratified)"
    )
    assert "artists leak" in leak


def test_genres_of_gtzan_without_training_tracks_are_divided_by_genre() -> None:
    lists = fault_filtered_names()
    names = [name for name in lists["train"] if name.startswith("blues")]
    names += [name for name in lists["valid"] if name.startswith("jazz")]
    split = split_tracks(tracks_named(names))
    assert split.name == "stratified"
    assert "leaves no jazz to train on, so they were divided" in split.notes[0]
