"""How each source is doing, as `/healthz` and `/metrics` tell it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

QUIET_SECONDS = 10.0
"""Seconds without a decision that every source may take, to connect and to fill its first window.
"""
QUIET_HOPS = 3
"""Hops without a decision that a source may take."""


def longest_quiet(least: float, hop_seconds: float, round_seconds: float) -> float:
    """Return the seconds that a source may be without a decision, `least` at least."""
    return max(least, QUIET_HOPS * max(hop_seconds, round_seconds))


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """The counters and the state of one source at one moment."""

    source: str
    """Name of the source."""
    state: str
    """One of the states of a `source` frame."""
    detail: str = ""
    """Why it is in that state."""
    quiet_seconds: float = 0.0
    """Seconds since the last decision, or since the start before the first."""
    hop_seconds: float = 1.0
    """Seconds of sound between two decisions, as it is now."""
    round_seconds: float = 0.0
    """Seconds that a decision about every source takes in all; over a hop if that must grow."""
    audio_seconds: float = 0.0
    """Seconds of sound taken in."""
    inferences: int = 0
    """Windows classified."""
    inference_seconds: float = 0.0
    """Seconds spent in classifying them."""
    queue_depth: int = 0
    """Blocks of sound that wait for the pipeline."""
    overruns: int = 0
    """Times that sound came faster than it was taken."""
    dropped_samples: int = 0
    """Samples lost to overruns."""
    nan_samples: int = 0
    """Samples that were not numbers and became silence."""
    clipped_samples: int = 0
    """Samples at or beyond full scale."""
    reconnects: int = 0
    """Times that the source was opened again."""
    crashes: int = 0
    """Times that its thread was started again after a fault of ours."""

    def problem(self) -> str | None:
        """Return why the source makes no progress, None while it does or has ended."""
        if self.state == "ended":
            return None
        if self.state == "failed":
            return self.detail or "failed"
        allowed = longest_quiet(QUIET_SECONDS, self.hop_seconds, self.round_seconds)
        if self.quiet_seconds <= allowed:
            return None
        reason = f"no decision for {self.quiet_seconds:.0f} s"
        return f"{reason}: {self.detail}" if self.detail else reason


HealthReader = Callable[[], Iterable[SourceHealth]]
"""Reads the health of all sources; called on the event loop's thread."""
