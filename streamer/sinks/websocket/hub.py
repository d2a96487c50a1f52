"""Distributes events to WebSocket clients: the latest of every source, a queue for each client.

The hub does not handle sockets. The server gives every client an `Outbox` with a function that
writes a frame, unless the client is behind; the hub encodes every message once and hands the frame
to the outboxes whose clients subscribed to it. Everything runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from streamer.core.events import (
    PlacedSegment,
    PlacedState,
    Published,
    Sink,
    SourceKind,
    SourceStatus,
    SpectrogramColumns,
)
from streamer.core.segments import Segment
from streamer.sinks import messages

Message = Mapping[str, Any]

SELECTABLE_TYPES = frozenset({"prediction", "segment", "source", "spectrogram"})
"""Message types that a subscription selects; the others are always sent."""
MESSAGE_TYPES = SELECTABLE_TYPES | {"hello", "heartbeat", "error"}
DEFAULT_TYPES = SELECTABLE_TYPES - {"spectrogram"}
"""Message types of a client that never subscribes."""
LATEST_ONLY = frozenset({"prediction", "spectrogram"})
"""Types of which a client that is behind gets the newest of each source and misses the rest."""
CONTROL_LIMIT = 256
"""Control frames that may be queued for one client, beside the latest segments of all sources."""
RECENT_SEGMENTS_PER_SOURCE = 60
MIN_RECENT_SEGMENTS, MAX_RECENT_SEGMENTS = 1000, 10_000
"""Final segments that `/api/state` lists, over all sources: some for each, within these limits."""
SPECTROGRAM_SECONDS = 30.0
"""Length of the spectrogram that is kept for clients that subscribe to it later."""
REQUEST_FIELDS = ("type", "sources", "messages", "predictions_of")
"""Fields of a subscribe request."""
RECENT_STATES = 1000
"""Stretches of source states that `/api/state` lists, over all sources."""


class SubscriptionError(Exception):
    """A subscribe request is malformed or names something unknown; answered by an `error` frame."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Subscription:
    """The sources and message types that one client is sent."""

    sources: frozenset[str] | None = None
    """Names of the sources, None for all of them."""
    messages: frozenset[str] = DEFAULT_TYPES
    """A subset of `MESSAGE_TYPES`."""
    predictions_of: frozenset[str] | None = None
    """Those of `sources` whose predictions are sent, None for all of them."""

    def wants(self, kind: str, source: str | None) -> bool:
        """Return whether the client gets messages of this selectable type about this source."""
        if kind not in self.messages or not (self.sources is None or source in self.sources):
            return False
        return kind != "prediction" or self.predictions_of is None or source in self.predictions_of

    @classmethod
    def from_request(cls, request: Message, known_sources: Iterable[str]) -> Subscription:
        """Parse a subscribe request; `SubscriptionError` if a field or a name is unusable."""
        for unknown in sorted(request.keys() - REQUEST_FIELDS):
            known_fields = ", ".join(REQUEST_FIELDS)
            raise SubscriptionError(
                "bad_subscribe",
                f"{ascii(unknown)[:80]} is no field of subscribe; it has {known_fields}",
            )
        sources = _names(request, "sources", default=("*",))
        kinds = _names(request, "messages", default=sorted(DEFAULT_TYPES))
        predicted = _names(request, "predictions_of", default=("*",))
        known = set(known_sources)
        for name in sorted((sources | predicted) - known - {"*"}):
            raise SubscriptionError(
                "unknown_source", f"no source is named {ascii(name)[:80]}; see the hello frame"
            )
        for name in sorted(kinds - MESSAGE_TYPES):
            raise SubscriptionError(
                "bad_subscribe",
                f"messages: {ascii(name)[:80]} is none of {', '.join(sorted(SELECTABLE_TYPES))}",
            )
        sources_or_all, predicted_or_all = (
            None if "*" in names else names for names in (sources, predicted)
        )
        return cls(sources_or_all, kinds, predicted_or_all)


def _names(request: Message, field: str, *, default: Iterable[str]) -> frozenset[str]:
    """Return a list field of a subscribe request as a set of names."""
    value = request.get(field, list(default))
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SubscriptionError("bad_subscribe", f"{field} must be a list of strings")
    return frozenset(value)


