"""How good a model is on tracks it was not trained on, and how much of that is chance.

A track's answer is the mean of the probabilities of its crops, each as long as the model's window
and referenced to its own loudest cell, as the daemon's windows are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from streamer.core.model import Classifier, ModelContract, softmax
from streamer.core.spectrogram import (
    Columns,
    SpectrogramSpec,
    from_levels,
    log_mel,
    relative_to_peak,
)
from trainer.audio import AudioError, read_audio
from trainer.loading import RunClassifier
from trainer.metrics import (
    GenreScore,
    ReliabilityBin,
    bootstrap_interval,
    calibration_error,
    confusion,
    fit_temperature,
    genre_scores,
    negative_log_likelihood,
    reliability,
    top_k_accuracy,
)
from trainer.pictures import read_picture
from trainer.progress import progress_bar
from trainer.tracks import DatasetError, Skipped, Track
from trainer.writing import write_json, write_table

BATCH = 16
"""Crops classified at once."""

MISTAKES = 20
"""Most confident mistakes that are listed."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A network's answers to all crops of a set of tracks."""

    tracks: list[Track]
    logits: NDArray[np.float32]
    """Shape (crops, classes)."""
    owner: NDArray[np.int64]
    """Shape (crops,): index of the crop's track."""
    truth: NDArray[np.int64]
    """Shape (tracks,): index of the track's label."""

    def only(self, kept: NDArray[np.bool_]) -> Scored:
        """Return the answers for some of the tracks, `kept` having shape (tracks,)."""
        crops = kept[self.owner]
        renumbered = np.cumsum(kept) - 1
        return Scored(
            [track for track, keep in zip(self.tracks, kept, strict=True) if keep],
            self.logits[crops],
            renumbered[self.owner[crops]],
            self.truth[kept],
        )

    def track_probabilities(self, temperature: float) -> NDArray[np.float64]:
        """Return the mean of each track's crop probabilities, shape (tracks, classes)."""
        probabilities = softmax(self.logits, temperature).astype(np.float64)
        sums = np.zeros((len(self.tracks), probabilities.shape[1]))
        np.add.at(sums, self.owner, probabilities)
        return sums / np.bincount(self.owner, minlength=len(self.tracks))[:, None]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A track that was taken for another genre."""

    track: str
    genre: str
    predicted: str
    confidence: float


@dataclass(frozen=True, slots=True)
class SetResult:
    """The measures of one set, over its music alone but for `confusion` and `not_music`."""

    tracks: int
    crops: int
    accuracy_track: float
    interval_track: tuple[float, float]
    """95 % bootstrap interval of `accuracy_track` over tracks."""
    accuracy_crop: float
    top2_track: float
    macro_f1: float
    nll_before: float
    """Mean negative log-likelihood of a crop in nats, at temperature 1."""
    nll_after: float
    """The same at the fitted temperature."""
    ece_before: float
    """Expected calibration error of a crop's probabilities, 15 bins, at temperature 1."""
    ece_after: float
    genres: list[GenreScore]
    confusion: list[list[int]]
    """Tracks: rows are true labels, columns predicted ones, in the order of the labels."""
    reliability_before: list[ReliabilityBin]
    reliability_after: list[ReliabilityBin]
    mistakes: list[Mistake]
    """The most confident ones first."""
    not_music: dict[str, float] | None
    """With such a label: `clips`, `recall` (share of them told), `false_alarms` (share of music
    tracks taken for not music)."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that an evaluation found."""

    labels: tuple[str, ...]
    temperature: float
    temperature_source: str
    """Where the temperature comes from: fitted on the valid set, or the model's own."""
    protocol: str
    notes: list[str]
    sets: dict[str, SetResult]
    track_tables: dict[str, pd.DataFrame]
    """A row a track: track, genre, predicted, confidence, right."""
    skipped: list[Skipped] = field(default_factory=list)


