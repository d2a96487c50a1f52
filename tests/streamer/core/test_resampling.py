from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.core.resampling import FULL_SCALE, Resampler, mix_down

TARGET = 22050
RATES = [8000, 11025, 16000, 22050, 44100, 44101, 47999, 48000, 96000, 192000]


def tone(hertz: float, rate: int, seconds: float = 1.0) -> NDArray[np.float32]:
    time = np.arange(round(seconds * rate)) / rate
    return np.asarray(0.5 * np.sin(2 * np.pi * hertz * time), np.float32)


def resampled(samples: NDArray[np.float32], rate: int, pieces: list[int]) -> NDArray[np.float32]:
    resampler = Resampler(rate, TARGET)
    done = [resampler.push(piece) for piece in np.split(samples, pieces)]
    return np.concatenate([*done, resampler.flush()])


@pytest.mark.parametrize("rate", [1000, *RATES])
@given(cuts=st.lists(st.floats(0, 1), max_size=20), singles=st.integers(0, 200))
@settings(max_examples=10)
def test_the_pieces_make_no_difference(rate: int, cuts: list[float], singles: int) -> None:
    samples = np.random.default_rng(1).standard_normal(rate).astype(np.float32)
    pieces = [*range(singles), *sorted(max(singles, round(cut * rate)) for cut in cuts)]
    whole = resampled(samples, rate, [])
    assert resampled(samples, rate, pieces).tobytes() == whole.tobytes()


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_the_daemon_resamples_exactly_as_the_trainer_does(rate: int) -> None:
    samples = np.random.default_rng(2).standard_normal(3 * rate).astype(np.float32)
    pieces = list(range(0, len(samples), 1024))
    at_once = soxr.resample(samples, rate, TARGET)
    np.testing.assert_array_equal(resampled(samples, rate, pieces), at_once)


@pytest.mark.parametrize("rate", RATES)
def test_nothing_is_lost_or_delayed(rate: int) -> None:
    samples = resampled(tone(441, rate), rate, [])
    assert abs(len(samples) - TARGET) <= 1
    inner = slice(TARGET // 10, -TARGET // 10)
    expected = tone(441, TARGET)[: len(samples)]
    np.testing.assert_allclose(samples[inner], expected[inner], atol=1e-4)


@pytest.mark.parametrize("rate", RATES)
def test_less_than_a_tenth_of_a_second_is_held_back(rate: int) -> None:
    resampler = Resampler(rate, TARGET)
    done = sum(len(resampler.push(piece)) for piece in np.array_split(tone(441, rate), 10))
    assert 0.9 * TARGET < done <= TARGET


@pytest.mark.parametrize("rate", [44100, 48000, 96000, 192000])
@pytest.mark.parametrize(("hertz", "least_db", "most_db"), [(9000, -0.1, 0.1), (13000, -200, -60)])
def test_the_passband_stays_and_aliases_are_rejected(
    rate: int, hertz: float, least_db: float, most_db: float
) -> None:
    inner = resampled(tone(hertz, rate), rate, [])[TARGET // 10 : -TARGET // 10]
    gain_db = 20 * np.log10(inner.std() / tone(hertz, rate).std())
    assert least_db < gain_db < most_db


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux counts a process's threads in /proc"
)
def test_resamplers_start_no_threads() -> None:
    def threads() -> int:
        return sum(1 for _ in Path("/proc/self/task").iterdir())

    before = threads()
    resamplers = [Resampler(44100, 22050) for _ in range(8)]
    for resampler in resamplers:
        resampler.push(np.zeros(44100, np.float32))
    assert threads() == before


def test_audio_at_the_target_rate_is_unchanged() -> None:
    samples = tone(441, TARGET)
    np.testing.assert_array_equal(resampled(samples, TARGET, [1, 7]), samples)


@pytest.mark.parametrize("rate", [0, -1])
def test_an_impossible_rate_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match=f"a sample rate must be positive, not {rate}"):
        Resampler(rate, TARGET)


@given(channels=st.integers(1, 8), count=st.integers(0, 50), seed=st.integers(0, 99))
def test_channels_are_mixed_by_their_mean(channels: int, count: int, seed: int) -> None:
    samples = np.random.default_rng(seed).uniform(-0.9, 0.9, (count, channels)).astype(np.float32)
    mono = mix_down(samples)
    np.testing.assert_allclose(mono.samples, samples.sum(axis=1) / channels, atol=1e-6)
    assert mono.samples.dtype == np.float32
    assert (mono.nan_samples, mono.clipped_samples) == (0, 0)


@given(channels=st.integers(1, 8), count=st.integers(1, 50), cut=st.integers(0, 50))
def test_mixing_does_not_depend_on_the_pieces(channels: int, count: int, cut: int) -> None:
    samples = np.random.default_rng(5).uniform(-1, 1, (count, channels)).astype(np.float32)
    first, second = mix_down(samples[:cut]), mix_down(samples[cut:])
    whole = mix_down(samples)
    pieces = np.concatenate([first.samples, second.samples])
    assert pieces.tobytes() == whole.samples.tobytes()
    assert first.clipped_samples + second.clipped_samples == whole.clipped_samples


def test_nan_and_infinity_become_zero_and_are_counted() -> None:
    mono = mix_down(np.array([[np.nan, 0.5], [np.inf, -np.inf], [0.25, 0.25]], np.float32))
    assert mono.samples.tolist() == [0.25, 0.0, 0.25]
    assert (mono.nan_samples, mono.clipped_samples) == (3, 0)


def test_values_beyond_full_scale_are_clipped_and_counted() -> None:
    mono = mix_down(np.array([3e38, -2.0, 1.0, FULL_SCALE, 0.99], np.float32))
    np.testing.assert_allclose(mono.samples, [1, -1, 1, FULL_SCALE, 0.99])
    assert (mono.nan_samples, mono.clipped_samples) == (0, 4)


def test_the_largest_sample_of_16_bits_counts_as_clipped() -> None:
    integers = np.array([32767, -32768, 32766], np.int16)
    assert mix_down(integers / np.float32(32768)).clipped_samples == 2


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.complex64])
def test_integers_are_refused(dtype: type[np.generic]) -> None:
    with pytest.raises(TypeError, match="must be floating point with full scale at 1, not"):
        mix_down(np.zeros(4, dtype))


@pytest.mark.parametrize("shape", [(), (2, 2, 2), (4, 0)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"samples must have shape \(n,\) or \(n, channels\)"):
        mix_down(np.zeros(shape, np.float32))
