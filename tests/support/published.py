"""Made-up events, and a server that publishes them.

To look at the dashboard without any music: ``python tests/support/published.py --port 8765``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from streamer.core.colours import colours
from streamer.core.decision import Decision
from streamer.core.events import (
    PlacedSegment,
    Published,
    Sink,
    SourceState,
    SourceStatus,
    SpectrogramColumns,
)
from streamer.core.health import SourceHealth
from streamer.core.segments import Segment, State
from streamer.core.spectrogram import SpectrogramSpec
from streamer.core.timeline import Timeline
from streamer.sinks.history.writer import History
from streamer.sinks.messages import message
from streamer.sinks.metrics import Metrics
from streamer.sinks.websocket.hub import Hub
from streamer.sinks.websocket.server import Server
from support.schema import check_frame

LABELS = (
    "blues",
    "classical",
    "country",
    "disco",
    "hiphop",
    "jazz",
    "metal",
    "pop",
    "reggae",
    "rock",
)
MODEL = {"name": "made-up", "version": "1", "arithmetic": "float32"}
MELS = 128


def hello(*sources: str) -> dict[str, Any]:
    """Return the hello message of a daemon with these sources."""
    return {
        "type": "hello",
        "protocol": 1,
        "server": "genre-stream test",
        "model": MODEL,
        "labels": list(LABELS),
        "colours": colours(LABELS),
        "window_seconds": 5.0,
        "hop_seconds": 1.0,
        "spectrogram": SpectrogramSpec(hop_length=1696).to_dict(),
        "sources": [
            {
                "name": name,
                "kind": "demo",
                "state": "live",
                "reason": "",
                "since": None,
                "next_attempt": None,
                "heard_until": None,
            }
            for name in sources
        ],
    }


def prediction(
    seq: int,
    source: str = "radio",
    *,
    time: datetime | str | None = None,
    latency_ms: float = 35.5,
    **changes: Any,
) -> Published:
    """Return the decision number `seq` of a source that changes its genre every ten seconds.

    `changes` are fields of the `Decision`. The genre is the most probable label unless it is given,
    and the probability of a genre is its `confidence` if that is given.
    """
    probabilities = changes.pop("probabilities", None) or _probabilities(seq)
    genre = changes.setdefault("genre", max(probabilities, key=probabilities.__getitem__))
    if genre in probabilities and "confidence" in changes:
        rest = 1 - probabilities[genre]
        scale = (1 - changes["confidence"]) / rest if rest else 0.0
        probabilities = {label: scale * p for label, p in probabilities.items()}
        probabilities[genre] = changes["confidence"]
    fields: dict[str, Any] = {
        "position": float(seq),
        "hop_seconds": 1.0,
        "state": "music",
        "confidence": probabilities.get(genre, max(probabilities.values())),
        "probabilities": probabilities,
        "window_probabilities": _probabilities(seq),
        "level_dbfs": round(-20 + 8 * math.sin(seq / 2), 1),
    } | changes
    fields["state"] = State(fields["state"])
    return Published(source, seq, _moment(time), latency_ms / 1000, Decision(**fields))


def _probabilities(seq: int) -> dict[str, float]:
    favourite = LABELS[seq // 10 % len(LABELS)]
    weights = {
        label: 8.0 if label == favourite else 0.4 + math.sin(seq / 3 + index) ** 2
        for index, label in enumerate(LABELS)
    }
    total = sum(weights.values())
    return {label: round(weight / total, 4) for label, weight in weights.items()}


def segment(number: int, source: str = "radio", **changes: Any) -> Published:
    """Return the segment number `number` (from 1), of ten seconds, still open."""
    fields: dict[str, Any] = {
        "id": number,
        "start": 10.0 * (number - 1),
        "end": None,
        "state": "music",
        "genre": LABELS[(number - 1) % len(LABELS)],
        "confidence": 0.8,
        "title": f"Song {number}",
        "final": False,
    } | changes
    fields["state"] = State(fields["state"])
    return Published(source, 0, _moment(None), 0.0, Segment(**fields))


def source_state(
    state: str,
    source: str = "radio",
    detail: str = "",
    *,
    retry_seconds: float | None = None,
    time: datetime | str | None = None,
) -> Published:
    """Return the event that a source is in another state."""
    reason = detail
    if retry_seconds is not None:
        detail = f"{reason}; next attempt in {retry_seconds:.0f} s"
    status = SourceStatus(
        source, "demo", SourceState(state), detail, reason=reason, retry_seconds=retry_seconds
    )
    return Published(source, 0, _moment(time), 0.0, status)


def spectrogram(
    position: float, source: str = "radio", columns: int = 13, column: bytes | None = None
) -> Published:
    """Return a second of a spectrogram with a gliding tone, or with the same `column` repeated."""
    tone = MELS // 2 + round(40 * math.sin(position / 4))
    if column is None:
        column = bytes(max(0, 255 - 9 * abs(row - tone)) for row in range(MELS))
    levels = np.tile(np.frombuffer(column, np.uint8)[:, np.newaxis], columns)
    event = SpectrogramColumns(float(position), levels)
    return Published(source, 0, _moment(None), 0.0, event)


def _moment(time: datetime | str | None) -> datetime:
    moment = datetime.fromisoformat(time) if isinstance(time, str) else time or datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


class Placer:
    """Places the segments of made-up events in clock time, as the publisher does."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.clock_offset = 0.0

    def __call__(self, published: Published) -> Published:
        """Return the event with its segments."""
        if not isinstance(published.event, Decision | Segment):
            return published
        segments = self.timeline.update(
            published.source, published.event, published.time, self.clock_offset
        )
        return replace(published, segments=segments)


