"""Run folders: `run.json` as a typed record, shared by genre-train and genre-export; no Keras."""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from streamer.core.contract import ModelContract
from streamer.core.spectrogram import SpecError, SpectrogramSpec
from streamer.system.commandline import UserError
from streamer.system.files import atomic_write, write_json
from trainer.fit_settings import FitSettings
from trainer.musicnn import MIN_SAMPLES, SPEC, TAGS

RUN_FILE = "run.json"
NETWORK_FILE = "model.keras"
HEAD_FILE = "tag_head.npz"
"""The head on the tags: `weights` (classes, tags) and `bias` (classes,), float32."""
LEAST_TAG_PROBABILITY = 1e-4
"""Tags less probable than this count for the head as this probable: their logarithms would be
noise."""

DAMAGED_FILE_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Raised by Keras, h5py and zipfile for a damaged model or weights file."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters, or else its type."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class RunError(UserError):
    """A run that cannot be read, started or continued; the message is one sentence."""


def _spec(fields: Any) -> SpectrogramSpec:
    if not isinstance(fields, Mapping):
        raise SpecError(f"spectrogram must be an object, not {fields!r}")
    return SpectrogramSpec.from_dict(fields)


@dataclass(frozen=True, slots=True)
class TrackLists:
    """Division of a run's music into lists of track names."""

    name: str
    """`fault-filtered`, `stratified`, `grouped` or `lists`."""
    protocol: str
    """What the reader of an accuracy must know about the division, as one sentence."""
    notes: tuple[str, ...]
    """Warnings to repeat wherever an accuracy is stated."""
    missing: tuple[str, ...]
    """Names in the lists without a track in the data folder."""
    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackgroundLists:
    """Names of the background sounds that were trained on, and of those held back."""

    train: tuple[str, ...]
    valid: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FusedTagger:
    """The second network of a run; its head on the tags is in `HEAD_FILE`."""

    tagger: Literal["musicnn"]
    spectrogram_weight: Annotated[float, pydantic.Field(ge=0, le=100)]
    """Factor of the logits of the run's own network in those of both."""
    audio_weight: Annotated[float, pydantic.Field(ge=0, le=100)]
    """Factor of the logits of the head."""
    audio_seconds: Annotated[float, pydantic.Field(ge=MIN_SAMPLES / SPEC.sample_rate, le=60)]
    """Audio that it hears before a decision."""


@dataclass(frozen=True, slots=True)
class Run:
    """Everything known about a training run but its weights: the content of `run.json`."""

    labels: tuple[str, ...]
    """Class names in the order of the logits."""
    not_music: str | None
    """The label of the background sounds, if the run has one."""
    spec: Annotated[SpectrogramSpec, pydantic.BeforeValidator(_spec)]
    """Grid of the windows."""
    window_frames: int
    """Columns of a training window."""
    min_frames: int
    """Fewest columns that give a useful prediction."""
    input_scale: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    """Factor on both axes from the spectrogram to the image that the network gets."""
    seed: int
    split: TrackLists
    background: BackgroundLists
    settings: FitSettings
    """Settings of the training; of an average, those of its first run."""
    command: str
    """Command line that made the run."""
    train_seconds: float
    """Time spent in training epochs, in seconds."""
    temperature: float
    """Logits are divided by this before the softmax; fitted by `genre-train evaluate`."""
    decision: Mapping[str, float | str]
    """Decision settings found by `genre-train stream-test --tune`; empty for the defaults."""
    trained_on_before: Annotated[tuple[str, ...], pydantic.Field(alias="learnt_before")] = ()
    """Tracks that earlier runs, which this one started from, were trained on."""
    finished: bool = True
    """Whether no epoch is left to train."""
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Results of training and evaluations, by name."""
    averaged: tuple[Mapping[str, str], ...] = ()
    """Of an average: `run` (folder) and `command` of each run in it."""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Versions of Python, Keras' backend and the packages that compute, by name."""
    git: str | None = None
    """Commit of the code, if it was a git checkout."""
    fusion: FusedTagger | None = None
    """The second network, if the run has one. The temperature is of the logits of both then."""

    @property
    def trained_tracks(self) -> frozenset[str]:
        """Names of the tracks that the network was trained on, in this run or in earlier ones."""
        return frozenset((*self.split.train, *self.trained_on_before))

    def contract(
        self, name: str = "run", version: str = "0", dataset: str | None = None
    ) -> ModelContract:
        """Return the contract of a model made from this run, with a golden answer of zeros.

        The dataset is named after the data folder by default. A ModelError names the field and the
        value that are out of range.
        """
        content = _ADAPTER.dump_python(self, mode="json", by_alias=True)
        split = content["split"]
        # Names and numbers only: paths may tell who trained it.
        training = {
            "dataset": dataset or self.settings.data.name or "unknown",
            "split": split["name"],
            "protocol": split["protocol"],
            "tracks": {part: len(split[part]) for part in ("train", "valid", "test")},
            "seed": self.seed,
            "metrics": content["metrics"],
        }
        golden = {
            "spectrogram_sha256": "0" * 64,
            "frames": self.window_frames,
            "logits": [0.0] * len(self.labels),
        }
        content |= {"contract": 2 if self.fusion else 1, "name": name, "version": version}
        content |= {"spectrogram": content["spec"], "training": training, "golden": golden}
        if self.fusion:
            least = MIN_SAMPLES / SPEC.sample_rate
            seconds = self.fusion.audio_seconds
            content["audio"] = {
                "sample_rate": SPEC.sample_rate,
                "seconds": seconds,
                "min_seconds": least,
            }
            content["fusion"]["tags"] = list(TAGS)
            samples = round(seconds * SPEC.sample_rate)
            golden |= {"audio_sha256": "0" * 64, "audio_samples": samples}
        return ModelContract.from_metadata(content)


