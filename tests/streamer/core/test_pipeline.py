from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.model import NOISE, band_noise, make_model

from streamer.core.decision import Decision, DecisionSettings, Segment, State
from streamer.core.decision_settings import Effort
from streamer.core.events import SpectrogramColumns
from streamer.core.model import Classifier
from streamer.core.pipeline import ColumnPipeline, Event, Pipeline
from streamer.core.resampling import Resampler
from streamer.core.spectrogram import SpectrogramSpec, log_mel
from streamer.core.titles import Titles

RATE = 22050
FIRST = ((39 - 1) * 1711 + 1024) / RATE
"""Where 39 columns are complete, in seconds."""


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier.load(make_model(tmp_path_factory.mktemp("model") / "thirds.onnx", noise=True))


def silence(seconds: float, rate: int = RATE) -> NDArray[np.float32]:
    return np.zeros(round(seconds * rate), np.float32)


def faint_noise(seconds: float, dbfs: float) -> NDArray[np.float32]:
    return band_noise(NOISE, seconds, level_dbfs=dbfs)


def run(
    classifier: Classifier,
    samples: NDArray[np.float32],
    rate: int = RATE,
    *,
    spectrogram: bool = False,
) -> list[Event]:
    pipeline = Pipeline(classifier, spectrogram=spectrogram)
    return pipeline.feed(samples, rate) + pipeline.finish()


def decisions(events: Sequence[Event]) -> list[Decision]:
    return [event for event in events if isinstance(event, Decision)]


def finals(events: Sequence[Event]) -> list[Segment]:
    return [event for event in events if isinstance(event, Segment) and event.final]


def written(events: Sequence[Event]) -> str:
    """Return events as text that differs if any bit of them does."""
    return "\n".join(
        f"{event.position!r} {event.levels.tobytes().hex()} {event.levels.shape}"
        if isinstance(event, SpectrogramColumns)
        else repr(event)
        for event in events
    )


def test_the_first_decision_falls_where_the_shortest_window_is_full(
    classifier: Classifier,
) -> None:
    pipeline = Pipeline(classifier)
    sound = band_noise("low", 10)
    assert pipeline.feed(sound[: round(FIRST * RATE) - 1], RATE) == []
    (decision, segment) = pipeline.feed(sound[round(FIRST * RATE) - 1 :][:1], RATE)
    assert isinstance(decision, Decision)
    assert (decision.position, decision.genre) == (FIRST, "low")
    assert isinstance(segment, Segment)
    assert (segment.start, segment.end, segment.genre) == (0.0, None, "low")


@pytest.mark.parametrize("hop_seconds", [0.1, 0.5, 1.0, 2.5, 7.0])
def test_a_decision_follows_every_hop(classifier: Classifier, hop_seconds: float) -> None:
    pipeline = Pipeline(classifier, hop_seconds=hop_seconds)
    positions = [d.position for d in decisions(pipeline.feed(band_noise("low", 20), RATE))]
    np.testing.assert_allclose(positions[0], FIRST)
    np.testing.assert_allclose(np.diff(positions), hop_seconds, atol=1 / RATE)
    assert len(positions) == 1 + int((20 - FIRST) / hop_seconds)
    assert pipeline.inferences == len(positions)
    assert pipeline.inference_seconds > 0


def test_the_hop_may_change_between_decisions(classifier: Classifier) -> None:
    pipeline = Pipeline(classifier)
    events = pipeline.feed(band_noise("low", 5.5), RATE)
    pipeline.hop_seconds = 4.0
    events += pipeline.feed(band_noise("low", 8), RATE)
    pipeline.hop_seconds = 0.5
    events += pipeline.feed(band_noise("low", 1), RATE)
    hops = [d.hop_seconds for d in decisions(events)]
    assert hops == pytest.approx([1, 1, 1, 4, 4, 0.505, 0.5, 0.5], abs=1e-3)
    assert sum(hops) == pytest.approx(decisions(events)[-1].position - FIRST + 1)


