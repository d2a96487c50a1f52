"""Evaluate a classifier on degraded audio: through microphones, rooms, codecs and radios.

All degradations change samples, not pictures, so that a model trained with `trainer.augment` is not
evaluated on its own augmentation.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
import pandas as pd
import soxr
from numpy.typing import NDArray

from streamer.core.model import Classifier
from streamer.core.spectrogram import Columns, Samples, SpectrogramSpec, log_mel
from streamer.system.files import write_file, write_json
from trainer.audio import AudioError, decode_with_ffmpeg, read_audio
from trainer.evaluate import compute_metrics, predict, track_table
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

    `snr_db` is the ratio of music to noise over the whole track.
    """
    if clips:
        background = np.resize(_read_any(clips, rate, random), len(samples))
    else:
        background = _pink_noise(len(samples), random)
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


@dataclass(frozen=True, slots=True)
class RobustnessResult:
    """Metrics on audio with one degradation."""

    way: str
    """Name of the degradation; the field name is that of the CSV column."""
    tracks: int
    accuracy: float
    """Share of tracks with the right prediction."""
    low: float
    """Lower end of the 95 % bootstrap interval of the accuracy."""
    high: float
    nll: float
    """Mean negative log-likelihood of a crop, in nats."""
    ece: float
    """Expected calibration error of a crop's probabilities, 15 bins."""
    same_as_clean: float
    """Share of tracks with the prediction for the unchanged audio."""
    not_music: float | None
    """Share of tracks predicted as not music; None for a model without that label."""


def robustness(
    classifier: Classifier, tracks: Sequence[Track], clips: Sequence[Track] = (), *, seed: int = 0
) -> list[RobustnessResult]:
    """Evaluate a classifier on audio with each degradation; `clips` as in `noise`.

    Noises and rooms depend on the seed, the track and the degradation. DatasetError is raised if
    tracks are pictures or none can be read.
    """
    if any(track.is_picture for track in [*tracks, *clips]):
        raise DatasetError("robustness needs audio, not pictures; give folders of audio")
    contract = classifier.contract
    results: list[RobustnessResult] = []
    clean = None
    for name, degrade in degradations(clips).items():
        read = partial(_degraded_columns, name=name, degrade=degrade, seed=seed)
        predictions, _ = predict(classifier, tracks, title=name, read=read)
        table = track_table(predictions, contract.labels, contract.temperature)
        predicted = table.set_index("track")["predicted"]
        clean = predicted if clean is None else clean
        metrics = compute_metrics(predictions, contract, contract.temperature, seed)
        results.append(
            RobustnessResult(
                name,
                metrics.tracks,
                metrics.accuracy_track,
                *metrics.interval_track,
                metrics.nll_after,
                metrics.ece_after,
                float((predicted == clean.reindex(predicted.index)).mean()),
                float((predicted == contract.not_music).mean()) if contract.not_music else None,
            )
        )
    return results


def _degraded_columns(
    track: Track, spec: SpectrogramSpec, name: str, degrade: Degradation, seed: int
) -> Columns:
    samples = read_audio(track.path, spec.sample_rate)
    random = np.random.default_rng([seed, zlib.crc32(f"{name}/{track.name}".encode())])
    return log_mel(degrade(samples, spec.sample_rate, random), spec)


def as_text(results: Sequence[RobustnessResult], set_name: str, protocol: str) -> str:
    """Return a table for the terminal."""
    clean = results[0].accuracy
    lines = [
        f"split: {protocol}",
        f"{set_name}, {results[0].tracks} tracks through audio",
        f"{'degradation':<28}{'right':>7}  {'95 % interval':<17}{'against clean':>13}"
        f"{'NLL':>8}{'ECE':>8}{'same answer':>13}{'not music':>11}",
    ]
    for result in results:
        interval = f"{result.low:.1%} to {result.high:.1%}"
        not_music = "" if result.not_music is None else f"{result.not_music:.1%}"
        lines.append(
            f"{result.way:<28}{result.accuracy:>7.1%}  {interval:<17}"
            f"{100 * (result.accuracy - clean):>+13.1f}{result.nll:>8.3f}{result.ece:>8.3f}"
            f"{result.same_as_clean:>13.1%}{not_music:>11}"
        )
    return "\n".join(lines)


def write_robustness(
    results: Sequence[RobustnessResult], folder: Path, set_name: str, protocol: str
) -> None:
    """Write the results as CSV and JSON into a folder, created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(result) for result in results]
    write_file(folder / f"robustness_{set_name}.csv", pd.DataFrame(rows).to_csv(index=False))
    content = {"set": set_name, "protocol": protocol, "ways": rows}
    write_json(folder / f"robustness_{set_name}.json", content)
