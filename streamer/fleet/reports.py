"""What engines and the supervisor of a fleet tell each other and the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streamer.core.health import OutputHealth
from streamer.inputs import SourceSettings


@dataclass(frozen=True, slots=True)
class Assignment:
    """A source that an engine is to listen to."""

    source: SourceSettings
    owner: int
    """Number of this hand-over; it is larger than that of every earlier one of the source."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an engine says of itself."""

    machine: str
    """Name of the computer."""
    process: int
    """Process number there."""
    owners: Mapping[str, int]
    """Owner number of each source that it holds."""
    states: Mapping[str, str]
    """State of each source, in the words of the protocol."""
    failures: Mapping[str, str]
    """Why sources have failed for good."""
    capacity: int
    """Sources that it can serve at the hop asked for, as far as it has measured."""
    hop_seconds: float
    """Longest hop of its sources."""
    decisions: int
    """Since the start, of the sources that it holds."""
    audio_seconds: float
    """Seconds of sound taken in, likewise."""
    inference_seconds: float
    """Seconds of inference, likewise."""
    cpu_seconds: float
    """Processor time of the process since its start."""
    output: OutputHealth
    """Of the connection to the broker."""

    @property
    def real_time_factor(self) -> float:
        """Seconds of inference for a second of sound."""
        return self.inference_seconds / self.audio_seconds if self.audio_seconds else 0.0


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """An engine as the supervisor sees it."""

    name: str
    report: Report | None
    """Its last report; None while it does not answer."""
    reason: str = ""
    """Why it does not answer."""


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The whole fleet."""

    list_version: str
    """Of the list in force; empty while the supervisor has none."""
    sources: int
    """Sources in the list."""
    engines: Sequence[EngineStatus]
    handovers: int
    """Sources given to an engine since the supervisor started."""
    command: str = ""
    """Which command the fleet follows; empty if none has asked for a while."""
    questions: int = 0
    """How often that command has asked."""
    states: Mapping[str, int] = field(default_factory=dict)
    """Number of sources in each state; `waiting` are those that no engine has reported."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why sources have failed for good."""

    @property
    def running(self) -> list[Report]:
        """The reports of the engines that answer."""
        return [engine.report for engine in self.engines if engine.report]

    @property
    def capacity(self) -> int:
        """Sources that the engines that answer can serve."""
        return sum(report.capacity for report in self.running)

    def is_over(self) -> bool:
        """Return whether every source has ended or failed for good."""
        over = self.states.get("ended", 0) + self.states.get("failed", 0)
        return bool(self.list_version) and over == self.sources


def count_states(states: Mapping[str, str]) -> dict[str, int]:
    """Return how many sources are in each state, the most frequent one first."""
    return dict(Counter(states.values()).most_common())
