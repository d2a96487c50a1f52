"""Degrade audio as rooms, noise, microphones, small speakers, codecs and radios do."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from streamer.core.spectrogram import Samples
from trainer.audio import AudioError, decode_with_ffmpeg, read_audio
from trainer.tags import COPIES
from trainer.tracks import DatasetError, Track

Random = np.random.Generator
Degradation = Callable[[Samples, int, Random], Samples]
"""Function of samples, their rate in Hz and a random generator that returns samples of the same
rate."""

ENCODERS = {"MP3": ("libmp3lame", "mp3"), "Opus": ("libopus", "ogg")}
"""FFmpeg's encoder and container format by codec."""

OPUS_RATE = 48_000
"""Sample rate of Opus, in Hz."""


def level(samples: Samples, rate: int, random: Random, decibels: float) -> Samples:
    """Change the level; samples beyond full scale are clipped, as by a converter."""
    return np.asarray(np.clip(samples * 10 ** (decibels / 20), -1, 1), np.float32)


def response(samples: Samples, rate: int, random: Random, points: Mapping[float, float]) -> Samples:
    """Apply a zero-phase filter with the gains in dB by frequency in Hz of `points`.

    Gains are interpolated over the logarithm of the frequency and constant beyond the ends.
    """
    spectrum = np.fft.rfft(samples)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(samples), 1 / rate), 1))
    gains = np.interp(octaves, np.log2(list(points)), list(points.values()))
    return np.asarray(np.fft.irfft(spectrum * 10 ** (gains / 20), len(samples)), np.float32)


def reverberation(
    samples: Samples,
    rate: int,
    random: Random,
    decay_seconds: float,
    direct_to_reverberant_db: float,
) -> Samples:
    """Convolve with a room response: noise whose power falls by 60 dB in `decay_seconds` (RT60).

    Source: J. D. Polack, "La transmission de l'énergie sonore dans les salles", 1988 (exponentially
    decaying Gaussian noise as a model of late reverberation).
    """
    at = np.arange(round(decay_seconds * rate)) / rate
    tail = random.normal(size=len(at)) * 10 ** (-3 * at / decay_seconds)
    tail *= 10 ** (-direct_to_reverberant_db / 20) / np.sqrt((tail**2).sum())
    tail[0] += 1
    size = len(samples) + len(tail) - 1
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
    return _limit_peak(wet[: len(samples)])


def noise(
    samples: Samples, rate: int, random: Random, snr_db: float, clips: Sequence[Track] = ()
) -> Samples:
    """Add a random clip, repeated, or pink noise without clips.

    `snr_db` is the ratio of music to noise over the whole track. A clip that is silent for as long
    as the track leaves it as it is.
    """
    if clips:
        background = np.resize(_read_any(clips, rate, random), len(samples))
    else:
        background = _pink_noise(len(samples), random)
    if not background.any():
        return samples
    ratio = np.sqrt((samples**2).mean() / (background**2).mean())
    return _limit_peak(samples + background * ratio * 10 ** (-snr_db / 20))


def _read_any(clips: Sequence[Track], rate: int, random: Random) -> Samples:
    """Read a random clip; one that cannot be decoded is passed over."""
    for number in random.permutation(len(clips)):
        try:
            return read_audio(clips[number].path, rate)
        except AudioError:
            continue
    raise DatasetError(f"none of the {len(clips)} sounds for the noise can be read")


def _pink_noise(count: int, random: Random) -> Samples:
    """Return Gaussian noise whose power falls by 3 dB per octave."""
    spectrum = np.fft.rfft(random.normal(size=count))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    return np.asarray(np.fft.irfft(spectrum, count), np.float32)


def codec(samples: Samples, rate: int, random: Random, name: str, kilobits: int) -> Samples:
    """Encode and decode one channel with a codec of `ENCODERS`, at `kilobits` kbit/s."""
    encoder, container_format = ENCODERS[name]
    coded_rate = OPUS_RATE if name == "Opus" else rate
    coded = soxr.resample(samples, rate, coded_rate) if coded_rate != rate else samples
    file = io.BytesIO()
    with av.open(file, "w", format=container_format) as container:
        stream = container.add_stream(encoder, coded_rate, layout="mono", bit_rate=1000 * kilobits)
        assert isinstance(stream, av.AudioStream)
        whole = (np.clip(coded, -1, 1) * 32767).astype(np.int16)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
        frame.sample_rate = coded_rate
        for part in (frame, None):
            container.mux(stream.encode(part))
    file.seek(0)
    return decode_with_ffmpeg(file, rate)


