"""The detector of changes, and the hints that decisions carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from streamer.core.change import ChangeDetector
from streamer.core.decision import Decider, DecisionSettings, Observation
from streamer.core.spectrogram import Columns, LogMelStream, SpectrogramSpec

SPEC = SpectrogramSpec()
RATE = SPEC.sample_rate


def notes(seconds: float, *frequencies: float, seed: int = 0) -> np.ndarray:
    """Return a melody of random notes of a scale with some noise: sound that always varies."""
    chance = np.random.default_rng(seed)
    pieces = []
    for _ in range(int(seconds * 4)):
        time = np.arange(RATE // 4) / RATE
        tone = np.sin(2 * np.pi * chance.choice(frequencies) * time) * np.exp(-3 * time)
        pieces.append(0.2 * tone + chance.normal(0, 0.01, len(time)))
    return np.concatenate(pieces).astype(np.float32)


def columns_of(sound: np.ndarray) -> Columns:
    return LogMelStream(SPEC).push(sound)


def changes(columns: Columns, hop: int = 13, first: int = 0) -> list[float]:
    """Return the seconds at which the detector tells of a change."""
    detector = ChangeDetector(SPEC)
    ends = range(first + hop, columns.shape[1] + 1, hop)
    return [end * SPEC.hop_seconds for end in ends if detector.update(columns[:, end - hop : end])]


BASS, FLUTE = (80.0, 107.0, 120.0, 160.0), (900.0, 1200.0, 1350.0, 1800.0)


@pytest.mark.parametrize("first", [0, 4, 9])
def test_other_sound_is_noticed_within_two_seconds(first: int) -> None:
    sound = np.concatenate([notes(20, *BASS), notes(10, *FLUTE)])
    told = changes(columns_of(sound), first=first)
    assert 20 < told[0] <= 22


def test_a_melody_that_goes_on_is_no_change() -> None:
    assert changes(columns_of(np.tile(notes(4, *BASS), 15))) == []


def test_a_change_is_told_as_long_ago_as_it_was() -> None:
    columns = columns_of(np.concatenate([notes(20, *BASS), notes(10, *FLUTE)]))
    detector = ChangeDetector(SPEC)
    end = next(end for end in range(13, 400, 13) if detector.update(columns[:, end - 13 : end]))
    assert detector.columns_since == pytest.approx(end - 20 / SPEC.hop_seconds, abs=4)
    detector.update(columns[:, end : end + 13])
    assert detector.columns_since == pytest.approx(end + 13 - 20 / SPEC.hop_seconds, abs=4)


def test_from_noise_to_notes_is_certain_and_to_other_notes_is_only_told() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * RATE).astype(np.float32)
    certain = []
    for before, after in ((noise, BASS), (notes(20, *BASS), FLUTE)):
        columns = columns_of(np.concatenate([before, notes(10, *after)]))
        detector = ChangeDetector(SPEC)
        assert any(detector.update(columns[:, end - 13 : end]) for end in range(13, 400, 13))
        certain.append(detector.certain)
    assert certain == [True, False]


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        SpectrogramSpec(hop_length=512),
        SpectrogramSpec(sample_rate=16000, n_fft=1024, hop_length=400, n_mels=64, fmax=8000.0),
        SpectrogramSpec(hop_length=2205, n_mels=96, fmin=40.0),
    ],
)
def test_the_next_piece_is_noticed_in_spectrograms_of_any_grid(
    spec: SpectrogramSpec, demo_clip: Path
) -> None:
    samples, rate = soundfile.read(demo_clip, dtype="float32")
    mono = samples.reshape(len(samples), -1).mean(axis=1)
    columns = LogMelStream(spec).push(soxr.resample(mono, rate, spec.sample_rate))
    detector = ChangeDetector(spec)
    hop = spec.frames_in(1.0)
    begins = [
        (end - (detector.columns_since or 0)) * spec.hop_seconds
        for end in range(hop, columns.shape[1] + 1, hop)
        if detector.update(columns[:, end - hop : end])
    ]
    # A piece has 13 s.
    assert begins[:2] == pytest.approx([13, 26], abs=0.5)


def test_sound_that_often_alternates_has_to_change_more() -> None:
    alternating = np.concatenate(
        [notes(2, *(BASS if number % 2 else FLUTE), seed=number) for number in range(20)]
    )
    told = changes(columns_of(alternating))
    # Once it is known, it is no change any more.
    assert [at for at in told if at > 15] == []


def test_nothing_is_told_of_the_first_seconds_nor_after_a_restart() -> None:
    detector = ChangeDetector(SPEC)
    sound = columns_of(np.concatenate([notes(4, *BASS), notes(8, *FLUTE)]))
    assert not any(
        detector.update(sound[:, at : at + 13]) for at in range(0, SPEC.frames_in(5) - 13, 13)
    )
    detector = ChangeDetector(SPEC)
    for at in range(0, 260, 13):
        detector.update(columns_of(notes(20, *BASS))[:, at : at + 13])
    detector.restart()
    flute = columns_of(notes(10, *FLUTE))
    assert not any(detector.update(flute[:, at : at + 13]) for at in range(0, 120, 13))


def test_silent_columns_and_few_bands_are_no_error() -> None:
    spec = SpectrogramSpec(n_mels=8, fmin=0.0, fmax=4000.0)
    detector = ChangeDetector(spec)
    for _ in range(30):
        assert not detector.update(np.full((8, 13), -100.0, np.float32))
    assert not detector.update(np.empty((8, 0), np.float32))


class Listened:
    """A decider that gets an observation a second."""

    def __init__(self) -> None:
        self.decider = Decider(
            ("jazz", "rock"), None, DecisionSettings(smoothing="none"), window_seconds=5.0
        )
        self.position = 0.0

    def hint(self, jazz: float | None = 0.9, **observed: bool) -> bool:
        self.position += 1.0
        window = None if jazz is None else np.array([jazz, 1 - jazz])
        decision, _ = self.decider.update(
            Observation(self.position, 1.0, -20.0, window, **observed)
        )
        return decision.change


def test_a_hint_lasts_until_the_label_changes() -> None:
    source = Listened()
    assert [source.hint(), source.hint(changed=True), source.hint()] == [False, True, True]
    assert [source.hint(0.1), source.hint(0.1)] == [False, False]


def test_a_hint_lasts_for_a_window_if_the_label_stays() -> None:
    source = Listened()
    source.hint()
    hints = [source.hint(changed=True), *(source.hint(changed=True) for _ in range(5))]
    assert hints == [True] * 5 + [False]


def test_a_new_title_is_a_change_until_the_new_label() -> None:
    source = Listened()
    source.hint()
    assert [source.hint(None, restart=True), source.hint(None)] == [True, True]
    assert source.hint(0.1) is False


@pytest.mark.parametrize("observed", [{"silent": True}, {"restart": True, "interrupted": True}])
def test_silence_and_interruptions_are_no_hint_and_end_one(observed: dict[str, bool]) -> None:
    source = Listened()
    source.hint()
    assert source.hint(changed=True)
    assert not source.hint(None, **observed)
    assert not source.hint()
