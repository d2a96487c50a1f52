"""What a listener reports, as the frames that everybody is sent."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from streamer.core.contract import ModelContract
from streamer.core.decision import Decision, Segment
from streamer.core.events import SourceState, SourceStatus
from streamer.engine.listener import ListenerEvent
from streamer.sinks import messages
from streamer.sources import Source


class FrameMaker:
    """Makes frames of the protocol; it only has to remember how many predictions there were."""

    def __init__(self) -> None:
        self._sequence: defaultdict[str, int] = defaultdict(int)

    def make(self, event: ListenerEvent) -> dict[str, Any]:
        """Return the frame for one event, as of now."""
        if isinstance(event, SourceStatus):
            return messages.source_state(event.source, event.state, event.detail)
        if isinstance(event.event, Decision):
            latency_ms = (time.monotonic() - event.heard) * 1000
            number = self._sequence[event.source]
            self._sequence[event.source] += 1
            return messages.prediction(
                event.source, number, event.event, datetime.now(UTC), latency_ms
            )
        if isinstance(event.event, Segment):
            return messages.segment(event.source, event.event)
        return messages.spectrogram(event.source, event.event)


def hello(
    contract: ModelContract, sources: Iterable[Source], *, hop_seconds: float
) -> dict[str, Any]:
    """Return the frame that greets a client before anything was heard of the sources."""
    return messages.hello(
        f"genre-stream {version('genre-stream')}",
        contract,
        hop_seconds=hop_seconds,
        sources=[
            {"name": source.name, "kind": source.kind, "state": SourceState.CONNECTING}
            for source in sources
        ],
    )