@pytest.mark.parametrize("hop_seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_hop_is_refused(classifier: Classifier, hop_seconds: float) -> None:
    with pytest.raises(ValueError, match="hop_seconds must be a positive number, not"):
        Pipeline(classifier, hop_seconds=hop_seconds)


STORY = np.concatenate(
    [
        band_noise("low", 9, seed=1),
        silence(2.3),
        band_noise("high", 7, seed=2),
        band_noise("middle", 8, seed=3),
        faint_noise(3, -75),
        band_noise(NOISE, 7, seed=4),
    ]
)


@given(
    sizes=st.lists(st.integers(500, 10 * RATE), min_size=1, max_size=8),
    singles=st.integers(0, 1500),
)
@settings(max_examples=15)
def test_the_pieces_of_the_sound_make_no_difference(
    classifier: Classifier, sizes: list[int], singles: int
) -> None:
    pipeline = Pipeline(classifier, spectrogram=True)
    events: list[Event] = []
    pieces, position = 0, 0
    while position < len(STORY):
        size = 1 if pieces < singles else sizes[pieces % len(sizes)]
        events += pipeline.feed(STORY[position : position + size], RATE)
        pieces, position = pieces + 1, position + size
    events += pipeline.finish()
    assert written(events) == written(run(classifier, STORY, spectrogram=True))


@given(
    rate=st.sampled_from([8000, 11025, 16000, 44100, 44101, 47999, 48000, 96000, 192000])
    | st.integers(8000, 192_000),
    channels=st.integers(1, 8),
    sizes=st.lists(st.integers(500, 300_000), min_size=1, max_size=5),
)
@settings(max_examples=15)
def test_chunking_makes_no_difference_at_any_rate_and_channels(
    classifier: Classifier, rate: int, channels: int, sizes: list[int]
) -> None:
    mono = np.concatenate([band_noise("low", 6, rate), silence(2, rate)])
    # Channels of different levels whose mean is the sound.
    gains = np.arange(channels) - (channels - 1) / 2 + 1
    samples = mono[:, None] * gains.astype(np.float32)
    pipeline = Pipeline(classifier)
    events: list[Event] = []
    pieces, position = 0, 0
    while position < len(samples):
        size = sizes[pieces % len(sizes)]
        events += pipeline.feed(samples[position : position + size], rate)
        pieces, position = pieces + 1, position + size
    events += pipeline.finish()
    assert written(events) == written(run(classifier, samples, rate))
    genres = [decision.genre for decision in decisions(events)]
    assert genres == [*["low"] * 5, None]
    assert decisions(events)[-1].state is State.SILENCE
    assert pipeline.position == pytest.approx(8, abs=2e-4)


stretches = st.fixed_dictionaries(
    {
        "third": st.sampled_from(["low", "middle", "high", NOISE, "silence", "constant"]),
        "seconds": st.floats(0, 9),
        "rate": st.sampled_from([20000, 22050, 44100]),
        "title": st.sampled_from([None, None, "", "one", "two"]),
        "discontinuity": st.booleans(),
        "hop_seconds": st.sampled_from([0.2, 1.0, 1.0, 1.0, 3.3]),
    }
)


@given(story=st.lists(stretches, min_size=1, max_size=8))
@settings(max_examples=40)
def test_segments_cover_the_source_exactly_once(
    classifier: Classifier, story: list[dict[str, Any]]
) -> None:
    pipeline = Pipeline(classifier)
    events: list[Event] = []
    for stretch in story:
        pipeline.hop_seconds = stretch["hop_seconds"]
        if stretch["third"] in ("silence", "constant") or stretch["seconds"] < 0.01:
            sound = silence(stretch["seconds"], stretch["rate"]) + np.float32(
                stretch["third"] == "constant"
            )
        else:
            sound = band_noise(stretch["third"], stretch["seconds"], stretch["rate"])
        cut = {key: stretch[key] for key in ("title", "discontinuity")}
        events += pipeline.feed(sound, stretch["rate"], **cut)
    events += pipeline.finish()
    positions = [decision.position for decision in decisions(events)]
    assert positions == sorted(set(positions))
    assert bool(positions) == (pipeline.position > 0)
    edges = [(segment.start, segment.end) for segment in finals(events)]
    assert [start for start, _ in edges] == [0.0, *(end for _, end in edges)][: len(edges)]
    assert all(end is not None and start < end for start, end in edges)
    assert not edges or edges[-1][1] == pipeline.position
    ids = [segment.id for segment in finals(events)]
    assert ids == sorted({event.id for event in events if isinstance(event, Segment)})
    for decision in decisions(events):
        assert decision.genre is None or decision.level_dbfs >= -60


hostile = st.lists(
    st.sampled_from(
        [np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0, 3e38, -3e38, 1e-45, 0.1, -0.1, 32767.0]
    ),
    min_size=1,
    max_size=50,
)


@given(pattern=hostile, channels=st.integers(1, 8), offset=st.floats(-2, 2))
@settings(max_examples=40)
def test_hostile_samples_give_valid_decisions(
    classifier: Classifier, pattern: list[float], channels: int, offset: float
) -> None:
    samples = np.resize(np.array(pattern, np.float32), (5 * RATE, channels))
    with np.errstate(over="ignore", invalid="ignore"):
        samples = samples + np.float32(offset)
    pipeline = Pipeline(classifier, spectrogram=True)
    events = pipeline.feed(samples, RATE) + pipeline.finish()
    assert len(decisions(events)) == 3
    for decision in decisions(events):
        assert abs(sum(decision.probabilities.values()) - 1) < 1e-9
        assert all(0 <= p <= 1 for p in decision.probabilities.values())
        assert -120 <= decision.level_dbfs <= 0
        assert (decision.genre is not None) == (decision.state is State.MUSIC)
    assert pipeline.nan_samples == np.count_nonzero(~np.isfinite(samples))
    (last,) = (segment for segment in finals(events) if segment.end == 5.0)
    assert last.final


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0, 1.0])
def test_a_constant_is_silence(classifier: Classifier, value: float) -> None:
    pipeline = Pipeline(classifier)
    events = pipeline.feed(np.full(10 * RATE, value, np.float32), RATE)
    assert {decision.state for decision in decisions(events)} == {State.SILENCE}
    assert {decision.level_dbfs for decision in decisions(events)} == {-120.0}
    assert pipeline.inferences == 0


