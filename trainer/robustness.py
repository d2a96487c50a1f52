"""What microphones, rooms and radios cost: accuracy over audio that was changed on its way in.

Everything here changes samples, not pictures, so that a model that was trained on varied pictures
(`trainer.augment`) is judged on something else than its own training.
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
from trainer.audio import AudioError, decode_with_ffmpeg, read_audio
from trainer.evaluate import judge, score
from trainer.tracks import DatasetError, Track
from trainer.writing import write_json, write_table

Random = np.random.Generator
Change = Callable[[Samples, int, Random], Samples]
"""Samples at a rate in Hz, and where chance comes from, to changed samples of the same rate."""

CODECS = {"libmp3lame": "mp3", "libopus": "ogg"}
"""Containers of the encoders."""
OPUS_RATE = 48_000
"""The rate Opus works at, in Hz."""


def level(decibels: float) -> Change:
    """Return a change of level; what leaves full scale is clipped, as by a converter."""

    def change(samples: Samples, rate: int, random: Random) -> Samples:
        return np.asarray(np.clip(samples * 10 ** (decibels / 20), -1, 1), np.float32)

    return change


def response(points: Mapping[float, float]) -> Change:
    """Return a filter without phase from a frequency response.

    Parameters
    ----------
    points : mapping of float to float
        Gain in dB by frequency in Hz, interpolated over the logarithm of the frequency and constant
        beyond the ends.
    """

    def change(samples: Samples, rate: int, random: Random) -> Samples:
        spectrum = np.fft.rfft(samples)
        octaves = np.log2(np.maximum(np.fft.rfftfreq(len(samples), 1 / rate), 1))
        gains = np.interp(octaves, np.log2(list(points)), list(points.values()))
        return np.asarray(np.fft.irfft(spectrum * 10 ** (gains / 20), len(samples)), np.float32)

    return change


def reverberation(decay_seconds: float, direct_to_reverberant_db: float) -> Change:
    """Return a room: its response is noise whose power falls by 60 dB in `decay_seconds` (RT60).

    Source: J. D. Polack, "La transmission de l'énergie sonore dans les salles", 1988 (exponentially
    decaying Gaussian noise as a model of late reverberation).
    """

    def change(samples: Samples, rate: int, random: Random) -> Samples:
        at = np.arange(round(decay_seconds * rate)) / rate
        tail = random.normal(size=len(at)) * 10 ** (-3 * at / decay_seconds)
        tail *= 10 ** (-direct_to_reverberant_db / 20) / np.sqrt((tail**2).sum())
        tail[0] += 1
        size = len(samples) + len(tail) - 1
        wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
        return _within_full_scale(wet[: len(samples)])

    return change


def noise(snr_db: float, sounds: Sequence[Track] = ()) -> Change:
    """Return background noise at a ratio of music to noise over the whole track.

    Parameters
    ----------
    snr_db : float
        dB.
    sounds : sequence of Track
        Recordings, one of which lies under a track from end to end; pink noise without them.
    """

    def change(samples: Samples, rate: int, random: Random) -> Samples:
        if sounds:
            under = np.resize(_any_readable(sounds, rate, random), len(samples))
        else:
            under = pink_noise(len(samples), random)
        ratio = np.sqrt((samples**2).mean() / (under**2).mean())
        return _within_full_scale(samples + under * ratio * 10 ** (-snr_db / 20))

    return change


def _any_readable(sounds: Sequence[Track], rate: int, random: Random) -> Samples:
    for number in random.permutation(len(sounds)):
        try:
            return read_audio(sounds[number].path, rate)
        except AudioError:
            continue
    raise DatasetError(f"none of the {len(sounds)} sounds for the noise can be read")


def pink_noise(count: int, random: Random) -> Samples:
    """Return Gaussian noise whose power falls by 3 dB an octave."""
    spectrum = np.fft.rfft(random.normal(size=count))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    return np.asarray(np.fft.irfft(spectrum, count), np.float32)


def codec(name: str, kilobits: int) -> Change:
    """Return a lossy codec, encoded and decoded by FFmpeg, one channel.

    Parameters
    ----------
    name : str
        Encoder, out of `CODECS`.
    kilobits : int
        Kilobits a second.
    """

    def change(samples: Samples, rate: int, random: Random) -> Samples:
        coded_rate = OPUS_RATE if name == "libopus" else rate
        coded = soxr.resample(samples, rate, coded_rate) if coded_rate != rate else samples
        file = io.BytesIO()
        with av.open(file, "w", format=CODECS[name]) as container:
            stream = container.add_stream(name, coded_rate, layout="mono", bit_rate=1000 * kilobits)
            assert isinstance(stream, av.AudioStream)
            whole = (np.clip(coded, -1, 1) * 32767).astype(np.int16)[np.newaxis]
            frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
            frame.sample_rate = coded_rate
            for part in (frame, None):
                container.mux(stream.encode(part))
        file.seek(0)
        return decode_with_ffmpeg(file, rate)

    return change


def speed(factor: float) -> Change:
    """Return a tape or turntable that runs at `factor` times its speed, pitch included."""

    def change(samples: Samples, rate: int, random: Random) -> Samples:
        return np.asarray(soxr.resample(samples, rate * factor, rate), np.float32)

    return change


def _within_full_scale(samples: NDArray[np.floating]) -> Samples:
    """Turn a sound down that would clip."""
    return np.asarray(samples / max(1.0, float(np.abs(samples).max())), np.float32)


def ways_in(sounds: Sequence[Track] = ()) -> dict[str, Change | None]:
    """Return every way in by its name, the unchanged one first.

    Parameters
    ----------
    sounds : sequence of Track
        Recordings for the noisy ones, see `noise`.
    """
    under = "recorded sounds" if sounds else "pink noise"
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
        **{f"{under} at {snr} dB": noise(snr, sounds) for snr in (20, 10, 5, 0)},
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
class WayResult:
    """How a model does on tracks that came one way."""

    way: str
    tracks: int
    accuracy: float
    """Share of tracks told right."""
    low: float
    """95 % bootstrap interval of it."""
    high: float
    nll: float
    """Mean negative log-likelihood of a crop, in nats."""
    ece: float
    """Expected calibration error of a crop's probabilities, 15 bins."""
    same_as_clean: float
    """Share of tracks told the same as unchanged."""
    not_music: float | None
    """Share of tracks told as not music; None for a model without that label."""


