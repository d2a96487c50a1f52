"""How the channels of a source become one."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from support.listening import Log, running
from support.model import band_noise

from streamer.core.decision import Decision, State
from streamer.core.events import SourceState
from streamer.core.mixing import FULL_SCALE, Mixer, MonoSamples
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline
from streamer.engine.listener import Listener
from streamer.sources import AudioBlock, Source, SourceEnded

RATE = 22050


def mixed(samples: ArrayLike) -> MonoSamples:
    return Mixer().correct_and_mix(samples, RATE)


def noise(seconds: float, seed: int = 1, rate: int = RATE) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return (0.2 * random.standard_normal(round(seconds * rate))).astype(np.float32)


def channels(*samples: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack(samples, axis=1)


def level_db(samples: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-30))


@given(channels=st.integers(1, 8), count=st.integers(0, 50), seed=st.integers(0, 99))
def test_channels_are_mixed_by_their_mean(channels: int, count: int, seed: int) -> None:
    samples = np.random.default_rng(seed).uniform(-0.9, 0.9, (count, channels)).astype(np.float32)
    mono = mixed(samples)
    np.testing.assert_allclose(mono.samples, samples.sum(axis=1) / channels, atol=1e-6)
    assert mono.samples.dtype == np.float32
    assert (mono.nan_samples, mono.clipped_samples) == (0, 0)


@given(channels=st.integers(1, 8), count=st.integers(1, 50), cut=st.integers(0, 50))
def test_mixing_does_not_depend_on_the_pieces(channels: int, count: int, cut: int) -> None:
    samples = np.random.default_rng(5).uniform(-1, 1, (count, channels)).astype(np.float32)
    first, second = mixed(samples[:cut]), mixed(samples[cut:])
    whole = mixed(samples)
    pieces = np.concatenate([first.samples, second.samples])
    assert pieces.tobytes() == whole.samples.tobytes()
    assert first.clipped_samples + second.clipped_samples == whole.clipped_samples


def test_nan_and_infinity_become_zero_and_are_counted() -> None:
    mono = mixed(np.array([[np.nan, 0.5], [np.inf, -np.inf], [0.25, 0.25]], np.float32))
    assert mono.samples.tolist() == [0.25, 0.0, 0.25]
    assert (mono.nan_samples, mono.clipped_samples) == (3, 0)


def test_values_beyond_full_scale_are_clipped_and_counted() -> None:
    mono = mixed(np.array([3e38, -2.0, 1.0, FULL_SCALE, 0.99], np.float32))
    np.testing.assert_allclose(mono.samples, [1, -1, 1, FULL_SCALE, 0.99])
    assert (mono.nan_samples, mono.clipped_samples) == (0, 4)


def test_the_largest_sample_of_16_bits_counts_as_clipped() -> None:
    integers = np.array([32767, -32768, 32766], np.int16)
    assert mixed(integers / np.float32(32768)).clipped_samples == 2


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.complex64])
def test_integers_are_refused(dtype: type[np.generic]) -> None:
    with pytest.raises(TypeError, match="must be floating point with full scale at 1, not"):
        mixed(np.zeros(4, dtype))


@pytest.mark.parametrize("shape", [(), (2, 2, 2), (4, 0)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"samples must have shape \(n,\) or \(n, channels\)"):
        mixed(np.zeros(shape, np.float32))


OUT_OF_PHASE = {
    "reversed": channels(noise(3), -noise(3)),
    "reversed and weaker": channels(noise(3), -0.8 * noise(3)),
    "balanced, with an offset": channels(noise(3), 0.3 - 0.9 * noise(3)),
    "one of six": channels(*[np.zeros_like(noise(3))] * 4, noise(3), np.zeros_like(noise(3))),
}


@pytest.mark.parametrize("name", OUT_OF_PHASE)
def test_sound_that_the_mean_loses_is_heard_after_a_second(name: str) -> None:
    sound = OUT_OF_PHASE[name]
    mixer = Mixer()
    mono = mixer.mix(sound, RATE)
    later = round(1.1 * RATE)
    loudest = int(np.argmax(sound.var(axis=0)))
    np.testing.assert_array_equal(mono[later:], sound[later:, loudest])
    assert (mixer.fallbacks, mixer.channel) == (1, loudest)
    assert mono[:RATE].var() < 0.1 * sound[:RATE, loudest].var()


@pytest.mark.parametrize(
    "sound",
    [
        channels(noise(3), noise(3)),
        channels(noise(3), noise(3, seed=2)),
        channels(noise(3), np.zeros_like(noise(3))),
        channels(noise(3), 0.5 * noise(3), noise(3, seed=2)),
        channels(*[noise(3, seed=seed) for seed in range(8)]),
        channels(noise(3)),
        channels(1e-6 * noise(3), -1e-6 * noise(3)),
    ],
    ids=["mono", "wide", "one dead", "three", "eight", "one channel", "silence"],
)
def test_ordinary_sound_is_the_mean_of_its_channels(sound: NDArray[np.float32]) -> None:
    mixer = Mixer()
    mono = mixer.mix(sound, RATE)
    np.testing.assert_allclose(mono, sound.astype(np.float64).mean(axis=1), atol=1e-7)
    assert (mixer.fallbacks, mixer.channel) == (0, None)


def test_bass_that_is_out_of_phase_is_not_lost() -> None:
    spectrum = np.fft.rfft(noise(4))
    hertz = np.fft.rfftfreq(4 * RATE, 1 / RATE)
    bass, treble = (
        np.fft.irfft(spectrum * part / np.maximum(hertz, 30)).astype(np.float32) * 20
        for part in (hertz < 200, hertz >= 200)
    )
    sound = channels(bass + treble, treble - bass)
    mono = Mixer().mix(sound, RATE)[2 * RATE :]
    assert level_db(mono) == pytest.approx(level_db((bass + treble)[2 * RATE :]), abs=0.1)


def test_the_mean_is_heard_again_when_the_phase_is_right() -> None:
    right = channels(noise(3, seed=2), noise(3, seed=3))
    mixer = Mixer()
    mono = mixer.mix(np.concatenate([OUT_OF_PHASE["reversed"], right]), RATE)
    np.testing.assert_allclose(mono[5 * RATE :], right[2 * RATE :].mean(axis=1), atol=1e-6)
    assert (mixer.fallbacks, mixer.channel) == (1, None)


def test_another_channel_is_heard_when_the_one_in_use_falls_silent() -> None:
    silent = np.zeros_like(noise(3))
    first, second = noise(3), noise(3, seed=2)
    sound = np.concatenate(
        [channels(first, silent, silent, silent), channels(silent, silent, second, silent)]
    )
    mixer = Mixer()
    mono = mixer.mix(sound, RATE)
    np.testing.assert_array_equal(mono[5 * RATE :], second[2 * RATE :])
    assert (mixer.fallbacks, mixer.channel) == (2, 2)


def test_changing_over_makes_no_click() -> None:
    time = np.arange(4 * RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 100 * time)).astype(np.float32)
    mono = Mixer().mix(channels(tone, -tone), RATE)
    assert np.abs(mono[-RATE:]).max() == pytest.approx(0.5, abs=1e-3)
    # No step between two samples is larger than those of the tone itself.
    assert np.abs(np.diff(mono)).max() <= 1.01 * np.abs(np.diff(tone)).max()


def test_a_change_of_rate_or_channels_begins_anew() -> None:
    mixer = Mixer()
    mixer.mix(OUT_OF_PHASE["reversed"], RATE)
    assert mixer.channel == 0
    np.testing.assert_array_equal(mixer.mix(noise(1), RATE), noise(1))
    assert mixer.channel is None
    mono = mixer.mix(channels(noise(1, rate=44100), -noise(1, rate=44100)), 44100)
    assert not mono.any()


PHASES = np.concatenate([OUT_OF_PHASE["reversed"], channels(noise(2), noise(2))] * 2)


@given(
    sizes=st.lists(st.integers(500, 30_000), min_size=1, max_size=8), singles=st.integers(0, 100)
)
@settings(max_examples=20)
def test_the_pieces_of_the_sound_change_nothing_in_the_mix(sizes: list[int], singles: int) -> None:
    mixer, pieces, position = Mixer(), [], 0
    while position < len(PHASES):
        size = 1 if len(pieces) < singles else sizes[len(pieces) % len(sizes)]
        pieces.append(mixer.mix(PHASES[position : position + size], RATE))
        position += size
    whole = Mixer()
    assert np.concatenate(pieces).tobytes() == whole.mix(PHASES, RATE).tobytes()
    assert mixer.fallbacks == whole.fallbacks == 2


def decided(classifier: Classifier, sound: NDArray[np.float32], piece: int) -> list[Decision]:
    pipeline = Pipeline(classifier)
    events = []
    for start in range(0, len(sound), piece):
        events += pipeline.feed(sound[start : start + piece], RATE)
    return [event for event in [*events, *pipeline.finish()] if isinstance(event, Decision)]


@pytest.mark.parametrize("gain", [-1.0, -0.8])
def test_music_out_of_phase_is_decided_as_music_at_its_level(
    classifier: Classifier, gain: float
) -> None:
    music = band_noise("low", 10)
    decisions = decided(classifier, channels(music, gain * music), 1000)
    assert decisions[-1].state is State.MUSIC
    assert decisions[-1].level_dbfs == pytest.approx(level_db(music[-RATE:]), abs=0.2)
    assert decisions == decided(classifier, channels(music, gain * music), 7777)


def test_the_listener_says_once_that_the_mix_is_replaced(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    class Reversed(Source):
        name, kind = "hall", "media"

        def __init__(self) -> None:
            self._blocks = iter([*np.array_split(PHASES, 40)])

        def open(self) -> None: ...

        def close(self) -> None: ...

        def read(self, timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
            for samples in self._blocks:
                return AudioBlock(samples, RATE, time.monotonic())
            raise SourceEnded

    log = Log()
    with running(Listener(Reversed(), lambda: Pipeline(classifier), log)) as listener:
        log.wait_for_states(SourceState.ENDED)
        assert listener.pipeline is not None
        assert listener.pipeline.mixer.fallbacks == 2
    assert caplog.text.count("hall: mixed together, the channels lose their sound") == 1