@pytest.mark.parametrize("third", ["low", "middle", "high", NOISE])
def test_faint_sound_is_silence_and_is_not_classified(classifier: Classifier, third: str) -> None:
    pipeline = Pipeline(classifier)
    events = pipeline.feed(band_noise(third, 20, level_dbfs=-62), RATE)
    assert {decision.state for decision in decisions(events)} == {State.SILENCE}
    assert pipeline.inferences == 0


@pytest.mark.parametrize("offset", [0.25, -0.01])
def test_a_constant_offset_changes_nothing(classifier: Classifier, offset: float) -> None:
    sound = band_noise("middle", 10, level_dbfs=-50)
    plain = decisions(run(classifier, sound))
    shifted = decisions(run(classifier, sound + np.float32(offset)))
    for one, other in zip(plain, shifted, strict=True):
        assert one.genre == other.genre == "middle"
        assert one.level_dbfs == pytest.approx(other.level_dbfs, abs=0.01)
        assert one.window_probabilities == pytest.approx(other.window_probabilities, abs=0.01)


def test_repeated_interruptions_still_give_decisions(
    classifier: Classifier,
) -> None:
    pipeline = Pipeline(classifier)
    events: list[Event] = []
    for _ in range(10):
        events += pipeline.feed(band_noise("low", 1), RATE, discontinuity=True)
    assert [d.state for d in decisions(events)] == [State.UNCERTAIN] * 8


def test_a_four_second_gap_is_silence_and_then_the_new_genre(
    classifier: Classifier,
) -> None:
    first, second = band_noise("low", 20.4), band_noise("high", 20)
    events = run(classifier, np.concatenate([first, faint_noise(4, -80), second]))
    states = [(d.state, d.genre) for d in decisions(events)]
    # No window mixes the songs: neither the old genre nor a third one is claimed.
    steps = [states[0]] + [b for a, b in itertools.pairwise(states) if a != b]
    assert steps == [
        (State.MUSIC, "low"),
        (State.SILENCE, None),
        (State.UNCERTAIN, None),
        (State.MUSIC, "high"),
    ]
    first_claim = next(d for d in decisions(events) if d.genre == "high")
    assert first_claim.position - 24.4 < FIRST + 0.6
    assert first_claim.window_probabilities["low"] < 0.01
    assert [(s.state, s.genre) for s in finals(events)] == [
        (State.MUSIC, "low"),
        (State.SILENCE, None),
        (State.MUSIC, "high"),
    ]
    np.testing.assert_allclose([s.start for s in finals(events)], [0, 20.4, 24.4], atol=0.06)


@pytest.mark.parametrize("hop_seconds", [0.1, 0.3, 1.0, 1.7])
def test_silence_has_the_same_edges_with_any_hop(
    classifier: Classifier, hop_seconds: float
) -> None:
    sound = np.concatenate([band_noise("low", 9.3), silence(4.1), band_noise("high", 8)])
    pipeline = Pipeline(classifier, hop_seconds=hop_seconds)
    segments = finals(pipeline.feed(sound, RATE) + pipeline.finish())
    assert [s.genre for s in segments] == ["low", None, "high"]
    assert segments[1].state is State.SILENCE
    np.testing.assert_allclose([s.start for s in segments], [0, 9.3, 13.4], atol=0.06)


