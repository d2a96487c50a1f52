"""What the daemon has to tell, and what each client has still to be sent.

Nothing here knows a socket. The server gives every client an `Outbox` with a function that writes a
frame at once or says that the client is behind; the hub hands every frame, encoded once, to the
outboxes that want it. Everything runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from streamer.core.timeline import Stretch, Timeline
from streamer.sinks import messages

Message = Mapping[str, Any]

ASKED_FOR = frozenset({"prediction", "segment", "source", "spectrogram"})
"""Message types that a client chooses among; the others are always sent."""
MESSAGE_TYPES = ASKED_FOR | {"hello", "heartbeat", "error"}
UNASKED = ASKED_FOR - {"spectrogram"}
"""What a client gets that never subscribes."""
LATEST_ONLY = frozenset({"prediction", "spectrogram"})
"""Types of which a client that is behind gets the newest of each source and misses the rest."""
CONTROL_LIMIT = 256
"""Control frames that wait for one client at most."""
RECENT_SEGMENTS = 1000
"""Ended segments that are kept for clients who come later, over all sources."""


class SubscriptionError(Exception):
    """A subscribe frame asks for what is not there; `code` is that of the error frame."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one client wants to hear."""

    sources: frozenset[str] | None = None
    """Names of the sources, None for all of them."""
    messages: frozenset[str] = UNASKED
    """Types out of `MESSAGE_TYPES`."""

    def wants(self, kind: str, source: str | None) -> bool:
        """Tell whether a message about this source goes to the client; `kind` is in `ASKED_FOR`."""
        return kind in self.messages and (self.sources is None or source in self.sources)

    @classmethod
    def from_request(cls, request: Message, known_sources: Iterable[str]) -> Subscription:
        """Read a subscribe frame.

        Raises
        ------
        SubscriptionError
            If a field is not a list of names, or a name is unknown.
        """
        sources = _names(request, "sources", default=("*",))
        kinds = _names(request, "messages", default=sorted(UNASKED))
        known = set(known_sources)
        for name in sorted(sources - known - {"*"}):
            raise SubscriptionError(
                "unknown_source", f"no source is named {ascii(name)[:80]}; see the hello frame"
            )
        for name in sorted(kinds - MESSAGE_TYPES):
            raise SubscriptionError(
                "bad_subscribe",
                f"messages: {ascii(name)[:80]} is none of {', '.join(sorted(ASKED_FOR))}",
            )
        return cls(None if "*" in sources else sources, kinds)


def _names(request: Message, field: str, *, default: Iterable[str]) -> frozenset[str]:
    """Return a list field of a subscribe frame as a set of names."""
    value = request.get(field, list(default))
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SubscriptionError("bad_subscribe", f"{field} must be a list of strings")
    return frozenset(value)


class Outbox:
    """What one client has still to be sent: control frames in order, of predictions the newest.

    Parameters
    ----------
    write
        Writes a frame at once and returns True, or returns False because earlier frames still wait
        to leave.
    """

    def __init__(self, write: Callable[[bytes], bool]) -> None:
        self._write = write
        self._control: deque[bytes] = deque()
        self._latest: dict[tuple[str, str | None], bytes] = {}
        self.subscription = Subscription()
        self.waiting = asyncio.Event()
        """Set while frames wait."""
        self.overflowed = False
        """Whether control frames had to be left out, so that the client can no longer be served."""
        self.skipped = 0
        """Predictions and spectrograms that a newer one replaced before they were sent."""

    def __len__(self) -> int:
        return len(self._control) + len(self._latest)

    def offer(self, kind: str, source: str | None, frame: bytes) -> None:
        """Send a frame now, or keep it until the client has taken what came before it."""
        if not self._control and not self._latest and self._write(frame):
            return
        if kind in LATEST_ONLY:
            self.skipped += self._latest.pop((kind, source), None) is not None
            self._latest[kind, source] = frame
        elif len(self._control) < CONTROL_LIMIT:
            self._control.append(frame)
        else:
            self.overflowed = True
        self.waiting.set()

    def take(self) -> bytes | None:
        """Return the next frame to be sent, None when there is none."""
        if self._control:
            return self._control.popleft()
        if self._latest:
            return self._latest.pop(next(iter(self._latest)))
        self.waiting.clear()
        return None

    def subscribe(self, subscription: Subscription) -> None:
        """Put a new subscription in place of the old one; what it leaves out is no longer sent."""
        self.subscription = subscription
        self._latest = {
            key: frame for key, frame in self._latest.items() if subscription.wants(*key)
        }


@dataclass(slots=True)
class _SourceState:
    """The last that was published about one source."""

    kind: str
    state: str
    detail: str = ""
    prediction: Message | None = None
    prediction_frame: bytes = b""
    segment_frames: dict[int, bytes] = field(default_factory=dict)
    """Of the segments that may still change, by their number."""


