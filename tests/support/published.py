"""Made-up messages, and a server that tells them.

Run it to look at the dashboard before any music is there: ``python tests/support/published.py
--port 8765``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamer.core.health import SourceHealth
from streamer.sinks.history.writer import History
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
MODEL = {"name": "made-up", "version": "1"}
MELS = 128


def hello(*sources: str) -> dict[str, Any]:
    """Return the hello frame of a daemon with these sources."""
    return {
        "type": "hello",
        "protocol": 1,
        "server": "genre-stream test",
        "model": MODEL,
        "labels": list(LABELS),
        "window_seconds": 5.0,
        "hop_seconds": 1.0,
        "sources": [{"name": name, "kind": "demo", "state": "live"} for name in sources],
    }


def prediction(seq: int, source: str = "radio", **changes: Any) -> dict[str, Any]:
    """Return the prediction number `seq` of a source that changes its genre every ten seconds."""
    favourite = LABELS[seq // 10 % len(LABELS)]
    weights = {
        label: 8.0 if label == favourite else 0.4 + math.sin(seq / 3 + index) ** 2
        for index, label in enumerate(LABELS)
    }
    total = sum(weights.values())
    probabilities = {label: round(weight / total, 4) for label, weight in weights.items()}
    return {
        "type": "prediction",
        "source": source,
        "seq": seq,
        "time": now(),
        "position": float(seq),
        "hop_seconds": 1.0,
        "state": "music",
        "genre": favourite,
        "confidence": probabilities[favourite],
        "probabilities": probabilities,
        "window_probabilities": probabilities,
        "level_dbfs": round(-20 + 8 * math.sin(seq / 2), 1),
        "latency_ms": 35.5,
    } | changes


def segment(number: int, source: str = "radio", **changes: Any) -> dict[str, Any]:
    """Return the segment number `number` (from 1), of ten seconds, still open."""
    return {
        "type": "segment",
        "source": source,
        "id": number,
        "start": 10.0 * (number - 1),
        "end": None,
        "state": "music",
        "genre": LABELS[(number - 1) % len(LABELS)],
        "confidence": 0.8,
        "title": f"Song {number}",
        "final": False,
    } | changes


def source_state(state: str, source: str = "radio", detail: str = "") -> dict[str, Any]:
    """Return the message that a source is in another state."""
    return {"type": "source", "source": source, "state": state, "detail": detail}


def spectrogram(seq: int, source: str = "radio", columns: int = 13) -> dict[str, Any]:
    """Return a second of a spectrogram with a tone that glides."""
    tone = MELS // 2 + round(40 * math.sin(seq / 4))
    column = bytes(max(0, 255 - 9 * abs(row - tone)) for row in range(MELS))
    return {
        "type": "spectrogram",
        "source": source,
        "position": float(seq),
        "columns": columns,
        "mels": MELS,
        "levels": base64.b64encode(column * columns).decode(),
    }


def now() -> str:
    """Return this moment as the protocol writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@contextlib.asynccontextmanager
async def running_server(
    *sources: str, history: Path | None = None, **settings: Any
) -> AsyncIterator[tuple[Hub, Server]]:
    """Run a server on a free port, with the history in `history`."""
    names = sources or ("radio",)

    def health() -> list[SourceHealth]:
        return [SourceHealth(name, "live") for name in names]

    metrics = Metrics(version="test", model=MODEL, health=health)
    kept = None if history is None else History(history)
    recorders: list[Callable[[Any], object]] = [check_frame, metrics.record]
    recorders += [] if kept is None else [kept.record]
    hub = Hub(hello(*names), recorders=recorders)
    parts: dict[str, Any] = {"port": 0, "health": health, "history": kept, "metrics": metrics}
    server = Server(hub, **(parts | settings))
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
