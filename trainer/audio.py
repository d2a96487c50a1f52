"""Decoding a track to mono samples, by whichever decoder is fastest for its format.

libsndfile was measured three to seven times faster than FFmpeg for everything it knows; it does
not know .m4a, and what it refuses to open is offered to FFmpeg, which is what the daemon uses.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile
import soxr

from streamer.spectrogram import Samples
from trainer.gtzan import MIN_SECONDS

ONLY_FFMPEG = frozenset({".m4a"})


class AudioError(ValueError):
    """A track that cannot be used; the message is the reason as a phrase, without the path."""


def read_audio(path: Path, sample_rate: int) -> Samples:
    """Decode a track.

    Parameters
    ----------
    path : Path
        Audio of any rate and number of channels.
    sample_rate : int
        Rate to return, in Hz.

    Returns
    -------
    float32, shape (n,)
        The mean of the channels, finite; full scale is 1.

    Raises
    ------
    AudioError
        If the file is empty, damaged, silent from end to end or shorter than 3 s.
    """
    if not path.stat().st_size:
        raise AudioError("empty file")
    samples = _decode(path, sample_rate)
    seconds = len(samples) / sample_rate
    if seconds < MIN_SECONDS:
        raise AudioError(f"too short: {seconds:.1f} s, at least {MIN_SECONDS:g} s needed")
    samples = np.nan_to_num(samples, copy=False, nan=0, posinf=0, neginf=0)
    if not samples.any():
        raise AudioError("silent: every sample is zero")
    return samples


def _decode(path: Path, sample_rate: int) -> Samples:
    if path.suffix.lower() not in ONLY_FFMPEG:
        try:
            sound = soundfile.SoundFile(path)
        except soundfile.LibsndfileError:
            return decode_with_ffmpeg(path, sample_rate)
        with sound:
            return _decode_with_libsndfile(sound, sample_rate)
    return decode_with_ffmpeg(path, sample_rate)


def _decode_with_libsndfile(sound: soundfile.SoundFile, sample_rate: int) -> Samples:
    try:
        channels = sound.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"damaged audio ({error.error_string.rstrip('.')})") from error
    mono = channels.mean(axis=1)
    if sound.samplerate == sample_rate or not len(mono):
        return np.asarray(mono, np.float32)
    return np.asarray(soxr.resample(mono, sound.samplerate, sample_rate), np.float32)


def decode_with_ffmpeg(file: Path | BinaryIO, sample_rate: int) -> Samples:
    """Decode anything FFmpeg reads; see `read_audio`.

    Raises
    ------
    AudioError
        If it cannot be decoded.
    """
    try:
        with av.open(str(file) if isinstance(file, Path) else file, "r") as container:
            if not container.streams.audio:
                raise AudioError("no audio in it")
            # Channels are averaged here: FFmpeg's own mono is their sum over the root of two.
            resampler = av.AudioResampler("fltp", rate=sample_rate)
            blocks = [
                block.to_ndarray().mean(axis=0)
                for frame in itertools.chain(container.decode(audio=0), (None,))
                for block in resampler.resample(frame)
            ]
    except av.FFmpegError as error:
        raise AudioError(f"damaged or not audio ({error.strerror})") from error
    except AudioError:
        raise
    except ValueError as error:
        # PyAV's resampler refuses frames whose rate or channels differ from those before.
        raise AudioError("changes its rate or channels in the middle") from error
    return np.concatenate(blocks, dtype=np.float32) if blocks else np.empty(0, np.float32)