_ADAPTER = pydantic.TypeAdapter(Run)


def read_run(folder: Path) -> Run:
    """Read the `run.json` of a run folder. NaN, which JSON does not have, becomes None.

    Raises
    ------
    RunError
        If the file cannot be read, or a field is missing or of the wrong type.
    """
    path = folder / RUN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except OSError as error:
        raise RunError(
            f"{folder} is not a training run: {RUN_FILE} cannot be read ({error.strerror})"
        ) from error
    except ValueError as error:
        raise RunError(f"{path} is not JSON: restore it from a copy, or train again") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} does not describe a training run")
    try:
        return _ADAPTER.validate_python(content)
    except pydantic.ValidationError as error:
        raise RunError(f"{path}{_problem(error)}: restore it from a copy, or train again") from None


def _problem(error: pydantic.ValidationError) -> str:
    """Return all missing fields, or else the first wrong one, as a phrase after the path."""
    errors = error.errors()
    names = [".".join(map(str, each["loc"])) for each in errors]
    missing = [name for name, each in zip(names, errors, strict=True) if each["type"] == "missing"]
    if missing:
        return f" lacks {', '.join(missing)}"
    first = errors[0]
    if first["type"] == "value_error":  # raised by one of our classes; names the field
        return f": {first['ctx']['error']}"
    rule = {"tuple_type": "must be a list", "dataclass_type": "must be an object"}.get(
        first["type"], first["msg"].replace("Input should", "must")
    )
    return f": {names[0]} {rule}, not {first['input']!r}"


def write_run(folder: Path, run: Run) -> None:
    """Write the `run.json` of a folder; keys in the old one that are not known here stay."""
    path = folder / RUN_FILE
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content = _ADAPTER.dump_python(run, mode="json", by_alias=True)
    if not run.averaged:
        del content["averaged"]
    for name in ("split", "background", "settings"):
        content[name] |= before.get(name, {}) | content[name]
    write_json(path, content | before | content)


def update_run(folder: Path, metrics: Mapping[str, Any], **changes: Any) -> None:
    """Add metrics to a run and replace some of its other fields; see `read_run`."""
    run = read_run(folder)
    write_run(folder, dataclasses.replace(run, metrics={**run.metrics, **metrics}, **changes))


@dataclass(frozen=True, slots=True)
class TagHead:
    """An affine map from the tags' log-odds to logits."""

    weights: NDArray[np.float32]
    """Shape (classes, tags)."""
    bias: NDArray[np.float32]
    """Shape (classes,)."""

    def logits(self, tags: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Map probabilities of tags, shape (n, tags), to logits, shape (n, classes)."""
        return np.asarray(log_odds(tags) @ self.weights.T + self.bias, np.float32)


def log_odds(tags: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return `log(p / (1 - p))` of probabilities, kept away from 0 and 1."""
    kept = np.clip(np.asarray(tags, np.float64), LEAST_TAG_PROBABILITY, 1 - LEAST_TAG_PROBABILITY)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def write_head(folder: Path, head: TagHead) -> None:
    """Write the head on the tags of a run atomically."""
    with atomic_write(folder / HEAD_FILE, head.weights.nbytes) as partial:
        np.savez(partial, weights=head.weights, bias=head.bias)


def read_head(folder: Path, run: Run) -> TagHead:
    """Read the head on the tags of a run.

    Raises
    ------
    RunError
        If the file is missing, damaged, does not fit the labels and tags, or is not finite.
    """
    path = folder / HEAD_FILE
    again = f"make it again with genre-train fuse {folder}"
    try:
        with np.load(path, allow_pickle=False) as file:
            head = TagHead(*(np.asarray(file[name], np.float32) for name in ("weights", "bias")))
    except DAMAGED_FILE_ERRORS as error:
        raise RunError(f"{path} cannot be read ({first_line(error)}): {again}") from None
    classes, tags = len(run.labels), len(TAGS)
    if head.weights.shape != (classes, tags) or head.bias.shape != (classes,):
        raise RunError(
            f"{path} has shapes {head.weights.shape} and {head.bias.shape} and {classes} labels "
            f"and {tags} tags need ({classes}, {tags}) and ({classes},): {again}"
        )
    if not (np.isfinite(head.weights).all() and np.isfinite(head.bias).all()):
        raise RunError(f"{path} holds NaN or infinity: {again}")
    return head


def leak_notes(held_back: Sequence[str], trained: Iterable[str], where: str) -> list[str]:
    """Return a note on tracks `held_back` for evaluation that were `trained` on in a run."""
    if known := len(set(trained).intersection(held_back)):
        return [
            f"{known} of the {len(held_back)} valid and test tracks were trained on in {where}: "
            "expect less on unknown music"
        ]
    return []
