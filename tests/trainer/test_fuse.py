"""The second network of a run: head, fusion, and evaluation of both networks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.model import band_noise
from support.pictures import SPEC, write_pictures
from support.run import RUN, tiny_network, write_run
from support.songs import write_audio

from streamer.core.model import softmax
from trainer.cli import main
from trainer.evaluate import evaluate, set_title, summary
from trainer.evaluation_sets import find_evaluation_sets
from trainer.fuse import fuse
from trainer.loading import RunClassifier
from trainer.musicnn import TAGS
from trainer.prepare import prepare
from trainer.report import write_report
from trainer.run import RunError, read_head, read_run
from trainer.second_network import HOP_SECONDS, tags_at
from trainer.stream_test import stream_test
from trainer.tags import degraded_file, tags_file, write_tags
from trainer.tracks import DatasetError
from trainer.tuning import judge_alone, observations_of

GENRES = ("rows", "steps")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures of two genres, ten tracks each, whose tags tell them apart."""
    folder = write_pictures(tmp_path / "pictures", GENRES, tracks=10)
    random = np.random.default_rng(3)
    for picture in sorted(folder.glob("*/*.png")):
        tags = random.uniform(0.05, 0.3, (5, len(TAGS))).astype(np.float32)
        tags[:, GENRES.index(picture.parent.name)] += 0.3
        write_tags(tags_file(picture), tags)
    return folder


def tiny_run(folder: Path, pictures: Path, **changes: Any) -> Path:
    """Write a run with a random network that was trained on all but two tracks of each genre."""
    names = sorted(path.stem for path in pictures.glob("*/*.png"))
    valid = [name for name in names if name.endswith(("8", "9"))]
    train = [name for name in names if name not in valid]
    facts: dict[str, Any] = {
        "labels": list(GENRES),
        "spec": SPEC.to_dict(),
        "temperature": 1.0,
        "decision": {},
        "settings": {"data": str(pictures), "out": str(folder)},
        "split": {**RUN["split"], "train": train, "valid": valid},
    }
    return write_run(folder, tiny_network(2), **{**facts, **changes})


def test_the_tags_of_a_window_are_the_mean_of_the_pieces_that_end_with_it() -> None:
    pieces = np.arange(6, dtype=np.float32)[:, None] / 10
    ends = np.array([0.0, 5.0, 5.0 + 2 * HOP_SECONDS, 60.0])
    np.testing.assert_allclose(tags_at(pieces, ends, 3)[:, 0], [0.1, 0.1, 0.3, 0.4], atol=1e-6)
    np.testing.assert_allclose(tags_at(pieces[:2], ends[:1], 3)[:, 0], [0.05], atol=1e-6)


def test_a_fused_run_has_a_head_and_weights_and_judges_three_answers(
    tmp_path: Path, pictures: Path
) -> None:
    folder = tiny_run(tmp_path / "run", pictures)
    fused = fuse(folder)
    assert (fused.tracks, fused.degraded, fused.sounds) == (16, 0, 0)
    run = read_run(folder)
    assert run.fusion == fused.fusion
    assert run.fusion is not None
    assert (run.fusion.tagger, run.fusion.audio_seconds) == ("musicnn", 5.0)
    assert run.fusion.spectrogram_weight + run.fusion.audio_weight == pytest.approx(1)
    assert run.temperature == fused.temperature
    assert read_head(folder, run).weights.shape == (2, len(TAGS))
    classifier = RunClassifier(folder)
    assert classifier.contract.fusion is not None
    sets = find_evaluation_sets(classifier)
    evaluation = evaluate(classifier, sets)
    assert list(evaluation.sets) == ["valid", "valid_spectrogram", "valid_tags"]
    # The pictures of a random network tell nothing, the tags everything.
    assert evaluation.sets["valid_tags"].accuracy_track == 1
    assert evaluation.sets["valid"].accuracy_track == 1
    assert evaluation.sets["valid"].nll_after < evaluation.sets["valid_spectrogram"].nll_after
    assert evaluation.temperature == evaluation.sets["valid"].temperature
    assert set_title("valid_tags") == "valid, network of tags alone"
    assert summary(evaluation)["valid"]["trained_on"] is False


def test_both_networks_are_judged_on_tracks_with_tags_alone(tmp_path: Path, pictures: Path) -> None:
    folder = tiny_run(tmp_path / "run", pictures)
    fuse(folder)
    tags_file(pictures / "rows" / "rows.00008.png").unlink()
    classifier = RunClassifier(folder)
    evaluation = evaluate(classifier, find_evaluation_sets(classifier))
    tracks = {name: result.tracks for name, result in evaluation.sets.items()}
    assert tracks == {"valid": 3, "valid_spectrogram": 3, "valid_tags": 3, "valid_pictures": 4}
    assert "3 of 4 valid tracks have tags; both networks are judged on them" in evaluation.notes