class Outbox:
    """The frames queued for one client: control frames in order, of predictions the newest.

    `write` writes a frame at once, or returns False because earlier frames have not left yet.
    """

    def __init__(self, write: Callable[[bytes], bool]) -> None:
        self._write = write
        self._control: deque[bytes] = deque()
        self._latest: dict[tuple[str, str | None], bytes] = {}
        self.subscription = Subscription()
        self.waiting = asyncio.Event()
        """Set while frames are queued."""
        self.control_limit = CONTROL_LIMIT
        """Control frames that may be queued."""
        self.overflowed = False
        """Whether a control frame was discarded, so that the client can no longer be served."""
        self.skipped = 0
        """Predictions and spectrograms that a newer one replaced before they were sent."""

    def __len__(self) -> int:
        return len(self._control) + len(self._latest)

    def offer(self, kind: str, source: str | None, frame: bytes) -> None:
        """Send a frame now, or queue it if earlier frames are still queued."""
        if not self._control and not self._latest and self._write(frame):
            return
        if kind in LATEST_ONLY:
            self.skipped += self._latest.pop((kind, source), None) is not None
            self._latest[kind, source] = frame
        elif len(self._control) < self.control_limit:
            self._control.append(frame)
        else:
            self.overflowed = True
        self.waiting.set()

    def take(self) -> bytes | None:
        """Remove and return the next frame to be sent, None if there is none."""
        if self._control:
            return self._control.popleft()
        if self._latest:
            return self._latest.pop(next(iter(self._latest)))
        self.waiting.clear()
        return None

    def subscribe(self, subscription: Subscription) -> None:
        """Replace the subscription; queued predictions that it leaves out are discarded."""
        self.subscription = subscription
        self._latest = {
            key: frame for key, frame in self._latest.items() if subscription.wants(*key)
        }


@dataclass(slots=True)
class _SourceState:
    """The latest that was published about one source."""

    kind: str
    state: str
    detail: str = ""
    reason: str = ""
    since: str | None = None
    """ISO 8601, as in the latest `source` frame; None before the first one."""
    next_attempt: str | None = None
    """The same."""
    heard_until: str | None = None
    """End of the sound of the latest prediction, also of one before the source was restarted."""
    prediction: Message | None = None
    prediction_frame: bytes = b""
    segments: dict[int, PlacedSegment] = field(default_factory=dict)
    """Those that may still change, by number."""
    segment_frames: dict[int, bytes] = field(default_factory=dict)
    """The latest frame about each of `segments`."""
    spectrogram: deque[SpectrogramColumns] = field(default_factory=deque)
    """The columns of the last `SPECTROGRAM_SECONDS`, oldest first."""
    spectrogram_frame: bytes | None = None
    """The frame with all of them; None until a client wants it."""

    def add_columns(self, columns: SpectrogramColumns) -> None:
        """Keep columns for later clients; a lower position is a restart of the source."""
        kept = self.spectrogram
        if kept and columns.position <= kept[-1].position:
            kept.clear()
        kept.append(columns)
        while kept[0].position <= columns.position - SPECTROGRAM_SECONDS:
            kept.popleft()
        self.spectrogram_frame = None

    def kept_columns(self, source: str) -> bytes | None:
        """Return the frame with the columns that are kept, None if there are none."""
        if self.spectrogram_frame is None and self.spectrogram:
            levels = np.concatenate([each.levels for each in self.spectrogram], axis=1)
            columns = SpectrogramColumns(self.spectrogram[-1].position, levels)
            self.spectrogram_frame = messages.encode(messages.spectrogram(source, columns))
        return self.spectrogram_frame