@pytest.mark.parametrize("hop_seconds", [0.1, 1.0])
def test_a_short_pause_in_the_music_is_no_silence(
    classifier: Classifier, hop_seconds: float
) -> None:
    sound = np.concatenate([band_noise("low", 6), silence(0.7), band_noise("low", 6)])
    pipeline = Pipeline(classifier, hop_seconds=hop_seconds)
    events = pipeline.feed(sound, RATE)
    assert {decision.genre for decision in decisions(events)} == {"low"}


@pytest.mark.parametrize("cut", ["title", "discontinuity"])
def test_nothing_of_the_old_song_is_left_after_a_cut(classifier: Classifier, cut: str) -> None:
    first, second = band_noise("low", 20.4, seed=1), band_noise("high", 12, seed=2)
    pipeline = Pipeline(classifier)
    events = pipeline.feed(first, RATE, title="one")
    if cut == "title":
        events += pipeline.feed(second, RATE, title="two")
    else:
        events += pipeline.feed(second, RATE, title="one", discontinuity=True)
    events += pipeline.finish()
    alone = Pipeline(classifier).feed(second, RATE)[0]
    assert isinstance(alone, Decision)
    later = [d for d in decisions(events) if d.position > 20.4]
    first_claim = next(d for d in later if d.state is State.MUSIC and not d.carried)
    assert first_claim.position == pytest.approx(20.4 + FIRST)
    assert first_claim.window_probabilities == alone.window_probabilities
    assert first_claim.probabilities == alone.probabilities
    before = [d for d in later if d.position < first_claim.position]
    carried = ("low", True) if cut == "title" else (None, False)
    assert {(d.genre, d.carried) for d in before} == {carried}
    assert {p for d in before for p in d.window_probabilities.values()} == {
        1 / len(before[0].probabilities)
    }
    assert [(s.genre, s.start, s.end) for s in finals(events)] == [
        ("low", 0.0, 20.4),
        ("high", 20.4, 32.4),
    ]


@pytest.mark.parametrize("cut", [20.0, 20.4, 20.9])
def test_a_cut_is_hinted_at_within_two_seconds_and_before_its_label(
    classifier: Classifier, cut: float
) -> None:
    pipeline = Pipeline(classifier)
    sound = np.concatenate([band_noise("low", cut, seed=1), band_noise("high", 12, seed=2)])
    found = decisions(pipeline.feed(sound, RATE))
    hinted = [d.position for d in found if d.change]
    assert cut < hinted[0] <= cut + 2
    known = next(d.position for d in found if d.genre == "high")
    assert hinted[-1] < known


@pytest.mark.parametrize("cut", [20.0, 20.9])
def test_a_window_leaves_out_what_was_before_a_hint(classifier: Classifier, cut: float) -> None:
    loud = band_noise("low", cut, level_dbfs=-10, seed=1)
    sound = np.concatenate([loud, band_noise("high", 12, level_dbfs=-40, seed=2)])
    found = decisions(Pipeline(classifier).feed(sound, RATE))
    hinted = next(d.position for d in found if d.change)
    mixed = [d for d in found if cut + FIRST + 1 <= d.position < cut + 5]
    assert mixed
    assert hinted < mixed[0].position
    assert max(d.window_probabilities["low"] for d in mixed) < 0.04
    (first,) = [d for d in found if d.whole]
    assert cut + FIRST <= first.position <= cut + FIRST + 2


def test_a_pause_after_a_hint_leaves_no_window_that_is_the_first_without_older_sound(
    classifier: Classifier,
) -> None:
    sound = [band_noise("low", 20, seed=1), band_noise("high", 1.2, seed=2), silence(3)]
    sound = np.concatenate([*sound, band_noise("high", 12, seed=3)])
    found = decisions(Pipeline(classifier).feed(sound, RATE))
    assert any(d.change for d in found)
    assert not any(d.whole for d in found)


@pytest.mark.parametrize("effort", ["full", "saving"])
def test_a_cut_is_noticed_once(classifier: Classifier, effort: Effort) -> None:
    for cut in (20.0, 20.4, 20.9):
        sound = np.concatenate([band_noise("low", cut, seed=1), band_noise("high", 12, seed=2)])
        found = decisions(Pipeline(classifier, effort=effort).feed(sound, RATE))
        assert sum(d.whole for d in found) == 1
        hints = [d.change for d in found]
        assert sum(now and not before for before, now in itertools.pairwise(hints)) == 1


