"""Whether decisions are made: for systemd's watchdog, `/healthz` and the report of SIGUSR1."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from streamer.core.decision import Decision
from streamer.core.events import SourceState
from streamer.core.health import SourceHealth, max_quiet_seconds
from streamer.core.silence import LEAST_DBFS
from streamer.engine.listener import Listener

OVERDUE_SECONDS = 3.0
"""A decision is overdue after this long at the earliest, however short the hop is."""
REPORTED_CALLERS = 4
TERMINAL_STATES = (SourceState.ENDED, SourceState.FAILED)
IDLE_STATES = (SourceState.CONNECTING, SourceState.RECONNECTING, *TERMINAL_STATES)
"""States in which no decision is due: a restart would bring none, and disturb the other sources."""


class Progress:
    """Time since the last decision about one source; the first needs `first_seconds` of sound."""

    def __init__(
        self, listener: Listener, first_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.listener = listener
        self._clock = clock
        self._first_seconds = first_seconds
        self._quiet_since = self._due_since = clock() + first_seconds
        self._silence_seconds = self._digital_silence_seconds = 0.0

    @property
    def quiet_seconds(self) -> float:
        """Seconds since the last decision, whether or not one was due."""
        return max(0.0, self._clock() - self._quiet_since)

    @property
    def hop_seconds(self) -> float:
        """Current seconds of sound between two decisions."""
        pipeline = self.listener.pipeline
        return pipeline.hop_seconds if pipeline else 1.0

    def decided(self, decision: Decision | None = None) -> None:
        """Record that there was a decision, and the silence that it reports."""
        if decision is not None:
            self._silence_seconds = decision.silence_seconds
            is_digital = decision.silence_seconds > 0 and decision.level_dbfs <= LEAST_DBFS
            digital_seconds = self._digital_silence_seconds + decision.hop_seconds
            self._digital_silence_seconds = digital_seconds if is_digital else 0.0
        self._quiet_since = self._due_since = self._clock()

    def is_overdue(self) -> bool:
        """Return whether there should have been a decision by now."""
        if self.listener.status.state in IDLE_STATES or self.listener.retrying:
            self._due_since = self._clock() + self._first_seconds
            return False
        return self._clock() - self._due_since > max_quiet_seconds(
            OVERDUE_SECONDS, self.hop_seconds, self.listener.scheduler.round_seconds
        )

    def is_over(self) -> bool:
        """Return whether the source has ended or failed for good."""
        return self.listener.status.state in TERMINAL_STATES

    def health(self) -> SourceHealth:
        """Return the current state and counters of the source."""
        listener, pipeline = self.listener, self.listener.pipeline
        is_live = listener.status.state is SourceState.LIVE
        return SourceHealth(
            source=listener.source.name,
            state=listener.status.state,
            detail=listener.status.detail,
            quiet_seconds=self.quiet_seconds,
            silence_seconds=self._silence_seconds if is_live else 0.0,
            digital_silence_seconds=self._digital_silence_seconds if is_live else 0.0,
            is_station=listener.source.kind == "media" and listener.source.live,
            hop_seconds=self.hop_seconds,
            round_seconds=listener.scheduler.round_seconds,
            audio_seconds=pipeline.position if pipeline else 0.0,
            inferences=pipeline.inferences if pipeline else 0,
            inference_seconds=pipeline.inference_seconds if pipeline else 0.0,
            queue_depth=listener.source.waiting_blocks,
            overruns=listener.source.overruns,
            dropped_samples=listener.dropped,
            mix_fallbacks=pipeline.mixer.fallbacks if pipeline else 0,
            nan_samples=pipeline.nan_samples if pipeline else 0,
            clipped_samples=pipeline.clipped_samples if pipeline else 0,
            reconnects=listener.reconnects,
            reconnect_attempts=listener.reconnect_attempts,
            crashes=listener.crashes,
        )


def needs_restart(sources: Iterable[Progress]) -> bool:
    """Return whether restarting the daemon may help an overdue source and harms no other.

    Stalled sources deliver no sound, so that the daemon is not at fault: they alone are no reason
    for a restart while any other source is running.
    """
    sources = list(sources)
    overdue = [source for source in sources if source.is_overdue()]
    if any(source.listener.status.state is not SourceState.STALLED for source in overdue):
        return True
    running = [source for source in sources if source not in overdue and not source.is_over()]
    return bool(overdue) and not running


def threads_and_tasks() -> Iterator[str]:
    """Describe what every thread is executing, and count the event loop's tasks."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        # Not `traceback.extract_stack`, which reads source files.
        stack = islice(traceback.walk_stack(frame), REPORTED_CALLERS) if frame else ()
        callers = (f"{f.f_code.co_name} ({f.f_code.co_filename}:{line})" for f, line in stack)
        yield f"thread {thread.name}: {' < '.join(callers)}"
    yield f"event loop: {len(asyncio.all_tasks())} tasks"
