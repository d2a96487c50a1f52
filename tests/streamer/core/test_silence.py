from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from support.model import band_noise

from streamer.core.decision_settings import DecisionSettings
from streamer.core.silence import SilenceGate, level_dbfs

RATE = 22050


def silence(seconds: float) -> NDArray[np.float32]:
    return np.zeros(round(seconds * RATE), np.float32)


def edges(sound: NDArray[np.float32], hop_seconds: float) -> list[tuple[bool, float]]:
    """Return whether silence began, and where in seconds, for every edge that a gate reports."""
    gate = SilenceGate(DecisionSettings(), RATE)
    hop = round(hop_seconds * RATE)
    found = []
    for start in range(0, len(sound), hop):
        edge = gate.update(sound[start : start + hop], start, hop)
        if edge is not None:
            found.append((gate.silent, edge / RATE))
    return found


def test_silence_begins_under_the_threshold_and_ends_above_the_hysteresis() -> None:
    settings = DecisionSettings(silence_dbfs=-50.0, silence_hysteresis_db=6.0)
    gate = SilenceGate(settings, RATE)
    levels = [-49.0, -50.0, -50.1, -49.0, -44.1, -44.0, -49.9, -50.1]
    changes, states = [], []
    for level in levels:
        changes.append(gate.update_level(level))
        states.append(gate.silent)
    assert states == [False, False, True, True, True, False, False, True]
    assert changes == [False, False, True, False, False, True, False, True]


@pytest.mark.parametrize("hop_seconds", [0.1, 0.3, 1.0, 1.7])
def test_the_edges_of_silence_are_found_with_any_hop(hop_seconds: float) -> None:
    sound = np.concatenate([band_noise("low", 4.3), silence(5.1), band_noise("high", 4)])
    (began, start), (ended, end) = edges(sound, hop_seconds)
    assert (began, ended) == (True, False)
    assert (start, end) == (pytest.approx(4.3, abs=0.06), pytest.approx(9.4, abs=0.06))


def test_a_source_that_begins_silent_is_silent_from_its_first_sample() -> None:
    assert edges(silence(3), 1.0) == [(True, 0.0)]


def test_a_pause_shorter_than_a_second_is_no_silence() -> None:
    assert (
        edges(np.concatenate([band_noise("low", 2), silence(0.7), band_noise("low", 2)]), 0.1) == []
    )


@pytest.mark.parametrize(
    ("hop_seconds", "seconds"), [(0.1, 1), (0.25, 1), (0.3, 1.2), (1, 1), (2, 2)]
)
def test_the_level_is_that_of_the_samples_of_so_many_hops_as_make_a_second(
    hop_seconds: float, seconds: float
) -> None:
    gate = SilenceGate(DecisionSettings(), RATE)
    sound = band_noise("low", 3) * np.linspace(0.01, 1, 3 * RATE, dtype=np.float32) + 0.2
    hop = round(hop_seconds * RATE)
    for start in range(0, len(sound) - hop + 1, hop):
        gate.update(sound[start : start + hop], start, hop)
        end = start + hop
    latest = sound[max(0, end - round(seconds * RATE)) : end]
    assert gate.level_dbfs == pytest.approx(level_dbfs(latest), abs=0.01)


def test_the_level_is_that_of_a_square_wave_of_the_same_power() -> None:
    time = np.arange(RATE) / RATE
    assert level_dbfs(np.array([1, -1] * 1000, np.float32)) == 0
    sine = np.asarray(np.sin(2 * np.pi * 441 * time), np.float32)
    assert level_dbfs(sine) == pytest.approx(-3.01, abs=0.01)
    faint = np.asarray(sine / 1000 + 0.5, np.float32)
    assert level_dbfs(faint) == pytest.approx(-63.01, abs=0.01)
