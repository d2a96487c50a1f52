"""Evaluate a classifier on tracks that it was not trained on.

The prediction for a track is the mean of the probabilities of its crops, each as long as the
model's window and relative to its own loudest cell, as the daemon's windows are. A model with a
second network is evaluated with both, and each alone, on the tracks that have audio or tags.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from streamer.core.model import Classifier, ModelContract, softmax
from streamer.core.spectrogram import (
    Columns,
    SpectrogramSpec,
    from_levels,
    log_mel,
    relative_to_peak,
)
from streamer.system.files import write_file, write_json
from trainer import metrics
from trainer.audio import AudioError, read_audio, read_audio_at
from trainer.evaluation_sets import EvaluationSets
from trainer.loading import RunClassifier, second_network
from trainer.pictures import read_picture
from trainer.progress import progress_bar
from trainer.second_network import Recording, SecondNetwork
from trainer.tagger import SAMPLE_RATE
from trainer.tags import read_tags, tags_file
from trainer.tracks import DatasetError, Skipped, Track

BATCH = 16
"""Crops in one call of the network."""

SUMMARISED = (
    *(
        "tracks",
        "accuracy_track",
        "chance",
        "interval_track",
        "accuracy_crop",
        "top2_track",
        "macro_f1",
    ),
    *("nll_after", "ece_after", "not_music", "trained_on"),
)
"""Fields of `SetMetrics` that go into `run.json` and an exported model."""

MAX_MISTAKES = 20

ANSWERS = {
    "": "",
    "_spectrogram": "network of spectrograms alone",
    "_tags": "network of tags alone",
    "_pictures": "network of spectrograms alone, with the tracks that have no tags",
}
"""Endings of the names of sets, by which answer they judge: the model's own has none."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The logits of all crops of a set of tracks."""

    tracks: list[Track]
    logits: NDArray[np.float32]
    """Shape (crops, classes)."""
    owner: NDArray[np.int64]
    """Shape (crops,): index of each crop's track."""
    truth: NDArray[np.int64]
    """Shape (tracks,): index of each track's label."""
    audio_logits: NDArray[np.float32] | None = None
    """What a second network says of the crops, NaN for tracks that it does not hear; None without
    one. `logits` is what the network of spectrograms says alone."""

    @property
    def heard(self) -> NDArray[np.bool_]:
        """Whether the second network hears the track, shape (tracks,)."""
        if self.audio_logits is None:
            return np.zeros(len(self.tracks), bool)
        crops = np.isfinite(self.audio_logits).all(axis=1)
        return np.bincount(self.owner, crops, len(self.tracks)) > 0

    def of_heard(self) -> Predictions:
        """Return those of the tracks that the second network hears."""
        heard, crops = self.heard, self.heard[self.owner]
        assert self.audio_logits is not None
        return Predictions(
            [track for track, own in zip(self.tracks, heard, strict=True) if own],
            self.logits[crops],
            (np.cumsum(heard) - 1)[self.owner[crops]],
            self.truth[heard],
            self.audio_logits[crops],
        )


@dataclass(frozen=True, slots=True)
class SetMetrics:
    """Metrics of one set: of its music, except for `confusion` and `not_music`."""

    tracks: int
    crops: int
    accuracy_track: float
    interval_track: tuple[float, float]
    """95 % bootstrap interval of `accuracy_track` over tracks."""
    chance: float
    """Accuracy of predicting the most frequent genre for every track."""
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
    genres: list[metrics.GenreScore]
    confusion: list[list[int]]
    """Numbers of tracks: true labels by row, predicted labels by column."""
    reliability_before: list[metrics.ReliabilityBin]
    reliability_after: list[metrics.ReliabilityBin]
    mistakes: list[dict[str, Any]]
    """Rows of `track_table` with wrong predictions, most confident first."""
    temperature: float
    """By which the logits were divided."""
    trained_on: bool
    """Whether the model was trained on these tracks, which makes all figures too good."""
    not_music: dict[str, float] | None
    """`clips`, `recall` (share of the clips predicted as not music) and `false_alarms` (share of
    the music predicted so); None without such a label or without clips."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of `evaluate`."""

    labels: tuple[str, ...]
    temperature: float
    """Of the model's answers; other sets have their own."""
    temperature_source: str
    """A phrase: whether the temperature was fitted on the valid set or is the model's own."""
    protocol: str
    notes: list[str]
    sets: dict[str, SetMetrics]
    track_tables: dict[str, pd.DataFrame]
    """See `track_table`."""
    skipped: list[Skipped]


def columns_of(track: Track, spec: SpectrogramSpec) -> Columns:
    """Return a track's log-mel columns in dB, shape (n_mels, frames), from picture or audio."""
    if track.is_picture:
        return from_levels(read_picture(track.path), spec.top_db)
    return log_mel(read_audio(track.path, spec.sample_rate), spec)