class Hub:
    """The latest of every source, and everybody who is to be told.

    Parameters
    ----------
    hello
        The hello frame; its `sources` name all the sources there are.
    recorders
        Called with every published message, such as ``History.record`` and ``Metrics.record``.
    """

    def __init__(
        self, hello: Message, *, recorders: Iterable[Callable[[Message], object]] = ()
    ) -> None:
        self._hello = dict(hello)
        self._sources = {
            source["name"]: _SourceState(source["kind"], source["state"])
            for source in hello["sources"]
        }
        self._recorders = tuple(recorders)
        self._outboxes: dict[Outbox, None] = {}
        self._skipped_before = 0
        self._recent: deque[Stretch] = deque(maxlen=RECENT_SEGMENTS)
        self._timeline = Timeline()

    @property
    def outboxes(self) -> Iterable[Outbox]:
        """The outboxes of all clients."""
        return self._outboxes

    @property
    def skipped(self) -> int:
        """Predictions and spectrograms that clients missed because they were behind."""
        return self._skipped_before + sum(outbox.skipped for outbox in self._outboxes)

    def add_source(self, name: str, kind: str) -> None:
        """Take in a source that was not there at the start."""
        self._sources[name] = _SourceState(kind, "connecting")

    def remove_source(self, name: str) -> None:
        """Forget a source; only its segments stay."""
        self._sources.pop(name, None)
        self._recent.extend(self._timeline.cut_off(name))

    def wanted(self, kind: str) -> bool:
        """Tell whether any client wants messages of this type, which may be costly to make."""
        return any(kind in outbox.subscription.messages for outbox in self._outboxes)

    def publish(self, message: Message) -> None:
        """Tell a message to every client that wants it. Never waits for any of them."""
        kind, source = message["type"], message.get("source")
        frame = messages.encode(message)
        self._remember(kind, message, frame)
        for outbox in self._outboxes:
            if outbox.subscription.wants(kind, source):
                outbox.offer(kind, source, frame)
        for record in self._recorders:
            record(message)

    def join(self, outbox: Outbox) -> None:
        """Greet a new client and tell it the state of everything that it wants."""
        self._outboxes[outbox] = None
        outbox.offer("hello", None, messages.encode(self.hello()))
        self._catch_up(outbox, Subscription(messages=frozenset()))

    def leave(self, outbox: Outbox) -> None:
        """Forget a client."""
        if outbox in self._outboxes:
            del self._outboxes[outbox]
            self._skipped_before += outbox.skipped

    def subscribe(self, outbox: Outbox, request: Message) -> None:
        """Obey a subscribe frame and tell the state of what the client did not want before.

        Raises
        ------
        SubscriptionError
            If the frame is no good; the old subscription holds on.
        """
        before = outbox.subscription
        outbox.subscribe(Subscription.from_request(request, self._sources))
        self._catch_up(outbox, before)

    def hello(self) -> dict[str, Any]:
        """Return the hello frame as it is now."""
        return self._hello | {
            "sources": [
                {"name": name, "kind": source.kind, "state": source.state}
                for name, source in self._sources.items()
            ]
        }

    def state(self) -> dict[str, Any]:
        """Return what ``/api/state`` answers: the hello frame and the latest of each source."""
        state = self.hello()
        del state["type"]
        state["time"] = messages.timestamp(datetime.now(UTC))
        state["sources"] = [
            {
                "name": name,
                "kind": source.kind,
                "state": source.state,
                "detail": source.detail,
                "prediction": source.prediction,
            }
            for name, source in self._sources.items()
        ]
        live = [stretch for name in self._sources for stretch in self._timeline.live(name)]
        state["segments"] = [stretch.to_dict() for stretch in [*self._recent, *live]]
        return state

    def _catch_up(self, outbox: Outbox, before: Subscription) -> None:
        """Offer the latest of what a client wants and did not want before."""
        now = outbox.subscription
        for name, source in self._sources.items():
            predictions = [source.prediction_frame] if source.prediction_frame else []
            for kind, frames in (
                ("prediction", predictions),
                ("segment", source.segment_frames.values()),
            ):
                if now.wants(kind, name) and not before.wants(kind, name):
                    for frame in frames:
                        outbox.offer(kind, name, frame)

    def _remember(self, kind: str, message: Message, frame: bytes) -> None:
        if kind == "spectrogram":
            return
        source = self._sources.get(message["source"])
        if source is None:  # removed, and this is the last that was on its way
            return
        if kind == "prediction":
            source.prediction, source.prediction_frame = message, frame
            for stretch in self._timeline.hear(message):
                self._note_if_final(source, stretch)
        elif kind == "source":
            source.state, source.detail = message["state"], message["detail"]
        else:
            stretch = self._timeline.place(message)
            source.segment_frames[stretch.number] = frame
            self._note_if_final(source, stretch)

    def _note_if_final(self, source: _SourceState, stretch: Stretch) -> None:
        if stretch.final:
            self._recent.append(stretch)
            source.segment_frames.pop(stretch.number, None)
