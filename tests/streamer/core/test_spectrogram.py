from __future__ import annotations

import dataclasses
from pathlib import Path

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.core.spectrogram import (
    LogMelStream,
    SpecError,
    SpectrogramSpec,
    from_levels,
    hz_to_mel,
    log_mel,
    mel_filterbank,
    mel_to_hz,
    relative_to_peak,
    to_levels,
)

SPECS = [
    SpectrogramSpec(),
    SpectrogramSpec(hop_length=512),
    SpectrogramSpec(sample_rate=16000, n_fft=1024, hop_length=160, n_mels=64, fmax=8000.0),
    SpectrogramSpec(sample_rate=44100, n_fft=4096, hop_length=4410, n_mels=96, fmin=30.0, fmax=2e4),
    SpectrogramSpec(n_fft=512, hop_length=700, n_mels=40, fmin=100.0, fmax=8000.0, top_db=60.0),
]
NAMES = [f"{s.sample_rate}Hz-{s.n_fft}-{s.hop_length}-{s.n_mels}" for s in SPECS]
TOLERANCE_DB = 0.01

RANDOM = np.random.default_rng(7)


def synthetic(kind: str, rate: int) -> NDArray[np.float32]:
    time = np.arange(4 * rate) / rate
    sounds = {
        "noise": RANDOM.standard_normal(len(time)) * 0.1,
        "tone": 0.5 * np.sin(2 * np.pi * 440 * time),
        "sweep": 0.9 * np.sin(2 * np.pi * (50 * time + 900 * time**2)),
        "clicks": (np.arange(len(time)) % 5000 == 0).astype(float),
        "faint noise on DC": 0.3 + RANDOM.standard_normal(len(time)) * 1e-4,
        "sound then silence": np.where(time < 2, RANDOM.standard_normal(len(time)) * 0.3, 0),
    }
    return sounds[kind].astype(np.float32)


def by_librosa(samples: NDArray[np.float32], spec: SpectrogramSpec) -> NDArray[np.float32]:
    return librosa.feature.melspectrogram(
        y=samples,
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        hop_length=spec.hop_length,
        n_mels=spec.n_mels,
        fmin=spec.fmin,
        fmax=spec.fmax,
    )


def assert_like_librosa(samples: NDArray[np.float32], spec: SpectrogramSpec) -> None:
    power = by_librosa(samples, spec)
    ours = log_mel(samples, spec)
    np.testing.assert_allclose(
        relative_to_peak(ours, spec.top_db),
        librosa.power_to_db(power, ref=np.max, top_db=spec.top_db),
        atol=TOLERANCE_DB,
    )
    # Far below the loudest cell float32 itself is no longer exact to 0.01 dB.
    audible = ours > ours.max() - 90
    absolute = librosa.power_to_db(power, ref=1.0, top_db=None)
    np.testing.assert_allclose(ours[audible], absolute[audible], atol=TOLERANCE_DB)


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
@pytest.mark.parametrize(
    "kind", ["noise", "tone", "sweep", "clicks", "faint noise on DC", "sound then silence"]
)
def test_synthetic_sound_gives_librosas_spectrogram(kind: str, spec: SpectrogramSpec) -> None:
    assert_like_librosa(synthetic(kind, spec.sample_rate), spec)


