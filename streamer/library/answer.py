"""What is playing in a file as a whole: from the decisions of a replay to one answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from streamer.core.decision import Decision, Segment, State
from streamer.core.labels import LabelMap
from streamer.core.pipeline import Pipeline
from streamer.engine.replay import events
from streamer.sources import SourceError
from streamer.system.console import strip_control_characters

WRITTEN, WOULD_WRITE, KEPT = "written", "would be written", "kept"
"""What was done about a tag: KEPT if the file has a genre already."""

FILE_CONFIDENCE = 0.55
"""Share of `min_confidence` that the mean over a file must reach. A mean over many decisions errs
less than one of them does, so it need not be as high; found on the valid tracks of GTZAN: see
trainer/EXPERIMENTS.md."""


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """What one file is."""

    path: str
    size: int | None = None
    """Bytes; None if the file could not be read."""
    modified_ns: int | None = None
    """When it was last changed, in nanoseconds since 1970."""
    seconds: float | None = None
    """Its length; None if it could not be decoded."""
    genre: str | None = None
    """The label with the highest mean probability over all decisions outside of silence, weighted
    by their hops; None if that is not music, or less than `FILE_CONFIDENCE` of the probability from
    which a decision claims a genre."""
    confidence: float | None = None
    """That mean probability; None without a genre."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Label or "silence" or "uncertain" to its share of the seconds; they sum to 1."""
    segments: tuple[Mapping[str, object], ...] = ()
    """`start`, `end`, `state`, `genre` and `confidence` of each stretch."""
    tag: str = ""
    """What was done about the tag with the genre: WRITTEN, WOULD_WRITE, KEPT, or nothing."""
    problem: str = ""
    """What is wrong with the file; empty if nothing is."""
    failed: bool = False
    """Whether something that was asked for could not be done."""


def share_names(names: LabelMap) -> tuple[str, ...]:
    """Return the keys of `FileAnswer.shares`, in their order."""
    return (*names.labels, State.SILENCE.value, State.UNCERTAIN.value)


def analyse(path: str, names: LabelMap, pipeline: Pipeline, min_confidence: float) -> FileAnswer:
    """Return what a file is, by the decisions of a new pipeline about it; see `streamer.replay`.

    `names` and `min_confidence` are those of the pipeline's decisions.
    """
    answer = FileAnswer(path)
    try:
        status = Path(path).stat()
        answer = replace(answer, size=status.st_size, modified_ns=status.st_mtime_ns)
        with _warnings() as warnings:
            answer = _analyse(answer, names, pipeline, min_confidence)
    except SourceError as error:
        return replace(answer, problem=_without_path(path, str(error)), failed=True)
    except OSError as error:
        return replace(answer, problem=(error.strerror or str(error)).lower(), failed=True)
    return replace(answer, problem="; ".join(_without_path(path, text) for text in warnings))


def _analyse(
    answer: FileAnswer, names: LabelMap, pipeline: Pipeline, min_confidence: float
) -> FileAnswer:
    heard: list[Decision] = []
    segments: list[Segment] = []
    # An absolute path is never taken for a URL, "demo" or standard input.
    for event in events(Path(answer.path).absolute(), pipeline):
        if isinstance(event, Decision) and event.state is not State.SILENCE:
            heard.append(event)
        elif isinstance(event, Segment) and event.final:
            segments.append(event)
    seconds = dict.fromkeys(share_names(names), 0.0)
    for segment in segments:
        is_not_music = segment.state is State.NOT_MUSIC
        label = names.not_music if is_not_music else segment.genre or segment.state.value
        seconds[str(label)] += (segment.end or 0.0) - segment.start
    total = sum(seconds.values())
    genre, confidence = _genre(heard, names, FILE_CONFIDENCE * min_confidence)
    return replace(
        answer,
        seconds=pipeline.position,
        genre=genre,
        confidence=confidence,
        shares={name: part / total if total else 0.0 for name, part in seconds.items()},
        segments=tuple(_as_mapping(segment) for segment in segments),
    )


def _genre(
    heard: Sequence[Decision], names: LabelMap, least: float
) -> tuple[str | None, float | None]:
    """Return the label with the highest mean probability if it may be claimed, and that mean."""
    if not heard:
        return None, None
    probabilities = np.array([list(decision.probabilities.values()) for decision in heard])
    means = np.average(probabilities, axis=0, weights=[decision.hop_seconds for decision in heard])
    best = int(means.argmax())
    label = names.labels[best]
    if label == names.not_music or best in names.dropped or means[best] < least:
        return None, None
    return label, float(means[best])


def _as_mapping(segment: Segment) -> dict[str, object]:
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end or 0.0, 3),
        "state": segment.state.value,
        "genre": segment.genre,
        "confidence": round(segment.confidence, 4),
    }


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what the sources log about a file within the block, such as that its end is missing.

    A message about a file that was read before by this process is not logged again.
    """
    collector = _Collector(logging.WARNING)
    log = logging.getLogger("streamer.sources")
    log.addHandler(collector)
    try:
        yield collector.messages
    finally:
        log.removeHandler(collector)


class _Collector(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _without_path(path: str, message: str) -> str:
    # Sources tell errors in one line, without control characters.
    shown = strip_control_characters(" ".join(str(Path(path).absolute()).split()))
    line = strip_control_characters(" ".join(message.split()))
    return line.removeprefix(shown).lstrip(": ")
