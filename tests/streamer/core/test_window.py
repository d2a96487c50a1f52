from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.model import band_noise

from streamer.core.contract import ModelContract
from streamer.core.model import Classifier
from streamer.core.spectrogram import log_mel
from streamer.core.window import Window


@pytest.fixture
def contract(model: Path) -> ModelContract:
    return Classifier.load(model).contract


def test_a_window_is_complete_at_the_sample_it_names(contract: ModelContract) -> None:
    window = Window(contract)
    sound = band_noise("low", 10)
    window.append(window.render(sound[: window.filled_at - 1]))
    assert window.relative_to_peak() is None
    window.append(window.render(sound[window.filled_at - 1 : window.filled_at]))
    spectrogram = window.relative_to_peak()
    assert spectrogram is not None
    assert spectrogram.shape == (contract.spectrogram.n_mels, contract.min_frames)
    assert spectrogram.max() == 0


def test_a_window_keeps_the_latest_columns(contract: ModelContract) -> None:
    window = Window(contract)
    window.append(window.render(band_noise("low", 20)))
    window.append(window.render(band_noise("high", 1)))
    columns = log_mel(
        np.concatenate([band_noise("low", 20), band_noise("high", 1)]), contract.spectrogram
    )
    complete = (21 * 22050 - 1024) // 1711 + 1
    expected = columns[:, complete - contract.window_frames : complete]
    spectrogram = window.relative_to_peak()
    assert spectrogram is not None
    np.testing.assert_array_equal(spectrogram, np.maximum(expected - expected.max(), -80))


def test_nothing_before_a_restart_is_left_in_the_window(contract: ModelContract) -> None:
    window, fresh = Window(contract), Window(contract)
    window.append(window.render(band_noise("low", 7)))
    origin = 7 * 22050
    window.restart(origin)
    assert window.relative_to_peak() is None
    assert window.filled_at == origin + fresh.filled_at
    for one in (window, fresh):
        one.append(one.render(band_noise("high", 5)))
    np.testing.assert_array_equal(window.relative_to_peak(), fresh.relative_to_peak())