class Hub(Sink):
    """Distributes events to WebSocket clients and remembers the latest of every source.

    The `sources` of the `hello` message are those that exist at the start.

    It has many methods: those of a sink, and what the server asks of it for its clients.
    """

    def __init__(self, hello: Message) -> None:
        self._hello = dict(hello)
        self._sources = {
            source["name"]: _SourceState(source["kind"], source["state"])
            for source in hello["sources"]
        }
        self.outboxes: dict[Outbox, None] = {}
        """The outboxes of all clients, oldest client first."""
        self.slow_clients_closed = 0
        """Clients closed because they stayed behind."""
        self._skipped_by_former_clients = 0
        self._recent: deque[PlacedSegment] = deque()
        self._states: dict[tuple[str, int], PlacedState] = {}
        """The latest stretches of source states, by source and number."""

    @property
    def skipped(self) -> int:
        """Predictions and spectrograms that clients missed because they were behind."""
        return self._skipped_by_former_clients + sum(outbox.skipped for outbox in self.outboxes)

    def add_source(self, name: str, kind: SourceKind) -> None:
        """Add a source, or reset one that is started again."""
        known = self._sources.get(name)
        heard_until = known.heard_until if known else None
        self._sources[name] = _SourceState(kind, "connecting", heard_until=heard_until)

    def remove_source(self, name: str, segments: Sequence[PlacedSegment] = ()) -> None:
        """Forget a source but for its segments."""
        self._sources.pop(name, None)
        for placed in segments:
            self._keep_final(placed)

    def has_source(self, name: str) -> bool:
        """Return whether there is a source of that name."""
        return name in self._sources

    def publish(self, published: Published) -> None:
        """Send an event to every client that subscribes to it, without waiting for any of them."""
        kind, source = published.type, published.source
        wanting = [outbox for outbox in self.outboxes if outbox.subscription.wants(kind, source)]
        if isinstance(published.event, SpectrogramColumns):
            if source in self._sources:
                self._sources[source].add_columns(published.event)
            if not wanting:
                return
        message = messages.message(published)
        frame = messages.encode(message)
        self._remember(published, message, frame)
        for outbox in wanting:
            outbox.offer(kind, source, frame)

    def join(self, outbox: Outbox) -> None:
        """Add a client and send it `hello` and the latest of every source."""
        self.outboxes[outbox] = None
        outbox.offer("hello", None, messages.encode(self.hello()))
        self._send_latest(outbox, Subscription(messages=frozenset()))

    def leave(self, outbox: Outbox) -> None:
        """Remove a client."""
        if outbox in self.outboxes:
            del self.outboxes[outbox]
            self._skipped_by_former_clients += outbox.skipped

    def subscribe(self, outbox: Outbox, request: Message) -> None:
        """Apply a subscribe request and send the latest of what it adds.

        `SubscriptionError` is raised if it is invalid; the subscription is unchanged then.
        """
        before = outbox.subscription
        outbox.subscribe(Subscription.from_request(request, self._sources))
        self._send_latest(outbox, before)

    def recolour(self, colours: Mapping[str, str]) -> None:
        """Greet clients with other colours from now on."""
        self.greet_with({**self._hello, "colours": dict(colours)})

    def greet_with(self, hello: Message) -> None:
        """Greet clients with another `hello` from now on, but for the sources."""
        self._hello = dict(hello)

    def hello(self) -> dict[str, Any]:
        """Return the `hello` message with the current states of the sources."""
        return self._hello | {
            "sources": [
                {
                    "name": name,
                    "kind": source.kind,
                    "state": source.state,
                    "reason": source.reason,
                    "since": source.since,
                    "next_attempt": source.next_attempt,
                    "heard_until": source.heard_until,
                }
                for name, source in self._sources.items()
            ]
        }

    def state(self) -> dict[str, Any]:
        """Return the content of ``/api/state``: `hello`, the latest of each source, segments."""
        state = self.hello()
        del state["type"]
        state["time"] = messages.timestamp(datetime.now(UTC))
        for listed, source in zip(state["sources"], self._sources.values(), strict=True):
            listed.update(detail=source.detail, prediction=source.prediction)
        segments = list(self._recent)
        for source in self._sources.values():
            segments += [source.segments[number] for number in sorted(source.segments)]
        state["segments"] = [messages.segment_in_clock_time(placed) for placed in segments]
        state["states"] = [messages.state_in_clock_time(each) for each in self._states.values()]
        return state

    def _send_latest(self, outbox: Outbox, before: Subscription) -> None:
        """Offer the latest frames that a client's subscription includes and `before` did not."""
        # With hundreds of sources these alone are more than a client can be sent at once.
        latest = sum(len(source.segment_frames) for source in self._sources.values())
        outbox.control_limit = CONTROL_LIMIT + latest
        for name, source in self._sources.items():
            frames = [("prediction", source.prediction_frame)] if source.prediction_frame else []
            frames += [("segment", frame) for frame in source.segment_frames.values()]
            for kind, frame in frames:
                if outbox.subscription.wants(kind, name) and not before.wants(kind, name):
                    outbox.offer(kind, name, frame)
            kind = "spectrogram"
            is_new = outbox.subscription.wants(kind, name) and not before.wants(kind, name)
            if is_new and (kept := source.kept_columns(name)):
                outbox.offer(kind, name, kept)

    def _remember(self, published: Published, message: Message, frame: bytes) -> None:
        for state in published.states:
            self._states[state.source, state.number] = state
            while len(self._states) > RECENT_STATES:
                del self._states[next(iter(self._states))]
        source = self._sources.get(published.source)
        if source is None:  # an event that was on its way when the source was removed
            return
        if published.type == "prediction":
            source.prediction, source.prediction_frame = message, frame
            heard_until = published.time - timedelta(seconds=published.latency)
            source.heard_until = messages.timestamp(heard_until)
        elif isinstance(published.event, SourceStatus):
            source.state, source.detail = published.event.state, published.event.detail
            source.reason, source.since = message["reason"], message["since"]
            source.next_attempt = message["next_attempt"]
        elif isinstance(published.event, Segment):
            source.segment_frames[published.segments[-1].number] = frame
        for placed in published.segments:
            if (source := self._sources.get(placed.source)) is None:
                continue
            if placed.final:
                self._keep_final(placed)
                source.segments.pop(placed.number, None)
                source.segment_frames.pop(placed.number, None)
            else:
                source.segments[placed.number] = placed

    def _keep_final(self, placed: PlacedSegment) -> None:
        self._recent.append(placed)
        wanted = RECENT_SEGMENTS_PER_SOURCE * len(self._sources)
        limit = min(max(wanted, MIN_RECENT_SEGMENTS), MAX_RECENT_SEGMENTS)
        while len(self._recent) > limit:
            self._recent.popleft()