def test_bands_between_two_fourier_bins_are_dark() -> None:
    spec = SpectrogramSpec(n_fft=64, n_mels=512)
    dark = ~mel_filterbank(spec).any(axis=1)
    assert dark[:32].all()
    columns = log_mel(synthetic("noise", spec.sample_rate), spec)
    np.testing.assert_allclose(columns[dark], -100, atol=1e-4)
    assert columns[~dark].min() > -100


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_the_demo_clip_gives_librosas_spectrogram(demo_clip: Path, spec: SpectrogramSpec) -> None:
    import av

    resampler = av.AudioResampler(format="flt", layout="mono", rate=spec.sample_rate)
    with av.open(str(demo_clip)) as container:
        frames = [f for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    assert_like_librosa(samples[: 20 * spec.sample_rate], spec)


@pytest.mark.shared
@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
@pytest.mark.parametrize("track", ["blues/blues.00000", "classical/classical.00000"])
def test_real_music_gives_librosas_spectrogram(
    shared: Path, track: str, spec: SpectrogramSpec
) -> None:
    samples, _ = librosa.load(
        shared / "gtzan" / "audio" / f"{track}.flac", sr=spec.sample_rate, res_type="polyphase"
    )
    assert_like_librosa(samples, spec)


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_the_filters_are_librosas(spec: SpectrogramSpec) -> None:
    theirs = librosa.filters.mel(
        sr=spec.sample_rate, n_fft=spec.n_fft, n_mels=spec.n_mels, fmin=spec.fmin, fmax=spec.fmax
    )
    np.testing.assert_allclose(mel_filterbank(spec), theirs, rtol=1e-4, atol=1e-9)


def test_the_mel_scale_is_slaneys_and_reversible() -> None:
    hertz = np.array([0.0, 200.0, 999.0, 1000.0, 1001.0, 6400.0, 20000.0])
    np.testing.assert_allclose(hz_to_mel(hertz), librosa.hz_to_mel(hertz), rtol=1e-12)
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hertz)), hertz, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
@given(sizes=st.lists(st.integers(1, 441_000), min_size=1, max_size=6), data=st.data())
@settings(max_examples=10)
def test_any_chunking_gives_the_columns_of_the_whole_clip(
    spec: SpectrogramSpec, sizes: list[int], data: st.DataObject
) -> None:
    # Up to 10 s at once, and a stretch fed sample by sample.
    samples = synthetic("noise", spec.sample_rate)
    singles = data.draw(st.integers(0, 300))
    pieces = np.split(samples, np.arange(1, singles + 1))
    rest, position = pieces.pop(), 0
    while position < len(rest):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(rest[position : position + size])
        position += size
    stream = LogMelStream(spec)
    incremental = np.concatenate([stream.push(piece) for piece in pieces], axis=1)
    whole = log_mel(samples, spec)
    complete = 1 + (len(samples) - spec.n_fft // 2) // spec.hop_length
    assert incremental.shape == (spec.n_mels, complete)
    np.testing.assert_array_equal(incremental, whole[:, :complete])


def test_one_sample_at_a_time_gives_the_columns_of_the_whole_clip() -> None:
    spec = SpectrogramSpec()
    samples = synthetic("sweep", spec.sample_rate)[:20_000]
    stream = LogMelStream(spec)
    columns = [stream.push(samples[index : index + 1]) for index in range(len(samples))]
    incremental = np.concatenate(columns, axis=1)
    np.testing.assert_array_equal(incremental, log_mel(samples, spec)[:, : incremental.shape[1]])
    assert incremental.shape[1] == 12


def test_a_column_is_returned_with_its_last_sample() -> None:
    spec = SpectrogramSpec()
    stream = LogMelStream(spec)
    assert stream.push(np.zeros(spec.n_fft // 2 - 1, np.float32)).shape == (spec.n_mels, 0)
    assert stream.push(np.zeros(1, np.float32)).shape == (spec.n_mels, 1)
    assert stream.push(np.zeros(spec.hop_length - 1, np.float32)).shape == (spec.n_mels, 0)
    assert stream.push(np.zeros(1, np.float32)).shape == (spec.n_mels, 1)


def test_digital_silence_is_finite() -> None:
    spec = SpectrogramSpec()
    columns = log_mel(np.zeros(22050, np.float32), spec)
    np.testing.assert_allclose(columns, -100, atol=1e-4)
    np.testing.assert_array_equal(relative_to_peak(columns, 80.0), np.zeros_like(columns))


def test_each_window_of_a_batch_has_its_own_reference() -> None:
    windows = RANDOM.uniform(-150, 20, (3, 8, 5)).astype(np.float32)
    relative = relative_to_peak(windows, 80.0)
    assert relative.shape == windows.shape
    np.testing.assert_array_equal(relative.max(axis=(1, 2)), np.zeros(3))
    assert relative.min() == -80
    for window, alone in zip(windows, relative, strict=True):
        np.testing.assert_array_equal(relative_to_peak(window, 80.0), alone)


def test_picture_levels_keep_decibels_within_half_a_level() -> None:
    relative = RANDOM.uniform(-80, 0, (128, 50)).astype(np.float32)
    levels = to_levels(relative, 80.0)
    assert levels.dtype == np.uint8
    np.testing.assert_allclose(from_levels(levels, 80.0), relative, atol=80 / 255 / 2 + 1e-4)
    ends = np.array([[-90.0, -80.0, 0.0, 3.0]], np.float32)
    assert to_levels(ends, 80.0).tolist() == [[0, 0, 255, 255]]


@given(levels=st.lists(st.integers(0, 255), min_size=1, max_size=20))
def test_picture_levels_survive_a_round_trip(levels: list[int]) -> None:
    stored = np.array([levels], np.uint8)
    np.testing.assert_array_equal(to_levels(from_levels(stored, 80.0), 80.0), stored)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hop_length": 0}, "spectrogram hop_length must be a positive integer, not 0"),
        ({"n_mels": 12.5}, "spectrogram n_mels must be a positive integer, not 12.5"),
        ({"sample_rate": True}, "spectrogram sample_rate must be a positive integer, not True"),
        ({"n_fft": 2047}, "spectrogram n_fft must be even, not 2047"),
        ({"top_db": float("nan")}, "spectrogram top_db must be a finite number, not nan"),
        ({"top_db": -80.0}, "spectrogram top_db must be positive, not -80.0"),
        ({"top_db": 0}, "spectrogram top_db must be positive, not 0"),
        ({"fmin": "0"}, "spectrogram fmin must be a finite number, not '0'"),
        ({"fmin": True}, "spectrogram fmin must be a finite number, not True"),
        (
            {"fmin": 1000.0, "fmax": 1010.0},
            "spectrogram fmin 1000.0 and fmax 1010.0 are closer than one Fourier bin "
            "(10.7666 Hz); raise n_fft",
        ),
        (
            {"fmax": 12000.0},
            "spectrogram fmin 0.0 and fmax 12000.0 must satisfy 0 <= fmin < fmax <= 11025 "
            "(half the sample rate)",
        ),
    ],
)
def test_an_impossible_spec_is_refused_by_name_and_value(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError) as refusal:
        SpectrogramSpec.from_dict({**SpectrogramSpec().to_dict(), **fields})
    assert str(refusal.value) == message


def test_a_spec_survives_a_round_trip() -> None:
    for spec in SPECS:
        assert SpectrogramSpec.from_dict(spec.to_dict()) == spec
    fields = SpectrogramSpec().to_dict()
    with pytest.raises(SpecError, match="unknown fields: colour"):
        SpectrogramSpec.from_dict({**fields, "colour": 1})
    del fields["n_fft"]
    with pytest.raises(SpecError, match="lacks n_fft"):
        SpectrogramSpec.from_dict(fields)


def test_columns_are_counted_in_seconds() -> None:
    spec = dataclasses.replace(SpectrogramSpec(), sample_rate=20000, hop_length=1000, fmax=1e4)
    assert spec.hop_seconds == 0.05
    assert spec.frames_in(5) == 100
    assert spec.frames_in(5.01) == 101
    assert spec.frames_in(0) == spec.frames_in(0.001) == 1


@pytest.mark.parametrize("shape", [(0,), (10, 2)])
def test_a_clip_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="samples must have shape"):
        log_mel(np.zeros(shape, np.float32), SpectrogramSpec())
