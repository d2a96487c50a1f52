"""What nodes tell a broker, as the events of one daemon that has all their sources."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from streamer.core.events import SourceState, SourceStatus
from streamer.core.health import SourceHealth
from streamer.core.segments import Segment
from streamer.engine.listener import PipelineEvent
from streamer.engine.publisher import Clock, Publisher
from streamer.relay import frames
from streamer.sinks.messages import PROTOCOL
from streamer.system.console import plural, strip_control_characters

Message = Mapping[str, Any]
Key = tuple[str, str]
"""Names of a node and of a source there."""

TOPICS = ("+/status", "+/hello", "+/+/prediction", "+/+/segment", "+/+/open")
"""What is subscribed to, below the prefix."""

MAX_EARLY = 10_000
"""Sources of which segments are kept before a `hello` names them."""

MAX_NAMED = 1000
"""Nodes of which the log says that a message was not understood."""

logger = logging.getLogger(__name__)


class FrameClock(Clock):
    """Shows the time of the frame that is being relayed.

    Its `monotonic` is 0 at that time, so times of events are seconds relative to their frame.
    """

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def now(self) -> datetime:
        """Return the time of the frame, in UTC."""
        return self.time

    def monotonic(self) -> float:
        """Return 0."""
        return 0.0

    def offset(self) -> float:
        """Return 0: the nodes follow their clocks themselves."""
        return 0.0


@dataclass(slots=True)
class _Source:
    """What is known of a source by the name that clients see."""

    status: SourceStatus
    holder: Key
    owner: int | None
    since: str | None = None
    position: float | None = None
    """Of the latest decision; None before the first."""
    open: dict[int, Segment] = field(default_factory=dict)
    """Its segments that may still change, by `Segment.id`."""
    waiting: list[Segment] = field(default_factory=list)
    """Segments that came before a decision, without which they have no place in time."""
    decided_at: float = 0.0
    """`time.monotonic()` of the latest decision; before the first, when that may be expected."""
    silence_seconds: float = 0.0
    hop_seconds: float = 1.0


class Nodes:
    """The nodes at a broker, and the sources that they have.

    It has many methods because each kind of message is one, and they share the tables of names.

    A source keeps its name if no other node has one of that name; otherwise each of them is
    ``<node>/<source>``. In a fleet a source has the same name on every engine, and what an older
    owner sends is ignored.

    Parameters
    ----------
    publisher, clock
        What gets the events; the publisher's clock must be `clock`.
    greeted
        Called with the `hello` message, without sources, whenever it may have changed.
    """

    def __init__(
        self, publisher: Publisher, clock: FrameClock, greeted: Callable[[Message], None]
    ) -> None:
        self.ignored = 0
        """Messages that were damaged, or of an older owner."""
        self._publisher = publisher
        self._clock = clock
        self._greeted = greeted
        self._hellos: dict[str, Message] = {}
        self._gone: set[str] = set()
        """Nodes whose last will says that they are offline."""
        self._names: dict[Key, str] = {}
        self._sources: dict[str, _Source] = {}
        self._early: dict[Key, Message] = {}
        """The open segments of sources that no `hello` has named yet."""
        self._heard: set[str] = set()
        """Nodes that have sent a prediction."""
        self._misunderstood: set[str] = set()
        """Nodes of which a message was not understood, as the log says."""

    def __bool__(self) -> bool:
        """Return whether there is a node."""
        return bool(self._hellos)

    def receive(self, topic: str, payload: bytes) -> None:
        """Take a message; `topic` is without the prefix. What cannot be read is counted."""
        node, _, kind = topic.partition("/")
        kind = kind.rpartition("/")[2]
        try:
            if kind == "status":
                self._set_online(node, payload == b"online")
            elif kind == "hello":
                self._greet(node, json.loads(payload) if payload else None)
            elif payload:
                self._relay(node, kind, json.loads(payload))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.ignored += 1
            # Of a node that sends nothing else, one line is enough.
            level = logging.DEBUG
            if node not in self._misunderstood and len(self._misunderstood) < MAX_NAMED:
                self._misunderstood.add(node)
                level = logging.WARNING
            name = strip_control_characters(topic)
            logger.log(level, "%s: not understood, left out (%s)", name, _reason(error))

    def lose(self, reason: str) -> None:
        """Mark all sources as not heard, since the broker cannot be reached."""
        for name in list(self._sources):
            self._interrupt(name, reason)

    def silent(self) -> list[str]:
        """Return the nodes that have a live source but have sent no prediction yet."""
        return [
            node
            for node, hello in self._hellos.items()
            if node not in self._heard | self._gone
            and any(source["state"] == SourceState.LIVE for source in hello["sources"])
        ]

    def health(self) -> list[SourceHealth]:
        """Return the health of every source, as far as it is known here."""
        now = time.monotonic()
        return [
            SourceHealth(
                name,
                source.status.state.value,
                source.status.detail,
                quiet_seconds=max(0.0, now - source.decided_at),
                silence_seconds=source.silence_seconds,
                hop_seconds=source.hop_seconds,
            )
            for name, source in self._sources.items()
        ]

    def hello(self) -> dict[str, Any]:
        """Return the `hello` message of all nodes together, without sources."""
        hellos = [self._hellos[node] for node in sorted(self._hellos)]
        models = [each["model"] for each in hellos]
        colours: dict[str, str] = {}
        for each in hellos:
            colours = {**each["colours"], **colours}
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "server": f"genre-stream {version('genre-stream')}",
            "model": models[0] if models.count(models[0]) == len(models) else _joined(models),
            "labels": list(dict.fromkeys(label for each in hellos for label in each["labels"])),
            "colours": colours,
            "window_seconds": max(each["window_seconds"] for each in hellos),
            "hop_seconds": max(each["hop_seconds"] for each in hellos),
            "spectrogram": hellos[0]["spectrogram"],
            "sources": [],
        }

    def _set_online(self, node: str, online: bool) -> None:
        if online == (node not in self._gone):
            return
        if online:
            self._gone.discard(node)
            logger.info("node %s is back", node)
        else:
            self._gone.add(node)
            logger.warning("node %s is gone", node)
        self._update_states(node)

    def _greet(self, node: str, hello: Message | None) -> None:
        if hello is None:
            self._hellos.pop(node, None)
        else:
            _check(hello)
            known, self._hellos[node] = self._hellos.get(node), hello
            if known is None:
                logger.info("node %s has %s", node, plural(len(hello["sources"]), "source"))
            elif _listed(known) == _listed(hello):
                self._update_states(node)
                return
        if self._hellos:
            self._greeted(self.hello())
        self._rename()
        for each in self._hellos:
            self._update_states(each)

    def _rename(self) -> None:
        """Give every source its name, after the sources of a node have changed."""
        listed = dict(self._listed_sources())
        owned = {key: entry["owner"] for key, entry in listed.items() if entry.get("owner")}
        counts = Counter(name for _, name in listed.keys() - owned.keys())
        counts.update({name for _, name in owned})
        self._names = {
            (node, name): name if (node, name) in owned or counts[name] == 1 else f"{node}/{name}"
            for node, name in listed
        }
        for name in self._sources.keys() - set(self._names.values()):
            del self._sources[name]
            self._clock.time = _now()
            self._publisher.remove_source(name)
        for key, name in self._names.items():
            owner = owned.get(key)
            source = self._sources.get(name)
            if source is None:
                kind = listed[key]["kind"]
                connecting = SourceStatus(name, kind, SourceState.CONNECTING, "")
                due = time.monotonic() + float(self._hellos[key[0]]["window_seconds"])
                self._sources[name] = _Source(connecting, key, owner, decided_at=due)
                self._publisher.add_source(name, kind)
                if (early := self._early.pop(key, None)) is not None:
                    self._relay(key[0], "open", early)
            elif (owner or 0) > (source.owner or 0):
                self._hand_over(source, key, owner)

    def _listed_sources(self) -> Iterator[tuple[Key, Message]]:
        for node, hello in self._hellos.items():
            for entry in hello["sources"]:
                yield (node, entry["name"]), entry

    def _hand_over(self, source: _Source, key: Key, owner: int | None) -> None:
        source.holder, source.owner = key, owner
        source.open.clear()
        source.waiting.clear()

    def _update_states(self, node: str) -> None:
        """Publish the states of the sources that a node has, as far as they are new."""
        now = _now()
        for entry in self._hellos.get(node, {}).get("sources", ()):
            name = self._names[node, entry["name"]]
            source = self._sources[name]
            if source.holder[0] != node:
                continue
            if node in self._gone:
                self._interrupt(name, f"node {node} is gone")
                continue
            status, since = frames.status(entry, name, now), entry.get("since")
            known = source.status
            if (known.state, known.reason, source.since) != (status.state, status.reason, since):
                source.since = since
                self._change(source, status, now)

    def _interrupt(self, name: str, reason: str) -> None:
        source = self._sources[name]
        state = SourceState.RECONNECTING
        if (source.status.state, source.status.reason) != (state, reason):
            source.since = None
            kind = source.status.kind
            status = SourceStatus(name, kind, state, reason, reason=reason)
            self._change(source, status, _now())

    def _change(self, source: _Source, status: SourceStatus, now: datetime) -> None:
        source.status = status
        if status.state is not SourceState.LIVE:
            source.silence_seconds = 0.0
        self._clock.time = now
        self._publisher.publish(status)

    def _relay(self, node: str, kind: str, message: Message) -> None:
        """Relay a message about a source, unless that has another owner by now."""
        key = (node, str(message["source"]))
        owner = message.get("owner")
        name = self._names.get(key, key[1])
        source = self._sources.get(name)
        if source is None and kind == "open" and len(self._early) < MAX_EARLY:
            self._early[key] = message
            return
        if source is None or (source.holder != key and owner is None):
            self.ignored += 1
            return
        if owner is not None and owner != source.owner:
            if owner < (source.owner or 0):
                self.ignored += 1
                return
            # Its hello, which says so too, may come later.
            self._hand_over(source, key, owner)
        if kind == "prediction":
            self._heard.add(node)
            self._decide(name, source, message)
        elif kind == "segment":
            self._take_segment(name, source, frames.segment(message))
        else:
            for frame in message["segments"]:
                self._take_segment(name, source, frames.segment(frame))

    def _decide(self, name: str, source: _Source, message: Message) -> None:
        decision = frames.decision(message)
        if source.position is not None and decision.position < source.position:
            # It was started again, and its segments count from 1.
            source.open.clear()
        source.position = decision.position
        source.decided_at = time.monotonic()
        source.silence_seconds = decision.silence_seconds
        source.hop_seconds = decision.hop_seconds
        self._clock.time = datetime.fromisoformat(message["time"])
        event = PipelineEvent(name, decision, -float(message["latency_ms"]) / 1000)
        self._publisher.publish(event, sequence=int(message["seq"]))
        waiting, source.waiting = source.waiting, []
        for segment in waiting:
            self._take_segment(name, source, segment)

    def _take_segment(self, name: str, source: _Source, segment: Segment) -> None:
        if source.position is None:
            source.waiting.append(segment)
        elif source.open.get(segment.id) != segment:
            if segment.final:
                source.open.pop(segment.id, None)
            else:
                source.open[segment.id] = segment
            self._publisher.publish(PipelineEvent(name, segment, 0.0))


def _now() -> datetime:
    """Return the time in whole milliseconds, as frames have it."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _reason(error: Exception) -> str:
    """Return in a few words why a message was not understood."""
    match error:
        case json.JSONDecodeError() | UnicodeDecodeError():
            return "it is not JSON"
        case KeyError():
            return f"it has no {error}"
        case _:
            return " ".join(str(error).split())[:200]


def _joined(models: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the `model` of nodes whose models differ."""
    different = dict.fromkeys((model["name"], model["version"]) for model in models)
    names, versions = zip(*different, strict=True)
    return {"name": ", ".join(names), "version": ", ".join(versions)}


def _check(hello: Message) -> None:
    """Raise one of the errors of `frames` if a `hello` cannot be used."""
    if hello["protocol"] != PROTOCOL:
        raise ValueError(f"protocol {hello['protocol']}, not {PROTOCOL}: update this relay")
    _listed(hello)
    dict(hello["spectrogram"])
    float(hello["window_seconds"])
    for source in hello["sources"]:
        frames.status(source, source["name"], _now())


def _listed(hello: Message) -> list[tuple[Any, ...]]:
    """Return of a `hello` what decides about names and greeting."""
    return [
        tuple(str(hello["model"][key]) for key in ("name", "version")),
        (list(hello["labels"]), dict(hello["colours"]), float(hello["hop_seconds"])),
        *((source["name"], source["kind"], source.get("owner")) for source in hello["sources"]),
    ]
