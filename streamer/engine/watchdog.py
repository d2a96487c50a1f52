"""Whether the daemon does what it is there for, as the watchdog, `/healthz` and SIGUSR1 ask."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from streamer.core.events import SourceState
from streamer.core.health import SourceHealth, longest_quiet
from streamer.engine.listener import Listener

LEAST_QUIET_SECONDS = 3.0
"""A source may be without a decision for this long, however short its hop is."""

CALLERS = 4
"""How many functions of each thread are named."""

OVER = (SourceState.ENDED, SourceState.FAILED)
ALWAYS_WELL = (SourceState.CONNECTING, SourceState.RECONNECTING, *OVER)
"""States in which no decision is due: a restart would bring none, and disturb the other sources."""


class Progress:
    """When one source last had a decision.

    Parameters
    ----------
    listener
        Who listens to it.
    first_seconds
        Seconds of sound that the first decision needs.
    clock
        Seconds, never going back.
    """

    def __init__(
        self,
        listener: Listener,
        first_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.listener = listener
        self._clock = clock
        self._first_seconds = first_seconds
        self._quiet_since = self._due_since = clock() + first_seconds

    @property
    def quiet_seconds(self) -> float:
        """Seconds since the last decision, whether or not one was due."""
        return max(0.0, self._clock() - self._quiet_since)

    @property
    def hop_seconds(self) -> float:
        """Seconds of sound between two decisions, as it is now."""
        return self.listener.hop_seconds or 1.0

    def decided(self) -> None:
        """Note that there was a decision."""
        self._quiet_since = self._due_since = self._clock()

    def is_due(self) -> bool:
        """Tell whether sound should be turning into decisions, as far as anybody knows."""
        state = self.listener.status.state
        return state not in ALWAYS_WELL and not self.listener.retrying

    def is_well(self) -> bool:
        """Tell whether the source makes progress, or is known to be unable to for now."""
        if not self.is_due():
            self._due_since = self._clock() + self._first_seconds
            return True
        overdue = self._clock() - self._due_since
        return overdue <= longest_quiet(
            LEAST_QUIET_SECONDS, self.hop_seconds, self.listener.round_seconds
        )

    def is_stalled(self) -> bool:
        """Tell whether it is the source that brings nothing, rather than we who do nothing."""
        return self.listener.status.state is SourceState.STALLED

    def is_over(self) -> bool:
        """Tell whether nothing more is to be heard of the source."""
        return self.listener.status.state in OVER

    def health(self) -> SourceHealth:
        """Return the counters of the source as they are now."""
        listener, pipeline = self.listener, self.listener.pipeline
        return SourceHealth(
            source=listener.source.name,
            state=listener.status.state,
            detail=listener.status.detail,
            quiet_seconds=self.quiet_seconds,
            hop_seconds=self.hop_seconds,
            round_seconds=listener.round_seconds,
            audio_seconds=pipeline.position if pipeline else 0.0,
            inferences=pipeline.inferences if pipeline else 0,
            inference_seconds=pipeline.inference_seconds if pipeline else 0.0,
            queue_depth=listener.source.waiting_blocks,
            overruns=listener.overruns,
            dropped_samples=listener.dropped,
            nan_samples=pipeline.nan_samples if pipeline else 0,
            clipped_samples=pipeline.clipped_samples if pipeline else 0,
            reconnects=listener.reconnects,
            crashes=listener.crashes,
        )


def needs_restart(sources: Iterable[Progress]) -> bool:
    """Tell whether a restart may help a source that is not well, and harms none that is.

    One that is stalled is no reason for it while any other goes on.
    """
    sources = list(sources)
    unwell = [source for source in sources if not source.is_well()]
    if not all(source.is_stalled() for source in unwell):
        return True
    going_on = [source for source in sources if source not in unwell and not source.is_over()]
    return bool(unwell) and not going_on


def threads_and_tasks() -> Iterator[str]:
    """Describe what every thread does at this moment, and how many tasks the event loop has."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        path = " < ".join(_callers(frames.get(thread.ident or 0)))
        yield f"thread {thread.name}: {path}"
    yield f"event loop: {len(asyncio.all_tasks())} tasks"


def _callers(frame: FrameType | None) -> Iterator[str]:
    """Describe a frame and its nearest callers, without reading any source file."""
    for _ in range(CALLERS):
        if frame is None:
            return
        code = frame.f_code
        yield f"{code.co_name} ({code.co_filename}:{frame.f_lineno})"
        frame = frame.f_back
