"""Evaluation of runs and model files, on pictures and on audio."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.model import band_noise, make_model
from support.run import RUN, tiny_network, write_run
from support.songs import write_audio, write_songs

from streamer.core.model import Classifier
from streamer.core.spectrogram import SpectrogramSpec
from trainer.cli import main
from trainer.discovery import find_background, find_tracks
from trainer.evaluate import (
    as_text,
    columns_of,
    crops_of,
    evaluate,
    summary,
    write_evaluation,
)
from trainer.evaluation_sets import EvaluationSets, find_evaluation_sets
from trainer.loading import load_classifier
from trainer.prepare import prepare
from trainer.splits import divide_background
from trainer.tracks import DatasetError, Track

SPEC = SpectrogramSpec()


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"), tracks=10, seconds=8)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    for number in range(4):
        write_audio(folder / "rain" / f"{number}.wav", band_noise("noise", 4, seed=number))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return load_classifier(make_model(tmp_path_factory.mktemp("model") / "a.onnx", noise=True))


def evaluation_sets(**music: list[Track]) -> EvaluationSets:
    return EvaluationSets(music, {}, protocol="by hand", notes=[], skipped=[])


def test_crops_overlap_by_half_and_are_relative_to_their_own_peak() -> None:
    columns = np.tile(np.linspace(-50, 0, 100, dtype=np.float32), (8, 1))
    crops = crops_of(columns, 40, 80)
    assert crops.shape == (4, 8, 40)
    assert (crops.max(axis=(1, 2)) == 0).all()
    np.testing.assert_allclose(crops[-1], columns[:, 60:], atol=1e-5)
    np.testing.assert_allclose(crops[1], columns[:, 20:60] - columns[0, 59], atol=1e-5)


def test_a_track_shorter_than_the_window_is_repeated_to_fill_one() -> None:
    columns = np.random.default_rng(0).uniform(-80, 0, (8, 30)).astype(np.float32)
    (crop,) = crops_of(columns, 40, 80)
    np.testing.assert_allclose(crop[:, 30:], crop[:, :10])


def test_a_perfect_model_has_an_accuracy_of_1(model: Classifier, songs: Path) -> None:
    sets = find_evaluation_sets(model, data=songs)
    assert sets.protocol.startswith("stratified by genre")
    evaluation = evaluate(model, sets)
    assert set(evaluation.sets) == {"valid", "test"}
    result = evaluation.sets["valid"]
    assert (result.tracks, result.accuracy_track, result.macro_f1) == (3, 1.0, 1.0)
    assert result.interval_track == (1.0, 1.0)
    assert not result.mistakes
    assert result.not_music is None


def test_a_result_no_better_than_chance_is_said_with_what_to_do(
    model: Classifier, songs: Path, tmp_path: Path
) -> None:
    others = {"low": "middle", "middle": "high", "high": "low"}
    tracks, _ = find_tracks(songs)
    wrong = [dataclasses.replace(track, genre=others[track.genre]) for track in tracks]
    evaluation = evaluate(model, evaluation_sets(valid=wrong, test=tracks))
    sentence = "valid: 0.0% right is no better than chance (33.3%): train for more --epochs, "
    text = as_text(evaluation)
    assert f"note: {sentence}" in text
    assert "test: 100.0% of 30 tracks right (chance 33.3%, 95 % interval" in text
    write_evaluation(evaluation, tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    (note,) = content["notes"]
    assert note.startswith(sentence)
    assert "--weights gtzan" in note


def test_pictures_and_audio_of_the_same_tracks_give_the_same_predictions(
    model: Classifier, songs: Path, tmp_path: Path
) -> None:
    pictures = prepare(songs, tmp_path, SPEC).folder
    tables = []
    for folder in (songs, pictures):
        sets = find_evaluation_sets(model, data=folder, split=["all"])
        tables.append(evaluate(model, sets).track_tables)
    audio, picture = (table["all"].sort_values("track").reset_index() for table in tables)
    assert list(audio["track"]) == list(picture["track"])
    assert list(audio["predicted"]) == list(picture["predicted"])
    np.testing.assert_allclose(audio["confidence"], picture["confidence"], atol=0.01)


def test_background_clips_are_counted_apart_from_music(
    model: Classifier, songs: Path, sounds: Path
) -> None:
    sets = find_evaluation_sets(model, data=songs, background=sounds, split=["all"])
    result = evaluate(model, sets).sets["all"]
    assert result.tracks == 30
    assert result.not_music == {"clips": 4, "recall": 1.0, "false_alarms": 0.0}
    assert sum(map(sum, result.confusion)) == 34


def test_background_clips_may_be_pictures(
    model: Classifier, songs: Path, sounds: Path, tmp_path: Path
) -> None:
    pictures = prepare(sounds, tmp_path, SPEC, background=True).folder
    sets = find_evaluation_sets(model, data=songs, background=pictures, split=["all"])
    result = evaluate(model, sets).sets["all"]
    assert result.not_music is not None
    assert result.not_music["clips"] == 4


def test_a_model_file_is_evaluated_on_the_held_back_background_clips(
    model: Classifier, songs: Path, sounds: Path, tmp_path: Path
) -> None:
    pictures = prepare(sounds, tmp_path, SPEC, background=True).folder
    trained_on, held_back = divide_background(find_background(pictures)[0])
    assert len(trained_on) + len(held_back) == 4
    assert held_back
    for folder in (sounds, pictures):
        found = find_evaluation_sets(model, data=songs, background=folder, split=["stratified"])
        for name in ("valid", "test"):
            assert [clip.name for clip in found.background[name]] == [
                clip.name for clip in held_back
            ]
            assert {clip.genre for clip in found.background[name]} == {model.contract.not_music}


def test_a_run_is_evaluated_on_clips_that_it_was_not_trained_on(
    songs: Path, sounds: Path, tmp_path: Path
) -> None:
    names = [clip.name for clip in find_background(sounds)[0]]
    music = {name: [f"low.{number:05}"] for number, name in enumerate(("train", "valid", "test"))}
    facts = {
        "labels": ["low", "not_music"],
        "not_music": "not_music",
        "split": {**RUN["split"], **music},
        "background": {"train": names[:1], "valid": names[1:2]},
        "settings": {"data": str(songs), "out": "run", "background": str(sounds)},
    }
    run = write_run(tmp_path / "run", tiny_network(2), **facts)
    run_classifier = load_classifier(run)
    own = find_evaluation_sets(run_classifier).background
    assert {name: [clip.name for clip in clips] for name, clips in own.items()} == {
        "valid": names[1:2]
    }
    named = find_evaluation_sets(run_classifier, background=sounds)
    for name in ("valid", "test"):
        assert [clip.name for clip in named.background[name]] == names[1:]
    assert not named.notes
    trained = tmp_path / "trained"
    shutil.copytree(sounds, trained)
    for clip in find_background(trained)[0][1:]:
        clip.path.unlink()
    assert find_evaluation_sets(run_classifier, background=trained).notes == [
        f"no sound of {trained} is used: none of them was held back from training"
    ]


def test_results_on_other_data_or_on_a_part_do_not_replace_those_of_the_run(
    songs: Path, tmp_path: Path
) -> None:
    lists = {"train": ["low.00000"], "valid": ["low.00001", "high.00001"], "test": []}
    facts = {
        "labels": ["high", "low", "middle"],
        "split": {**RUN["split"], **lists},
        "settings": {"data": str(songs), "out": "run"},
        "metrics": {},
    }
    run = write_run(tmp_path / "run", tiny_network(3), **facts)
    assert main(["evaluate", str(run)]) == 0
    assert main(["stream-test", str(run), "--limit", "2"]) == 0

    def own() -> dict[str, bytes]:
        files = [run / "run.json", *(run / "evaluation").glob("*.*")]
        return {path.name: path.read_bytes() for path in files}

    before = own()
    assert {"metrics.json", "stream_valid.json"} <= set(before)
    assert {"valid", "stream_valid"} <= set(json.loads(before["run.json"])["metrics"])
    other = shutil.copytree(songs, tmp_path / "other")
    shutil.copy(songs / "middle" / "middle.00001.wav", other / "low" / "low.00001.wav")
    assert main(["evaluate", str(run), "--data", str(other)]) == 0
    assert main(["stream-test", str(run), "--data", str(other)]) == 0
    assert main(["stream-test", str(run), "--limit", "1"]) == 0
    assert own() == before
    found = run / "evaluation" / "other"
    assert {"metrics.json", "stream_valid.json"} <= {path.name for path in found.iterdir()}


def test_a_note_says_that_a_model_without_the_label_uses_no_background(
    songs: Path, sounds: Path, tmp_path: Path
) -> None:
    without_label = load_classifier(make_model(tmp_path / "a.onnx"))
    assert find_evaluation_sets(
        without_label, data=songs, background=sounds, split=["all"]
    ).notes == [f"no sound of {sounds} is used: the model has no label for what is not music"]


def test_the_most_confident_mistakes_come_first(model: Classifier, songs: Path) -> None:
    tracks, _ = find_tracks(songs)
    swapped = [
        dataclasses.replace(track, genre="high") if track.genre == "low" else track
        for track in tracks
    ]
    result = evaluate(model, evaluation_sets(valid=swapped)).sets["valid"]
    assert result.accuracy_track == pytest.approx(2 / 3)
    assert len(result.mistakes) == 10
    assert {(wrong["genre"], wrong["predicted"]) for wrong in result.mistakes} == {("high", "low")}
    confidences = [wrong["confidence"] for wrong in result.mistakes]
    assert confidences == sorted(confidences, reverse=True)
    recalls = {score.genre: score.recall for score in result.genres}
    assert recalls == {"middle": 1.0, "high": 0.5}


def test_a_damaged_track_is_left_out_and_listed(
    model: Classifier, songs: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    tracks, _ = find_tracks(songs)
    bad = Track("low/bad", "low", tmp_path / "bad.wav")
    evaluation = evaluate(model, evaluation_sets(valid=[*tracks, bad]))
    assert evaluation.sets["valid"].tracks == 30
    assert [entry.path.name for entry in evaluation.skipped] == ["bad.wav"]
    assert "damaged or not audio" in as_text(evaluation)


def test_logits_that_are_not_finite_are_an_error(songs: Path, tmp_path: Path) -> None:
    network = tiny_network(3)
    network.set_weights([np.full_like(weights, np.nan) for weights in network.get_weights()])
    diverged = load_classifier(write_run(tmp_path, network, labels=["low", "middle", "high"]))
    tracks, _ = find_tracks(songs)
    with pytest.raises(DatasetError, match=f"answers to {tracks[0].name} are no finite numbers"):
        evaluate(diverged, evaluation_sets(valid=tracks))


def test_an_unknown_genre_is_refused(model: Classifier, songs: Path) -> None:
    tracks, _ = find_tracks(songs)
    polka = [dataclasses.replace(tracks[0], genre="polka")]
    with pytest.raises(DatasetError, match="does not know the genre polka; it knows low, middle"):
        evaluate(model, evaluation_sets(valid=polka))


def test_pictures_on_another_grid_are_refused_with_the_difference(
    model: Classifier, songs: Path, tmp_path: Path
) -> None:
    finer = dataclasses.replace(SPEC, hop_length=512)
    pictures = prepare(songs, tmp_path, finer).folder
    with pytest.raises(DatasetError, match="another grid than the model: hop_length 512 instead"):
        find_evaluation_sets(model, data=pictures, split=["all"])


def test_the_result_is_written_as_json_and_csv(
    model: Classifier, songs: Path, tmp_path: Path
) -> None:
    sets = find_evaluation_sets(model, data=songs)
    sets.notes.append("a warning")
    evaluation = evaluate(model, sets)
    write_evaluation(evaluation, tmp_path / "results")
    content = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert content["notes"] == ["a warning"]
    assert content["sets"]["test"]["accuracy_track"] == 1.0
    tracks = pd.read_csv(tmp_path / "results" / "tracks_valid.csv")
    assert list(tracks.columns) == ["track", "genre", "predicted", "confidence", "right"]
    matrix = pd.read_csv(tmp_path / "results" / "confusion_valid.csv", index_col=0)
    assert matrix.to_numpy().sum() == 3
    assert len(pd.read_csv(tmp_path / "results" / "genres_valid.csv")) == 3
    assert set(pd.read_csv(tmp_path / "results" / "reliability_valid.csv")["temperature"]) == {
        "before",
        "after",
    }
    json.dumps(summary(evaluation))


def test_the_split_and_its_notes_come_before_the_accuracy(model: Classifier, songs: Path) -> None:
    sets = find_evaluation_sets(model, data=songs)
    sets.notes.append("a warning")
    evaluation = evaluate(model, sets)
    first, second, *_ = as_text(evaluation).splitlines()
    assert first.startswith("split: stratified by genre, 80/10/10, seed 0")
    assert second == "note: a warning"


def test_columns_of_audio_are_absolute_and_of_a_picture_relative(
    songs: Path, tmp_path: Path
) -> None:
    pictures = prepare(songs, tmp_path, SPEC).folder
    audio, picture = (find_tracks(folder)[0][0] for folder in (songs, pictures))
    assert columns_of(picture, SPEC).max() == 0
    assert columns_of(audio, SPEC).max() != 0
