from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.core.resampling import Resampler

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