class PlacingHub(Hub):
    """A hub that is fed with made-up events directly, and hands them on to further sinks."""

    def __init__(self, hello: Mapping[str, Any], sinks: Iterable[Sink] = ()) -> None:
        super().__init__(hello)
        self._place = Placer()
        self.sinks = list(sinks)

    def publish(self, published: Published) -> None:
        """Place an event's segments and hand it to the clients and the sinks."""
        placed = self._place(published)
        super().publish(placed)
        for sink in self.sinks:
            sink.publish(placed)

    def remove_source(self, name: str, segments: Sequence[PlacedSegment] = ()) -> None:
        """Remove a source after ending its segments."""
        super().remove_source(name, self._place.timeline.cut_off(name))


class _SchemaCheck(Sink):
    """Fails if a message does not keep to the schema."""

    def publish(self, published: Published) -> None:
        """Check the message of an event."""
        check_frame(message(published))


@contextlib.asynccontextmanager
async def running_server(
    *sources: str, history: Path | None = None, **settings: Any
) -> AsyncIterator[tuple[Hub, Server]]:
    """Run a server on a free port, with the history in `history`."""
    names = sources or ("radio",)

    def health() -> list[SourceHealth]:
        return [SourceHealth(name, "live") for name in names]

    kept = None if history is None else History(history)
    hub = PlacingHub(hello(*names), [_SchemaCheck()] if kept is None else [_SchemaCheck(), kept])
    metrics = Metrics(version="test", model=MODEL, health=health, clients=hub, history=kept)
    hub.sinks.append(metrics)
    parts: dict[str, Any] = {
        "health": health,
        "history": kept and kept.read,
        "metrics": metrics.registry,
    }
    server = Server(hub, **({"port": 0} | parts | settings))
    await server.start()
    try:
        yield hub, server
    finally:
        await server.close()
        if kept is not None:
            kept.close()


async def _show(**settings: Any) -> None:
    names = ("radio", "hall")
    async with running_server(*names, **settings) as (hub, server):
        print(server.url, flush=True)
        for seq in range(1, 1_000_000):
            for name in names:
                if seq % 10 == 1:
                    number = seq // 10
                    if number:
                        hub.publish(segment(number, name, end=10.0 * number, final=True))
                    hub.publish(segment(number + 1, name))
                hub.publish(spectrogram(seq, name))
                hub.publish(prediction(seq, name))
            await asyncio.sleep(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--history", type=Path)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_show(**vars(parser.parse_args())))
