"""The contract of a model file: what a program must know to use the network.

It stands as JSON in the file's metadata: labels, spectrogram, window, temperature, defaults for
the decision settings and a golden answer. This module reads, validates and writes it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, TypeAdapter, ValidationError

from streamer.core.arithmetic import Arithmetic
from streamer.core.spectrogram import SpecError, SpectrogramSpec

CONTRACT = 2
"""The newest version of the metadata that this module reads. Version 1 has one network, which sees
the spectrogram; version 2 adds one that hears the audio."""

METADATA_KEY = "genre_stream"
"""The entry of `metadata_props` that holds the contract as JSON."""

SECOND_NETWORK = ("audio", "fusion")
"""Fields of version 2 alone."""

PRECISIONS = ("float32", "float16", "int8", "static")
"""How a file keeps its weights. `static` has quantised activations too, so that it can be computed
with 8-bit integers; the others are computed in float32."""


class ModelError(Exception):
    """A model file that cannot be used; the message is one sentence that names file and fault."""


def _different_names(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ValueError("must be a list of two or more different names")
    return labels


def _known_precision(precision: str) -> str:
    if precision not in PRECISIONS:
        raise ValueError(f"must be one of {', '.join(PRECISIONS)}")
    return precision


def _sha256(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value
    raise ValueError("must be 64 hexadecimal digits")


def _number_or_text(value: Any) -> Any:
    # Integers stay integers: the digest of the contract depends on how they are written.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, str) or (is_number and abs(value) <= sys.float_info.max):
        return value
    raise ValueError("must be a number or a text")


def _spec(value: object) -> SpectrogramSpec:
    if not isinstance(value, Mapping):
        raise ValueError("must be an object")
    try:
        return SpectrogramSpec.from_dict(value)
    except SpecError as error:
        raise ModelError(str(error)) from None
    except OverflowError:
        raise ModelError("spectrogram holds a number that is too large") from None


Text = Annotated[str, Field(strict=True, min_length=1)]
Count = Annotated[int, Field(strict=True, ge=1, le=100_000)]
Samples = Annotated[int, Field(strict=True, ge=1, le=100_000_000)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=60)]
Weight = Annotated[float, Field(strict=True, ge=0, le=100)]
Logit = Annotated[float, Field(strict=True, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Golden:
    """A spectrogram and its logits, by which graph, runtime and preprocessing are checked."""

    spectrogram_sha256: Annotated[str, PlainValidator(_sha256)]
    """SHA-256 of `golden_spectrogram` as little-endian float32, in hexadecimal."""
    frames: Count
    """Columns of the golden spectrogram."""
    logits: tuple[Logit, ...]
    """The network's output for it, in the order of the labels."""
    contract_sha256: Annotated[str | None, PlainValidator(_sha256)] = None
    """`ModelContract.digest` when the file was made; logits alone cannot tell swapped labels."""
    audio_sha256: Annotated[str | None, PlainValidator(_sha256)] = None
    """SHA-256 of `golden_audio`, likewise; None without a second network."""
    audio_samples: Samples | None = None
    """Samples of the golden audio."""
    tolerance: Annotated[float | None, Field(strict=True, gt=0, le=100)] = None
    """Of a file with quantised activations, the largest difference allowed in a logit where it is
    computed with 8-bit integers; `logits` are those in float32. None: `logits` are those of
    integers, and the file is computed with them alone."""


@dataclass(frozen=True, slots=True)
class AudioInput:
    """The audio that a second network hears: mono, full scale at 1."""

    sample_rate: Annotated[int, Field(strict=True, ge=1000, le=192_000)]
    """Hz."""
    seconds: Seconds
    """The last seconds before a decision that the network is given."""
    min_seconds: Seconds
    """Fewest seconds that give an answer."""

    @property
    def samples(self) -> int:
        """Samples in `seconds`."""
        return round(self.seconds * self.sample_rate)

    @property
    def min_samples(self) -> int:
        """Samples in `min_seconds`."""
        return round(self.min_seconds * self.sample_rate)


@dataclass(frozen=True, slots=True)
class Fusion:
    """How the answers of both networks become one: a weighted sum of their logits."""

    spectrogram_weight: Weight
    audio_weight: Weight
    tagger: Text
    """Name of the second network."""
    tags: Annotated[tuple[Text, ...], AfterValidator(_different_names)]
    """Names of what it recognises, in the order of its output."""


