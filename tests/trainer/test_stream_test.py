"""The stream test: a synthetic stream with known ground truth, played through the pipeline."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from support.model import band_noise, make_model
from support.run import RUN
from support.songs import write_audio, write_songs

from streamer.core.decision import Decision, DecisionSettings, State
from streamer.core.model import Classifier
from streamer.core.spectrogram import SpectrogramSpec
from streamer.system.files import write_json
from trainer.discovery import find_background, find_tracks
from trainer.evaluation_sets import EvaluationSets, find_evaluation_sets
from trainer.loading import load_classifier
from trainer.prepare import prepare
from trainer.report import write_report
from trainer.stream_test import (
    StreamTest,
    as_text,
    is_correct,
    measure,
    stream_test,
    write_stream_test,
)
from trainer.synthetic_stream import SyntheticStream, TrueSegment, make_stream, play
from trainer.tracks import DatasetError
from trainer.tuning import decide_again, observations_of, tune

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
    return load_classifier(make_model(tmp_path_factory.mktemp("model") / "a.onnx", noise=True))


LABELS = ("low", "middle", "high", "noise")


def decision(position: float, genre: str | None, state: State = State.MUSIC) -> Decision:
    """Return a decision with probability 1 for this genre, or the same for all genres."""
    probabilities = {label: float(label == genre) if genre else 1 / 4 for label in LABELS}
    return Decision(position, 1.0, state, genre, 1.0, probabilities, {}, -20.0)


def decisions_of(*genres: str | None) -> list[Decision]:
    """Return a decision a second; None is `uncertain`."""
    return [
        decision(second, genre, State.UNCERTAIN if genre is None else State.MUSIC)
        for second, genre in enumerate(genres, start=1)
    ]


def song(genre: str, start: float, end: float) -> TrueSegment:
    return TrueSegment(State.MUSIC, genre, genre, start, end)


def test_a_stream_has_no_gaps_in_its_truth_and_is_reproducible(songs: Path, sounds: Path) -> None:
    tracks, clips = find_tracks(songs)[0], find_background(sounds)[0]
    one, same, other = (make_stream(tracks, clips, SPEC, seed=seed).segments for seed in (3, 3, 4))
    assert one == same != other
    assert one[0].start == 0
    for before, after in itertools.pairwise(one):
        assert before.end == after.start
    assert {segment.state for segment in one} == {State.MUSIC, State.SILENCE, State.NOT_MUSIC}
    assert sorted(segment.name for segment in one if segment.state is State.MUSIC) == sorted(
        track.name for track in tracks
    )


def test_at_most_ten_seconds_of_a_clip_are_played(songs: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "speech.wav", band_noise("noise", 40))
    clips, _ = find_background(tmp_path)
    segments = make_stream(find_tracks(songs)[0], clips, SPEC, seed=3).segments
    lengths = {
        round(segment.seconds, 3) for segment in segments if segment.state is State.NOT_MUSIC
    }
    assert lengths == {10.0}


def test_a_damaged_track_is_skipped(songs: Path, tmp_path: Path) -> None:
    tracks, _ = find_tracks(songs)
    (tmp_path / "bad.wav").write_text("no audio")
    bad = tracks[0].__class__("low/bad", "low", tmp_path / "bad.wav")
    stream = make_stream([*tracks, bad], [], SPEC)
    assert [entry.path.name for entry in stream.skipped] == ["bad.wav"]


def test_audio_and_pictures_are_not_mixed(songs: Path, sounds: Path, tmp_path: Path) -> None:
    pictures = prepare(sounds, tmp_path, SPEC, background=True).folder
    with pytest.raises(DatasetError, match="both be audio or both be pictures"):
        make_stream(find_tracks(songs)[0], find_background(pictures)[0], SPEC)


def played(
    model: Classifier, songs: Path, sounds: Path
) -> tuple[list[TrueSegment], list[Decision]]:
    stream = make_stream(find_tracks(songs)[0], find_background(sounds)[0], SPEC)
    return stream.segments, [d for own in play(model, stream) for d in own]


def test_songs_get_their_label_and_silence_gets_none(
    model: Classifier, songs: Path, sounds: Path
) -> None:
    segments, decisions = played(model, songs, sounds)
    result = measure(segments, decisions, model.contract)
    assert result.songs == 15
    assert result.right > 0.6
    assert result.never_right == 0
    assert 0 < result.delay_median < 8
    assert result.claimed_on_silence < result.silence
    assert result.accuracy_after["10"] > result.accuracy_after["1"]
    assert set(result.accuracy_after) == {"1", "3", "5", "10"}


def test_pictures_give_nearly_the_result_of_their_audio(
    model: Classifier, songs: Path, sounds: Path, tmp_path: Path
) -> None:
    from_audio = measure(*played(model, songs, sounds), model.contract)
    from_pictures = measure(
        *played(
            model,
            prepare(songs, tmp_path / "songs", SPEC).folder,
            prepare(sounds, tmp_path / "sounds", SPEC, background=True).folder,
        ),
        model.contract,
    )
    assert from_pictures.seconds == pytest.approx(from_audio.seconds, rel=0.02)
    assert from_pictures.right == pytest.approx(from_audio.right, abs=0.05)
    assert from_pictures.delay_median == pytest.approx(from_audio.delay_median, abs=1.5)


@pytest.mark.parametrize("kind", ["audio", "pictures"])
def test_silence_between_songs_is_decided_as_silence(
    model: Classifier, songs: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "pictures":
        songs = prepare(songs, tmp_path, SPEC).folder
    stream = make_stream(find_tracks(songs)[0], [], SPEC)
    decisions = [d for own in play(model, stream) for d in own]
    silent = [d.position for d in decisions if d.state is State.SILENCE]
    truth = [segment for segment in stream.segments if segment.state is State.SILENCE]
    assert len(silent) >= 2 * len(truth)
    assert all(any(segment.start < at <= segment.end + 1 for segment in truth) for at in silent)


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


def test_saving_effort_runs_the_network_less_and_decides_alike(
    model: Classifier, songs: Path, sounds: Path
) -> None:
    sets = find_evaluation_sets(model, data=songs, background=sounds, split=["all"])
    full, saving = (stream_test(model, sets, "all", effort=each) for each in ("full", "saving"))
    assert full.result.inferences == 1.0
    assert saving.result.inferences < 0.9
    assert saving.result.right == pytest.approx(full.result.right, abs=0.03)
    assert "the network ran for 100.0% of the windows" in as_text(full.result, "all", "all")


def test_tuning_does_not_lower_the_objective_and_returns_its_settings(
    model: Classifier, songs: Path, sounds: Path
) -> None:
    sets = find_evaluation_sets(model, data=songs, background=sounds, split=["all"])
    before = stream_test(model, sets, "all")
    after = tune(before, model.contract)
    assert after.result.objective >= before.result.objective
    assert {"smoothing", "min_confidence"} & set(after.settings)
    DecisionSettings.from_mapping(after.settings)


def test_tuning_for_right_claims_reaches_the_share_or_comes_near(
    model: Classifier, songs: Path, sounds: Path
) -> None:
    sets = find_evaluation_sets(model, data=songs, background=sounds, split=["all"])
    before = stream_test(model, sets, "all", limit=6)
    sure, never_wrong = (tune(before, model.contract, share) for share in (0.9, 1.0))
    assert sure.result.right_of_claimed >= 0.9
    assert sure.result.claimed_in_music >= 0.5
    assert never_wrong.result.right_of_claimed >= sure.result.right_of_claimed


def test_the_truth_and_the_decisions_are_written(
    model: Classifier, songs: Path, tmp_path: Path
) -> None:
    sets = find_evaluation_sets(model, data=songs, split=["all"])
    test = stream_test(model, sets, "all", limit=4)
    assert test.result.songs == 4
    write_stream_test(test, tmp_path, "all", sets)
    content = json.loads((tmp_path / "stream_all.json").read_text())
    assert content["protocol"] == sets.protocol
    assert content["result"]["songs"] == 4
    truth = pd.read_csv(tmp_path / "stream_all_programme.csv")
    decisions = pd.read_csv(tmp_path / "stream_all_decisions.csv")
    assert set(truth["state"]) <= {"music", "silence", "not_music"}
    assert decisions["position"].max() <= truth["end"].max() + 1


def test_a_list_without_tracks_cannot_be_played(model: Classifier, songs: Path) -> None:
    sets = find_evaluation_sets(model, data=songs, split=["all"])
    with pytest.raises(DatasetError, match="the valid list has no tracks"):
        stream_test(model, sets, "valid")


@pytest.mark.parametrize(
    ("segment", "made", "right"),
    [
        (song("low", 0, 9), decision(1, "low"), True),
        (song("low", 0, 9), decision(1, "high"), False),
        (song("low", 0, 9), decision(1, None, State.UNCERTAIN), False),
        (TrueSegment(State.SILENCE, None, "", 0, 9), decision(1, None, State.SILENCE), True),
        (TrueSegment(State.SILENCE, None, "", 0, 9), decision(1, None, State.NOT_MUSIC), False),
        (TrueSegment(State.NOT_MUSIC, None, "", 0, 9), decision(1, None, State.NOT_MUSIC), True),
        (TrueSegment(State.NOT_MUSIC, None, "", 0, 9), decision(1, None, State.SILENCE), True),
        (TrueSegment(State.NOT_MUSIC, None, "", 0, 9), decision(1, None, State.UNCERTAIN), False),
        (TrueSegment(State.NOT_MUSIC, None, "", 0, 9), decision(1, "low"), False),
    ],
)
def test_a_decision_is_correct_if_it_agrees_with_the_truth(
    segment: TrueSegment, made: Decision, right: bool
) -> None:
    assert is_correct(segment, made, has_not_music=True) is right


def test_uncertain_is_correct_on_clips_for_a_model_without_the_label() -> None:
    rain = TrueSegment(State.NOT_MUSIC, None, "rain", 0, 9)
    assert is_correct(rain, decision(1, None, State.UNCERTAIN), has_not_music=False)


def test_delays_and_label_changes_are_counted_from_the_song_change(model: Classifier) -> None:
    segments = [song("low", 0, 6), song("high", 6, 12)]
    decisions = decisions_of(
        None, None, "low", "low", "middle", "low", "low", "high", "high", "high", "low", "high"
    )
    result = measure(segments, decisions, model.contract)
    assert result.delay_median == pytest.approx((3 + 2) / 2)
    assert result.right == pytest.approx(7 / 12)
    assert result.uncertain == pytest.approx(2 / 12)
    # In each song the first change is called for; two more are not.
    assert result.changes_per_minute == pytest.approx(4 * 5)
    assert result.accuracy_after == {"1": 0.0, "3": 1.0, "5": 0.0}


def test_a_song_never_labelled_right_is_counted_and_has_no_delay(model: Classifier) -> None:
    segments = [song("low", 0, 5), song("middle", 5, 10)]
    result = measure(segments, decisions_of(*["high"] * 7, *["middle"] * 3), model.contract)
    assert (result.never_right, result.delay_median) == (1, 3)
    nothing = measure(segments[:1], decisions_of(*["high"] * 5), model.contract)
    assert (nothing.never_right, nothing.delay_median, nothing.delay_p95) == (1, None, None)
    assert "  right label never in 1 songs\n" in as_text(nothing, "valid", "by ear")


def test_a_missing_delay_is_null_in_json_and_never_in_the_report(
    model: Classifier, tmp_path: Path
) -> None:
    segments, decisions = [song("low", 0, 5)], decisions_of(*["high"] * 5)
    test = StreamTest(
        SyntheticStream(segments, [], []),
        decisions,
        measure(segments, decisions, model.contract),
        {},
    )
    write_stream_test(
        test, tmp_path / "evaluation", "valid", EvaluationSets({}, {}, "by hand", [], [])
    )
    written = json.loads((tmp_path / "evaluation" / "stream_valid.json").read_text())
    assert (written["result"]["delay_median"], written["result"]["delay_p95"]) == (None, None)
    made = {"labels": LABELS, "versions": {}, "git": None}
    settings = {"data": str(tmp_path / "gone"), "out": "run"}
    write_json(tmp_path / "run.json", {**RUN, **made, "settings": settings})
    page = write_report(tmp_path).read_text()
    assert re.search(r"Seconds to the right label, median / 95th percentile</td>.*?>never<", page)


def test_two_songs_of_one_genre_in_a_row_are_not_a_change(model: Classifier) -> None:
    segments = [song("low", 0, 5), song("low", 5, 10), song("high", 10, 15)]
    decisions = decisions_of(*[None] * 3, *["low"] * 9, *["high"] * 3)
    result = measure(segments, decisions, model.contract)
    assert (result.never_right, result.delay_median) == (0, (4 + 3) / 2)


def test_claims_on_silence_and_clips_are_measured_in_seconds(model: Classifier) -> None:
    segments = [
        TrueSegment(State.SILENCE, None, "silence", 0, 3),
        TrueSegment(State.NOT_MUSIC, None, "rain", 3, 5),
        song("low", 5, 6),
    ]
    decisions = [
        decision(1, "low"),
        decision(2, None, State.SILENCE),
        decision(3, None, State.SILENCE),
        decision(4, "low"),
        decision(5, None, State.NOT_MUSIC),
        decision(6, "low"),
    ]
    result = measure(segments, decisions, model.contract)
    assert (result.claimed_on_silence, result.silence) == (1, 3)
    assert (result.claimed_on_not_music, result.not_music) == (1, 2)
    assert result.right == pytest.approx(4 / 6)
    assert result.right_of_claimed == pytest.approx(1 / 3)
    assert (result.claimed_in_music, result.right_in_music) == (1, 1)


def test_single_clips_and_sequences_of_clips_are_counted_apart(
    model: Classifier,
) -> None:
    sounds = [
        TrueSegment(State.NOT_MUSIC, None, name, at, at + 2)
        for name, at in (("rain", 1), ("dog", 3))
    ]
    segments = [song("low", 0, 1), *sounds, song("low", 5, 6)]
    decisions = [decision(at, "low") for at in (1, 2, 3)]
    decisions += [decision(at, None, State.NOT_MUSIC) for at in (4, 5)]
    result = measure(segments, [*decisions, decision(6, "low")], model.contract)
    assert (result.claimed_on_not_music, result.not_music) == (2, 2)
    assert (result.claimed_without_music, result.without_music) == (0, 2)


def test_a_stream_ends_with_all_clips(songs: Path, sounds: Path) -> None:
    clips = find_background(sounds)[0]
    segments = make_stream(find_tracks(songs)[0], clips, SPEC).segments
    assert sorted(segment.name for segment in segments[-len(clips) :]) == sorted(
        clip.name for clip in clips
    )


def test_a_stream_shorter_than_a_window_cannot_be_measured(model: Classifier) -> None:
    with pytest.raises(DatasetError, match="shorter than the model's window"):
        measure([song("low", 0, 1)], [], model.contract)


def test_music_decided_as_not_music_is_counted(model: Classifier) -> None:
    decisions = [decision(1, "low"), decision(2, None, State.NOT_MUSIC)]
    result = measure([song("low", 0, 2)], decisions, model.contract)
    assert result.not_music_in_music == 0.5


def test_the_calibration_error_is_that_of_the_smoothed_probabilities(
    model: Classifier,
) -> None:
    decisions = decisions_of("low", "low", "high", "low")
    assert measure([song("low", 0, 4)], decisions, model.contract).ece == pytest.approx(0.25)


def test_the_objective_ranks_right_above_uncertain_above_wrong(
    model: Classifier,
) -> None:
    segments = [song("low", 0, 8)]
    right = decisions_of(*["low"] * 8)
    unsure = decisions_of(*["low"] * 4, *[None] * 4)
    wrong = decisions_of(*["low"] * 4, *["high"] * 4)
    objectives = [
        measure(segments, decisions, model.contract).objective
        for decisions in (right, unsure, wrong)
    ]
    assert objectives[0] == 1
    assert objectives == sorted(objectives, reverse=True)
    assert len(set(objectives)) == 3
