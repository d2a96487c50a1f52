"""Evaluate a classifier on degraded audio: through microphones, rooms, codecs and radios.

All degradations change samples, not pictures, so that a model trained with `trainer.augment` is not
evaluated on its own augmentation.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import soxr

from streamer.core.model import Classifier
from streamer.core.spectrogram import SpectrogramSpec, log_mel
from streamer.system.files import write_file, write_json
from trainer.audio import read_audio
from trainer.degradation import Degradation, degradations
from trainer.evaluate import by_answer, compute_metrics, predict, track_table
from trainer.loading import second_network
from trainer.second_network import Recording
from trainer.tagger import SAMPLE_RATE
from trainer.tracks import DatasetError, Track


@dataclass(frozen=True, slots=True)
class RobustnessResult:
    """Metrics on audio with one degradation."""

    way: str
    """Name of the degradation; the field name is that of the CSV column."""
    tracks: int
    accuracy: float
    """Share of tracks with the right prediction; of both networks together, if there are two."""
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
    spectrogram_accuracy: float | None = None
    """Share of tracks that the network of spectrograms has right alone; None for a model with one
    network."""
    tags_accuracy: float | None = None
    """The same of the network of tags."""


def robustness(
    classifier: Classifier, tracks: Sequence[Track], clips: Sequence[Track] = (), *, seed: int = 0
) -> list[RobustnessResult]:
    """Evaluate a classifier on audio with each degradation; `clips` as in `noise`.

    Noises and rooms depend on the seed, the track and the degradation. DatasetError is raised if
    tracks are pictures or none can be read.
    """
    if any(track.is_picture for track in [*tracks, *clips]):
        raise DatasetError("robustness needs audio, not pictures; give folders of audio")
    contract, second = classifier.contract, second_network(classifier)
    results: list[RobustnessResult] = []
    clean = None
    for name, degrade in degradations(clips).items():
        read = partial(_degraded, name=name, degrade=degrade, seed=seed)
        both, _ = predict(classifier, tracks, title=name, read=read, second=second)
        answers = by_answer(both, second, contract.not_music)
        predictions = answers.pop("")
        alone = {
            key: compute_metrics(own, contract, 1.0, seed).accuracy_track
            for key, own in answers.items()
        }
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
                alone.get("_spectrogram"),
                alone.get("_tags"),
            )
        )
    return results


def _degraded(
    track: Track, spec: SpectrogramSpec, heard: bool, name: str, degrade: Degradation, seed: int
) -> Recording:
    samples = read_audio(track.path, spec.sample_rate)
    random = np.random.default_rng([seed, zlib.crc32(f"{name}/{track.name}".encode())])
    degraded = degrade(samples, spec.sample_rate, random)
    audio = soxr.resample(degraded, spec.sample_rate, SAMPLE_RATE) if heard else None
    return Recording(log_mel(degraded, spec), audio)


def as_text(results: Sequence[RobustnessResult], set_name: str, protocol: str) -> str:
    """Return a table for the terminal."""
    clean = results[0].accuracy
    lines = [
        f"split: {protocol}",
        f"{set_name}, {results[0].tracks} tracks through audio",
        f"{'degradation':<28}{'right':>7}  {'95 % interval':<17}{'against clean':>13}"
        f"{'NLL':>8}{'ECE':>8}{'same answer':>13}{'not music':>11}"
        + (f"{'spectrogram':>13}{'tags':>8}" if results[0].tags_accuracy is not None else ""),
    ]
    for result in results:
        interval = f"{result.low:.1%} to {result.high:.1%}"
        not_music = "" if result.not_music is None else f"{result.not_music:.1%}"
        lines.append(
            f"{result.way:<28}{result.accuracy:>7.1%}  {interval:<17}"
            f"{100 * (result.accuracy - clean):>+13.1f}{result.nll:>8.3f}{result.ece:>8.3f}"
            f"{result.same_as_clean:>13.1%}{not_music:>11}"
            + (
                ""
                if result.spectrogram_accuracy is None
                else f"{result.spectrogram_accuracy:>13.1%}{result.tags_accuracy:>8.1%}"
            )
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
