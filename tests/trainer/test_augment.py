"""The effects of the augmentation of log-mel windows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from streamer.core.spectrogram import SpectrogramSpec, band_mels, log_mel
from trainer.augment import (
    NONE,
    RANGES,
    Augmentation,
    add_power,
    augment,
    coloured_noise,
    insert_change,
    limit_band,
    mask,
    mean_power_db,
    mixup,
    random_noise,
    reverberate,
    shift_bands,
)
from trainer.dataset import Song, TrainingWindows, resample_time

SPEC = SpectrogramSpec()


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.fixture
def window(random: np.random.Generator) -> np.ndarray:
    return random.uniform(-80, 0, (SPEC.n_mels, 65)).astype(np.float32)


def test_two_equal_sounds_are_three_decibels_louder_than_one() -> None:
    sound = np.full((4, 4), -20, np.float32)
    np.testing.assert_allclose(add_power(sound, sound), -20 + 10 * np.log10(2), atol=1e-5)


def test_synthetic_white_noise_has_the_statistics_of_white_noise(
    random: np.random.Generator,
) -> None:
    real = log_mel(random.normal(0, 0.1, 22050 * 30).astype(np.float32), SPEC)
    made = coloured_noise(random, SPEC, real.shape[1], slope_db=0)
    real -= mean_power_db(real)
    made -= mean_power_db(made)
    # Interior bands: the outermost ones see the window's leakage at 0 Hz and at fmax.
    difference = (made.mean(axis=1) - real.mean(axis=1))[4:-4]
    assert np.abs(difference).max() < 4
    spread = made.std(axis=1)[4:-4] / real.std(axis=1)[4:-4]
    assert spread.min() > 0.4
    assert spread.max() < 2.5


def test_a_low_pass_attenuates_only_the_bands_above_it(window: np.ndarray) -> None:
    limited = limit_band(window, SPEC, 0, 4000)
    below = band_mels(SPEC) < 15 + 27 * np.log(4) / np.log(6.4)
    np.testing.assert_array_equal(limited[below], window[below])
    assert (limited[~below][1:] < window[~below][1:]).all()


def test_reverberation_decays_by_60_db_in_its_rt60() -> None:
    window = np.full((8, 60), -100, np.float32)
    window[:, 5] = 0
    ringing = reverberate(window, SPEC, decay_seconds=1.0, wet_db=0)
    after_a_second = 5 + 1 + round(1.0 / SPEC.hop_seconds)
    assert ringing[0, 6] > -10
    assert ringing[0, after_a_second] == pytest.approx(ringing[0, 6] - 60, abs=5)
    assert ringing[0, 4] == pytest.approx(-100, abs=3)


def test_a_shift_moves_every_band_and_fills_with_the_floor(window: np.ndarray) -> None:
    up = shift_bands(window, 2, -80)
    np.testing.assert_array_equal(up[2:], window[:-2])
    assert (up[:2] == -80).all()
    np.testing.assert_array_equal(shift_bands(window, -2, -80)[:-2], window[2:])


def test_stretching_keeps_the_first_and_the_last_column(window: np.ndarray) -> None:
    stretched = resample_time(window, 80)
    assert stretched.shape == (SPEC.n_mels, 80)
    np.testing.assert_allclose(stretched[:, 0], window[:, 0], atol=1e-4)
    np.testing.assert_allclose(stretched[:, -1], window[:, -1], atol=1e-4)


def test_an_augmented_window_is_relative_to_its_loudest_cell(
    window: np.ndarray, random: np.random.Generator
) -> None:
    strong = Augmentation(noise=1, reverberation=1, band_limit=1, masks=0)
    for _ in range(20):
        augmented = augment(window, random, SPEC, strong, random_noise(random, SPEC, 65))
        assert augmented.max() == 0
        assert augmented.min() >= -SPEC.top_db
        assert augmented.dtype == np.float32


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("end", [0, 1])
def test_a_strength_at_the_end_of_its_range_gives_finite_windows(
    random: np.random.Generator, name: str, end: int
) -> None:
    limit = RANGES[name][end]
    value = type(getattr(NONE, name))(limit) if name != "noise_snr_db" else (limit, limit)
    strength = dataclasses.replace(Augmentation(), **{name: value})
    spec = dataclasses.replace(SPEC, n_mels=20)
    song = Song("song", 0, random.integers(0, 256, (20, 40), np.uint8))
    windows = TrainingWindows(
        [song], [], 1, 2, spec=spec, frames=13, batch=8, windows_per_song=40, augmentation=strength
    )
    for batch in windows.epoch(0):
        assert np.isfinite(batch.windows).all()
        np.testing.assert_allclose(batch.targets.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("value", [-1e9, 1e9, float("nan"), float("inf")])
@pytest.mark.parametrize("name", RANGES)
def test_a_strength_outside_its_range_is_refused(name: str, value: float) -> None:
    given = (0.0, value) if name == "noise_snr_db" else value
    with pytest.raises(ValueError, match=f"^{name} must be from .* to .*, not "):
        dataclasses.replace(NONE, **{name: given})


def test_a_reversed_range_of_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a range, not from 30 to 0"):
        Augmentation(noise_snr_db=(30, 0))


def test_without_strength_a_window_is_unchanged(
    window: np.ndarray, random: np.random.Generator
) -> None:
    augmented = augment(window, random, SPEC, NONE)
    np.testing.assert_allclose(augmented, np.maximum(window - window.max(), -80), atol=1e-5)


def test_noise_is_mixed_at_the_given_ratio(random: np.random.Generator) -> None:
    music = np.full((SPEC.n_mels, 65), -40, np.float32)
    music[:64] = 0
    noise = np.full((SPEC.n_mels, 65), 0, np.float32)
    only_noise = Augmentation(0, 0, 0, 0, 0, 1.0, (20, 20), 0, 0, 0, 0, 0)
    mixed = augment(music, random, SPEC, only_noise, noise)
    # Half of the cells hold all the music: 20 dB below the mean power is 23 dB below the top.
    assert mixed[100, 30] - mixed[10, 30] == pytest.approx(-23, abs=0.2)


def test_masks_are_not_larger_than_their_limits(
    window: np.ndarray, random: np.random.Generator
) -> None:
    strength = Augmentation(masks=1, mask_frames=0.1, mask_bands=5)
    for _ in range(50):
        changed = mask(window, random, strength) != window
        assert changed.all(axis=0).sum() <= 7
        assert changed.all(axis=1).sum() <= 5


def test_mixup_keeps_targets_normalised_and_their_label_the_largest(
    random: np.random.Generator,
) -> None:
    windows = random.normal(size=(8, 4, 4)).astype(np.float32)
    targets = np.eye(8, dtype=np.float32)
    mixed, shares = mixup(windows, targets, random, alpha=0.4)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert (shares.argmax(axis=1) == np.arange(8)).all()
    assert not np.array_equal(mixed, windows)


def test_an_inserted_change_joins_the_end_of_one_window_to_another(
    random: np.random.Generator,
) -> None:
    now = np.zeros((SPEC.n_mels, 65), np.float32)
    before = np.tile(np.arange(65, dtype=np.float32) - 200, (SPEC.n_mels, 1))
    lengths = set()
    for _ in range(500):
        changed = insert_change(now, before, random, SPEC)[0]
        length = int((changed < 0).sum())
        np.testing.assert_array_equal(changed[length:], 0)
        offset = changed[:length] - before[0, 65 - length :]
        assert np.ptp(offset) < 1e-4
        assert abs(offset[0]) <= 6
        lengths.add(length)
    assert min(lengths) == 1
    assert 65 - max(lengths) == SPEC.frames_in(1.0)