def test_only_a_title_that_differs_from_the_last_one_is_a_cut() -> None:
    titles = Titles()
    cuts = []
    for title in (None, "one", None, "one", "", "one", "two", "", "one"):
        cuts.append(titles.is_cut(title))
        titles.take(title)
    assert cuts == [False, False, False, False, False, False, True, False, True]


def test_a_discontinuity_is_a_cut_after_which_no_title_is_known() -> None:
    titles = Titles()
    titles.take("one")
    assert titles.is_cut(None, discontinuity=True)
    titles.take(None, discontinuity=True)
    assert titles.current is None
    assert not titles.is_cut("two")


def test_titles_that_change_within_one_hop_are_a_cut(classifier: Classifier) -> None:
    pipeline = Pipeline(classifier)
    events = pipeline.feed(band_noise("low", 8.2), RATE, title="one")
    events += pipeline.feed(band_noise("low", 0.3), RATE, title="two")
    events += pipeline.feed(band_noise("low", 8), RATE, title="one")
    events += pipeline.finish()
    ends = [segment.end for segment in finals(events)]
    assert ends == [pytest.approx(8.5, abs=1e-4), pytest.approx(16.5, abs=1e-4)]


def test_a_title_goes_with_the_segment_that_it_begins(classifier: Classifier) -> None:
    pipeline = Pipeline(classifier)
    events = pipeline.feed(band_noise("low", 8), RATE)
    events += pipeline.feed(band_noise("low", 8), RATE, title="one")
    events += pipeline.feed(band_noise("low", 8), RATE)
    events += pipeline.feed(band_noise("low", 8), RATE, title="two")
    events += pipeline.finish()
    assert [(s.title, s.start, s.end) for s in finals(events)] == [
        ("one", 0.0, 24.0),
        ("two", 24.0, 32.0),
    ]


def test_an_empty_title_begins_a_segment_but_no_new_window(
    classifier: Classifier,
) -> None:
    pipeline = Pipeline(classifier)
    events = pipeline.feed(band_noise("low", 8), RATE, title="one")
    events += pipeline.feed(band_noise("low", 8), RATE, title="")
    events += pipeline.feed(band_noise("low", 8), RATE, title="one")
    events += pipeline.finish()
    decisions = [event for event in events if isinstance(event, Decision)]
    assert {decision.genre for decision in decisions} == {"low"}
    assert [segment.title for segment in finals(events)] == ["one", "one"]
    assert finals(events)[1].start == pytest.approx(8.0, abs=1.0)


def test_a_change_of_rate_and_channels_is_no_cut(classifier: Classifier) -> None:
    pipeline = Pipeline(classifier)
    events = pipeline.feed(band_noise("low", 5.5, 44100), 44100)
    stereo = np.repeat(band_noise("low", 5.5, 48000)[:, None], 2, axis=1)
    events += pipeline.feed(stereo, 48000) + pipeline.finish()
    assert {(d.state, d.genre) for d in decisions(events)} == {(State.MUSIC, "low")}
    np.testing.assert_allclose(np.diff([d.position for d in decisions(events)]), 1)
    (segment,) = finals(events)
    assert segment.start == 0
    assert segment.end == pytest.approx(11, abs=1e-3)


@pytest.mark.parametrize(
    ("sound", "state"),
    [(band_noise("low", 1), State.UNCERTAIN), (silence(1), State.SILENCE)],
)
def test_a_source_too_short_for_a_window_gets_one_decision(
    classifier: Classifier, sound: NDArray[np.float32], state: State
) -> None:
    pipeline = Pipeline(classifier)
    assert pipeline.feed(sound, RATE) == []
    decision, opened, ended = pipeline.finish()
    assert isinstance(decision, Decision)
    assert (decision.position, decision.state) == (1.0, state)
    assert isinstance(opened, Segment)
    assert isinstance(ended, Segment)
    assert (ended.start, ended.end, ended.final) == (0.0, 1.0, True)


def test_the_position_includes_what_the_resampler_holds_back(classifier: Classifier) -> None:
    pipeline = Pipeline(classifier)
    for second in range(1, 4):
        pipeline.feed(silence(1, 48000), 48000)
        assert pipeline.position == pytest.approx(second)


