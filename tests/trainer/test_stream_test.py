"""The stream test: a programme of known truth, played through the daemon's own pipeline."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from support.model import band_noise, make_model
from support.run import FACTS
from support.songs import write_audio, write_songs

from streamer.core.decision import Decision, DecisionSettings, State
from streamer.core.model import Classifier
from streamer.core.spectrogram import SpectrogramSpec
from trainer.discovery import find_background, find_tracks
from trainer.evaluation_sets import JudgedSets, judged_sets
from trainer.loading import load_candidate
from trainer.prepare import prepare
from trainer.report import write_report
from trainer.stream_test import (
    StreamTest,
    as_text,
    decide_again,
    is_right,
    measure,
    observations_of,
    stream_test,
    tuned,
    write_stream_test,
)
from trainer.synthetic_stream import Item, Programme, make_programme, play
from trainer.tracks import DatasetError
from trainer.writing import write_json

SPEC = SpectrogramSpec()


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"), tracks=5, seconds=20)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    for number in range(4):
        write_audio(folder / "rain" / f"{number}.wav", band_noise("noise", 10, seed=number))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return load_candidate(make_model(tmp_path_factory.mktemp("model") / "a.onnx", noise=True))


LABELS = ("low", "middle", "high", "noise")


def decision(position: float, genre: str | None, state: State = State.MUSIC) -> Decision:
    """Return what is said after a second: surely this genre, or any of them."""
    probabilities = {label: float(label == genre) if genre else 1 / 4 for label in LABELS}
    return Decision(position, 1.0, state, genre, 1.0, probabilities, {}, -20.0)


def told(*genres: str | None) -> list[Decision]:
    """Return a decision a second; None is `uncertain`."""
    return [
        decision(second, genre, State.UNCERTAIN if genre is None else State.MUSIC)
        for second, genre in enumerate(genres, start=1)
    ]


def song(genre: str, start: float, end: float) -> Item:
    return Item(State.MUSIC, genre, genre, start, end)


def test_a_programme_is_without_a_gap_and_the_same_for_the_same_seed(
    songs: Path, sounds: Path
) -> None:
    tracks, clips = find_tracks(songs)[0], find_background(sounds)[0]
    one, same, other = (make_programme(tracks, clips, SPEC, seed=seed).items for seed in (3, 3, 4))
    assert one == same != other
    assert one[0].start == 0
    for before, after in itertools.pairwise(one):
        assert before.end == after.start
    assert {item.state for item in one} == {State.MUSIC, State.SILENCE, State.NOT_MUSIC}
    assert sorted(item.name for item in one if item.state is State.MUSIC) == sorted(
        track.name for track in tracks
    )


def test_a_long_sound_is_played_in_part(songs: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "speech.wav", band_noise("noise", 40))
    clips, _ = find_background(tmp_path)
    items = make_programme(find_tracks(songs)[0], clips, SPEC, seed=3).items
    lengths = {round(item.seconds, 3) for item in items if item.state is State.NOT_MUSIC}
    assert lengths == {10.0}


def test_a_damaged_track_is_left_out_of_the_programme(songs: Path, tmp_path: Path) -> None:
    tracks, _ = find_tracks(songs)
    (tmp_path / "bad.wav").write_text("no audio")
    bad = tracks[0].__class__("low/bad", "low", tmp_path / "bad.wav")
    programme = make_programme([*tracks, bad], [], SPEC)
    assert [entry.path.name for entry in programme.skipped] == ["bad.wav"]


def test_audio_and_pictures_are_not_mixed(songs: Path, sounds: Path, tmp_path: Path) -> None:
    pictures = prepare(sounds, tmp_path, SPEC, quiet=True, background=True).folder
    with pytest.raises(DatasetError, match="both be audio or both be pictures"):
        make_programme(find_tracks(songs)[0], find_background(pictures)[0], SPEC)


def played(model: Classifier, songs: Path, sounds: Path) -> tuple[list[Item], list[Decision]]:
    programme = make_programme(find_tracks(songs)[0], find_background(sounds)[0], SPEC)
    return programme.items, [d for own in play(model, programme) for d in own]


def test_a_listener_gets_the_right_label_and_none_on_silence(
    model: Classifier, songs: Path, sounds: Path
) -> None:
    items, decisions = played(model, songs, sounds)
    result = measure(items, decisions, model.contract)
    assert result.songs == 15
    assert result.right > 0.6
    assert result.never_right == 0
    assert 0 < result.delay_median < 8
    assert result.claimed_on_silence < result.silence
    assert result.accuracy_after["10"] > result.accuracy_after["1"]
    assert set(result.accuracy_after) == {"1", "3", "5", "10"}


def test_pictures_are_heard_as_their_audio_is(
    model: Classifier, songs: Path, sounds: Path, tmp_path: Path
) -> None:
    from_audio = measure(*played(model, songs, sounds), model.contract)
    from_pictures = measure(
        *played(
            model,
            prepare(songs, tmp_path / "songs", SPEC, quiet=True).folder,
            prepare(sounds, tmp_path / "sounds", SPEC, quiet=True, background=True).folder,
        ),
        model.contract,
    )
    assert from_pictures.seconds == pytest.approx(from_audio.seconds, rel=0.02)
    assert from_pictures.right == pytest.approx(from_audio.right, abs=0.05)
    assert from_pictures.delay_median == pytest.approx(from_audio.delay_median, abs=1.5)


@pytest.mark.parametrize("kind", ["audio", "pictures"])
def test_silence_between_songs_closes_the_gate(
    model: Classifier, songs: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "pictures":
        songs = prepare(songs, tmp_path, SPEC, quiet=True).folder
    programme = make_programme(find_tracks(songs)[0], [], SPEC)
    decisions = [d for own in play(model, programme) for d in own]
    silent = [d.position for d in decisions if d.state is State.SILENCE]
    truth = [item for item in programme.items if item.state is State.SILENCE]
    assert len(silent) >= 2 * len(truth)
    assert all(any(item.start < at <= item.end + 1 for item in truth) for at in silent)


def test_decisions_can_be_made_again_without_the_network(
    model: Classifier, songs: Path, sounds: Path
) -> None:
    _, decisions = played(model, songs, sounds)
    settings = DecisionSettings.from_mapping(model.contract.decision)
    again = decide_again(observations_of(decisions, model.contract), model.contract, settings)
    assert [(d.position, d.state, d.genre) for d in again] == [
        (d.position, d.state, d.genre) for d in decisions
    ]
    for one, other in zip(again, decisions, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=1e-6)


def test_tuning_never_makes_it_worse_and_says_what_it_chose(
    model: Classifier, songs: Path, sounds: Path
) -> None:
    sets = judged_sets(model, data=songs, background=sounds, split=["all"])
    before = stream_test(model, sets, "all", quiet=True)
    after = tuned(before, model.contract)
    assert after.result.worth >= before.result.worth
    assert {"smoothing", "min_confidence"} & set(after.settings)
    DecisionSettings.from_mapping(after.settings)


def test_tuning_for_claims_that_are_right_keeps_to_the_share_and_else_comes_as_near_as_it_can(
    model: Classifier, songs: Path, sounds: Path
) -> None:
    sets = judged_sets(model, data=songs, background=sounds, split=["all"])
    before = stream_test(model, sets, "all", limit=6, quiet=True)
    sure, never_wrong = (tuned(before, model.contract, share) for share in (0.9, 1.0))
    assert sure.result.right_of_claimed >= 0.9
    assert sure.result.claimed_in_music >= 0.5
    assert never_wrong.result.right_of_claimed >= sure.result.right_of_claimed


def test_what_was_played_and_said_is_written(
    model: Classifier, songs: Path, tmp_path: Path
) -> None:
    sets = judged_sets(model, data=songs, split=["all"])
    test = stream_test(model, sets, "all", limit=4, quiet=True)
    assert test.result.songs == 4
    write_stream_test(test, tmp_path, "all", sets)
    content = json.loads((tmp_path / "stream_all.json").read_text())
    assert content["protocol"] == sets.protocol
    assert content["result"]["songs"] == 4
    programme = pd.read_csv(tmp_path / "stream_all_programme.csv")
    decisions = pd.read_csv(tmp_path / "stream_all_decisions.csv")
    assert set(programme["state"]) <= {"music", "silence", "not_music"}
    assert decisions["position"].max() <= programme["end"].max() + 1


def test_a_list_without_tracks_cannot_be_played(model: Classifier, songs: Path) -> None:
    sets = judged_sets(model, data=songs, split=["all"])
    with pytest.raises(DatasetError, match="the valid list has no tracks"):
        stream_test(model, sets, "valid", quiet=True)


@pytest.mark.parametrize(
    ("item", "said", "right"),
    [
        (song("low", 0, 9), decision(1, "low"), True),
        (song("low", 0, 9), decision(1, "high"), False),
        (song("low", 0, 9), decision(1, None, State.UNCERTAIN), False),
        (Item(State.SILENCE, None, "", 0, 9), decision(1, None, State.SILENCE), True),
        (Item(State.SILENCE, None, "", 0, 9), decision(1, None, State.NOT_MUSIC), False),
        (Item(State.NOT_MUSIC, None, "", 0, 9), decision(1, None, State.NOT_MUSIC), True),
        (Item(State.NOT_MUSIC, None, "", 0, 9), decision(1, None, State.SILENCE), True),
        (Item(State.NOT_MUSIC, None, "", 0, 9), decision(1, None, State.UNCERTAIN), False),
        (Item(State.NOT_MUSIC, None, "", 0, 9), decision(1, "low"), False),
    ],
)
def test_what_counts_as_right(item: Item, said: Decision, right: bool) -> None:
    assert is_right(item, said, has_not_music=True) is right


def test_a_model_without_the_label_is_right_to_be_uncertain_on_what_is_not_music() -> None:
    rain = Item(State.NOT_MUSIC, None, "rain", 0, 9)
    assert is_right(rain, decision(1, None, State.UNCERTAIN), has_not_music=False)


def test_delays_and_changes_are_counted_from_the_change(model: Classifier) -> None:
    items = [song("low", 0, 6), song("high", 6, 12)]
    said = told(
        None, None, "low", "low", "middle", "low", "low", "high", "high", "high", "low", "high"
    )
    result = measure(items, said, model.contract)
    assert result.delay_median == pytest.approx((3 + 2) / 2)
    assert result.right == pytest.approx(7 / 12)
    assert result.uncertain == pytest.approx(2 / 12)
    # In each song the first change is called for; two more are not.
    assert result.changes_per_minute == pytest.approx(4 * 5)
    assert result.accuracy_after == {"1": 0.0, "3": 1.0, "5": 0.0}


def test_a_song_never_labelled_right_is_counted_and_has_no_delay(model: Classifier) -> None:
    items = [song("low", 0, 5), song("middle", 5, 10)]
    result = measure(items, told(*["high"] * 7, *["middle"] * 3), model.contract)
    assert (result.never_right, result.delay_median) == (1, 3)
    nothing = measure(items[:1], told(*["high"] * 5), model.contract)
    assert (nothing.never_right, nothing.delay_median, nothing.delay_p95) == (1, None, None)
    assert "  right label never in 1 songs\n" in as_text(nothing, "valid", "by ear")


def test_a_stream_without_a_right_label_is_null_in_json_and_never_in_the_report(
    model: Classifier, tmp_path: Path
) -> None:
    items, said = [song("low", 0, 5)], told(*["high"] * 5)
    test = StreamTest(Programme(items, [], []), said, measure(items, said, model.contract), {})
    write_stream_test(test, tmp_path / "evaluation", "valid", JudgedSets({}, {}, "by hand", [], []))
    written = json.loads((tmp_path / "evaluation" / "stream_valid.json").read_text())
    assert (written["result"]["delay_median"], written["result"]["delay_p95"]) == (None, None)
    made = {"labels": LABELS, "versions": {}, "git": None}
    settings = {"data": str(tmp_path / "gone"), "background": None, "augmentation": {}}
    write_json(tmp_path / "run.json", {**FACTS, **made, "settings": settings})
    page = write_report(tmp_path).read_text()
    assert re.search(r"Seconds to the right label, median / 95th percentile</td>.*?>never<", page)


def test_two_songs_of_one_genre_in_a_row_are_no_change(model: Classifier) -> None:
    items = [song("low", 0, 5), song("low", 5, 10), song("high", 10, 15)]
    said = told(*[None] * 3, *["low"] * 9, *["high"] * 3)
    result = measure(items, said, model.contract)
    assert (result.never_right, result.delay_median) == (0, (4 + 3) / 2)


def test_claims_on_silence_and_other_sounds_are_seconds(model: Classifier) -> None:
    items = [
        Item(State.SILENCE, None, "silence", 0, 3),
        Item(State.NOT_MUSIC, None, "rain", 3, 5),
        song("low", 5, 6),
    ]
    said = [
        decision(1, "low"),
        decision(2, None, State.SILENCE),
        decision(3, None, State.SILENCE),
        decision(4, "low"),
        decision(5, None, State.NOT_MUSIC),
        decision(6, "low"),
    ]
    result = measure(items, said, model.contract)
    assert (result.claimed_on_silence, result.silence) == (1, 3)
    assert (result.claimed_on_not_music, result.not_music) == (1, 2)
    assert result.right == pytest.approx(4 / 6)
    assert result.right_of_claimed == pytest.approx(1 / 3)
    assert (result.claimed_in_music, result.right_in_music) == (1, 1)


def test_sounds_between_songs_and_a_room_without_music_are_counted_apart(
    model: Classifier,
) -> None:
    sounds = [
        Item(State.NOT_MUSIC, None, name, at, at + 2) for name, at in (("rain", 1), ("dog", 3))
    ]
    items = [song("low", 0, 1), *sounds, song("low", 5, 6)]
    said = [decision(at, "low") for at in (1, 2, 3)]
    said += [decision(at, None, State.NOT_MUSIC) for at in (4, 5)]
    result = measure(items, [*said, decision(6, "low")], model.contract)
    assert (result.claimed_on_not_music, result.not_music) == (2, 2)
    assert (result.claimed_without_music, result.without_music) == (0, 2)


def test_a_programme_ends_with_all_sounds_that_are_not_music(songs: Path, sounds: Path) -> None:
    clips = find_background(sounds)[0]
    items = make_programme(find_tracks(songs)[0], clips, SPEC).items
    assert sorted(item.name for item in items[-len(clips) :]) == sorted(clip.name for clip in clips)


def test_a_programme_shorter_than_a_window_cannot_be_judged(model: Classifier) -> None:
    with pytest.raises(DatasetError, match="shorter than the model's window"):
        measure([song("low", 0, 1)], [], model.contract)


def test_music_called_not_music_is_counted(model: Classifier) -> None:
    said = [decision(1, "low"), decision(2, None, State.NOT_MUSIC)]
    result = measure([song("low", 0, 2)], said, model.contract)
    assert result.not_music_in_music == 0.5


def test_the_calibration_of_what_is_told_is_that_of_the_smoothed_probabilities(
    model: Classifier,
) -> None:
    said = told("low", "low", "high", "low")
    assert measure([song("low", 0, 4)], said, model.contract).ece == pytest.approx(0.25)


def test_a_right_second_is_worth_more_than_an_uncertain_one_and_that_more_than_a_wrong_one(
    model: Classifier,
) -> None:
    items = [song("low", 0, 8)]
    right = told(*["low"] * 8)
    unsure = told(*["low"] * 4, *[None] * 4)
    wrong = told(*["low"] * 4, *["high"] * 4)
    worths = [measure(items, said, model.contract).worth for said in (right, unsure, wrong)]
    assert worths[0] == 1
    assert worths == sorted(worths, reverse=True)
    assert len(set(worths)) == 3
