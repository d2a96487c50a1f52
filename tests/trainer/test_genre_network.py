"""Images that the network gets from spectrograms, and windows that it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.core.spectrogram import SpectrogramSpec

keras = pytest.importorskip("keras")

from trainer.network import NetworkError, SpectrogramToImage, with_preprocessing  # noqa: E402


def test_levels_become_values_from_minus_one_to_one_in_three_channels() -> None:
    window = np.full((1, 8, 10), -80, np.float32)
    window[0, 3, 4] = 0
    image = keras.ops.convert_to_numpy(SpectrogramToImage(80, 1)(window))
    assert image.shape == (1, 8, 10, 3)
    assert image.min() == -1
    assert (image[0, 3, 4] == 1).all()


def test_a_scaled_image_has_half_pixel_centres() -> None:
    window = np.tile(np.linspace(-80, 0, 10, dtype=np.float32), (1, 8, 1))
    image = keras.ops.convert_to_numpy(SpectrogramToImage(80, 2)(window))
    assert image.shape == (1, 16, 20, 3)
    # Output pixel 1 lies a quarter of a pixel beyond the first input pixel's centre.
    assert image[0, 0, 0, 0] == pytest.approx(-1)
    assert image[0, 0, 1, 0] == pytest.approx(-1 + 0.25 * 2 / 9, abs=1e-5)
    assert image.mean() == pytest.approx(0, abs=1e-5)


def test_a_window_too_small_for_the_backbone_is_refused_with_remedies() -> None:
    images = keras.Input((None, None, 3))
    network = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))
    with pytest.raises(NetworkError, match=r"--input-scale, --window-seconds or --mels"):
        with_preprocessing(network, SpectrogramSpec(), 30, 2)
