"""The events that leave a source: typed until a sink encodes them for its own wire."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SourceKind = Literal["microphone", "loopback", "media", "pcm", "demo"]


class SourceState(enum.StrEnum):
    """What a listener says about its source."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A source changed."""

    source: str
    kind: SourceKind
    state: SourceState
    detail: str
    """One sentence for a person, without secrets; empty if there is nothing to say."""


@dataclass(frozen=True, slots=True)
class SpectrogramColumns:
    """New columns of the spectrogram, to be shown."""

    position: float
    """Seconds since the source's first sample, at the end of the last column."""
    levels: NDArray[np.uint8]
    """Shape (mels, columns), row 0 the lowest band; 255 is the loudest cell of the last window,
    0 is `top_db` below."""
