"""What the second network costs a source: processor time for each decision, and memory."""

from __future__ import annotations

import dataclasses
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from streamer.core.decision import Decision
from streamer.core.model import Classifier, golden_audio, golden_spectrogram
from streamer.core.pipeline import Pipeline

ROUNDS = 20
RATE, SECONDS, BLOCK = 44100, 30, 4096
SOURCES = 8


class Instant(Classifier):
    """Answers at once, so that only the way to the networks is measured."""

    def __init__(self, like: Classifier, *, hears: bool) -> None:
        contract = like.contract
        if not hears:
            contract = dataclasses.replace(contract, audio=None, fusion=None)
        self.contract = contract

    def predict(
        self, spectrograms: NDArray[np.float32], audio: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        classes = len(self.contract.labels)
        return np.full((len(spectrograms), classes), 1 / classes, np.float32)


@pytest.fixture(scope="module")
def classifier(gtzan_model: Path) -> Classifier:
    classifier = Classifier.load(gtzan_model)
    if classifier.contract.audio is None:
        pytest.skip("the embedded model has one network")
    return classifier


@pytest.fixture(scope="module")
def sound() -> NDArray[np.float32]:
    noise = np.random.default_rng(0).standard_normal((SECONDS * RATE, 2))
    return np.asarray(noise / 10, np.float32)


def play(classifier: Classifier, sound: NDArray[np.float32]) -> tuple[Pipeline, int]:
    """Feed a sound in the blocks of a device; return the pipeline and the number of decisions."""
    pipeline = Pipeline(classifier)
    events = []
    for start in range(0, len(sound), BLOCK):
        events += pipeline.feed(sound[start : start + BLOCK], RATE)
    return pipeline, sum(isinstance(event, Decision) for event in events)


@pytest.mark.benchmark
def test_the_way_of_the_audio_costs_little_beside_the_networks(
    classifier: Classifier, sound: NDArray[np.float32], measured: Callable[[str], None]
) -> None:
    contract = classifier.contract
    assert contract.audio
    window = golden_spectrogram(contract.spectrogram, contract.window_frames)
    audio = golden_audio(contract.audio, contract.audio.samples)
    ways = {hears: Instant(classifier, hears=hears) for hears in (False, True)}
    networks: list[float] = []
    others: dict[bool, list[float]] = {False: [], True: []}
    for number in range(ROUNDS):
        for hears in (False, True) if number % 2 else (True, False):
            # One thread's processor time: other programs on the machine do not count.
            start = time.process_time()
            _, decisions = play(ways[hears], sound)
            others[hears].append((time.process_time() - start) / decisions)
        start = time.process_time()
        classifier.predict(window, audio)
        networks.append(time.process_time() - start)
    both = statistics.median(networks)
    without, with_audio = (statistics.median(others[hears]) for hears in (False, True))
    measured(
        f"both networks {1000 * both:.1f} ms a decision; all else {1000 * without:.2f} ms without "
        f"audio, {1000 * with_audio:.2f} ms with it"
    )
    assert with_audio - without < 0.1 * both


@pytest.mark.benchmark
def test_the_audio_of_a_source_needs_less_than_a_megabyte(
    classifier: Classifier, sound: NDArray[np.float32], measured: Callable[[str], None]
) -> None:
    used = {}
    for hears in (False, True):
        way = Instant(classifier, hears=hears)
        play(way, sound)  # what is kept for all sources, such as filters
        tracemalloc.start()
        pipelines = [play(way, sound) for _ in range(SOURCES)]
        used[hears] = tracemalloc.get_traced_memory()[0] / len(pipelines)
        tracemalloc.stop()
    measured(f"{used[False] / 1e3:.0f} kB a source without audio, {used[True] / 1e3:.0f} with it")
    assert used[True] - used[False] < 1e6
