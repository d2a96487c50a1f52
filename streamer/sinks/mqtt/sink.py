"""The MQTT sink: a topic tree for each source, and a device of Home Assistant."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from streamer.core.broker import Broker
from streamer.core.decision import Decision
from streamer.core.events import (
    PlacedSegment,
    Published,
    Sink,
    SourceKind,
    SourceState,
    SourceStatus,
)
from streamer.core.health import OutputHealth
from streamer.core.segments import Segment
from streamer.sinks import messages
from streamer.sinks.mqtt.connection import Connection
from streamer.sinks.mqtt.discovery import ORIGIN, device
from streamer.sinks.mqtt.topics import Topics

LEVEL_SECONDS = 10.0
"""Least time between two messages about a source's level, in seconds."""


@dataclass(slots=True)
class _Source:
    """What was last said of a source."""

    label: str | None = None
    title: str | None = None
    since: datetime | None = None
    level_at: float = field(default=-LEVEL_SECONDS)
    """`time.monotonic()` of the last message about the level."""
    open: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """The frames of the segments that may still change, by their numbers."""


class Mqtt(Sink):
    """Tells a broker what is heard.

    It has many methods: those of a sink, and one for each kind of topic.

    Parameters
    ----------
    broker, password
        Where to; see `Connection`, which also raises what this does.
    labels
        Those that can be claimed as a genre.
    colours
        Label to ``#rrggbb``.
    model
        Name of the model.
    predictions
        Whether every prediction is sent.
    hello
        Returns the `hello` message with the current states of the sources.
    owners
        In a fleet, the number of each source's owner. It grows whenever another engine takes the
        source over, and every message about the source has it, so that subscribers can ignore what
        an older owner still sends.
    """

    def __init__(
        self,
        broker: Broker,
        password: str | None,
        *,
        labels: Sequence[str],
        colours: Mapping[str, str],
        model: str,
        predictions: bool,
        hello: Callable[[], Mapping[str, Any]],
        owners: Mapping[str, int] | None = None,
    ) -> None:
        self._labels = labels
        self._colours = colours
        self._model = model
        self._predictions = predictions
        self._hello = hello
        self._owners = {} if owners is None else owners
        self._topics = Topics(
            broker.prefix, broker.node or socket.gethostname(), broker.home_assistant
        )
        root, assistant = self._topics.root, broker.home_assistant
        subscriptions = [f"{root}/+/available", f"{root}/+/state", f"{root}/+/open"]
        if assistant:
            subscriptions += [f"{assistant}/status", f"{assistant}/device/+/config"]
        self.connection = Connection(
            broker,
            password,
            status=self._topics.status,
            subscriptions=subscriptions,
            received=self._receive,
        )
        self._sources: dict[str, _Source] = {}
        self._known: frozenset[str] = frozenset()
        """Retained topics of the sources there are; replaced as a whole, since the connection's
        thread reads it."""

    def start(self) -> None:
        """Begin to connect, after the sources were added."""
        self._say_hello()
        self.connection.start()

    def health(self) -> OutputHealth:
        """Return the state of the connection, and what was sent and lost."""
        connection = self.connection
        return OutputHealth(
            "mqtt",
            connection.connected,
            connection.reason,
            connection.sent,
            connection.queue_depth,
            connection.dropped,
        )

    def close(self) -> None:
        """Say that the node is offline, and disconnect."""
        self.connection.close()

    def add_source(self, name: str, kind: SourceKind) -> None:
        """Announce a source."""
        if name in self._owners:  # what an older owner said no longer holds
            self._sources[name] = _Source()
        self._sources.setdefault(name, _Source())
        self._find_known()
        self._retain_available(name, b"offline")
        if self._topics.home_assistant:
            payload = device(self._topics, name, self._labels, self._model)
            self.connection.retain(self._topics.config(name), messages.encode(payload))
        self._say_hello()

    def remove_source(self, name: str, segments: Sequence[PlacedSegment] = ()) -> None:
        """Remove a source from the broker and from Home Assistant."""
        if self._sources.pop(name, None) is None:
            return
        gone = self._retained_topics(name)
        self._find_known()
        for topic in gone:
            self.connection.retain(topic, b"")
        self._say_hello()

    def publish(self, published: Published) -> None:
        """Tell the broker about an event, if its source is known."""
        if published.source not in self._sources:
            return
        topic = self._topics.source(published.source)
        match published.event:
            case SourceStatus(state=state):
                if state is not SourceState.LIVE:
                    # It may start again, and its segments would count from 1.
                    self._sources[published.source].open.clear()
                is_live = state is SourceState.LIVE
                self._retain_available(published.source, b"online" if is_live else b"offline")
                self._say_hello()
            case Decision() as decision:
                self._publish_level(topic, published.source, decision)
                if self._predictions:
                    frame = self._encode(published.source, messages.message(published))
                    self.connection.send(f"{topic}/prediction", frame)
            case Segment() as segment:
                message = messages.message(published)
                if segment.final:
                    frame = self._encode(published.source, message)
                    self.connection.send(f"{topic}/segment", frame, qos=1)
                elif published.segments and published.segments[-1].is_open:
                    self._publish_state(topic, published.segments[-1])
                if self._predictions:
                    self._publish_open(topic, published.source, segment, message)

    def _publish_level(self, topic: str, source: str, decision: Decision) -> None:
        known, now = self._sources[source], time.monotonic()
        if now - known.level_at < LEVEL_SECONDS:
            return
        known.level_at = now
        shares = messages.shares(decision.probabilities)
        payload = {
            "level_dbfs": round(decision.level_dbfs, 1),
            "confidence": messages.confidence(decision, shares),
            "top": sorted(shares.items(), key=lambda item: -item[1])[:3],
        }
        self.connection.send(f"{topic}/level", self._encode(source, payload))

    def _publish_open(
        self, topic: str, source: str, segment: Segment, message: Mapping[str, Any]
    ) -> None:
        """Send the segments that may still change, in order with predictions."""
        known = self._sources[source].open
        known[segment.id] = message
        if segment.final:
            del known[segment.id]
        payload = self._encode(source, {"source": source, "segments": list(known.values())})
        self.connection.send(f"{topic}/open", payload, qos=1, retain=True)

    def _publish_state(self, topic: str, placed: PlacedSegment) -> None:
        known, segment = self._sources[placed.source], placed.segment
        label = segment.genre or segment.state.value
        if (known.label, known.title) == (label, segment.title):
            return
        if known.label != label or known.since is None:
            known.since = placed.start
        known.label, known.title = label, segment.title
        payload = {
            "label": label,
            "state": segment.state.value,
            "genre": segment.genre,
            "confidence": round(segment.confidence, 4),
            "colour": self._colours.get(segment.genre) if segment.genre else None,
            "since": messages.timestamp(known.since),
            "title": segment.title,
        }
        self.connection.retain(f"{topic}/state", self._encode(placed.source, payload))

    def _retain_available(self, name: str, payload: bytes) -> None:
        topic = f"{self._topics.source(name)}/available"
        self.connection.retain(topic, payload, owner=self._owners.get(name))

    def _encode(self, name: str, message: Mapping[str, Any]) -> bytes:
        """Return a message about a source as JSON, with the number of its owner in a fleet."""
        owner = self._owners.get(name)
        return messages.encode(message if owner is None else {**message, "owner": owner})

    def _say_hello(self) -> None:
        hello = self._hello()
        if self._owners:
            sources = [
                {**source, "owner": self._owners.get(source["name"])} for source in hello["sources"]
            ]
            hello = {**hello, "sources": sources}
        self.connection.retain(self._topics.hello, messages.encode(hello))

    def _retained_topics(self, name: str) -> list[str]:
        topic = self._topics.source(name)
        kinds = ("available", "state", "open") if self._predictions else ("available", "state")
        return [self._topics.config(name), *(f"{topic}/{kind}" for kind in kinds)]

    def _find_known(self) -> None:
        topics = (topic for name in self._sources for topic in self._retained_topics(name))
        self._known = frozenset(topics)

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        """Take a message of the broker, on the connection's thread.

        Removes what it still keeps about sources that were removed while the daemon was down. What
        another daemon of the same node removes in this way is restored.
        """
        assistant = self._topics.home_assistant
        if assistant and topic == f"{assistant}/status":
            if payload == b"online" and not retained:
                self.connection.send_again()
        elif topic in self._known:
            if not payload and self.connection.is_shared:
                self.connection.send_again(topic)
        elif retained and payload:
            is_config = topic.startswith(f"{assistant}/device/")
            if not is_config or self._is_ours(payload):
                self.connection.retain(topic, b"")

    def _is_ours(self, payload: bytes) -> bool:
        """Return whether a device of Home Assistant was described by this node."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            config = json.loads(payload)
            own = config["o"]["name"] == ORIGIN
            return own and str(config["stat_t"]).startswith(f"{self._topics.root}/")
        return False
