"""Evaluate a classifier on degraded audio: through microphones, rooms, codecs and radios.

All degradations change samples, not pictures, so that a model trained with `trainer.augment` is not
evaluated on its own augmentation.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from trainer.evaluate import compute_metrics, predict
from trainer.tracks import DatasetError, Track

Random = np.random.Generator
Degradation = Callable[[Samples, int, Random], Samples]
"""Function of samples, their rate in Hz and a random generator that returns samples of the same
rate."""

CONTAINERS = {"libmp3lame": "mp3", "libopus": "ogg"}
"""FFmpeg's container format by encoder."""

OPUS_RATE = 48_000
"""Sample rate of Opus, in Hz."""


def level(decibels: float) -> Degradation:
    """Change the level; samples beyond full scale are clipped, as by a converter."""

    def degrade(samples: Samples, rate: int, random: Random) -> Samples:
        return np.asarray(np.clip(samples * 10 ** (decibels / 20), -1, 1), np.float32)

    return degrade


def response(points: Mapping[float, float]) -> Degradation:
    """Apply a zero-phase filter.

    Parameters
    ----------
    points : mapping of float to float
        Gain in dB by frequency in Hz, interpolated over the logarithm of the frequency and constant
        beyond the ends.
    """

    def degrade(samples: Samples, rate: int, random: Random) -> Samples:
        spectrum = np.fft.rfft(samples)
        octaves = np.log2(np.maximum(np.fft.rfftfreq(len(samples), 1 / rate), 1))
        gains = np.interp(octaves, np.log2(list(points)), list(points.values()))
        return np.asarray(np.fft.irfft(spectrum * 10 ** (gains / 20), len(samples)), np.float32)

    return degrade


def reverberation(decay_seconds: float, direct_to_reverberant_db: float) -> Degradation:
    """Convolve with a room response: noise whose power falls by 60 dB in `decay_seconds` (RT60).

    Source: J. D. Polack, "La transmission de l'énergie sonore dans les salles", 1988 (exponentially
    decaying Gaussian noise as a model of late reverberation).
    """

    def degrade(samples: Samples, rate: int, random: Random) -> Samples:
        at = np.arange(round(decay_seconds * rate)) / rate
        tail = random.normal(size=len(at)) * 10 ** (-3 * at / decay_seconds)
        tail *= 10 ** (-direct_to_reverberant_db / 20) / np.sqrt((tail**2).sum())
        tail[0] += 1
        size = len(samples) + len(tail) - 1
        wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
        return _limit_peak(wet[: len(samples)])

    return degrade


def noise(snr_db: float, clips: Sequence[Track] = ()) -> Degradation:
    """Add background noise.

    Parameters
    ----------
    snr_db : float
        Ratio of music to noise over the whole track, in dB.
    clips : sequence of Track
        Recordings, one of which is repeated under a track; pink noise without them.
    """

    def degrade(samples: Samples, rate: int, random: Random) -> Samples:
        if clips:
            background = np.resize(_read_any(clips, rate, random), len(samples))
        else:
            background = pink_noise(len(samples), random)
        ratio = np.sqrt((samples**2).mean() / (background**2).mean())
        return _limit_peak(samples + background * ratio * 10 ** (-snr_db / 20))

    return degrade


def _read_any(clips: Sequence[Track], rate: int, random: Random) -> Samples:
    """Read a random clip; one that cannot be decoded is passed over."""
    for number in random.permutation(len(clips)):
        try:
            return read_audio(clips[number].path, rate)
        except AudioError:
            continue
    raise DatasetError(f"none of the {len(clips)} sounds for the noise can be read")


def pink_noise(count: int, random: Random) -> Samples:
    """Return Gaussian noise whose power falls by 3 dB per octave."""
    spectrum = np.fft.rfft(random.normal(size=count))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    return np.asarray(np.fft.irfft(spectrum, count), np.float32)


def codec(name: str, kilobits: int) -> Degradation:
    """Encode and decode one channel with a lossy codec of FFmpeg.

    Parameters
    ----------
    name : str
        Encoder, a key of `CONTAINERS`.
    kilobits : int
        Bit rate in kbit/s.
    """

    def degrade(samples: Samples, rate: int, random: Random) -> Samples:
        coded_rate = OPUS_RATE if name == "libopus" else rate
        coded = soxr.resample(samples, rate, coded_rate) if coded_rate != rate else samples
        file = io.BytesIO()
        with av.open(file, "w", format=CONTAINERS[name]) as container:
            stream = container.add_stream(name, coded_rate, layout="mono", bit_rate=1000 * kilobits)
            assert isinstance(stream, av.AudioStream)
            whole = (np.clip(coded, -1, 1) * 32767).astype(np.int16)[np.newaxis]
            frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
            frame.sample_rate = coded_rate
            for part in (frame, None):
                container.mux(stream.encode(part))
        file.seek(0)
        return decode_with_ffmpeg(file, rate)

    return degrade


