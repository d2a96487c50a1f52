"""The contract between the one who makes a model file and the one who uses it.

It stands as JSON in the file's metadata: labels, spectrogram, window, temperature, defaults for
the decision and a golden answer. This module reads and writes it and refuses what does not fit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from streamer.core.spectrogram import SpecError, SpectrogramSpec

CONTRACT = 1
"""The version of the metadata that this module reads."""

METADATA_KEY = "genre_stream"
"""The entry of `metadata_props` that holds the contract as JSON."""

PRECISIONS = ("float32", "float16", "int8", "static")
"""How a file keeps its weights; `static` computes with 8-bit integers, the others with float32."""


class ModelError(Exception):
    """A model file that cannot be used; the message is one sentence that names file and fault."""


@dataclass(frozen=True, slots=True)
class Golden:
    """A question whose answer is known: proof that file, runtime and preprocessing agree."""

    spectrogram_sha256: str
    """SHA-256 of `golden_spectrogram` as little-endian float32, in hexadecimal."""
    frames: int
    """Columns of the golden spectrogram."""
    logits: tuple[float, ...]
    """The network's answer to it, in the order of the labels."""
    contract_sha256: str | None = None
    """`ModelContract.digest` when the file was made; logits alone cannot tell swapped labels."""


@dataclass(frozen=True, slots=True)
class ModelContract:
    """Everything a user of the network must know, as it stands in the file's metadata."""

    name: str
    """What the model is called."""
    version: str
    """Its version, free text."""
    labels: tuple[str, ...]
    """Class names in the order of the logits."""
    not_music: str | None
    """The label that stands for anything but music, or None if the model has no such class."""
    spectrogram: SpectrogramSpec
    """The grid on which audio must be rendered."""
    window_frames: int
    """Columns the network was trained on; more are allowed."""
    min_frames: int
    """Fewest columns that give a useful answer."""
    temperature: float
    """Logits are divided by this before the softmax, which makes the probabilities calibrated."""
    decision: Mapping[str, float | str]
    """Defaults for the decision settings, by name."""
    training: Mapping[str, object]
    """Facts: `dataset`, `split`, `seed`, `metrics` and whatever else the trainer noted."""
    golden: Golden
    """A known answer, checked whenever the file is loaded."""
    precision: str = "float32"
    """One of `PRECISIONS`."""

    @property
    def window_seconds(self) -> float:
        """Seconds of audio that one window of `window_frames` columns covers."""
        return self.window_frames * self.spectrogram.hop_seconds

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides how logits are asked for and read, in hexadecimal."""
        facts = self.to_metadata()
        for field in ("name", "version", "training", "golden", "precision"):
            del facts[field]
        facts["spectrogram"] = spec_key(self.spectrogram)
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_metadata(self) -> dict[str, Any]:
        """Return the contract as the JSON object that stands in the file."""
        golden: dict[str, Any] = {
            "spectrogram_sha256": self.golden.spectrogram_sha256,
            "frames": self.golden.frames,
            "logits": list(self.golden.logits),
        }
        if self.golden.contract_sha256 is not None:
            golden["contract_sha256"] = self.golden.contract_sha256
        return {
            "contract": CONTRACT,
            "name": self.name,
            "version": self.version,
            "labels": list(self.labels),
            "not_music": self.not_music,
            "spectrogram": self.spectrogram.to_dict(),
            "window_frames": self.window_frames,
            "min_frames": self.min_frames,
            "temperature": self.temperature,
            "decision": dict(self.decision),
            "training": dict(self.training),
            "golden": golden,
            "precision": self.precision,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> ModelContract:
        """Make a contract from the JSON object that stands in a file.

        Fields that this version does not know are ignored.

        Raises
        ------
        ModelError
            If the contract is newer, or a field is missing, of the wrong type or out of range.
            The message names the field and its value, but not the file.
        """
        fields = _Fields(metadata, "")
        version = fields.whole("contract")
        if version > CONTRACT:
            raise ModelError(
                f"contract {version} is newer than contract {CONTRACT}, the last one that this "
                "program knows: upgrade genre-stream"
            )
        try:
            spec = SpectrogramSpec.from_dict(fields.mapping("spectrogram").values)
        except SpecError as error:
            raise ModelError(str(error)) from None
        except OverflowError:
            raise ModelError("spectrogram holds a number that is too large") from None
        labels = fields.labels("labels")
        window_frames, min_frames = fields.whole("window_frames"), fields.whole("min_frames")
        if min_frames > window_frames:
            fields.refuse("min_frames", f"must be at most window_frames {window_frames}")
        return cls(
            name=fields.text("name"),
            version=fields.text("version"),
            labels=labels,
            not_music=fields.choice("not_music", (*labels, None)),
            spectrogram=spec,
            window_frames=window_frames,
            min_frames=min_frames,
            temperature=fields.between("temperature", 0.01, 100),
            decision=fields.mapping("decision").settings(),
            training=_training(fields.mapping("training")),
            golden=_golden(fields.mapping("golden"), len(labels), min_frames),
            precision=(
                fields.choice("precision", PRECISIONS) if "precision" in metadata else "float32"
            ),
        )


class _Fields:
    """Reads typed fields of a JSON object and refuses, by name, whatever does not fit."""

    def __init__(self, values: Mapping[str, object], path: str) -> None:
        self.values = values
        self._path = path

    def refuse(self, name: str, rule: str) -> NoReturn:
        value = repr(self.values[name])
        shown = value if len(value) <= 60 else value[:57] + "..."
        raise ModelError(f"{self._path}{name} {rule}, not {shown}")

    def _get(self, name: str) -> Any:
        if name not in self.values:
            raise ModelError(f"{self._path}{name} is missing")
        return self.values[name]

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str) or not value:
            self.refuse(name, "must be a text")
        return str(value)

    def whole(self, name: str, smallest: int = 1, largest: int = 100_000) -> int:
        value = self._get(name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not smallest <= value <= largest:
            self.refuse(name, f"must be a whole number from {smallest} to {largest}")
        return int(value)

    def between(self, name: str, smallest: float, largest: float) -> float:
        value = self._get(name)
        if not _is_number(value) or not smallest <= value <= largest:
            self.refuse(name, f"must be a number from {smallest:g} to {largest:g}")
        return float(value)

    def choice(self, name: str, allowed: tuple[str | None, ...]) -> Any:
        value = self._get(name)
        if value not in allowed:
            names = ", ".join("null" if choice is None else choice for choice in allowed)
            self.refuse(name, f"must be one of {names}")
        return value

    def labels(self, name: str) -> tuple[str, ...]:
        value = self._get(name)
        if (
            not isinstance(value, list)
            or len(value) < 2
            or not all(isinstance(label, str) and label for label in value)
            or len(set(value)) < len(value)
        ):
            self.refuse(name, "must be a list of two or more different names")
        return tuple(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        value = self._get(name)
        if not isinstance(value, list) or len(value) != count or not all(map(_is_number, value)):
            self.refuse(name, f"must be a list of {count} finite numbers")
        return tuple(float(number) for number in value)

    def sha256(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
            self.refuse(name, "must be 64 hexadecimal digits")
        return str(value)

    def mapping(self, name: str) -> _Fields:
        value = self._get(name)
        if not isinstance(value, Mapping):
            self.refuse(name, "must be an object")
        return _Fields(value, f"{self._path}{name}.")

    def settings(self) -> dict[str, float | str]:
        settings: dict[str, float | str] = {}
        for name, value in self.values.items():
            if not isinstance(value, str) and not _is_number(value):
                self.refuse(name, "must be a number or a text")
            settings[name] = value  # type: ignore[assignment]
        return settings


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _training(fields: _Fields) -> dict[str, object]:
    fields.text("dataset")
    fields.text("split")
    fields.whole("seed", 0, 2**63)
    fields.mapping("metrics")
    return dict(fields.values)


def _golden(fields: _Fields, classes: int, min_frames: int) -> Golden:
    frames = fields.whole("frames")
    if frames < min_frames:
        fields.refuse("frames", f"must be at least min_frames {min_frames}")
    return Golden(
        spectrogram_sha256=fields.sha256("spectrogram_sha256"),
        frames=frames,
        logits=fields.numbers("logits", classes),
        contract_sha256=(
            fields.sha256("contract_sha256") if "contract_sha256" in fields.values else None
        ),
    )


def spec_key(spec: SpectrogramSpec) -> list[float]:
    """Return the spec as numbers in a fixed order; equal specs give equal keys."""
    return [float(value) for _, value in sorted(spec.to_dict().items())]
