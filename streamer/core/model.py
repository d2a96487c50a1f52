"""Loading, checking and running a model file.

A model file is one ONNX file. All preprocessing after the spectrogram is part of its graph; the
rest stands in its metadata (`streamer.core.contract`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from streamer.core.arithmetic import Arithmetic, Choice
from streamer.core.contract import METADATA_KEY, AudioInput, ModelContract, ModelError, spec_key
from streamer.core.labels import LabelMap
from streamer.core.runtime import MIN_GAIN, measure, open_session
from streamer.core.smoothing import softmax
from streamer.core.spectrogram import SpectrogramSpec, from_levels

__all__ = ["DEFAULT_MODEL", "Classifier", "ModelContract", "ModelError", "softmax"]

INPUT, OUTPUT = "spectrogram", "logits"
"""Names of the graph's input and output."""

AUDIO, TAGS = "audio", "tags"
"""Names of the second network's input and output."""

SPECTROGRAM_LOGITS, AUDIO_LOGITS = "spectrogram_logits", "audio_logits"
"""Names of the outputs that tell what each of two networks says alone."""

GOLDEN_TOLERANCE = 0.02
"""Largest difference allowed in a golden logit. A wrong spectrogram changes logits far more, the
rounding of another processor far less."""

DEFAULT_MODEL = Path(__file__).parents[1] / "models" / "gtzan.onnx"
"""The embedded model, used when none is named."""


def golden_spectrogram(spec: SpectrogramSpec, frames: int, seed: int = 0) -> NDArray[np.float32]:
    """Return the pseudo-random spectrogram with which model files of this grid are checked.

    The cells are picture levels drawn from SHAKE-256, which gives the same bytes on every machine
    and with every version of numpy. The draw depends on every field of the spec, so the check also
    fails for a file whose spec was changed after it was made. Model files use seed 0. Shape
    (1, n_mels, frames), dB in `[-top_db, 0]`.
    """
    key = json.dumps([seed, frames, *spec_key(spec)])
    drawn = hashlib.shake_256(key.encode()).digest(spec.n_mels * frames)
    levels = np.frombuffer(drawn, np.uint8).reshape(1, spec.n_mels, frames)
    return from_levels(levels, spec.top_db)


def golden_audio(audio: AudioInput, samples: int, seed: int = 0) -> NDArray[np.float32]:
    """Return the pseudo-random audio with which second networks are checked, shape (1, samples).

    Drawn as `golden_spectrogram` is, from seed 0 for model files. Noise of -17 dBFS that swells and
    fades, so that a tagger that hears levels or loudness over time answers it by more than one tag.
    """
    key = json.dumps([seed, samples, audio.sample_rate, audio.seconds, audio.min_seconds])
    drawn = np.frombuffer(hashlib.shake_256(key.encode()).digest(samples), np.uint8)
    swell = (1 + np.arange(samples) % audio.sample_rate / audio.sample_rate) / 2
    return np.asarray((drawn / 127.5 - 1) * swell / 3, np.float32)[None]


def content_digest(values: NDArray[np.float32]) -> str:
    """Return the SHA-256 of a golden input as little-endian float32, in hexadecimal."""
    return hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Answers:
    """What both networks say, alone and together; float32, shape (batch, classes)."""

    logits: NDArray[np.float32]
    """Of both."""
    spectrogram_logits: NDArray[np.float32]
    """Of the network that sees the spectrogram."""
    audio_logits: NDArray[np.float32]
    """Of the network that hears the audio."""
    tags: NDArray[np.float32]
    """Probabilities of `fusion.tags`, shape (batch, tags)."""


@dataclass(frozen=True, slots=True)
class _File:
    """A state of a file, and the threads that it is to be used with."""

    path: Path
    changed: int
    size: int
    threads: int


_chosen: dict[_File, tuple[Arithmetic, Mapping[Arithmetic, float]]] = {}
"""What was found to be faster, and how fast both are."""