def speed(samples: Samples, rate: int, random: Random, factor: float) -> Samples:
    """Play at `factor` times the speed, which changes the pitch as well."""
    return np.asarray(soxr.resample(samples, rate * factor, rate), np.float32)


def _limit_peak(samples: NDArray[np.floating]) -> Samples:
    """Reduce the level of samples that would clip."""
    return np.asarray(samples / max(1.0, float(np.abs(samples).max())), np.float32)


def degradations(clips: Sequence[Track] = ()) -> dict[str, Degradation]:
    """Return all degradations by name, after the unchanged audio; `clips` as in `noise`."""
    noise_name = "recorded sounds" if clips else "pink noise"
    return {
        "clean": lambda samples, rate, random: samples,
        "level +20 dB, clipped": partial(level, decibels=20),
        "level -20 dB": partial(level, decibels=-20),
        "bass +9 dB, treble -9 dB": partial(response, points={100: 9, 400: 0, 2000: 0, 8000: -9}),
        "bass -9 dB, treble +9 dB": partial(response, points={100: -9, 400: 0, 2000: 0, 8000: 9}),
        "small speaker": partial(
            response, points={75: -48, 300: -6, 500: 0, 1500: 4, 3000: 0, 7000: -6, 10000: -24}
        ),
        "room, RT60 0.4 s": partial(reverberation, decay_seconds=0.4, direct_to_reverberant_db=3),
        "hall, RT60 1.2 s": partial(reverberation, decay_seconds=1.2, direct_to_reverberant_db=0),
        **{
            f"{noise_name} at {snr} dB": partial(noise, snr_db=snr, clips=clips)
            for snr in (20, 10, 5, 0)
        },
        **{
            f"{name} {kilobits} kbit/s": partial(codec, name=name, kilobits=kilobits)
            for name in ENCODERS
            for kilobits in (64, 32)
        },
        "nothing above 8 kHz": partial(response, points={7900: 0, 8100: -80}),
        "nothing above 4 kHz": partial(response, points={3950: 0, 4050: -80}),
        "speed +5 %": partial(speed, factor=1.05),
        "speed -5 %": partial(speed, factor=0.95),
    }


EVERY = 3
"""Of their pieces every so manieth is used: those of 3 s that do not overlap."""


def degraded_copies(
    samples: Samples,
    rate: int,
    seed: Sequence[int],
    count: int = COPIES,
    clips: Sequence[Track] = (),
) -> list[Samples]:
    """Return copies of a track, each through another of `random_degradations` while they last."""
    random = np.random.default_rng(seed)
    copies: list[Samples] = []
    while len(copies) < count:
        ways = random_degradations(random, clips)
        chosen = random.permutation(len(ways))[: count - len(copies)]
        copies += [ways[number](samples, rate, random) for number in chosen]
    return copies


def random_degradations(random: Random, clips: Sequence[Track] = ()) -> list[Degradation]:
    """Return what happens to sound in rooms, with strengths drawn at random.

    These are for training. `degradations`, with which a model is judged, have other strengths.
    With recorded `clips` one more is to hear one of them, as of people who talk in the room. With
    four of these, what other sounds do to the tags is known better, but music alone less well.
    """
    speaker = {75: -48, 300: -6, 500: 0, 1500: 4, 3000: 0, 7000: -6, 10000: -24}
    share = random.uniform(0.5, 1.2)
    tilt = random.uniform(-10, 10)
    cutoff = random.uniform(3000, 7000)
    ways: list[Degradation] = [
        partial(level, decibels=random.uniform(8, 24)),
        partial(noise, snr_db=random.uniform(-3, 8)),
        partial(noise, snr_db=random.uniform(5, 20)),
        partial(
            reverberation,
            decay_seconds=random.uniform(0.8, 2.0),
            direct_to_reverberant_db=random.uniform(-4, 4),
        ),
        partial(
            reverberation,
            decay_seconds=random.uniform(0.2, 0.8),
            direct_to_reverberant_db=random.uniform(-3, 6),
        ),
        partial(response, points={at: share * gain for at, gain in speaker.items()}),
        partial(response, points={100: tilt, 400: 0, 2000: 0, 8000: -tilt}),
        partial(response, points={0.97 * cutoff: 0, 1.03 * cutoff: -80}),
    ]
    if clips:
        ways.append(partial(noise, snr_db=random.uniform(-3, 20), clips=clips))
    return ways