def speed(factor: float) -> Degradation:
    """Play at `factor` times the speed, which changes the pitch as well."""

    def degrade(samples: Samples, rate: int, random: Random) -> Samples:
        return np.asarray(soxr.resample(samples, rate * factor, rate), np.float32)

    return degrade


def _limit_peak(samples: NDArray[np.floating]) -> Samples:
    """Reduce the level of samples that would clip."""
    return np.asarray(samples / max(1.0, float(np.abs(samples).max())), np.float32)


def degradations(clips: Sequence[Track] = ()) -> dict[str, Degradation | None]:
    """Return all degradations by name, after None for the unchanged audio.

    Parameters
    ----------
    clips : sequence of Track
        Recordings of noise, see `noise`.
    """
    noise_name = "recorded sounds" if clips else "pink noise"
    return {
        "clean": None,
        "level +20 dB, clipped": level(20),
        "level -20 dB": level(-20),
        "bass +9 dB, treble -9 dB": response({100: 9, 400: 0, 2000: 0, 8000: -9}),
        "bass -9 dB, treble +9 dB": response({100: -9, 400: 0, 2000: 0, 8000: 9}),
        "small speaker": response(
            {75: -48, 300: -6, 500: 0, 1500: 4, 3000: 0, 7000: -6, 10000: -24}
        ),
        "room, RT60 0.4 s": reverberation(0.4, 3),
        "hall, RT60 1.2 s": reverberation(1.2, 0),
        **{f"{noise_name} at {snr} dB": noise(snr, clips) for snr in (20, 10, 5, 0)},
        **{
            f"{title} {kilobits} kbit/s": codec(name, kilobits)
            for title, name in (("MP3", "libmp3lame"), ("Opus", "libopus"))
            for kilobits in (64, 32)
        },
        "nothing above 8 kHz": response({7900: 0, 8100: -80}),
        "nothing above 4 kHz": response({3950: 0, 4050: -80}),
        "speed +5 %": speed(1.05),
        "speed -5 %": speed(0.95),
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
    classifier: Classifier,
    tracks: Sequence[Track],
    clips: Sequence[Track] = (),
    *,
    seed: int = 0,
) -> list[RobustnessResult]:
    """Evaluate a classifier on audio with each degradation.

    Parameters
    ----------
    classifier : Classifier
        From `trainer.loading.load_classifier`.
    tracks : sequence of Track
        Audio of music.
    clips : sequence of Track
        Audio for the background noise; pink noise without it.
    seed : int
        Seed of noises and rooms, for each track and degradation.

    Raises
    ------
    DatasetError
        If the tracks are pictures or none can be read.
    """
    if any(track.is_picture for track in [*tracks, *clips]):
        raise DatasetError("robustness needs audio, not pictures; give folders of audio")
    contract = classifier.contract
    other = contract.labels.index(contract.not_music) if contract.not_music else None
    results: list[RobustnessResult] = []
    clean: dict[str, int] = {}
    for name, degradation in degradations(clips).items():
        read = _reader(name, degradation, seed)
        predictions, _ = predict(classifier, tracks, title=name, read=read)
        labels = predictions.track_probabilities(contract.temperature).argmax(axis=1).tolist()
        names = [track.name for track in predictions.tracks]
        predicted = dict(zip(names, labels, strict=True))
        clean = clean or predicted
        metrics = compute_metrics(predictions, contract, contract.temperature, seed)
        results.append(
            RobustnessResult(
                name,
                metrics.tracks,
                metrics.accuracy_track,
                *metrics.interval_track,
                metrics.nll_after,
                metrics.ece_after,
                float(np.mean([label == clean.get(track) for track, label in predicted.items()])),
                None if other is None else float(np.mean([label == other for label in labels])),
            )
        )
    return results


def _reader(
    name: str, degradation: Degradation | None, seed: int
) -> Callable[[Track, SpectrogramSpec], Columns]:
    """Return a function that reads the columns of a degraded track."""

    def read(track: Track, spec: SpectrogramSpec) -> Columns:
        samples = read_audio(track.path, spec.sample_rate)
        if degradation is not None:
            random = np.random.default_rng([seed, zlib.crc32(f"{name}/{track.name}".encode())])
            samples = degradation(samples, spec.sample_rate, random)
        return log_mel(samples, spec)

    return read


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