def columns_of(track: Track, spec: SpectrogramSpec) -> Columns:
    """Return a track's log-mel columns in dB, shape (n_mels, frames), from picture or audio.

    Raises
    ------
    DatasetError, AudioError
        If it cannot be used.
    """
    if track.is_picture:
        return from_levels(read_picture(track.path), spec.top_db)
    return log_mel(read_audio(track.path, spec.sample_rate), spec)


def crops_of(columns: Columns, window_frames: int, top_db: float) -> Columns:
    """Cut columns into half-overlapping windows, each relative to its own loudest cell.

    Parameters
    ----------
    columns : float32, shape (n_mels, frames)
        dB.
    window_frames : int
        Columns of a window; a shorter track is repeated to fill one.
    top_db : float
        Range kept, in dB.

    Returns
    -------
    float32, shape (crops, n_mels, window)
        The last one ends with the last column.
    """
    frames = max(window_frames, columns.shape[1])
    columns = np.tile(columns, (1, -(-frames // columns.shape[1])))[:, :frames]
    last = frames - window_frames
    starts = [*range(0, last, max(1, window_frames // 2)), last]
    crops = np.stack([columns[:, start : start + window_frames] for start in starts])
    return relative_to_peak(crops, top_db).astype(np.float32)


def score(
    candidate: Classifier,
    tracks: Sequence[Track],
    *,
    quiet: bool = False,
    title: str = "tracks",
    read: Callable[[Track, SpectrogramSpec], Columns] = columns_of,
) -> tuple[Scored, list[Skipped]]:
    """Classify all crops of tracks; tracks that cannot be read are left out and listed.

    Parameters
    ----------
    candidate : Classifier
        From `trainer.loading.load_candidate`.
    tracks : sequence of Track
        Pictures or audio.
    quiet : bool
        Show no progress bar.
    title : str
        What stands beside the bar.
    read : function
        How a track becomes columns, see `columns_of`.

    Raises
    ------
    DatasetError
        If a track's genre is none of the model's labels, no track can be read or an answer is no
        finite number.
    """
    contract = candidate.contract
    if unknown := sorted({track.genre for track in tracks} - set(contract.labels)):
        raise DatasetError(
            f"the model does not know the genre {', '.join(unknown)}; "
            f"it knows {', '.join(contract.labels)}"
        )
    used: list[Track] = []
    skipped: list[Skipped] = []
    logits: list[NDArray[np.float32]] = []
    with progress_bar(quiet) as progress:
        for track in progress.track(tracks, description=title):
            try:
                columns = read(track, contract.spectrogram)
            except (AudioError, DatasetError) as error:
                skipped.append(Skipped(track.path, str(error)))
                continue
            crops = crops_of(columns, contract.window_frames, contract.spectrogram.top_db)
            answers = np.concatenate(list(_in_batches(candidate, crops)))
            if not np.isfinite(answers).all():
                raise DatasetError(
                    f"the network's answers to {track.name} are no finite numbers: its training "
                    "diverged or its file is damaged; train again with a lower learning rate"
                )
            used.append(track)
            logits.append(answers)
    if not used:
        raise DatasetError(f"none of the {len(tracks)} tracks can be read: {skipped[0].reason}")
    owner = np.repeat(np.arange(len(used)), [len(own) for own in logits])
    truth = np.array([contract.labels.index(track.genre) for track in used])
    return Scored(used, np.concatenate(logits), owner, truth), skipped


def _in_batches(candidate: Classifier, crops: Columns) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(crops), BATCH):
        yield candidate.logits(crops[start : start + BATCH])


def judge(scored: Scored, contract: ModelContract, temperature: float, seed: int = 0) -> SetResult:
    """Work out all measures of one set."""
    labels = contract.labels
    other = labels.index(contract.not_music) if contract.not_music else -1
    predicted = scored.track_probabilities(temperature).argmax(axis=1)
    is_music = scored.truth != other
    music = scored.only(is_music)
    if not music.tracks:
        raise DatasetError("a set without music cannot be judged; add tracks of the genres")
    probabilities = music.track_probabilities(temperature)
    answers = probabilities.argmax(axis=1)
    right = answers == music.truth
    crop_truth = music.truth[music.owner]
    before, after = softmax(music.logits, 1.0), softmax(music.logits, temperature)
    genres, macro_f1 = genre_scores(answers, music.truth, labels)
    not_music = None
    if other >= 0 and not is_music.all():
        not_music = {
            "clips": float((~is_music).sum()),
            "recall": float((predicted[~is_music] == other).mean()),
            "false_alarms": float((answers == other).mean()),
        }
    return SetResult(
        tracks=len(music.tracks),
        crops=len(music.logits),
        accuracy_track=float(right.mean()),
        interval_track=bootstrap_interval(right, seed),
        accuracy_crop=float((after.argmax(axis=1) == crop_truth).mean()),
        top2_track=top_k_accuracy(probabilities, music.truth, 2),
        macro_f1=macro_f1,
        nll_before=negative_log_likelihood(music.logits, crop_truth),
        nll_after=negative_log_likelihood(music.logits, crop_truth, temperature),
        ece_before=calibration_error(before, crop_truth),
        ece_after=calibration_error(after, crop_truth),
        genres=genres,
        confusion=confusion(predicted, scored.truth, len(labels)).tolist(),
        reliability_before=reliability(before, crop_truth),
        reliability_after=reliability(after, crop_truth),
        mistakes=_mistakes(music, labels, temperature),
        not_music=not_music,
    )


def track_table(scored: Scored, labels: tuple[str, ...], temperature: float) -> pd.DataFrame:
    """Return a row a track: what it is, what it was taken for, and how surely."""
    probabilities = scored.track_probabilities(temperature)
    predicted = probabilities.argmax(axis=1)
    return pd.DataFrame(
        {
            "track": [track.name for track in scored.tracks],
            "genre": [track.genre for track in scored.tracks],
            "predicted": [labels[index] for index in predicted],
            "confidence": probabilities.max(axis=1),
            "right": predicted == scored.truth,
        }
    )


def _mistakes(scored: Scored, labels: tuple[str, ...], temperature: float) -> list[Mistake]:
    table = track_table(scored, labels, temperature)
    wrong = table[~table["right"]].sort_values("confidence", ascending=False).head(MISTAKES)
    return [
        Mistake(row.track, row.genre, row.predicted, float(row.confidence))
        for row in wrong.itertuples()
    ]


def evaluate(
    candidate: Classifier,
    sets: Mapping[str, Sequence[Track]],
    *,
    protocol: str,
    notes: Sequence[str] = (),
    seed: int = 0,
    quiet: bool = False,
) -> Evaluation:
    """Evaluate a run or a model on named sets of tracks; empty sets are passed over.

    A run's temperature is fitted on the set `valid`. A model file has its own already.

    Parameters
    ----------
    candidate : Classifier
        From `trainer.loading.load_candidate`.
    sets : mapping of str to tracks
        Usually `valid` and `test`; background clips have the model's `not_music` label as genre.
    protocol : str
        What the reader of the accuracy must know about the split.
    notes : sequence of str
        Warnings about it.
    seed : int
        Of the bootstrap.
    quiet : bool
        Show no progress bar.

    Raises
    ------
    DatasetError
        If there is nothing to evaluate on.
    """
    contract = candidate.contract
    scored: dict[str, Scored] = {}
    skipped: list[Skipped] = []
    for name, tracks in sets.items():
        if tracks:
            scored[name], lost = score(candidate, tracks, quiet=quiet, title=name)
            skipped += lost
    if not scored:
        raise DatasetError("none of the tracks of the valid and test lists is in the data folder")
    temperature, source = contract.temperature, "the model's own"
    if isinstance(candidate, RunClassifier) and "valid" in scored:
        valid = scored["valid"]
        temperature = fit_temperature(valid.logits, valid.truth[valid.owner])
        source = "fitted on the crops of the valid set"
    return Evaluation(
        labels=contract.labels,
        temperature=temperature,
        temperature_source=source,
        protocol=protocol,
        notes=list(notes),
        sets={name: judge(own, contract, temperature, seed) for name, own in scored.items()},
        track_tables={
            name: track_table(own, contract.labels, temperature) for name, own in scored.items()
        },
        skipped=skipped,
    )


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return the few numbers that stand in `run.json` and travel with an exported model."""
    names = (
        "tracks",
        "accuracy_track",
        "interval_track",
        "accuracy_crop",
        "top2_track",
        "macro_f1",
        "nll_after",
        "ece_after",
        "not_music",
    )
    return {
        name: {key: getattr(result, key) for key in names}
        for name, result in evaluation.sets.items()
    } | {"protocol": evaluation.protocol, "notes": evaluation.notes}


def to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of `metrics.json`."""
    return {
        "labels": list(evaluation.labels),
        "temperature": evaluation.temperature,
        "temperature_source": evaluation.temperature_source,
        "protocol": evaluation.protocol,
        "notes": evaluation.notes,
        "sets": {name: dataclasses.asdict(result) for name, result in evaluation.sets.items()},
        "skipped": [
            {"path": str(entry.path), "reason": entry.reason} for entry in evaluation.skipped
        ],
    }


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write `metrics.json` and the tables as CSV into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", to_dict(evaluation))
    labels = list(evaluation.labels)
    for name, result in evaluation.sets.items():
        write_table(folder / f"tracks_{name}.csv", evaluation.track_tables[name])
        genres = pd.DataFrame([dataclasses.asdict(genre) for genre in result.genres])
        write_table(folder / f"genres_{name}.csv", genres)
        matrix = pd.DataFrame(result.confusion, index=labels, columns=labels).rename_axis("true")
        write_table(folder / f"confusion_{name}.csv", matrix, index=True)
        bins = {"before": result.reliability_before, "after": result.reliability_after}
        rows = [
            {"temperature": when, **dataclasses.asdict(bin_)}
            for when, own in bins.items()
            for bin_ in own
        ]
        write_table(folder / f"reliability_{name}.csv", pd.DataFrame(rows))


def as_text(evaluation: Evaluation) -> str:
    """Return the result as a few lines for the terminal; the split stands beside the accuracy."""
    lines = [f"split: {evaluation.protocol}"]
    lines += [f"note: {note}" for note in evaluation.notes]
    lines.append(f"temperature {evaluation.temperature:.3f} ({evaluation.temperature_source})")
    for name, result in evaluation.sets.items():
        low, high = result.interval_track
        lines.append(
            f"{name}: {result.accuracy_track:.1%} of {result.tracks} tracks right "
            f"(95 % interval {low:.1%} to {high:.1%}), {result.accuracy_crop:.1%} of crops, "
            f"top 2 {result.top2_track:.1%}, macro F1 {result.macro_f1:.3f}, "
            f"NLL {result.nll_before:.3f} -> {result.nll_after:.3f}, "
            f"ECE {result.ece_before:.3f} -> {result.ece_after:.3f}"
        )
        if result.not_music:
            lines.append(
                f"{name}: not music: {result.not_music['recall']:.1%} of "
                f"{result.not_music['clips']:.0f} clips told, "
                f"{result.not_music['false_alarms']:.1%} of music taken for it"
            )
    for name, result in evaluation.sets.items():
        lines += [
            f"{name}: {mistake.track} taken for {mistake.predicted} ({mistake.confidence:.0%})"
            for mistake in result.mistakes[:5]
        ]
    lines += [f"skipped {entry.path}: {entry.reason}" for entry in evaluation.skipped]
    return "\n".join(lines)
