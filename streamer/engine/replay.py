"""Decisions about a recording or a stream, as fast as it can be decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from streamer.core.decision import Decision, DecisionSettings
from streamer.core.decision_settings import Effort
from streamer.core.model import DEFAULT_MODEL, Classifier
from streamer.core.pipeline import Event, Pipeline
from streamer.sources import make_source


def replay(
    path_or_url: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | Classifier | None = None,
    settings: DecisionSettings | None = None,
    hop_seconds: float = 1.0,
    effort: Effort = "full",
) -> Iterator[Decision]:
    """Yield the decisions that the daemon would make about a recording, faster than real time.

    Parameters
    ----------
    path_or_url : str or path
        Anything that FFmpeg reads, a playlist, or "demo".
    model : path or Classifier, optional
        The model; by default the embedded one. Pass a `Classifier` to load it once for many
        recordings.
    settings : DecisionSettings, optional
        How decisions are made; by default as the model suggests.
    hop_seconds : float
        Seconds from one decision to the next.
    effort : "full" or "saving"
        Whether the network runs for every decision, or only where something may have changed.

    Yields
    ------
    Decision
        In the order of their positions, the same in every run.

    Raises
    ------
    ModelError
        If the model cannot be used.
    SourceError
        If the recording does not exist or cannot be decoded.

    Examples
    --------
    >>> import streamer
    >>> for decision in streamer.replay("demo"):
    ...     print(f"{decision.position:.0f} s: {decision.genre or decision.state}")
    ...     break
    3 s: ...
    """
    if not isinstance(model, Classifier):
        model = Classifier.load(DEFAULT_MODEL if model is None else Path(model))
    pipeline = Pipeline(model, settings=settings, hop_seconds=hop_seconds, effort=effort)
    for event in events(path_or_url, pipeline):
        if isinstance(event, Decision):
            yield event


def events(path_or_url: str | os.PathLike[str], pipeline: Pipeline) -> Iterator[Event]:
    """Yield all the events of a recording from a new pipeline; raises `SourceError`."""
    # With a name given, any "=" in the location belongs to the location.
    source = make_source(f"replay={os.fspath(path_or_url)}", fast=True)
    with closing(source.blocks()) as blocks:
        for block in blocks:
            yield from pipeline.feed(
                block.samples,
                block.sample_rate,
                title=block.title,
                discontinuity=block.discontinuity,
            )
    yield from pipeline.finish()