def test_pictures_without_tags_are_judged_by_their_network_alone(
    tmp_path: Path, pictures: Path
) -> None:
    folder = tiny_run(tmp_path / "run", pictures)
    temperature = fuse(folder).temperature
    for file in pictures.glob("*/*.npy"):
        file.unlink()
    classifier = RunClassifier(folder)
    evaluation = evaluate(classifier, find_evaluation_sets(classifier))
    assert list(evaluation.sets) == ["valid"]
    assert evaluation.temperature == temperature
    assert evaluation.notes[0].startswith("no valid track has tags: its figures are of the network")


def test_degraded_copies_and_sounds_teach_the_head(tmp_path: Path, pictures: Path) -> None:
    for track in ("rows.00000", "rows.00001", "steps.00009"):
        picture = pictures / track[:-6] / f"{track}.png"
        write_tags(degraded_file(picture), np.full((4, len(TAGS)), 0.2, np.float32))
    for number in range(3):
        write_audio(tmp_path / "sounds" / "rain" / f"{number}.wav", band_noise("noise", 4))
    sounds = prepare(tmp_path / "sounds", tmp_path / "bg", SPEC, background=True).folder
    names = [f"rain/{number}" for number in range(3)]
    folder = tiny_run(
        tmp_path / "run",
        pictures,
        labels=[*GENRES, "not_music"],
        not_music="not_music",
        background={"train": names[:2], "valid": names[2:]},
    )
    with pytest.raises(DatasetError, match=r"no sound of the background None has tags"):
        fuse(folder)
    write_run(folder, tiny_network(3), **json.loads((folder / "run.json").read_text()))
    fused = fuse(folder, background=sounds)
    # steps.00009 is of the valid list.
    assert (fused.tracks, fused.degraded, fused.sounds) == (16, 2, 2)
    rain = np.load(sounds / "rain" / "2.tags.npy")
    logits = read_head(folder, read_run(folder)).logits(rain)
    assert (logits.argmax(axis=1) == 2).all()


