"""Model files with a second network, and the audio that the pipeline gives it."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.model import (
    Metadata,
    band_noise,
    changed_metadata,
    make_model,
    parent_of,
    refusal,
)

from streamer.core.contract import AudioInput
from streamer.core.decision import Decision
from streamer.core.model import Classifier, golden_audio, golden_spectrogram
from streamer.core.pipeline import ColumnPipeline, Event, Pipeline
from streamer.core.window import AudioWindow

RATE = 22050
AUDIO = AudioInput(sample_rate=16000, seconds=4.0, min_seconds=3.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "two.onnx", audio=AUDIO)


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return Classifier.load(model)


def inputs(
    classifier: Classifier, batch: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    spec = classifier.contract.spectrogram
    windows = [golden_spectrogram(spec, 65, seed=seed) for seed in range(batch)]
    audio = [golden_audio(AUDIO, 50000, seed=seed) for seed in range(batch)]
    return np.concatenate(windows), np.concatenate(audio)


def decisions(events: list[Event]) -> list[Decision]:
    return [event for event in events if isinstance(event, Decision)]


def test_the_answers_of_both_networks_are_fused(classifier: Classifier) -> None:
    windows, audio = inputs(classifier, 3)
    answers = classifier.answers(windows, audio)
    fused = (answers.spectrogram_logits + answers.audio_logits) / 2
    np.testing.assert_allclose(answers.logits, fused, rtol=1e-5)
    np.testing.assert_array_equal(classifier.logits(windows, audio), answers.logits)
    assert answers.tags.shape == (3, 2)
    assert np.ptp(answers.audio_logits, axis=0).max() > 0.001


def test_without_audio_the_spectrogram_alone_answers(classifier: Classifier) -> None:
    windows, audio = inputs(classifier, 2)
    alone = classifier.answers(windows, audio).spectrogram_logits
    np.testing.assert_array_equal(classifier.logits(windows), alone)


@pytest.mark.parametrize("shape", [(1, 47_999), (2, 48_000), (48_000,)])
def test_audio_of_a_wrong_shape_is_refused(classifier: Classifier, shape: tuple[int, ...]) -> None:
    windows, _ = inputs(classifier)
    with pytest.raises(ValueError, match=r"audio must have shape \(1, 48000 or more\), not \("):
        classifier.logits(windows, np.zeros(shape, np.float32))


def test_a_model_of_one_network_refuses_audio(tmp_path: Path) -> None:
    classifier = Classifier.load(make_model(tmp_path / "one.onnx"))
    windows, audio = inputs(classifier)
    with pytest.raises(ValueError, match="the model has no network that takes audio"):
        classifier.logits(windows, audio)


def test_a_file_of_contract_1_ignores_the_fields_of_contract_2(tmp_path: Path) -> None:
    one = make_model(tmp_path / "one.onnx")
    path = changed_metadata(one, tmp_path, lambda metadata: metadata.update(audio=5, fusion="none"))
    contract = Classifier.load(path).contract
    assert (contract.contract_version, contract.audio, contract.fusion) == (1, None, None)
    assert not {"audio", "fusion"} & set(contract.to_metadata())


def test_a_contract_of_two_networks_survives_writing(classifier: Classifier) -> None:
    contract = classifier.contract
    assert contract.contract_version == 2
    again = type(contract).from_metadata(json.loads(json.dumps(contract.to_metadata())))
    assert again == contract
    assert again.digest == contract.digest


@pytest.mark.parametrize(
    "field",
    [
        "audio",
        "audio.sample_rate",
        "audio.seconds",
        "audio.min_seconds",
        "fusion",
        "fusion.spectrogram_weight",
        "fusion.audio_weight",
        "fusion.tagger",
        "fusion.tags",
        "golden.audio_sha256",
        "golden.audio_samples",
    ],
)
def test_a_missing_field_is_named(model: Path, tmp_path: Path, field: str) -> None:
    def remove(metadata: Metadata) -> None:
        parent, name = parent_of(metadata, field)
        del parent[name]

    message = refusal(changed_metadata(model, tmp_path, remove))
    assert message == f"has a contract that cannot be used: {field} is missing"


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("audio", 16000, "audio must be an object, not 16000"),
        ("audio.sample_rate", 16000.5, "audio.sample_rate must be a valid integer, not 16000.5"),
        (
            "audio.sample_rate",
            0,
            "audio.sample_rate must be greater than or equal to 1000, not 0",
        ),
        ("audio.seconds", "4", "audio.seconds must be a valid number, not '4'"),
        ("audio.seconds", 0, "audio.seconds must be greater than 0, not 0"),
        ("audio.seconds", 61, "audio.seconds must be less than or equal to 60, not 61"),
        ("audio.min_seconds", 5, "audio.min_seconds must be at most audio.seconds 4, not 5.0"),
        (
            "audio.min_seconds",
            float("nan"),
            "audio.min_seconds must be less than or equal to 60, not nan",
        ),
        ("fusion", [], "fusion must be an object, not []"),
        (
            "fusion.audio_weight",
            -0.1,
            "fusion.audio_weight must be greater than or equal to 0, not -0.1",
        ),
        (
            "fusion.spectrogram_weight",
            None,
            "fusion.spectrogram_weight must be a valid number, not None",
        ),
        ("fusion.tagger", "", "fusion.tagger must have at least 1 character, not ''"),
        (
            "fusion.tags",
            ["loud", "loud"],
            "fusion.tags must be a list of two or more different names, not ['loud', 'loud']",
        ),
        (
            "golden.audio_samples",
            100,
            "golden.audio_samples must be at least the 48000 of audio.min_seconds, not 100",
        ),
        (
            "golden.audio_sha256",
            "feed",
            "golden.audio_sha256 must be 64 hexadecimal digits, not 'feed'",
        ),
    ],
)
def test_an_invalid_field_is_refused_with_its_value(
    model: Path, tmp_path: Path, field: str, value: object, fault: str
) -> None:
    def change(metadata: Metadata) -> None:
        parent, name = parent_of(metadata, field)
        parent[name] = value

    message = refusal(changed_metadata(model, tmp_path, change))
    assert message == f"has a contract that cannot be used: {fault}"


def test_weights_that_are_both_zero_are_refused(model: Path, tmp_path: Path) -> None:
    def change(metadata: Metadata) -> None:
        metadata["fusion"] |= {"spectrogram_weight": 0, "audio_weight": 0}

    assert "must be above 0 if the other weight is 0" in refusal(
        changed_metadata(model, tmp_path, change)
    )


def test_tags_that_do_not_fit_the_graph_are_refused(model: Path, tmp_path: Path) -> None:
    path = changed_metadata(
        model, tmp_path, lambda metadata: metadata["fusion"]["tags"].append("slow")
    )
    assert "has an output tags of tensor(float) ['batch', 2]" in refusal(path)


def test_a_graph_without_the_second_network_is_refused(model: Path, tmp_path: Path) -> None:
    one = onnx.load(make_model(tmp_path / "one.onnx"))
    one.metadata_props[0].value = onnx.load(model).metadata_props[0].value
    path = tmp_path / "mixed.onnx"
    path.write_bytes(one.SerializeToString())
    message = refusal(path)
    assert message == "must have 2 inputs called spectrogram and audio, not spectrogram"


def test_other_audio_settings_are_noticed_by_the_golden_audio(model: Path, tmp_path: Path) -> None:
    path = changed_metadata(model, tmp_path, lambda metadata: metadata["audio"].update(seconds=5.0))
    assert refusal(path).startswith("does not recognise its golden audio")


def test_a_changed_second_network_gives_another_golden_answer(model: Path, tmp_path: Path) -> None:
    proto = onnx.load(model)
    (head,) = (each for each in proto.graph.initializer if each.name == "head")
    values = onnx.numpy_helper.to_array(head)
    head.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), "head"))
    path = tmp_path / "changed.onnx"
    path.write_bytes(proto.SerializeToString())
    assert refusal(path).startswith("gives another answer to its golden spectrogram")


@pytest.fixture
def heard(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.float32]]:
    """Return a list to which the audio of each prediction is appended."""
    audio_of_predictions: list[NDArray[np.float32]] = []

    def predict(windows: NDArray[np.float32], audio: NDArray[np.float32]) -> NDArray[np.float32]:
        audio_of_predictions.append(audio[0])
        return np.full((1, 3), 1 / 3, np.float32)

    monkeypatch.setattr(classifier, "predict", predict)
    return audio_of_predictions


@settings(max_examples=12, deadline=None)
@given(
    pieces=st.lists(st.integers(1, 30_000), min_size=1, max_size=12),
    rate=st.sampled_from([8000, 22050, 44100, 48000]),
    cut=st.integers(0, 11),
)
def test_the_pieces_of_the_sound_make_no_difference(
    classifier: Classifier, pieces: list[int], rate: int, cut: int
) -> None:
    sound = band_noise("middle", 9, rate)

    def play(sizes: list[int]) -> list[str]:
        pipeline, events, at, number = Pipeline(classifier), [], 0, 0
        while at < len(sound):
            # The same cut, at the same sample, whatever the pieces.
            end = min(at + sizes[number % len(sizes)], len(sound))
            end = min(end, 4 * rate) if at < 4 * rate else end
            title = "another song" if at == 4 * rate else "a song" if at == 0 else None
            events += pipeline.feed(sound[at:end], rate, title=title)
            at, number = end, number + 1
        return [repr(event) for event in [*events, *pipeline.finish()]]

    whole = play([len(sound)])
    assert play([size + cut for size in pieces]) == whole
    assert len(whole) > 3


def test_the_network_hears_the_last_seconds_before_each_decision(
    classifier: Classifier, heard: list[NDArray[np.float32]]
) -> None:
    ramp = np.linspace(0.1, 0.9, 7 * 16000, dtype=np.float32)
    ramp *= np.sign(np.sin(np.arange(len(ramp))))  # without an offset
    pipeline = Pipeline(classifier)
    events = pipeline.feed(ramp, 16000) + pipeline.finish()
    positions = [decision.position for decision in decisions(events)]
    assert positions == pytest.approx([3, 4, 5, 6, 7], abs=1e-4)
    assert [len(audio) for audio in heard] == [48000, 64000, 64000, 64000, 64000]
    for position, audio in zip(positions, heard, strict=True):
        end = round(position * 16000)
        np.testing.assert_array_equal(audio, ramp[end - len(audio) : end])


def test_nothing_of_the_old_song_is_heard_after_a_cut(
    classifier: Classifier, heard: list[NDArray[np.float32]]
) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 5 * 16000).astype(np.float32)
    pipeline = Pipeline(classifier)
    pipeline.feed(0.9 * noise, 16000, title="loud")
    events = pipeline.feed(0.1 * noise, 16000, title="quiet") + pipeline.finish()
    windows = [decision for decision in decisions(events) if decision.position > 5.1]
    assert [round(decision.position) for decision in windows] == [6, 7, 8, 9, 10]
    # No window of the first two seconds is long enough to be classified.
    loud, quiet = heard[:-3], heard[-3:]
    assert min(np.abs(audio).max() for audio in loud) > 0.8
    assert max(np.abs(audio).max() for audio in quiet) < 0.11
    assert len(quiet[0]) == pytest.approx(48000, abs=1)


def test_a_cut_between_two_samples_of_the_audio_leaves_no_old_one(
    classifier: Classifier, heard: list[NDArray[np.float32]]
) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 4 * 44100).astype(np.float32)
    for length in range(2 * 44100, 2 * 44100 + 9):
        heard.clear()
        pipeline = Pipeline(classifier)
        pipeline.feed(0.9 * noise[:length], 44100, title="loud")
        pipeline.feed(0.01 * noise, 44100, title="quiet")
        assert np.abs(heard[0]).max() < 0.02
        assert len(heard[0]) >= 48000


def test_columns_are_classified_without_audio(classifier: Classifier) -> None:
    pipeline = ColumnPipeline(classifier)
    columns = np.full((128, 130), -40.0, np.float32)
    columns[:40] = 0
    found = decisions(pipeline.feed(columns, -20.0))
    assert found[0].position == pytest.approx(39 * 1711 / RATE, abs=0.1)
    assert {decision.genre for decision in found} == {"low"}


def seconds_of_numbers(count: int) -> list[NDArray[np.float32]]:
    """Seconds of audio that are their own number throughout."""
    return [np.full(AUDIO.sample_rate, number, np.float32) for number in range(1, count + 1)]


@pytest.mark.parametrize("hop_seconds", [1, 2, 8])
def test_audio_that_is_too_old_for_the_next_decision_is_dropped(hop_seconds: int) -> None:
    window = AudioWindow(AUDIO, RATE)
    window.begin(AUDIO.sample_rate, 0)
    for number, second in enumerate(seconds_of_numbers(60), 1):
        window.push(second)
        if number % hop_seconds:
            continue
        heard = window.before(number * RATE, hop_seconds * RATE)
        expected = range(max(1, number - 3), number + 1)
        assert heard[:: AUDIO.sample_rate].tolist() == list(expected)
        assert len(heard) == len(expected) * AUDIO.sample_rate
        assert len(window._audio) <= 3 * AUDIO.sample_rate


def test_after_a_shorter_hop_there_is_still_enough_audio_for_the_network() -> None:
    window = AudioWindow(AUDIO, RATE)
    window.begin(AUDIO.sample_rate, 0)
    for second in seconds_of_numbers(20):
        window.push(second)
    window.before(20 * RATE, 10 * RATE)
    window.push(np.full(AUDIO.sample_rate, 21, np.float32))
    soon = window.before(20 * RATE + RATE // 10, RATE // 10)
    assert len(soon) >= AUDIO.min_samples
    assert soon[-1] == 21


def test_a_pipeline_keeps_little_more_sound_than_its_networks_hear(
    classifier: Classifier,
) -> None:
    second = band_noise("low", 1.0)
    Pipeline(classifier).feed(np.tile(second, 10), RATE)  # fills caches
    tracemalloc.start()
    try:
        pipeline = Pipeline(classifier)
        pipeline.feed(second[: RATE // 20], RATE)  # so that each second ends after a decision
        for _ in range(10):
            pipeline.feed(second, RATE)
        ours = tracemalloc.Filter(True, "*/streamer/core/*")
        snapshot = tracemalloc.take_snapshot().filter_traces([ours])
    finally:
        tracemalloc.stop()
    window = classifier.contract.window_frames * classifier.contract.spectrogram.n_mels
    audio = AUDIO.samples - AUDIO.sample_rate  # the next second replaces the oldest one
    kept = sum(trace.size for trace in snapshot.traces)
    assert kept < 1.35 * 4 * (audio + window + RATE)
