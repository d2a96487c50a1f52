"""One file of a scan: a plain function of a file and options, for a process or a Ray task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from streamer.core.arithmetic import Choice
from streamer.core.decision_settings import DecisionSettings, Effort
from streamer.core.model import DEFAULT_MODEL, Classifier
from streamer.core.pipeline import Pipeline
from streamer.library.answer import KEPT, WOULD_WRITE, WRITTEN, FileAnswer, analyse

NO_TAG = "its tag is not written"
"""Beginning of the problem of a file whose tag could not be written."""


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How the files of a scan are analysed, and what is done about their tags."""

    model: Path | None
    """None for the embedded one."""
    hop_seconds: float
    labels: Mapping[str, str | bool] = field(default_factory=dict)
    """As in `Classifier.load`."""
    decision: DecisionSettings | None = None
    """How decisions are made; None for the model's own settings."""
    arithmetic: Choice = "auto"
    """As in `Classifier.load`; named, so that all processes give the same answers."""
    effort: Effort = "full"
    """As in `Pipeline`."""
    write_tags: bool = False
    overwrite: bool = False
    """Whether a genre that is there is replaced."""
    dry_run: bool = False
    """Whether tags are only said to be written."""


@dataclass(frozen=True, slots=True)
class Job:
    """A file to be analysed."""

    path: str
    known: FileAnswer | None = None
    """The answer of an earlier scan, if only the tag is still to be written."""


def is_tagged(answer: FileAnswer, options: ScanOptions) -> bool:
    """Return whether an earlier scan has done about the tag of a file what is asked for."""
    if options.overwrite and answer.tag == KEPT:
        return False
    return answer.tag in (WRITTEN, KEPT) or (options.dry_run and answer.tag == WOULD_WRITE)


class Labeller:
    """Does the jobs of a scan, with a model that is loaded once.

    `ModelError`, `LabelError` or `DecisionSettingsError` are raised if the options cannot be used.
    """

    def __init__(self, options: ScanOptions) -> None:
        self._options = options
        self.classifier = Classifier.load(
            options.model or DEFAULT_MODEL, labels=options.labels, arithmetic=options.arithmetic
        )
        own = self.classifier.contract.decision
        self._settings = options.decision or DecisionSettings.from_mapping(own)

    def label(self, job: Job) -> FileAnswer:
        """Return what a file is; every error is in the answer, so that the others are done."""
        options = self._options
        try:
            answer = job.known or self._analyse(job.path)
            if options.write_tags and answer.genre:
                return _with_tag(answer, answer.genre, options)
        except Exception as error:  # a defect of ours must not end a scan of a million files
            problem = f"unexpected {type(error).__name__}: {error}"
            return FileAnswer(job.path, problem=problem, failed=True)
        return answer

    def _analyse(self, path: str) -> FileAnswer:
        names, least = self.classifier.names, self._settings.min_confidence
        return analyse(path, names, self._pipeline(), least)

    def _pipeline(self) -> Pipeline:
        options = self._options
        return Pipeline(
            self.classifier,
            settings=self._settings,
            hop_seconds=options.hop_seconds,
            effort=options.effort,
        )


def _with_tag(answer: FileAnswer, genre: str, options: ScanOptions) -> FileAnswer:
    # Imported here, as it needs the extra `tags`.
    from streamer.library.tags import TagError, write_genre

    problems = [each for each in answer.problem.split("; ") if not each.startswith(NO_TAG)]
    try:
        tag = write_genre(answer.path, genre, overwrite=options.overwrite, dry_run=options.dry_run)
    except TagError as error:
        problem = "; ".join(filter(None, (*problems, f"{NO_TAG}: {error}")))
        return replace(answer, tag="", problem=problem, failed=True)
    status = Path(answer.path).stat()
    problem = "; ".join(problems)
    return replace(
        answer, tag=tag, problem=problem, size=status.st_size, modified_ns=status.st_mtime_ns
    )
