"""The events that leave a source: typed until a sink encodes them for its own wire."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from streamer.core.decision import Decision
from streamer.core.segments import Segment

SourceKind = Literal["microphone", "loopback", "media", "pcm", "demo"]
MessageType = Literal["prediction", "segment", "source", "spectrogram"]


class SourceState(enum.StrEnum):
    """Whether a source is delivering sound, in the words of the protocol."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A source changed its state, or the reason for it."""

    source: str
    kind: SourceKind
    state: SourceState
    detail: str
    """One sentence for a person, without secrets; empty if there is nothing to say."""
    reason: str = field(default="", compare=False)
    """`detail` without what changes from attempt to attempt; empty if there is none."""
    since: float | None = field(default=None, compare=False)
    """`time.monotonic()` at which the sound that this state is about began or ended; None if that
    is when the event was emitted."""
    retry_seconds: float | None = field(default=None, compare=False)
    """From the event to the next attempt to open the source; None if none is planned."""


@dataclass(frozen=True, slots=True)
class SpectrogramColumns:
    """New columns of the spectrogram, to be shown."""

    position: float
    """Seconds since the source's first sample, at the end of the last column."""
    levels: NDArray[np.uint8]
    """Shape (mels, columns), row 0 the lowest band; 255 is the loudest cell of the last window,
    0 is `top_db` below."""


@dataclass(frozen=True, slots=True)
class PlacedSegment:
    """A segment in clock time."""

    source: str
    number: int
    """Unique within the source, unlike `Segment.id`, which restarts with the source."""
    start: datetime
    end: datetime
    """While `is_open`, the time of the source's latest decision."""
    is_open: bool
    final: bool
    """Whether it can no longer change; also true of one that its source never ended."""
    segment: Segment
    """The latest revision by the pipeline."""


@dataclass(frozen=True, slots=True)
class PlacedState:
    """A stretch of clock time in which a source was in one state for one reason.

    The stretches of a source follow each other without gap or overlap.
    """

    source: str
    number: int
    """Counts up from 1 within the source."""
    start: datetime
    """Where sound begins or ends, if the state does so with it."""
    end: datetime
    """While `is_open`, when it was last known to last."""
    is_open: bool
    state: SourceState
    reason: str
    """As in `SourceStatus`."""


@dataclass(frozen=True, slots=True)
class Published:
    """One event, as every sink gets it."""

    source: str
    sequence: int
    """Number of decisions published about the source before this event."""
    time: datetime
    """When it was published: UTC, in whole milliseconds."""
    latency: float
    """Seconds to `time` from the last sample behind the event; for a `SourceStatus` from its
    `since`."""
    event: Decision | Segment | SourceStatus | SpectrogramColumns
    segments: tuple[PlacedSegment, ...] = ()
    """The segments that this event begins, changes, lengthens or cuts off; a `Segment`'s own comes
    last. If the system clock was set, also those that move with it, of every source."""
    states: tuple[PlacedState, ...] = ()
    """The stretches of source states that this event begins, lengthens or ends, oldest first; as
    with `segments`, also those that move with the system clock."""

    @property
    def type(self) -> MessageType:
        """Type of the event's message in protocol 1."""
        match self.event:
            case Decision():
                return "prediction"
            case Segment():
                return "segment"
            case SourceStatus():
                return "source"
            case SpectrogramColumns():
                return "spectrogram"


class Sink(Protocol):
    """Where events go.

    All methods are called on one thread, which serves every sink: they return at once, and what
    takes time is queued. `add_source` and `remove_source` do nothing unless a sink defines them.
    """

    def publish(self, published: Published) -> None:
        """Take an event."""

    def add_source(self, name: str, kind: SourceKind) -> None:
        """Take note of a source that is new, or is started again with other settings."""
        return

    def remove_source(self, name: str, segments: Sequence[PlacedSegment]) -> None:
        """Forget a source; `segments` are those that it never ended, which are final now."""
        return