def test_the_tag_with_the_name_of_a_genre_speaks_for_it(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", ("hiphop", "steps"), tracks=10)
    random = np.random.default_rng(3)
    for picture in sorted(pictures.glob("*/*.png")):
        write_tags(tags_file(picture), random.uniform(0.1, 0.3, (5, len(TAGS))).astype(np.float32))
    folder = tiny_run(tmp_path / "run", pictures, labels=["hiphop", "steps"])
    fuse(folder)
    hiphop, steps = read_head(folder, read_run(folder)).weights
    assert TAGS[(hiphop - steps).argmax()] == "Hip-Hop"


def test_a_genre_without_tags_is_named(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in pictures.glob("steps/*.npy"):
        file.unlink()
    folder = tiny_run(tmp_path / "run", pictures)
    assert main(["fuse", str(folder)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "genre-train: no train track of steps has tags: make them with genre-train prepare, or for "
        "pictures with genre-train tags"
    )


def test_a_run_trained_on_its_valid_list_takes_the_fusion_of_another(
    tmp_path: Path, pictures: Path
) -> None:
    example = tiny_run(tmp_path / "example", pictures, decision={"min_confidence": 0.7})
    fuse(example, seconds=4.0)
    names = read_run(example).split
    split = {**RUN["split"], "train": [*names.train, *names.valid], "valid": list(names.valid)}
    final = tiny_run(tmp_path / "final", pictures, split=split)
    with pytest.raises(RunError, match="was trained on its valid list"):
        fuse(final)
    fused = fuse(final, like=example)
    assert (fused.tracks, fused.windows) == (20, 0)
    expected, run = read_run(example), read_run(final)
    assert run.fusion == expected.fusion
    assert run.fusion is not None
    assert run.fusion.audio_seconds == 4
    assert (run.temperature, run.decision) == (expected.temperature, {"min_confidence": 0.7})
    classifier = RunClassifier(final)
    evaluation = evaluate(classifier, find_evaluation_sets(classifier))
    assert evaluation.temperature == expected.temperature
    assert summary(evaluation)["valid"]["trained_on"] is True


def test_a_damaged_head_is_one_line(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_run(tmp_path / "run", pictures)
    fuse(folder)
    head = folder / "tag_head.npz"
    for content in (head.read_bytes()[:100], b"no archive"):
        head.write_bytes(content)
        assert main(["evaluate", str(folder)]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"genre-train: {head} cannot be read (")
        assert line.endswith(f": make it again with genre-train fuse {folder}")


def test_a_lost_head_is_made_again(tmp_path: Path, pictures: Path) -> None:
    folder = tiny_run(tmp_path / "run", pictures)
    fused = fuse(folder)
    (folder / "tag_head.npz").unlink()
    assert fuse(folder) == fused
    assert read_head(folder, read_run(folder)).weights.shape == (2, len(TAGS))


def test_both_inputs_of_a_run_are_answered_as_their_parts(tmp_path: Path, pictures: Path) -> None:
    folder = tiny_run(tmp_path / "run", pictures)
    fuse(folder)
    classifier = RunClassifier(folder)
    windows = np.random.default_rng(0).uniform(-80, 0, (2, 40, 65)).astype(np.float32)
    audio = np.stack([band_noise("low", 5, 16000), band_noise("high", 5, 16000)])
    answers = classifier.answers(windows, audio)
    fusion = classifier.contract.fusion
    assert fusion is not None
    expected = fusion.spectrogram_weight * answers.spectrogram_logits
    expected = expected + fusion.audio_weight * answers.audio_logits
    np.testing.assert_allclose(answers.logits, expected, atol=1e-5)
    np.testing.assert_allclose(classifier.logits(windows, audio), answers.logits, atol=1e-5)
    np.testing.assert_allclose(classifier.logits(windows), answers.spectrogram_logits, atol=1e-5)
    assert np.abs(answers.tags[0] - answers.tags[1]).max() > 0.01


def test_a_stream_of_pictures_is_decided_by_both_networks(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_run(tmp_path / "run", pictures)
    fuse(folder)
    assert main(["stream-test", str(folder), "--tune"]) == 0
    written = json.loads((folder / "evaluation" / "stream_valid.json").read_text())
    both, alone = written["result"], written["alone"]
    # The pictures of a random network tell nothing, the tags everything.
    assert both["right_of_claimed"] > 0.7
    assert alone["spectrograms"]["right_in_music"] < both["right_in_music"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("  network of spectrograms alone: ")
    assert lines[-1].startswith("  network of tags alone: ")
    assert main(["evaluate", str(folder)]) == 0
    page = write_report(folder).read_text()
    for words in (
        "<h3>valid</h3>",
        "<h3>valid, network of tags alone</h3>",
        "Music with a genre / claims right, spectrograms alone",
    ):
        assert words in page


def test_a_stream_of_pictures_without_tags_says_so(tmp_path: Path, pictures: Path) -> None:
    folder = tiny_run(tmp_path / "run", pictures)
    fuse(folder)
    classifier = RunClassifier(folder)
    tags_file(pictures / "rows" / "rows.00008.png").unlink()
    test = stream_test(classifier, find_evaluation_sets(classifier), "valid")
    assert test.notes == ["1 recordings have no tags and are not played"]
    assert test.result.songs == 3
    for file in pictures.glob("*/*.tags.npy"):
        file.unlink()
    test = stream_test(classifier, find_evaluation_sets(classifier), "valid")
    assert test.notes == ["no track has tags: these are decisions of the network of spectrograms"]
    assert (test.result.songs, test.said) == (4, [])


def test_a_stream_of_audio_is_heard_by_the_daemons_pipeline(tmp_path: Path, pictures: Path) -> None:
    folder = tiny_run(tmp_path / "run", pictures)
    fuse(folder)
    for genre, band in (("rows", "low"), ("steps", "high")):
        for number in (8, 9):
            name = f"{genre}.{number:05d}.wav"
            write_audio(tmp_path / "audio" / genre / name, band_noise(band, 8, seed=number))
    classifier = RunClassifier(folder)
    sets = find_evaluation_sets(classifier, data=tmp_path / "audio")
    test = stream_test(classifier, sets, "valid")
    classified = [each for each in test.decisions if np.ptp(list(each.probabilities.values())) > 0]
    assert test.result.songs == 4
    assert len(classified) >= len(test.said) > 20
    assert set(judge_alone(test, classifier.contract)) == {"spectrograms", "tags"}
    # What was said is what was decided on.
    second = classifier.second
    assert second is not None
    fused = second.fused(*(np.stack(said) for said in zip(*test.said, strict=True)))
    probabilities = softmax(fused, classifier.contract.temperature)
    observed = observations_of(test.decisions, classifier.contract)
    decided = [each.window_probabilities for each in observed]
    own = np.stack([each for each in decided if each is not None])
    np.testing.assert_allclose(own, probabilities, atol=1e-3)


def test_tuning_on_a_list_that_was_trained_on_is_refused(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [path.stem for path in pictures.glob("*/*.png")]
    split = {**RUN["split"], "train": names, "valid": names[:4]}
    folder = tiny_run(tmp_path / "run", pictures, split=split)
    assert main(["stream-test", str(folder), "--tune"]) == 2
    assert "--tune: " in (error := capsys.readouterr().err.splitlines()[-1])
    assert "was trained on its valid list" in error


def test_settings_of_a_final_training_that_chooses_an_epoch_are_refused(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--data", str(pictures), "--train-on", "train+valid"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "genre-train: --train-on train+valid leaves no list to choose the best epoch by: add "
        "--keep last"
    )


def test_a_fusion_changes_nothing_else_of_a_run(tmp_path: Path, pictures: Path) -> None:
    folder = tiny_run(tmp_path / "run", pictures)
    before = read_run(folder)
    fuse(folder)
    after = read_run(folder)
    changed = {"fusion", "temperature", "metrics"}
    for field in dataclasses.fields(before):
        if field.name not in changed:
            assert getattr(after, field.name) == getattr(before, field.name)
