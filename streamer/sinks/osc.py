"""The OSC sink: what is heard as Open Sound Control messages by UDP, for lights and pictures."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterator, Mapping, Sequence

from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.udp_client import UDPClient

from streamer.core.decision import Decision
from streamer.core.events import PlacedSegment, Published, Sink
from streamer.core.health import OutputHealth
from streamer.system.backoff import Backoff

QUEUE_LIMIT = 1000
"""Decisions that wait to be sent; beyond it the oldest is discarded."""
CLOSE_SECONDS = 0.3
"""How long `Osc.close` waits for the last messages."""
NO_COLOUR = "#000000"
"""Colour of what is not music: lights go out."""


class Osc(Sink):
    """Sends every decision to all targets, on a thread, since looking up a host may block.

    `targets` are pairs of host and port, `colours` map a label to ``#rrggbb``.
    """

    def __init__(self, targets: Sequence[tuple[str, int]], colours: Mapping[str, str]) -> None:
        self._targets = targets
        self._colours = colours
        self._labels: dict[str, str] = {}
        """Label of each source's last decision."""
        self._queue: queue.Queue[list[OscMessage] | None] = queue.Queue()
        self._sent = 0
        self._dropped = 0
        self._reasons: dict[tuple[str, int], str] = {}
        self._thread = threading.Thread(target=self._work, name="osc", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def close(self) -> None:
        """Send what waits, and stop."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def health(self) -> OutputHealth:
        """Return what was sent and lost; whether UDP arrives cannot be known."""
        reasons = "; ".join(self._reasons.values())
        return OutputHealth(
            "osc", not reasons, reasons, self._sent, self._queue.qsize(), self._dropped
        )

    def publish(self, published: Published) -> None:
        """Queue the messages of a decision."""
        if isinstance(published.event, Decision):
            self._queue.put(list(self._messages(published.source, published.event)))
            while self._queue.qsize() > QUEUE_LIMIT:
                self._queue.get_nowait()
                self._dropped += 1

    def remove_source(self, name: str, segments: Sequence[PlacedSegment] = ()) -> None:
        """Forget a source."""
        self._labels.pop(name, None)

    def _messages(self, source: str, decision: Decision) -> Iterator[OscMessage]:
        """Yield the messages of a decision; one about a change comes last."""
        root = f"/genre-stream/{address(source)}"
        label = decision.genre or decision.state.value
        colour = self._colours.get(decision.genre or "", NO_COLOUR)
        yield _message(f"{root}/label", "s", label)
        yield _message(f"{root}/genre", "s", decision.genre or "")
        yield _message(f"{root}/state", "s", decision.state.value)
        yield _message(f"{root}/confidence", "f", decision.confidence)
        yield _message(f"{root}/level", "f", decision.level_dbfs)
        channels = [channel / 255 for channel in bytes.fromhex(colour[1:])]
        yield _message(f"{root}/colour", "fff", *channels)
        for name, probability in decision.probabilities.items():
            yield _message(f"{root}/probability/{address(name)}", "f", probability)
        before = self._labels.get(source, "")
        if label != before:
            self._labels[source] = label
            yield _message(f"{root}/change", "ss", label, before)

    def _work(self) -> None:
        clients: dict[tuple[str, int], UDPClient] = {}
        waits = {target: (Backoff(), 0) for target in self._targets}
        while (waiting := self._queue.get()) is not None:
            for target in self._targets:
                backoff, skip = waits[target]
                if skip > 0:
                    # One decision a second: a host that cannot be reached is tried ever less often.
                    waits[target] = backoff, skip - 1
                    self._dropped += len(waiting)
                    continue
                try:
                    if target not in clients:
                        clients[target] = UDPClient(*target)
                    for message in waiting:
                        clients[target].send(message)
                    self._sent += len(waiting)
                    self._reasons.pop(target, None)
                    backoff.reset()
                except OSError as error:
                    clients.pop(target, None)
                    self._dropped += len(waiting)
                    self._reasons[target] = f"{target[0]}: {error.strerror or error}".lower()
                    waits[target] = backoff, round(backoff.failed())


def address(name: str) -> str:
    """Return a name as a part of an OSC address, with what that cannot hold replaced by ``_``.

    Examples
    --------
    >>> address("hall #2")
    'hall__2'
    """
    return re.sub(r"[^!-~]|[#*,/?\[\]{}]", "_", name)


def _message(path: str, types: str, *values: str | float) -> OscMessage:
    builder = OscMessageBuilder(path)
    for kind, value in zip(types, values, strict=True):
        builder.add_arg(value, kind)
    return builder.build()