@dataclass(frozen=True, slots=True)
class ModelContract:
    """What a model file says about its network.

    The annotations are checked by `from_metadata` only.
    """

    name: Text
    version: Text
    labels: Annotated[tuple[Text, ...], AfterValidator(_different_names)]
    """Class names in the order of the logits."""
    not_music: str | None
    """The label that stands for anything but music, or None if the model has no such class."""
    spectrogram: Annotated[SpectrogramSpec, PlainValidator(_spec)]
    """The grid on which audio must be rendered."""
    window_frames: Count
    """Columns the network was trained on; more are allowed."""
    min_frames: Count
    """Fewest columns that give a useful answer."""
    temperature: Annotated[float, Field(strict=True, ge=0.01, le=100)]
    """Logits are divided by this before the softmax, which makes the probabilities calibrated."""
    decision: Mapping[str, Annotated[float | str, PlainValidator(_number_or_text)]]
    """Defaults for the decision settings, by name."""
    training: Mapping[str, object]
    """`dataset`, `split`, `seed`, `metrics` and whatever else the trainer noted."""
    golden: Golden
    """A known answer, checked whenever the file is loaded."""
    precision: Annotated[str, AfterValidator(_known_precision)] = "float32"
    """One of `PRECISIONS`."""
    audio: AudioInput | None = None
    """What the second network hears; None if the file has none."""
    fusion: Fusion | None = None
    """How both answers become one; None without a second network."""

    @property
    def contract_version(self) -> int:
        """2 with a second network, else 1."""
        return 1 if self.audio is None else 2

    @property
    def arithmetics(self) -> tuple[Arithmetic, ...]:
        """The numbers that the network can be computed with."""
        if self.precision != "static":
            return ("float32",)
        return ("int8",) if self.golden.tolerance is None else ("float32", "int8")

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
        facts = dataclasses.asdict(self)
        for name in ("contract_sha256", "audio_sha256", "audio_samples", "tolerance"):
            if facts["golden"][name] is None:
                del facts["golden"][name]
        if self.audio is None:
            del facts["audio"], facts["fusion"]
        return {"contract": self.contract_version, **facts}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> ModelContract:
        """Make a contract from the JSON object that stands in a file; ignore unknown fields.

        Raises
        ------
        ModelError
            If the contract is newer, or a field is missing, of the wrong type or out of range.
            The message names the field and its value, but not the file.
        """
        version = _validated(_Version, metadata).contract
        if version > CONTRACT:
            raise ModelError(
                f"contract {version} is newer than contract {CONTRACT}, the last one that this "
                "program knows: upgrade genre-stream"
            )
        if version == 1:
            metadata = {name: metadata[name] for name in metadata if name not in SECOND_NETWORK}
        contract: ModelContract = _validated(cls, metadata)
        _validated(_Training, contract.training, "training.")
        contract._check_consistency()
        if version > 1:
            contract._check_second_network()
        return contract

    def _check_consistency(self) -> None:
        labels, logits, frames = self.labels, self.golden.logits, self.golden.frames
        if self.not_music not in (*labels, None):
            raise _refusal("not_music", f"must be one of {', '.join(labels)}, null", self.not_music)
        if self.min_frames > self.window_frames:
            rule = f"must be at most window_frames {self.window_frames}"
            raise _refusal("min_frames", rule, self.min_frames)
        if frames < self.min_frames:
            rule = f"must be at least min_frames {self.min_frames}"
            raise _refusal("golden.frames", rule, frames)
        if len(logits) != len(labels):
            rule = f"must be a list of {len(labels)} finite numbers"
            raise _refusal("golden.logits", rule, list(logits))

    def _check_second_network(self) -> None:
        audio, fusion, golden = self.audio, self.fusion, self.golden
        for name, value in (
            ("audio", audio),
            ("fusion", fusion),
            ("golden.audio_sha256", golden.audio_sha256),
            ("golden.audio_samples", golden.audio_samples),
        ):
            if value is None:
                raise ModelError(f"{name} is missing")
        assert audio
        assert fusion
        assert golden.audio_samples
        if audio.min_seconds > audio.seconds:
            rule = f"must be at most audio.seconds {audio.seconds:g}"
            raise _refusal("audio.min_seconds", rule, audio.min_seconds)
        if golden.audio_samples < audio.min_samples:
            rule = f"must be at least the {audio.min_samples} of audio.min_seconds"
            raise _refusal("golden.audio_samples", rule, golden.audio_samples)
        if fusion.spectrogram_weight + fusion.audio_weight == 0:
            raise _refusal("fusion.audio_weight", "must be above 0 if the other weight is 0", 0)


@dataclass(frozen=True, slots=True)
class _Version:
    contract: Count


@dataclass(frozen=True, slots=True)
class _Training:
    dataset: Text
    split: Text
    seed: Annotated[int, Field(strict=True, ge=0, le=2**63)]
    metrics: Mapping[str, object]


def _validated(kind: type[Any], values: Mapping[str, object], path: str = "") -> Any:
    """Return `values` as an instance of the dataclass `kind`, ignoring unknown fields.

    Raises `ModelError` for the first field that does not fit; `path` goes before its name.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    field = path + ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        raise ModelError(f"{field} is missing")
    rule = _JSON_RULES.get(first["type"], first["msg"]).removeprefix("Value error, ")
    raise _refusal(field, re.sub(r"^(Input|String) should ", "must ", rule), first["input"])


_JSON_RULES = {
    "dataclass_type": "must be an object",
    "dict_type": "must be an object",
    "tuple_type": "must be a list",
}
"""Rules that pydantic words in terms of Python, by the type of its error."""


def _refusal(field: str, rule: str, value: object) -> ModelError:
    text = repr(value)
    return ModelError(f"{field} {rule}, not {text if len(text) <= 60 else text[:57] + '...'}")


def spec_key(spec: SpectrogramSpec) -> list[float]:
    """Return the spec as numbers in a fixed order; equal specs give equal keys."""
    return [float(value) for _, value in sorted(spec.to_dict().items())]