class Classifier:
    """A network that classifies spectrograms by genre, and its contract.

    Made by `Classifier.load`. One instance may be used from any number of threads.
    """

    arithmetic: Arithmetic = "float32"
    """The numbers that it computes with."""
    milliseconds: Mapping[Arithmetic, float] = MappingProxyType({})
    """Processor time of a prediction with each, where both were measured to choose one."""
    inference_seconds = 0.0
    """Processor time of a prediction, as measured on loading."""
    _names: LabelMap | None = None

    def __init__(self, session: onnxruntime.InferenceSession, contract: ModelContract) -> None:
        self._session = session
        self.contract = contract

    @property
    def names(self) -> LabelMap:
        """What decisions call the labels."""
        return self._names or LabelMap(self.contract.labels, self.contract.not_music, {})

    @classmethod
    def load(
        cls,
        path: Path = DEFAULT_MODEL,
        *,
        threads: int = 1,
        labels: Mapping[str, str | bool] | None = None,
        arithmetic: Choice = "auto",
    ) -> Classifier:
        """Load a model file, check its contract and its golden answer.

        Parameters
        ----------
        path : Path
            The `.onnx` file.
        threads : int
            Threads within one inference. Concurrent calls do not share them.
        labels : mapping, optional
            Names of one's own for the model's labels, as in `LabelMap`: they are what a `Pipeline`
            decides about. `predict` and `contract` have the model's labels all the same.
        arithmetic : {"auto", "int8", "float32"}
            Numbers to compute with, for a file with quantised activations. Their answers differ
            slightly. Unless told, it is measured once per file and process whether 8-bit integers
            are faster on this processor by a fifth at least; then they are used. Name one to get
            the same answers on every machine.

        Raises
        ------
        LabelError
            If `labels` does not fit the model.
        ModelError
            If the file cannot be read, is not a model of this contract, gives another golden
            answer than when it was made, or cannot be computed with the named numbers.
        ValueError
            If `threads` is less than 1, or `arithmetic` is none of the three.
        """
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        if arithmetic not in get_args(Choice):
            raise ValueError(f"arithmetic must be auto, int8 or float32, not {arithmetic!r}")
        path = Path(path)
        try:
            state = _check_readable(path)
            file = _File(path, state.st_mtime_ns, state.st_size, threads)
            classifier = cls._choose(file, arithmetic)
        except ModelError as error:
            raise ModelError(f"model {path} {error}") from None
        contract = classifier.contract
        classifier._names = LabelMap(contract.labels, contract.not_music, labels or {})
        return classifier

    @classmethod
    def _choose(cls, file: _File, choice: Choice) -> Classifier:
        """Load with the chosen arithmetic, and check the golden answer."""
        known = _chosen.get(file) if choice == "auto" else None
        if known:
            choice = known[0]
        opened = cls._open(file, "int8" if choice == "int8" else "float32")
        available = opened.contract.arithmetics
        if choice not in ("auto", *available):
            raise ModelError(
                f"can be computed in {available[0]} alone, not in {choice}: leave arithmetic at "
                "auto, or export it again"
            )
        if choice == "auto" and len(available) > 1:
            opened._check_golden()
            opened = opened._or_with_integers(file)
            _chosen[file] = opened.arithmetic, opened.milliseconds
            return opened
        wanted = available[0] if choice == "auto" else choice
        if opened.arithmetic != wanted:
            opened = cls._open(file, wanted)
        opened._check_golden()
        if known:
            opened._take_times(known[1])
        return opened

    @classmethod
    def _open(cls, file: _File, arithmetic: Arithmetic) -> Classifier:
        session = _open_session(file, arithmetic)
        opened = cls(session, _read_contract(session))
        opened.arithmetic = arithmetic
        return opened

    def _or_with_integers(self, file: _File) -> Classifier:
        """Return the same model computed with integers if they are faster here, else this one."""
        integers = self._open(file, "int8")
        try:
            integers._check_golden()
        except ModelError:
            # Without instructions for them, products of 8-bit integers may overflow.
            return self
        inputs = self._golden_inputs()
        both = {each.arithmetic: each for each in (self, integers)}
        milliseconds = measure({name: partial(each.logits, *inputs) for name, each in both.items()})
        faster = milliseconds["float32"] / milliseconds["int8"] >= MIN_GAIN
        chosen = integers if faster else self
        chosen._take_times(milliseconds)
        return chosen

    def _take_times(self, milliseconds: Mapping[Arithmetic, float]) -> None:
        self.milliseconds = milliseconds
        self.inference_seconds = milliseconds[self.arithmetic] / 1000

    def logits(
        self, spectrograms: NDArray[np.float32], audio: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the logits of the model.

        Parameters
        ----------
        spectrograms : float32, shape (batch, n_mels, frames)
            dB relative to each window's loudest cell, in `[-top_db, 0]`, row 0 the lowest band;
            see `streamer.core.spectrogram.relative_to_peak`, which is not applied here.
        audio : float32, shape (batch, samples), optional
            For a model with a second network: mono at `contract.audio.sample_rate`, full scale 1.
            Without it the answer is that of the network that sees the spectrogram, alone.

        Returns
        -------
        float32, shape (batch, classes)

        Raises
        ------
        ValueError
            If a shape does not fit the model or the other input, there are fewer than `min_frames`
            columns or `audio.min_seconds` of audio, or the model takes no audio.
        """
        if audio is not None or self.contract.audio is None:
            return self._run([OUTPUT], spectrograms, audio)[0]
        return self._run([SPECTROGRAM_LOGITS], spectrograms, audio)[0]

    def predict(
        self, spectrograms: NDArray[np.float32], audio: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return calibrated probabilities, `softmax(logits / temperature)`.

        Takes, returns and raises what `logits` does; rows sum to 1.
        """
        return softmax(self.logits(spectrograms, audio), self.contract.temperature)

    def answers(self, spectrograms: NDArray[np.float32], audio: NDArray[np.float32]) -> Answers:
        """Return what both networks of a model say, alone and together; see `logits`."""
        names = [OUTPUT, SPECTROGRAM_LOGITS, AUDIO_LOGITS, TAGS]
        return Answers(*self._run(names, spectrograms, audio))

    def _run(
        self,
        outputs: list[str],
        spectrograms: NDArray[np.float32],
        audio: NDArray[np.float32] | None,
    ) -> list[NDArray[np.float32]]:
        bands, fewest = self.contract.spectrogram.n_mels, self.contract.min_frames
        shape = spectrograms.shape
        if len(shape) != 3 or shape[1] != bands or shape[2] < fewest:
            raise ValueError(
                f"spectrograms must have shape (batch, {bands}, {fewest} or more), not {shape}"
            )
        inputs = {INPUT: np.ascontiguousarray(spectrograms, np.float32)}
        if wanted := self.contract.audio:
            if audio is None:
                # onnxruntime computes the whole graph, whatever the output: the shortest audio.
                audio = np.zeros((shape[0], wanted.min_samples), np.float32)
            if audio.ndim != 2 or len(audio) != shape[0] or audio.shape[1] < wanted.min_samples:
                raise ValueError(
                    f"audio must have shape ({shape[0]}, {wanted.min_samples} or more), not "
                    f"{audio.shape}"
                )
            inputs[AUDIO] = np.ascontiguousarray(audio, np.float32)
        elif audio is not None:
            raise ValueError("the model has no network that takes audio")
        answers = self._session.run(outputs, inputs)
        return [np.asarray(answer, np.float32) for answer in answers]

    def _golden_inputs(self) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        contract, golden = self.contract, self.contract.golden
        spectrogram = golden_spectrogram(contract.spectrogram, golden.frames)
        if content_digest(spectrogram) != golden.spectrogram_sha256:
            raise ModelError(
                "does not recognise its golden spectrogram: its spectrogram settings were changed "
                "after it was exported; export it again"
            )
        audio = None
        if contract.audio and golden.audio_samples:
            audio = golden_audio(contract.audio, golden.audio_samples)
            if content_digest(audio) != golden.audio_sha256:
                raise ModelError(
                    "does not recognise its golden audio: its audio settings were changed after it "
                    "was exported; export it again"
                )
        return spectrogram, audio

    def _check_golden(self) -> None:
        golden = self.contract.golden
        inputs = self._golden_inputs()
        if golden.contract_sha256 not in (None, self.contract.digest):
            raise ModelError(
                "has labels or settings that were changed after it was exported; export it again"
            )
        before = time.process_time()
        try:
            answer = self.logits(*inputs)
        except Exception as error:  # onnxruntime's errors share no base class
            raise ModelError(f"fails on its golden spectrogram: {_one_line(error)}") from None
        self.inference_seconds = time.process_time() - before
        if answer.shape != (1, len(golden.logits)):
            raise ModelError(f"answers with shape {answer.shape} for {len(golden.logits)} labels")
        if not np.isfinite(answer).all():
            raise ModelError("answers its golden spectrogram with NaN or infinity; export it again")
        difference = float(np.abs(answer[0] - golden.logits).max())
        allowed = GOLDEN_TOLERANCE
        if self.arithmetic == "int8" and golden.tolerance:
            allowed = golden.tolerance
        if difference > allowed:
            raise ModelError(
                f"gives another answer to its golden spectrogram than when it was exported (a "
                f"logit differs by {difference:.3g}, {allowed:g} is allowed): its graph "
                "was changed or this onnxruntime computes it differently; export it again"
            )


def _check_readable(path: Path) -> os.stat_result:
    """Return the state of a file; raise a ModelError if it can be no model file."""
    try:
        if path.is_dir():
            raise ModelError("is a folder: name the .onnx file")
        if path.exists() and not path.is_file():
            raise ModelError("is not a regular file: name the .onnx file")
        with path.open("rb") as file:
            if not file.read(1):
                raise ModelError("is an empty file: copy or export it again")
        return path.stat()
    except OSError as error:
        raise ModelError(
            f"cannot be read ({error.strerror}): check the path and its permissions"
        ) from None


def _open_session(file: _File, arithmetic: Arithmetic) -> onnxruntime.InferenceSession:
    try:
        return open_session(file.path, file.threads, arithmetic)
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelError(_load_fault(file.path, error)) from None


def _load_fault(path: Path, error: Exception) -> str:
    kind, reason = type(error).__name__, _one_line(error)
    if kind == "InvalidProtobuf":
        with path.open("rb") as file:
            # ONNX files begin with the tag of `ir_version`.
            if file.read(1) != b"\x08":
                return "is not an ONNX file"
        return "is damaged or cut short: copy or export it again"
    runtime = f"onnxruntime {onnxruntime.__version__}"
    for pattern, fault in (
        ("No graph was found", "is cut short and holds no graph: copy or export it again"),
        (
            "External data|cannot get file size",  # the latter by onnxruntime 1.20
            "keeps its weights in another file: export it as one file",
        ),
        ("not a registered func|No opset import", f"uses operators that {runtime} does not have"),
        ("opset|IR version", f"is written in another dialect of ONNX than {runtime} reads"),
    ):
        if re.search(pattern, reason):
            return f"{fault} ({reason})"
    return f"has a graph that {runtime} cannot run ({reason})"


def _one_line(error: Exception) -> str:
    """Return onnxruntime's message without error numbers and source locations."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from .*? failed:", "", text)
    text = re.sub(r"/onnxruntime_src/.*?\) (?=[A-Z])", "", text)
    return text if len(text) <= 200 else text[:197] + "..."


def _read_contract(session: onnxruntime.InferenceSession) -> ModelContract:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ModelError("carries no genre_stream contract: make it with genre-export")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelError("has a contract that is not JSON; export it again") from None
    if not isinstance(metadata, dict):
        raise ModelError("has a contract that is not a JSON object; export it again")
    try:
        contract = ModelContract.from_metadata(metadata)
    except ModelError as error:
        raise ModelError(f"has a contract that cannot be used: {error}") from None
    _check_signature(session, contract)
    return contract


def _check_signature(session: onnxruntime.InferenceSession, contract: ModelContract) -> None:
    bands, classes = contract.spectrogram.n_mels, len(contract.labels)
    inputs = {INPUT: ["any", bands, "any"]}
    outputs = {OUTPUT: ["any", classes]}
    if contract.fusion:
        inputs[AUDIO] = ["any", "any"]
        outputs[SPECTROGRAM_LOGITS] = outputs[AUDIO_LOGITS] = outputs[OUTPUT]
        outputs[TAGS] = ["any", len(contract.fusion.tags)]
    for kind, nodes, wanted in (
        ("input", session.get_inputs(), inputs),
        ("output", session.get_outputs(), outputs),
    ):
        names = [node.name for node in nodes]
        if set(names) != set(wanted) or len(names) != len(wanted):
            called = " and ".join(wanted)
            number = "one" if len(wanted) == 1 else str(len(wanted))
            plural = "" if len(wanted) == 1 else "s"
            raise ModelError(
                f"must have {number} {kind}{plural} called {called}, not "
                f"{', '.join(names) or 'none'}"
            )
        for node in nodes:
            shape = list(node.shape or [])
            fixed = [length if isinstance(length, int) else "any" for length in shape]
            if node.type != "tensor(float)" or fixed != wanted[node.name]:
                raise ModelError(
                    f"has an {kind} {node.name} of {node.type} {shape}; its contract asks for "
                    f"tensor(float) [{', '.join(map(str, wanted[node.name]))}]"
                )