def robustness(
    candidate: Classifier,
    tracks: Sequence[Track],
    sounds: Sequence[Track] = (),
    *,
    seed: int = 0,
    quiet: bool = False,
) -> list[WayResult]:
    """Judge a model on audio that came every way there is.

    Parameters
    ----------
    candidate : Classifier
        From `trainer.loading.load_candidate`.
    tracks : sequence of Track
        Audio of music.
    sounds : sequence of Track
        Audio of what is not music, for noise; pink noise is used without.
    seed : int
        Decides noises and rooms, by track and way.
    quiet : bool
        Show no progress bar.

    Raises
    ------
    DatasetError
        If the tracks are pictures or none can be read.
    """
    if any(track.is_picture for track in [*tracks, *sounds]):
        raise DatasetError("robustness needs audio, not pictures; give folders of audio")
    contract = candidate.contract
    other = contract.labels.index(contract.not_music) if contract.not_music else None
    results: list[WayResult] = []
    clean: dict[str, int] = {}
    for way, change in ways_in(sounds).items():
        scored, _ = score(
            candidate, tracks, quiet=quiet, title=way, read=_changed(way, change, seed)
        )
        answers = scored.track_probabilities(contract.temperature).argmax(axis=1)
        told = {
            track.name: int(answer) for track, answer in zip(scored.tracks, answers, strict=True)
        }
        clean = clean or told
        found = judge(scored, contract, contract.temperature, seed)
        results.append(
            WayResult(
                way,
                found.tracks,
                found.accuracy_track,
                *found.interval_track,
                found.nll_after,
                found.ece_after,
                float(np.mean([told[name] == clean.get(name) for name in told])),
                None if other is None else float(np.mean([told[name] == other for name in told])),
            )
        )
    return results


def _changed(
    way: str, change: Change | None, seed: int
) -> Callable[[Track, SpectrogramSpec], Columns]:
    def read(track: Track, spec: SpectrogramSpec) -> Columns:
        samples = read_audio(track.path, spec.sample_rate)
        if change is not None:
            random = np.random.default_rng([seed, zlib.crc32(f"{way}/{track.name}".encode())])
            samples = change(samples, spec.sample_rate, random)
        return log_mel(samples, spec)

    return read


def as_text(results: Sequence[WayResult], set_name: str, protocol: str) -> str:
    """Return a table for the terminal."""
    clean = results[0].accuracy
    lines = [
        f"split: {protocol}",
        f"{set_name}, {results[0].tracks} tracks through audio",
        f"{'way in':<28}{'right':>7}  {'95 % interval':<17}{'against clean':>13}"
        f"{'NLL':>8}{'ECE':>8}{'same answer':>13}{'not music':>11}",
    ]
    lines += [
        f"{result.way:<28}{result.accuracy:>7.1%}  "
        f"{f'{result.low:.1%} to {result.high:.1%}':<17}"
        f"{100 * (result.accuracy - clean):>+13.1f}{result.nll:>8.3f}{result.ece:>8.3f}"
        f"{result.same_as_clean:>13.1%}{_share(result.not_music):>11}"
        for result in results
    ]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def write_robustness(
    results: Sequence[WayResult], folder: Path, set_name: str, protocol: str
) -> None:
    """Write the table as CSV and JSON into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(result) for result in results]
    write_table(folder / f"robustness_{set_name}.csv", pd.DataFrame(rows))
    found = {"set": set_name, "protocol": protocol, "ways": rows}
    write_json(folder / f"robustness_{set_name}.json", found)
