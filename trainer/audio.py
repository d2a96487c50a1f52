"""Decode audio files to mono samples.

libsndfile decodes the formats that it supports three to seven times faster than FFmpeg, the
daemon's decoder. FFmpeg decodes `.m4a` and whatever libsndfile cannot open.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile
import soxr

from streamer.core.mixing import Mixer
from streamer.core.spectrogram import Samples
from streamer.sources.decoding import open_container
from streamer.sources.ffmpeg_errors import describe
from trainer.tracks import MIN_SECONDS

RATES = (1000, 1_000_000)
"""Lowest and highest plausible sample rate, in Hz. Others come from damaged headers; resampling
from them could exhaust the memory."""

MAX_HOURS = 12.0
"""Longest track that is decoded, since it is held in memory as a whole."""

MIN_PEAK = 1e-6
"""Peak below which a track is silent, relative to full scale: -120 dBFS."""

MAX_PEAK = 1e6
"""Highest plausible sample, where full scale is 1; 16-bit integers stored as floats reach 32768."""


class AudioError(ValueError):
    """A file that cannot be used; the message is the reason as a phrase, without the path."""


def read_audio(path: Path, sample_rate: int, *, least_seconds: float = MIN_SECONDS) -> Samples:
    """Decode an audio file to `sample_rate`, in Hz.

    Returns
    -------
    float32, shape (n,)
        The mean of the channels, or the loudest one where their mean loses the sound, as the daemon
        mixes them (`streamer.core.mixing`). Full scale is 1, NaN and infinities are replaced by 0.

    Raises
    ------
    AudioError
        If the file is empty, damaged, silent, shorter than `least_seconds`, longer than 12 h, or
        has an implausible sample rate or level.
    """
    (samples,) = read_audio_at(path, [sample_rate], least_seconds=least_seconds)
    return samples


def read_audio_at(
    path: Path, sample_rates: Sequence[int], *, least_seconds: float = MIN_SECONDS
) -> list[Samples]:
    """Decode an audio file once to several sample rates, in their order; see `read_audio`."""
    if not path.stat().st_size:
        raise AudioError("empty file")
    decoded = _decode(path, sample_rates)
    samples, seconds = decoded[0], len(decoded[0]) / sample_rates[0]
    if seconds < least_seconds:
        raise AudioError(f"too short: {seconds:.1f} s, at least {least_seconds:g} s needed")
    if np.abs(samples).max() < MIN_PEAK:
        raise AudioError("silent: no sample above -120 dBFS")
    return decoded


def _decode(path: Path, sample_rates: Sequence[int]) -> list[Samples]:
    if path.suffix.lower() == ".m4a":
        return _decode_with_ffmpeg(str(path), sample_rates)
    try:
        sound = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return _decode_with_ffmpeg(str(path), sample_rates)
    with sound:
        return _decode_with_libsndfile(sound, sample_rates)


def _check_extent(rate: int, seconds: float) -> None:
    """Refuse implausible sample rates and lengths before they exhaust the memory."""
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"damaged or not audio (it claims a rate of {rate} Hz)")
    if seconds > 3600 * MAX_HOURS:
        raise AudioError(f"too long: {seconds / 3600:.1f} h, at most {MAX_HOURS:g} h; cut it")


def _checked(samples: Samples) -> Samples:
    """Replace NaN and infinities by 0; refuse implausible levels."""
    samples = np.nan_to_num(samples, copy=False, nan=0, posinf=0, neginf=0)
    peak = max(samples.max(initial=0), -samples.min(initial=0))
    if peak > MAX_PEAK:
        raise AudioError(f"damaged or not audio (a sample of {peak:.0e}, where full scale is 1)")
    return samples


def _decode_with_libsndfile(
    sound: soundfile.SoundFile, sample_rates: Sequence[int]
) -> list[Samples]:
    _check_extent(sound.samplerate, sound.frames / max(1, sound.samplerate))
    try:
        channels = sound.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"damaged audio ({error.error_string.rstrip('.')})") from error
    mono = Mixer().mix(_checked(channels), sound.samplerate)
    return [
        mono
        if rate == sound.samplerate or not len(mono)
        else np.asarray(soxr.resample(mono, sound.samplerate, rate), np.float32)
        for rate in sample_rates
    ]


def decode_with_ffmpeg(file: BinaryIO, sample_rate: int) -> Samples:
    """Decode with FFmpeg, of any length; result and errors are those of `read_audio`."""
    (samples,) = _decode_with_ffmpeg(file, [sample_rate])
    return samples


def _decode_with_ffmpeg(file: str | BinaryIO, sample_rates: Sequence[int]) -> list[Samples]:
    try:
        with open_container(file) as container:
            if not container.streams.audio:
                raise AudioError("no audio in it")
            seconds = (container.duration or 0) / av.time_base
            _check_extent(container.streams.audio[0].rate, seconds)
            # FFmpeg's own down-mix to mono divides the sum by the root of two instead.
            resamplers = [av.AudioResampler("fltp", rate=rate) for rate in sample_rates]
            mixers = [Mixer() for _ in sample_rates]
            blocks: list[list[Samples]] = [[np.empty(0, np.float32)] for _ in sample_rates]
            for frame in itertools.chain(container.decode(audio=0), (None,)):
                for rate, resampler, mixer, own in zip(
                    sample_rates, resamplers, mixers, blocks, strict=True
                ):
                    for block in resampler.resample(frame):
                        channels = _checked(np.asarray(block.to_ndarray().T, np.float32))
                        own.append(mixer.mix(channels, rate))
    except av.error.InvalidDataError as error:
        raise AudioError("damaged or not audio") from error
    except av.FFmpegError as error:
        raise AudioError(describe(error)) from error
    except AudioError:
        raise
    except ValueError as error:
        # PyAV's resampler refuses frames whose sample rate or layout changes.
        raise AudioError("changes its rate or channels in the middle") from error
    return [np.concatenate(own) for own in blocks]