def test_the_position_never_decreases_for_another_thread(classifier: Classifier) -> None:
    pipeline = Pipeline(classifier, hop_seconds=0.2)
    seen: list[float] = []
    resample, classify = Resampler._resample, Classifier.predict

    def watched_resample(self: Resampler, *args: Any, **options: Any) -> Any:
        samples = resample(self, *args, **options)
        seen.append(pipeline.position)
        return samples

    def watched_classify(self: Classifier, *inputs: Any) -> Any:
        seen.append(pipeline.position)
        return classify(self, *inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resampler, "_resample", watched_resample)
        patch.setattr(Classifier, "predict", watched_classify)
        for rate in (48000, 44100, 48000):
            for _ in range(40):
                pipeline.feed(band_noise("low", 0.1, rate), rate)
                seen.append(pipeline.position)
    assert seen == sorted(seen)


def test_a_source_without_samples_has_no_events(classifier: Classifier) -> None:
    pipeline = Pipeline(classifier)
    assert pipeline.feed(silence(0), RATE) == []
    assert pipeline.finish() == []


def test_a_finished_pipeline_refuses_samples(classifier: Classifier) -> None:
    pipeline = Pipeline(classifier)
    pipeline.feed(band_noise("low", 4), RATE)
    assert pipeline.finish()
    assert pipeline.finish() == []
    with pytest.raises(ValueError, match="the pipeline was finished"):
        pipeline.feed(silence(1), RATE)


def test_clipping_and_nan_are_counted_over_all_channels(classifier: Classifier) -> None:
    pipeline = Pipeline(classifier)
    pipeline.feed(np.array([[1.0, 0.5], [np.nan, -1.5]], np.float32), RATE)
    pipeline.feed(np.array([np.inf, 0.1], np.float32), RATE)
    assert (pipeline.nan_samples, pipeline.clipped_samples) == (2, 2)


def test_settings_come_from_the_model_unless_given(tmp_path: Path) -> None:
    model = make_model(tmp_path / "deaf.onnx", decision={"silence_dbfs": -10.0})
    classifier = Classifier.load(model)
    sound = band_noise("low", 5)
    assert decisions(run(classifier, sound))[0].state is State.SILENCE
    pipeline = Pipeline(classifier, settings=DecisionSettings())
    assert decisions(pipeline.feed(sound, RATE))[0].genre == "low"


def test_columns_of_the_spectrogram_come_with_their_decision(classifier: Classifier) -> None:
    events = run(classifier, band_noise("low", 10), spectrogram=True)
    shown = [event for event in events if isinstance(event, SpectrogramColumns)]
    assert [c.position for c in shown] == [d.position for d in decisions(events)]
    levels = np.concatenate([columns.levels for columns in shown], axis=1)
    assert levels.dtype == np.uint8
    assert levels.shape == (128, 1 + int((shown[-1].position * RATE - 1024) // 1711))
    assert levels.max() == 255
    assert levels[:30].mean() > 150 > 50 > levels[90:].mean()


def test_silence_is_dark_in_the_spectrogram(classifier: Classifier) -> None:
    events = run(classifier, faint_noise(10, -70), spectrogram=True)
    shown = [event for event in events if isinstance(event, SpectrogramColumns)]
    assert sum(columns.levels.shape[1] for columns in shown) > 100
    assert max(columns.levels.max() for columns in shown) < 150


def test_columns_give_the_segments_of_their_sound(classifier: Classifier) -> None:
    spec = SpectrogramSpec()
    sound = np.concatenate([band_noise("low", 15), band_noise("high", 15)])
    pipeline = ColumnPipeline(classifier)
    columns = log_mel(sound, spec)
    events = pipeline.feed(columns[:, :100], -20.0) + pipeline.feed(columns[:, 100:], -20.0)
    events += pipeline.finish()
    genres = [s.genre for s in finals(events)]
    assert genres == [s.genre for s in finals(run(classifier, sound))] == ["low", "high"]
    hops = np.diff([d.position for d in decisions(events)])
    np.testing.assert_allclose(hops, 1, atol=spec.hop_seconds)


def test_columns_with_a_low_level_are_silence(classifier: Classifier) -> None:
    columns = log_mel(band_noise("low", 10), SpectrogramSpec())
    pipeline = ColumnPipeline(classifier)
    events = [*pipeline.feed(columns, -20.0), *pipeline.feed(columns, -90.0), *pipeline.finish()]
    assert [(s.state, s.genre) for s in finals(events)] == [
        (State.MUSIC, "low"),
        (State.SILENCE, None),
    ]
