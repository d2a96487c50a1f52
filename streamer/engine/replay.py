"""A recording or a stream as decisions, as fast as it can be decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from streamer.core.decision import Decision, DecisionSettings
from streamer.core.model import DEFAULT_MODEL, Classifier
from streamer.core.pipeline import Event, Pipeline
from streamer.sources import AudioBlock, Source, SourceEnded, make_source

READ_SECONDS = 1.0
"""How long one look for the next block may take; a source that is broken says so itself."""


def replay(
    path_or_url: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | Classifier | None = None,
    settings: DecisionSettings | None = None,
    hop_seconds: float = 1.0,
) -> Iterator[Decision]:
    """Decide about a recording as the daemon would, without waiting for it to be played.

    Parameters
    ----------
    path_or_url : str or path
        Anything that FFmpeg reads, a playlist, or "demo".
    model : path or Classifier, optional
        The model; by default the embedded one. A `Classifier` is loaded once for many recordings.
    settings : DecisionSettings, optional
        How decisions are made; by default as the model suggests.
    hop_seconds : float
        Seconds from one decision to the next.

    Yields
    ------
    Decision
        In the order of their positions, the same in every run.

    Raises
    ------
    ModelError
        If the model cannot be used.
    SourceError
        If there is no such recording, or it cannot be decoded.

    Examples
    --------
    >>> import streamer
    >>> for decision in streamer.replay("demo"):
    ...     print(f"{decision.position:.0f} s: {decision.genre or decision.state}")
    ...     break
    3 s: ...
    """
    for event in events(path_or_url, model=model, settings=settings, hop_seconds=hop_seconds):
        if isinstance(event, Decision):
            yield event


def events(
    path_or_url: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | Classifier | None = None,
    settings: DecisionSettings | None = None,
    hop_seconds: float = 1.0,
) -> Iterator[Event]:
    """Yield all events of a recording: `replay` with segments.

    Takes and raises what `replay` does.
    """
    classifier = model if isinstance(model, Classifier) else _load(model)
    pipeline = Pipeline(classifier, settings=settings, hop_seconds=hop_seconds)
    # With a name given, whatever "=" the location holds belongs to it.
    source = make_source(f"replay={os.fspath(path_or_url)}", fast=True)
    for block in _blocks(source):
        yield from pipeline.feed(
            block.samples,
            block.sample_rate,
            title=block.title,
            discontinuity=block.discontinuity,
        )
    yield from pipeline.finish()


def _load(model: str | os.PathLike[str] | None) -> Classifier:
    return Classifier.load(DEFAULT_MODEL if model is None else Path(model))


def _blocks(source: Source) -> Iterator[AudioBlock]:
    """Yield what a source delivers, from its beginning to its end."""
    source.open()
    try:
        while True:
            block = source.read(READ_SECONDS)
            if block is not None:
                yield block
    except SourceEnded:
        return
    finally:
        source.close()
