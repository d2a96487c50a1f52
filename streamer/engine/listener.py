"""One source's thread: read blocks, feed the pipeline, emit its events and the source's state."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamer.core.decision import Decision
from streamer.core.decision_settings import Effort
from streamer.core.events import SourceState, SourceStatus
from streamer.core.mixing import Mixer
from streamer.core.pipeline import Event, Pipeline
from streamer.engine.pacing import TARGET, HopPacing
from streamer.engine.scheduler import Scheduler
from streamer.sources.base import NO_THREAD, AudioBlock, Source, SourceEnded, SourceError
from streamer.system.backoff import Backoff

READ_SECONDS = 1.5
"""Timeout of one read, and so the longest time until a listener notices that it is to stop."""
HELD_SECONDS = 0.045
"""Sound beyond a hop that is read with it, since the resamplers hold so much of it back, at most,
at 44.1 or 48 kHz."""
STALL_SECONDS = 3.0
"""A live source that delivers nothing for this long is stalled."""
STAGGER_SECONDS = 0.02
"""Longest wait for one of many listeners to stop before the next one is woken."""
CRASH_LIMIT = 5
CRASH_WINDOW_SECONDS = 60.0
"""A listener that crashes `CRASH_LIMIT` times within this window has failed."""
WARNED_STATES = (SourceState.STALLED, SourceState.RECONNECTING, SourceState.FAILED)
"""States that are logged as warnings, others as information."""

logger = logging.getLogger(__name__)
state_logger = logging.getLogger(f"{__name__}.states")
"""Logs every new state; to be disabled by a program that shows states in another way."""


@dataclass(frozen=True, slots=True)
class PipelineEvent:
    """The pipeline of a source emitted an event."""

    source: str
    event: Event
    end_time: float
    """`time.monotonic()` of the last sample behind it, as in `AudioBlock`."""


ListenerEvent = SourceStatus | PipelineEvent


class Listener:
    """Listens to one source until it ends, fails for good, or is stopped.

    The source is opened, read and closed on the listener's thread, on which `emit` gets every event
    and `pipeline_factory` makes a pipeline: before the first block, and after a crash. The
    `scheduler` shares the processors with other listeners. If `paced`, the hop grows when the work
    does not fit into it; not for a source that is not read in real time, which waits for the
    pipeline instead. If the `effort` is None, it is "saving" before the hop grows.

    It has many methods because each step of the loop on that thread is one, and they share state.
    """

    def __init__(
        self,
        source: Source,
        pipeline_factory: Callable[[], Pipeline],
        emit: Callable[[ListenerEvent], None],
        *,
        scheduler: Scheduler | None = None,
        paced: bool = True,
        effort: Effort | None = "full",
        stall_seconds: float = STALL_SECONDS,
        backoff: Backoff | None = None,
    ) -> None:
        self.source = source
        self.status = SourceStatus(source.name, source.kind, SourceState.CONNECTING, "")
        """The last one emitted."""
        self.retrying = False
        """Whether the source broke and the listener waits before it opens it again."""
        self.reconnects = 0
        """Times that sound came again after an interruption."""
        self.reconnect_attempts = 0
        """Times that the source was opened again."""
        self.dropped = 0
        """Samples lost because they were not read in time."""
        self.crashes = 0
        self._mixing_reported = False
        self.pipeline: Pipeline | None = None
        """The pipeline in use; None before the first block."""
        self._pipeline_factory = pipeline_factory
        self._emit = emit
        self.scheduler = scheduler or Scheduler(1)
        self._paced = paced and source.real_time
        self._effort = effort
        self._pacing: HopPacing | None = None
        self._stall_seconds = stall_seconds
        self._backoff = backoff or Backoff()
        self._crash_times: deque[float] = deque(maxlen=CRASH_LIMIT)
        self._work = 0.0
        """Seconds of a processor that the sound since the last decision took."""
        self._decided_at: float | None = None
        """`time.monotonic()` of the last decision."""
        self._produced_seconds = 0.0
        """Those of the source at the last decision."""
        self._sound_end: float | None = None
        """`time.monotonic()` of the last sample; None before the first."""
        self._delay = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"listener {source.name}", daemon=True
        )

    def start(self, delay: float = 0.0) -> None:
        """Start the thread, which opens the source after `delay` seconds.

        If the system refuses to give a thread, the source has failed.
        """
        self._delay = delay
        self.scheduler.expect(self.source.name)
        try:
            self._thread.start()
        except RuntimeError:
            self.scheduler.forget(self.source.name)
            self._set_status(SourceState.FAILED, NO_THREAD)

    def request_stop(self) -> None:
        """Make the thread end at its next check, without waking it."""
        self._stopping.set()

    def stop(self, timeout: float | None = None) -> bool:
        """Close the source and wait for the thread, which ends open segments; see `join`."""
        self.request_stop()
        self.source.close()
        return self.join(timeout)

    def join(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds until the thread has ended; return whether it has."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._emit(self.status)
        self._stopping.wait(self._delay)
        while True:
            try:
                self._listen()
                return
            except Exception as error:
                if self._stopping.is_set() or not self._may_restart(error):
                    return

    def _may_restart(self, error: Exception) -> bool:
        """Log a crash; return whether the listener starts over or has failed."""
        self.crashes += 1
        now = time.monotonic()
        self._crash_times.append(now)
        logger.error("%s: the listener crashed", self.source.name, exc_info=error)
        detail = f"the listener crashed ({type(error).__name__}; see the log)"
        times = self._crash_times
        if len(times) == CRASH_LIMIT and now - times[0] < CRASH_WINDOW_SECONDS:
            self.scheduler.forget(self.source.name)
            self._set_status(SourceState.FAILED, f"{detail} {CRASH_LIMIT} times in a minute")
            return False
        self._set_status(SourceState.RECONNECTING, f"{detail} and begins anew", reason=detail)
        return True

    def _listen(self) -> None:
        """Open and read the source, again if it breaks or is live, until it has ended or failed."""
        while not self._stopping.is_set():
            try:
                self.source.open()
                self._read_all()
            except SourceEnded:
                if self._stopping.is_set() or not self.source.live:
                    break
                failure = SourceError("the source has ended")
            except SourceError as error:
                if error.permanent:
                    self._finish(SourceState.FAILED, str(error))
                    return
                failure = error
            finally:
                self.source.close()
            self._wait_after(failure)
        self._finish(SourceState.ENDED, "stopped" if self._stopping.is_set() else "")

    def _read_all(self) -> None:
        last_block: float | None = None
        while not self._stopping.is_set():
            due = 0.0 if self.pipeline is None else self.pipeline.due_seconds
            block = self.source.read(READ_SECONDS, due + HELD_SECONDS)
            now = time.monotonic()
            if block is not None:
                last_block = now
                if self.status.state is not SourceState.LIVE:
                    block = self._begin_sound(block)
                self._sound_end = block.end_time
                self._backoff.succeeded(block.seconds)
                self._feed(block)
                del block  # not to be kept in memory while waiting for the next one
            elif last_block is not None and now - last_block > self._stall_seconds:
                self._set_status(SourceState.STALLED, f"no audio for {self._stall_seconds:g} s")
        raise SourceEnded

    def _begin_sound(self, block: AudioBlock) -> AudioBlock:
        """Emit that the source is live; return its first block, which continues no other."""
        self.reconnects += self._sound_end is not None
        self._set_status(SourceState.LIVE, "", since=block.end_time - block.seconds)
        return replace(block, discontinuity=block.discontinuity or self.pipeline is not None)

    def _feed(self, block: AudioBlock) -> None:
        if self.pipeline is None:
            self.pipeline = self._pipeline_factory()
            self.pipeline.infer = self._infer
            self._pacing = self._begin_pacing(self.pipeline)
            self._work = 0.0
        pipeline = self.pipeline
        self.dropped += block.dropped
        end = pipeline.position + block.seconds
        # Sound that completes no hop is little work, which need not wait behind others' windows.
        is_small = block.seconds < pipeline.due_seconds
        with nullcontext() if is_small else self.scheduler.slot():
            used = time.thread_time()
            if self._stopping.is_set():
                return
            try:
                events = pipeline.feed(
                    block.samples,
                    block.sample_rate,
                    title=block.title,
                    discontinuity=block.discontinuity,
                )
            except Exception:
                self.pipeline = None
                raise
            self._work += time.thread_time() - used
        self._report_mixing(pipeline.mixer)
        self._emit_all(events, block.end_time, end)
        if decisions := sum(isinstance(event, Decision) for event in events):
            now = time.monotonic()
            interval, self._decided_at = now - (self._decided_at or now), now
            self._pace(
                pipeline,
                self._take_work() / decisions,
                lag=now - block.end_time,
                interval=interval / decisions,
            )

    def _begin_pacing(self, pipeline: Pipeline) -> HopPacing:
        """Return a new pacing; the effort is "saving" at once where full windows cannot fit."""
        fits = self.scheduler.expected_seconds <= TARGET * pipeline.hop_seconds
        return HopPacing(pipeline.hop_seconds, self._effort, first="full" if fits else "saving")

    def _infer(self, predict: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        probabilities, work = self.scheduler.infer(predict)
        self._work += work
        return probabilities

    def _take_work(self) -> float:
        """Return the seconds of a processor since the last decision, those of the source as well.

        Waiting for the interpreter or a processor is no work.
        """
        produced = self.source.processor_seconds
        # It begins anew when the source is opened.
        work = self._work + max(0.0, produced - self._produced_seconds)
        self._work, self._produced_seconds = 0.0, produced
        return work

    def _report_mixing(self, mixer: Mixer) -> None:
        """Log once that one channel takes the place of the mix."""
        if mixer.fallbacks and not self._mixing_reported:
            self._mixing_reported = True
            logger.warning(
                "%s: mixed together, the channels lose their sound (one may be out of phase, or "
                "all but one silent); the loudest one is heard alone",
                self.source.name,
            )

    def _emit_all(self, events: Sequence[Event], end_time: float, end: float) -> None:
        """Emit events, given the time of the position `end`, both in seconds."""
        for event in events:
            ago = max(0.0, end - event.position) if isinstance(event, Decision) else 0.0
            self._emit(PipelineEvent(self.source.name, event, end_time - ago))

    def _pace(self, pipeline: Pipeline, work: float, *, lag: float, interval: float) -> None:
        """Adjust the hop, given the work of a decision and its times, in seconds."""
        if not self._paced or self._pacing is None:
            return
        self._pacing.record(work)
        self._pacing.record_time(lag, interval)
        if self._pacing.work_seconds is not None:
            self.scheduler.update(self.source.name, self._pacing.work_seconds)
        hop_seconds = self._pacing.adjust(lag, self.scheduler.round_seconds)
        effort = self._pacing.effort
        if (hop_seconds, effort) == (pipeline.hop_seconds, pipeline.effort):
            return
        pipeline.hop_seconds, pipeline.effort = hop_seconds, effort
        detail = ""
        if hop_seconds > self._pacing.shortest:
            detail = f"this computer is too slow for more than a decision every {hop_seconds:.1f} s"
        elif effort != (self._effort or "full"):
            detail = "this computer is too slow to classify every window: those that repeat are not"
        if self._set_status(SourceState.LIVE, detail):
            name = self.source.name
            logger.info("%s: a decision every %.1f s, effort %s", name, hop_seconds, effort)

    def _wait_after(self, failure: SourceError) -> None:
        """Emit why the source broke, and wait before it is opened again."""
        delay = self._backoff.failed()
        self.scheduler.forget(self.source.name)
        self.retrying = True
        state = SourceState.STALLED if failure.stalled else SourceState.RECONNECTING
        detail = f"{failure}; next attempt in {delay:.0f} s"
        self._set_status(state, detail, reason=str(failure), retry_seconds=delay)
        self._stopping.wait(delay)
        self.retrying = False
        self.reconnect_attempts += 1
        if failure.stalled and not self._stopping.is_set():
            self._set_status(SourceState.RECONNECTING, str(failure))

    def _finish(self, state: SourceState, detail: str) -> None:
        """End open segments, then emit the last state."""
        self.scheduler.forget(self.source.name)
        pipeline = self.pipeline
        if pipeline is not None:
            try:
                with self.scheduler.slot():
                    events = pipeline.finish()
                self._emit_all(events, time.monotonic(), pipeline.position)
            except Exception:
                # Starting over, as after other crashes, would play a file that has ended again.
                self.crashes += 1
                logger.exception("%s: the pipeline crashed at its end", self.source.name)
        self._set_status(state, detail)

    def _interrupt_pipeline(self) -> None:
        """Emit what the sound so far completes; later it would be taken for new."""
        pipeline = self.pipeline
        if pipeline is None or self._sound_end is None:
            return
        try:
            with self.scheduler.slot():
                events = pipeline.interrupt()
        except Exception:
            self.pipeline = None
            raise
        self._emit_all(events, self._sound_end, pipeline.position)

    def _set_status(
        self,
        state: SourceState,
        detail: str,
        *,
        reason: str | None = None,
        since: float | None = None,
        retry_seconds: float | None = None,
    ) -> bool:
        """Emit and log a new state or detail; return False if neither has changed.

        A source that is live no longer has been off since its last sample.
        """
        if (state, detail) == (self.status.state, self.status.detail):
            return False
        if state is not self.status.state:
            level = logging.WARNING if state in WARNED_STATES else logging.INFO
            words = f" ({detail})" if detail else ""
            state_logger.log(level, "%s: %s%s", self.source.name, state, words)
            if self.status.state is SourceState.LIVE:
                since = self._sound_end
                self._interrupt_pipeline()
        if since is not None:
            since = min(since, time.monotonic()) if self.source.real_time else None
        self.status = SourceStatus(
            self.source.name,
            self.source.kind,
            state,
            detail,
            reason=detail if reason is None else reason,
            since=since,
            retry_seconds=retry_seconds,
        )
        self._emit(self.status)
        return True


def stop_all(listeners: Sequence[Listener], seconds: float) -> None:
    """Close all sources and wait for their threads, up to `seconds` altogether."""
    deadline = time.monotonic() + seconds
    for listener in listeners:
        listener.request_stop()
    # Hundreds of threads that wake together take far longer than one after the other.
    for listener in listeners:
        listener.stop(max(0.0, min(STAGGER_SECONDS, deadline - time.monotonic())))
    for listener in listeners:
        listener.join(max(0.0, deadline - time.monotonic()))