def recording_of(track: Track, spec: SpectrogramSpec, heard: bool) -> Recording:
    """Return a track's columns and, if it is to be `heard`, its audio or tags."""
    if not heard:
        return Recording(columns_of(track, spec))
    if track.is_picture:
        file = tags_file(track.path)
        return Recording(columns_of(track, spec), tags=read_tags(file) if file.is_file() else None)
    samples, audio = read_audio_at(track.path, [spec.sample_rate, SAMPLE_RATE])
    return Recording(log_mel(samples, spec), audio)


def crop_starts(frames: int, window_frames: int) -> list[int]:
    """Return at which columns half-overlapping windows begin, the last of which ends at the end."""
    last = max(0, frames - window_frames)
    return [*range(0, last, max(1, window_frames // 2)), last]


def crops_of(columns: Columns, window_frames: int, top_db: float) -> Columns:
    """Cut columns into half-overlapping windows, each in dB relative to its own loudest cell.

    A track shorter than a window is repeated to fill one; the last crop ends with the last column.
    The result has the shape (crops, n_mels, window_frames).
    """
    frames = max(window_frames, columns.shape[1])
    columns = np.tile(columns, (1, -(-frames // columns.shape[1])))[:, :frames]
    starts = crop_starts(frames, window_frames)
    crops = np.stack([columns[:, start : start + window_frames] for start in starts])
    return relative_to_peak(crops, top_db).astype(np.float32)


def predict(
    classifier: Classifier,
    tracks: Sequence[Track],
    *,
    title: str = "tracks",
    read: Callable[[Track, SpectrogramSpec, bool], Recording] = recording_of,
    second: SecondNetwork | None = None,
) -> tuple[Predictions, list[Skipped]]:
    """Classify all crops of tracks; tracks that cannot be read are skipped.

    `title` is the label of the progress bar, `read` reads a track as `recording_of` does, and
    `second` is the model's second network, if it is to be asked.
    DatasetError is raised if a track's genre is not among the model's labels, no track can be read
    or a logit is not finite.
    """
    contract = classifier.contract
    if unknown := sorted({track.genre for track in tracks} - set(contract.labels)):
        raise DatasetError(
            f"the model does not know the genre {', '.join(unknown)}; "
            f"it knows {', '.join(contract.labels)}"
        )
    used: list[Track] = []
    skipped: list[Skipped] = []
    logits: list[NDArray[np.float32]] = []
    audio_logits: list[NDArray[np.float32]] = []
    with progress_bar() as progress:
        for track in progress.track(tracks, description=title):
            try:
                recording = read(track, contract.spectrogram, second is not None)
            except (AudioError, DatasetError) as error:
                skipped.append(Skipped(track.path, str(error)))
                continue
            columns, frames = recording.columns, contract.window_frames
            crops = crops_of(columns, frames, contract.spectrogram.top_db)
            batches = [crops[start : start + BATCH] for start in range(0, len(crops), BATCH)]
            own_logits = np.concatenate([classifier.logits(batch) for batch in batches])
            if not np.isfinite(own_logits).all():
                raise DatasetError(
                    f"the network's answers to {track.name} are no finite numbers: its training "
                    "diverged or its file is damaged; train again with a lower learning rate"
                )
            used.append(track)
            logits.append(own_logits)
            heard = np.full_like(own_logits, np.nan)
            if second and recording.heard:
                last = np.array(crop_starts(columns.shape[1], frames)) + frames - 1
                heard = second.logits_at(recording, last * contract.spectrogram.hop_seconds)
            audio_logits.append(heard)
    if not used:
        raise DatasetError(f"none of the {len(tracks)} tracks can be read: {skipped[0].reason}")
    owner = np.repeat(np.arange(len(used)), [len(own) for own in logits])
    truth = np.array([contract.labels.index(track.genre) for track in used])
    second_logits = np.concatenate(audio_logits) if second else None
    return Predictions(used, np.concatenate(logits), owner, truth, second_logits), skipped


def by_answer(
    predictions: Predictions, second: SecondNetwork | None, not_music: str | None
) -> dict[str, Predictions]:
    """Return the predictions of both networks, each alone, and of those who are not heard.

    The keys are endings of `ANSWERS`. Where no music is heard there is only one answer.
    """
    heard = predictions.heard
    music = np.array([track.genre != not_music for track in predictions.tracks])
    if second is None or not (heard & music).any():
        return {"": predictions}
    own = predictions.of_heard()
    assert own.audio_logits is not None
    answers = {
        "": dataclasses.replace(own, logits=second.fused(own.logits, own.audio_logits)),
        "_spectrogram": own,
        "_tags": dataclasses.replace(own, logits=own.audio_logits),
    }
    return answers if heard.all() else answers | {"_pictures": predictions}


def compute_metrics(
    predictions: Predictions,
    contract: ModelContract,
    temperature: float,
    seed: int = 0,
    *,
    trained_on: bool = False,
) -> SetMetrics:
    """Compute the metrics of a set, which must contain music; `seed` is that of the bootstrap."""
    labels = contract.labels
    other = labels.index(contract.not_music) if contract.not_music else -1
    is_music = predictions.truth != other
    if not is_music.any():
        raise DatasetError("a set without music cannot be judged; add tracks of the genres")
    probabilities = metrics.track_probabilities(predictions.logits, predictions.owner, temperature)
    predicted = probabilities.argmax(axis=1)
    truth, music_predicted = predictions.truth[is_music], predicted[is_music]
    correct = music_predicted == truth
    crops = is_music[predictions.owner]
    logits, crop_truth = predictions.logits[crops], predictions.truth[predictions.owner][crops]
    before, after = softmax(logits, 1.0), softmax(logits, temperature)
    genres, macro_f1 = metrics.genre_scores(music_predicted, truth, labels)
    table = track_table(predictions, labels, temperature)
    mistakes = table[is_music & ~table["right"]].sort_values("confidence", ascending=False)
    not_music = None
    if other >= 0 and not is_music.all():
        not_music = {
            "clips": float((~is_music).sum()),
            "recall": float((predicted[~is_music] == other).mean()),
            "false_alarms": float((music_predicted == other).mean()),
        }
    return SetMetrics(
        tracks=len(truth),
        crops=len(logits),
        accuracy_track=float(correct.mean()),
        interval_track=metrics.bootstrap_interval(correct, seed),
        chance=metrics.chance_level(truth, len(labels) - (other >= 0)),
        accuracy_crop=float((after.argmax(axis=1) == crop_truth).mean()),
        top2_track=metrics.top_k_accuracy(probabilities[is_music], truth, 2),
        macro_f1=macro_f1,
        nll_before=metrics.negative_log_likelihood(logits, crop_truth),
        nll_after=metrics.negative_log_likelihood(logits, crop_truth, temperature),
        ece_before=metrics.calibration_error(before, crop_truth),
        ece_after=metrics.calibration_error(after, crop_truth),
        genres=genres,
        confusion=confusion_matrix(
            predictions.truth, predicted, labels=range(len(labels))
        ).tolist(),
        reliability_before=metrics.reliability(before, crop_truth),
        reliability_after=metrics.reliability(after, crop_truth),
        mistakes=mistakes.head(MAX_MISTAKES).drop(columns="right").to_dict("records"),
        temperature=temperature,
        trained_on=trained_on,
        not_music=not_music,
    )


def track_table(
    predictions: Predictions, labels: tuple[str, ...], temperature: float
) -> pd.DataFrame:
    """Return a row per track: track, genre, predicted, confidence, right."""
    probabilities = metrics.track_probabilities(predictions.logits, predictions.owner, temperature)
    predicted = probabilities.argmax(axis=1)
    return pd.DataFrame(
        {
            "track": [track.name for track in predictions.tracks],
            "genre": [track.genre for track in predictions.tracks],
            "predicted": [labels[index] for index in predicted],
            "confidence": probabilities.max(axis=1),
            "right": predicted == predictions.truth,
        }
    )


def evaluate(classifier: Classifier, sets: EvaluationSets, *, seed: int = 0) -> Evaluation:
    """Evaluate a run or a model on the sets with music; `seed` is that of the bootstrap.

    The temperature of a run is fitted on its `valid` set, unless it was trained on that. A model
    file keeps its own. Those of single networks are always fitted.
    """
    contract, second = classifier.contract, second_network(classifier)
    predictions: dict[str, Predictions] = {}
    skipped: list[Skipped] = []
    notes = list(sets.notes)
    for name, music in sets.music.items():
        if not music:
            continue
        tracks = music + sets.background.get(name, [])
        own, unreadable = predict(classifier, tracks, title=name, second=second)
        skipped += unreadable
        predictions |= {
            f"{name}{key}": each for key, each in by_answer(own, second, contract.not_music).items()
        }
        if second:
            notes += _notes_on_tags(name, own, contract.not_music)
    if not predictions:
        raise DatasetError("none of the tracks of the valid and test lists is in the data folder")
    temperature, source = contract.temperature, "the model's own"
    own_answers = second is None or any(f"{name}_tags" in predictions for name in sets.music)
    fits = isinstance(classifier, RunClassifier) and "valid" not in sets.trained_on
    if fits and own_answers and "valid" in predictions:
        temperature = _fitted_temperature(predictions["valid"])
        source = "fitted on the crops of the valid set"
    results, tables = {}, {}
    for name, own in predictions.items():
        base, _, answer = name.partition("_")
        reference = predictions.get(f"valid_{answer}" if answer else "valid", own)
        is_own = not answer and own_answers
        used = temperature if is_own else _fitted_temperature(reference)
        trained_on = base in sets.trained_on
        results[name] = compute_metrics(own, contract, used, seed, trained_on=trained_on)
        tables[name] = track_table(own, contract.labels, used)
    return Evaluation(
        contract.labels,
        temperature,
        temperature_source=source,
        protocol=sets.protocol,
        notes=notes,
        sets=results,
        track_tables=tables,
        skipped=skipped,
    )


def _fitted_temperature(predictions: Predictions) -> float:
    return metrics.fit_temperature(predictions.logits, predictions.truth[predictions.owner])


def _notes_on_tags(name: str, predictions: Predictions, not_music: str | None) -> list[str]:
    """Return a note if not all music is heard by the second network."""
    music = np.array([track.genre != not_music for track in predictions.tracks])
    heard, count = int(predictions.heard[music].sum()), int(music.sum())
    if not heard:
        return [
            f"no {name} track has tags: its figures are of the network of spectrograms alone; add "
            "tags with genre-train prepare or genre-train tags"
        ]
    if heard < count:
        return [f"{heard} of {count} {name} tracks have tags; both networks are judged on them"]
    return []


def set_title(name: str) -> str:
    """Return the name of a set with which answers it judges, for people."""
    base, _, answer = name.partition("_")
    return f"{base}, {ANSWERS[f'_{answer}']}" if answer else base


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return the metrics that `run.json` and an exported model contain."""
    return {
        name: {key: getattr(result, key) for key in SUMMARISED}
        for name, result in evaluation.sets.items()
    } | {"protocol": evaluation.protocol, "notes": evaluation.notes}


def chance_notes(evaluation: Evaluation) -> list[str]:
    """Return a sentence for each set with a result that is no better than chance."""
    notes = {
        name: metrics.chance_note(result.accuracy_track, result.chance, result.tracks)
        for name, result in evaluation.sets.items()
    }
    return [f"{name}: {note}" for name, note in notes.items() if note]


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write `metrics.json` and the tables as CSV into a folder, created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    content = dataclasses.asdict(evaluation)
    content["notes"] = [*evaluation.notes, *chance_notes(evaluation)]
    del content["track_tables"]
    for entry in content["skipped"]:
        entry["path"] = str(entry["path"])
    write_json(folder / "metrics.json", content)
    labels = list(evaluation.labels)
    for name, result in evaluation.sets.items():
        matrix = pd.DataFrame(result.confusion, columns=labels)
        matrix.insert(0, "true", labels, allow_duplicates=True)
        bins = {"before": result.reliability_before, "after": result.reliability_after}
        tables = {
            "tracks": evaluation.track_tables[name],
            "genres": pd.DataFrame(result.genres),
            "confusion": matrix,
            "reliability": pd.concat(
                {when: pd.DataFrame(own) for when, own in bins.items()}, names=["temperature", None]
            ).reset_index("temperature"),
        }
        for title, table in tables.items():
            write_file(folder / f"{title}_{name}.csv", table.to_csv(index=False))


def as_text(evaluation: Evaluation) -> str:
    """Return the result as a few lines for the terminal."""
    lines = [f"split: {evaluation.protocol}"]
    lines += [f"note: {note}" for note in evaluation.notes]
    lines.append(f"temperature {evaluation.temperature:.3f} ({evaluation.temperature_source})")
    for name, result in evaluation.sets.items():
        low, high = result.interval_track
        known = ", trained on" if result.trained_on else ""
        lines.append(
            f"{set_title(name)}{known}: {result.accuracy_track:.1%} of {result.tracks} tracks "
            f"right (chance {result.chance:.1%}, 95 % interval {low:.1%} to {high:.1%}), "
            f"{result.accuracy_crop:.1%} of crops, "
            f"top 2 {result.top2_track:.1%}, macro F1 {result.macro_f1:.3f}, "
            f"NLL {result.nll_before:.3f} -> {result.nll_after:.3f}, "
            f"ECE {result.ece_before:.3f} -> {result.ece_after:.3f}"
        )
        if result.not_music:
            lines.append(
                f"{name}: not music: {result.not_music['recall']:.1%} of "
                f"{result.not_music['clips']:.0f} clips recognised, "
                f"{result.not_music['false_alarms']:.1%} of music taken for it"
            )
    lines += [f"note: {note}" for note in chance_notes(evaluation)]
    for name, result in evaluation.sets.items():
        lines += [
            "{0}: {track} taken for {predicted} ({confidence:.0%})".format(name, **mistake)
            for mistake in result.mistakes[:5]
        ]
    lines += [f"skipped {entry.path}: {entry.reason}" for entry in evaluation.skipped]
    return "\n".join(lines)
