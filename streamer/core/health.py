"""The health of a source, as the watchdog, `/healthz` and `/metrics` see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

UNHEALTHY_SECONDS = 10.0
"""A source without a decision for this long is unhealthy; every source may take as long to connect
and to fill its first window."""
DEAD_AIR_SECONDS = 60.0
"""A station that sends digital silence for this long is unhealthy. A muted microphone is not."""
HOPS_WITHOUT_DECISION = 3
"""Hops that a source may be without a decision."""


def max_quiet_seconds(least: float, hop_seconds: float, round_seconds: float) -> float:
    """Return how long a source may be without a decision: `least`, or some hops if longer."""
    return max(least, HOPS_WITHOUT_DECISION * max(hop_seconds, round_seconds))


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """State and counters of one source at one moment."""

    source: str
    state: str
    """One of the states of a `source` frame."""
    detail: str = ""
    """Why it is in that state."""
    quiet_seconds: float = 0.0
    """Seconds since the last decision, or since the start before the first."""
    silence_seconds: float = 0.0
    """How long the source has been silent; 0 while it is not live."""
    digital_silence_seconds: float = 0.0
    """How long all samples have been 0."""
    is_station: bool = False
    """Whether it is an internet stream without an end, which should not be silent for long."""
    hop_seconds: float = 1.0
    """Current seconds of sound between two decisions."""
    round_seconds: float = 0.0
    """Seconds that one decision about every source takes altogether."""
    audio_seconds: float = 0.0
    """Seconds of sound taken in."""
    inferences: int = 0
    """Windows classified."""
    inference_seconds: float = 0.0
    queue_depth: int = 0
    """Blocks of sound that wait for the pipeline."""
    overruns: int = 0
    """Times that sound came faster than it was taken."""
    dropped_samples: int = 0
    """Lost to overruns."""
    mix_fallbacks: int = 0
    """Times that one channel was heard because the mix of all lost its sound."""
    nan_samples: int = 0
    """NaN or infinite; they became silence."""
    clipped_samples: int = 0
    reconnects: int = 0
    """Times that sound came again after an interruption."""
    reconnect_attempts: int = 0
    """Times that it was opened again."""
    crashes: int = 0
    """Times that its listener started over after a crash."""

    def problem(self) -> str | None:
        """Return why the source is unhealthy, None if it is healthy or has ended."""
        if self.state == "ended":
            return None
        if self.state == "failed":
            return self.detail or "failed"
        limit = max_quiet_seconds(UNHEALTHY_SECONDS, self.hop_seconds, self.round_seconds)
        if self.quiet_seconds > limit:
            reason = f"no decision for {self.quiet_seconds:.0f} s"
            return f"{reason}: {self.detail}" if self.detail else reason
        if self.is_station and self.digital_silence_seconds >= DEAD_AIR_SECONDS:
            return f"digital silence for {self.digital_silence_seconds:.0f} s"
        return None


HealthReader = Callable[[], Iterable[SourceHealth]]
"""Reads the health of all sources; called on the event loop's thread."""


@dataclass(frozen=True, slots=True)
class OutputHealth:
    """State and counters of one output, such as a broker, at one moment."""

    output: str
    reachable: bool
    """Whether what it sends arrives, as far as is known."""
    reason: str = ""
    """Why it does not; empty if it does."""
    sent: int = 0
    """Messages sent since the start."""
    queue_depth: int = 0
    """Messages that wait to be sent."""
    dropped: int = 0
    """Messages lost since the start, since the receiver did not keep up."""


OutputReader = Callable[[], Iterable[OutputHealth]]
"""Returns the health of every output."""
