"""Decoding audio files, and refusing those that cannot be used."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from support.model import band_noise
from support.songs import SUFFIXES, write_audio

from trainer.audio import AudioError, read_audio


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("rate", "channels"), [(22050, 1), (48000, 2), (8000, 1)])
def test_every_format_is_decoded(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    samples = band_noise("low", 5, rate)
    song = write_audio(tmp_path / f"a{suffix}", np.repeat(samples[:, None], channels, axis=1), rate)
    decoded = read_audio(song, 22050)
    assert decoded.dtype == np.float32
    assert len(decoded) == pytest.approx(5 * 22050, abs=3000)
    assert decoded.std() == pytest.approx(samples.std(), rel=0.2)


def test_samples_that_are_not_finite_are_replaced(tmp_path: Path) -> None:
    samples = band_noise("low", 5)
    samples[1000:1010] = [np.nan, np.inf, -np.inf, np.nan, np.inf] * 2
    soundfile.write(tmp_path / "a.wav", samples, 22050, subtype="FLOAT")
    decoded = read_audio(tmp_path / "a.wav", 22050)
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() < 1


def with_header_rate(path: Path, rate: int) -> Path:
    """Write another rate into the header of a WAV file."""
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("rate", [1, 100, 2**31 - 1])
def test_an_implausible_sample_rate_is_refused(tmp_path: Path, rate: int) -> None:
    song = with_header_rate(write_audio(tmp_path / "a.wav", band_noise("low", 5)), rate)
    with pytest.raises(AudioError, match=f"it claims a rate of {rate} Hz"):
        read_audio(song, 22050)


def test_a_recording_longer_than_12_hours_is_refused(tmp_path: Path) -> None:
    song = tmp_path / "a.flac"
    with soundfile.SoundFile(song, "w", 1000, 1, "PCM_16") as file:
        for _ in range(13):
            file.write(np.zeros(3_600_000, np.int16))
    with pytest.raises(AudioError, match=r"too long: 13\.0 h, at most 12 h; cut it"):
        read_audio(song, 22050)


@pytest.mark.parametrize("rate", [22050, 48000])
@pytest.mark.parametrize("factor", [1e30, 3e38])
@pytest.mark.filterwarnings("error")
def test_an_implausible_level_is_refused(tmp_path: Path, rate: int, factor: float) -> None:
    samples = np.repeat(band_noise("low", 5, rate)[:, None], 2, axis=1)
    samples[1000] = factor
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    with pytest.raises(AudioError, match=f"a sample of {factor:.0e}".replace("+", r"\+")):
        read_audio(tmp_path / "a.wav", 22050)


def test_a_track_below_minus_120_dbfs_is_silent(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", band_noise("low", 5) * 1e-20, 22050, subtype="FLOAT")
    with pytest.raises(AudioError, match="silent"):
        read_audio(tmp_path / "a.wav", 22050)


def test_tags_that_are_not_utf_8_are_no_obstacle(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.m4a", band_noise("low", 5))
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"caf\xe9"))
    assert b"caf\xe9" in path.read_bytes()
    assert len(read_audio(path, 22050)) > 4 * 22050


def test_a_video_without_audio_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(AudioError, match="no audio in it"):
        read_audio(tmp_path / "a.m4a", 22050)
