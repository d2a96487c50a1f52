from __future__ import annotations

import multiprocessing
import timeit
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import librosa
import numpy as np
import pytest

from streamer.core.spectrogram import LogMelStream, SpectrogramSpec

WINDOW_SECONDS = 10
LEAST_RATIO = 20
MOST_TRANSFORMS = 2.5
"""Times what numpy takes for the Fourier transforms alone, which no version of ours goes below. It
is enough where librosa is quick: its time for the same window is 2.5 or 3.4 ms on one processor, by
whether malloc gives freed memory back to the system."""
ROUNDS = 200


def fastest_alternating(*calls: Callable[[], object]) -> list[float]:
    """Return the shortest time in seconds that each call takes.

    They alternate, so that a change of the processor's speed affects both, and each runs several
    times in a row, so that neither is timed with the other's data in the caches.
    """
    rounds = [
        [min(timeit.repeat(call, number=1, repeat=10)) for call in calls] for _ in range(ROUNDS)
    ]
    return [min(times) for times in zip(*rounds, strict=True)]


def measure() -> list[float]:
    """Return the seconds of librosa's window, of our new second, and of the latter's transforms."""
    spec = SpectrogramSpec()
    samples = np.random.default_rng(0).standard_normal(WINDOW_SECONDS * spec.sample_rate)
    window = samples.astype(np.float32)
    second = window[: spec.sample_rate]
    stream = LogMelStream(spec)
    stream.push(second)
    columns = stream.push(second).shape[1]
    frames = np.tile(window[: spec.n_fft].astype(np.float64), (columns, 1))

    def by_librosa() -> object:
        power = librosa.feature.melspectrogram(
            y=window,
            sr=spec.sample_rate,
            n_fft=spec.n_fft,
            hop_length=spec.hop_length,
            n_mels=spec.n_mels,
            fmin=spec.fmin,
            fmax=spec.fmax,
        )
        return librosa.power_to_db(power, ref=np.max, top_db=spec.top_db)

    return fastest_alternating(by_librosa, lambda: stream.push(second), lambda: np.fft.rfft(frames))


@pytest.mark.benchmark
def test_a_new_second_costs_a_twentieth_of_librosas_window(
    measured: Callable[[str], None],
) -> None:
    # In a process of its own: once a process has freed large blocks, malloc keeps the memory that
    # it would have returned, and librosa takes a quarter less time. What ran before must not count.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        theirs, ours, transforms = process.submit(measure).result()
    measured(
        f"one new second: {ours * 1e3:.2f} ms; librosa over {WINDOW_SECONDS} s: "
        f"{theirs * 1e3:.2f} ms; ratio {theirs / ours:.1f}; "
        f"{ours / transforms:.2f} times its Fourier transforms"
    )
    assert theirs / ours >= LEAST_RATIO or ours / transforms <= MOST_TRANSFORMS
