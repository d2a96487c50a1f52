"""One source's thread: read, feed the pipeline, tell what was heard and how the source is."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamer.core.decision import Decision, Segment
from streamer.core.events import SourceState, SourceStatus, SpectrogramColumns
from streamer.core.pipeline import Pipeline
from streamer.engine.pacing import HopPacing
from streamer.engine.scheduler import Scheduler
from streamer.sources.base import NO_THREAD, AudioBlock, Source, SourceEnded, SourceError
from streamer.system.backoff import Backoff

READ_SECONDS = 0.5
"""How long one read waits; a listener that is to stop looks up at least this often."""
STALL_SECONDS = 3.0
"""A live source that brings nothing for so long is stalled."""
STOP_SECONDS = 0.02
"""How long each of many listeners is waited for before the next one is woken."""
CRASHES = 5
CRASH_WINDOW_SECONDS = 60.0
"""A listener that crashes `CRASHES` times within this is given up."""
LOG_LEVELS = {
    SourceState.STALLED: logging.WARNING,
    SourceState.RECONNECTING: logging.WARNING,
    SourceState.FAILED: logging.WARNING,
}
"""Levels at which a source's new state is logged; the others are news, no more."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PipelineEvent:
    """The pipeline said something about a source."""

    source: str
    event: Decision | Segment | SpectrogramColumns
    heard: float
    """`time.monotonic()`, in seconds, at which the last sample behind it was heard."""
    hop_seconds: float
    """Time between decisions at that moment."""


ListenerEvent = SourceStatus | PipelineEvent


class Listener:
    """Listens to one source until it ends, fails for good, or is stopped.

    Parameters
    ----------
    source
        Opened, read and closed on the listener's thread.
    pipeline_factory
        Makes the pipeline; called again only after the pipeline has crashed.
    emit
        Called on the listener's thread with everything that happens.
    scheduler
        When it may compute, among other listeners; None if there are none.
    paced
        Whether the hop grows when the work does not fit into it. It never does for a source that
        is not heard in real time: that waits for us.
    stall_seconds
        A live source that brings nothing for so long is stalled.
    backoff
        How long to wait before a broken source is opened again.

    Attributes
    ----------
    status : SourceStatus
        The last one emitted.
    retrying : bool
        Whether the source broke and the listener waits before it opens it again.
    reconnects, dropped, crashes : int
        Times the source was opened again; samples lost because nobody read them in time; defects
        after which the listener began anew.
    """

    def __init__(
        self,
        source: Source,
        pipeline_factory: Callable[[], Pipeline],
        emit: Callable[[ListenerEvent], None],
        *,
        scheduler: Scheduler | None = None,
        paced: bool = True,
        stall_seconds: float = STALL_SECONDS,
        backoff: Backoff | None = None,
    ) -> None:
        self.source = source
        self.status = SourceStatus(source.name, source.kind, SourceState.CONNECTING, "")
        self.retrying = False
        self.reconnects = 0
        self.dropped = 0
        self.crashes = 0
        self._pipeline_factory = pipeline_factory
        self._pipeline: Pipeline | None = None
        self._emit = emit
        self._scheduler = scheduler or Scheduler(1)
        self._paced = paced and source.real_time
        self._pacing: HopPacing | None = None
        self._stall_seconds = stall_seconds
        self._backoff = backoff or Backoff()
        self._crash_times: deque[float] = deque(maxlen=CRASHES)
        self._work = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"listener {source.name}", daemon=True
        )

    @property
    def overruns(self) -> int:
        """How often the operating system discarded samples before we saw them."""
        return self.source.overruns

    @property
    def pipeline(self) -> Pipeline | None:
        """The pipeline in use, for its counters; None until the thread has begun."""
        return self._pipeline

    @property
    def hop_seconds(self) -> float | None:
        """The time between decisions at present, in seconds; None until the thread has begun."""
        return self._pipeline.hop_seconds if self._pipeline else None

    @property
    def round_seconds(self) -> float:
        """The time that a decision about each of the listeners takes in all, in seconds."""
        return self._scheduler.round_seconds

    def start(self) -> None:
        """Begin to listen; where the system gives no thread for it, the source has failed."""
        try:
            self._thread.start()
        except RuntimeError:
            self._tell(SourceState.FAILED, NO_THREAD)

    def ask_to_stop(self) -> None:
        """Let the thread end when it next looks up, without waking it."""
        self._stopping.set()

    def stop(self, timeout: float | None = None) -> None:
        """Close the source, end open segments and wait up to `timeout` seconds for the thread."""
        self.ask_to_stop()
        self.source.close()
        self.join(timeout)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the source has ended, up to `timeout` seconds."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def is_alive(self) -> bool:
        """Tell whether the thread is running."""
        return self._thread.is_alive()

    def _run(self) -> None:
        self._emit(self.status)
        while True:
            try:
                self._listen()
                return
            except Exception as error:
                if self._stopping.is_set() or not self._may_restart(error):
                    return

    def _may_restart(self, error: Exception) -> bool:
        """Log a crash; tell whether the listener begins anew or is given up."""
        self.crashes += 1
        now = time.monotonic()
        self._crash_times.append(now)
        logger.error("%s: the listener crashed", self.source.name, exc_info=error)
        often = (
            len(self._crash_times) == CRASHES and now - self._crash_times[0] < CRASH_WINDOW_SECONDS
        )
        what = f"the listener crashed ({type(error).__name__}; see the log)"
        if often:
            self._tell(SourceState.FAILED, f"{what} {CRASHES} times in a minute")
        else:
            self._tell(SourceState.RECONNECTING, f"{what} and begins anew")
        return not often

    def _listen(self) -> None:
        """Open and read the source, again if it breaks or is live, until that is pointless."""
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
            block = self.source.read(READ_SECONDS)
            now = time.monotonic()
            if block is not None:
                last_block = now
                if self.status.state is not SourceState.LIVE:
                    self._tell(SourceState.LIVE, "")
                self._backoff.succeeded(block.seconds)
                self._feed(block)
            elif last_block is not None and now - last_block > self._stall_seconds:
                self._tell(SourceState.STALLED, f"no audio for {self._stall_seconds:g} s")
        raise SourceEnded

    def _feed(self, block: AudioBlock) -> None:
        pipeline = self._ready_pipeline()
        self.dropped += block.dropped
        end = pipeline.position + block.seconds
        with self._scheduler.slot() as started:
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
                self._pipeline = None
                raise
            self._work += time.monotonic() - started
        for event in events:
            self._tell_heard(event, block.heard, end, pipeline)
        decisions = sum(isinstance(event, Decision) for event in events)
        if decisions:
            self._pace(pipeline, self._work / decisions, time.monotonic() - block.heard)
            self._work = 0.0

    def _ready_pipeline(self) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = self._pipeline_factory()
            self._pacing = HopPacing(self._pipeline.hop_seconds)
            self._work = 0.0
        return self._pipeline

    def _pace(self, pipeline: Pipeline, work: float, lag: float) -> None:
        """Let the hop grow while the work does not fit into it, and shrink when it does again."""
        if not self._paced or self._pacing is None:
            return
        self._pacing.record(work)
        if self._pacing.work_seconds is not None:
            self._scheduler.update(self.source.name, self._pacing.work_seconds)
        hop_seconds = self._pacing.adjust(lag, self._scheduler.round_seconds)
        if hop_seconds == pipeline.hop_seconds:
            return
        pipeline.hop_seconds = hop_seconds
        slow = hop_seconds > self._pacing.shortest
        detail = f"this computer is too slow for more than a decision every {hop_seconds:.1f} s"
        if self._tell(SourceState.LIVE, detail if slow else ""):
            logger.info("%s: a decision every %.1f s", self.source.name, hop_seconds)

    def _wait_after(self, failure: SourceError) -> None:
        """Tell why the source broke, and wait before it is opened again."""
        delay = self._backoff.failed()
        self._scheduler.forget(self.source.name)
        self.retrying = True
        detail = f"{failure}; next attempt in {delay:.0f} s"
        self._tell(SourceState.STALLED if failure.stalled else SourceState.RECONNECTING, detail)
        self._stopping.wait(delay)
        self.retrying = False
        self.reconnects += 1
        if failure.stalled and not self._stopping.is_set():
            self._tell(SourceState.RECONNECTING, str(failure))

    def _finish(self, state: SourceState, detail: str) -> None:
        """End open segments, then tell the last state."""
        self._scheduler.forget(self.source.name)
        pipeline = self._pipeline
        if pipeline is not None:
            try:
                with self._scheduler.slot():
                    events = pipeline.finish()
                for event in events:
                    self._tell_heard(event, time.monotonic(), pipeline.position, pipeline)
            except Exception:
                # Beginning anew, as after other crashes, would play a file that has ended again.
                self.crashes += 1
                logger.exception("%s: the pipeline crashed at its end", self.source.name)
        self._tell(state, detail)

    def _tell(self, state: SourceState, detail: str) -> bool:
        """Tell and log how the source is; return False if it was told so before."""
        if (state, detail) == (self.status.state, self.status.detail):
            return False
        if state is not self.status.state:
            level = LOG_LEVELS.get(state, logging.INFO)
            said = f" ({detail})" if detail else ""
            logger.log(level, "%s: %s%s", self.source.name, state, said)
        self.status = SourceStatus(self.source.name, self.source.kind, state, detail)
        self._emit(self.status)
        return True

    def _tell_heard(
        self,
        event: Decision | Segment | SpectrogramColumns,
        heard: float,
        end: float,
        pipeline: Pipeline,
    ) -> None:
        """Emit an event; a decision inside a block was heard before the block's last sample."""
        if isinstance(event, Decision):
            heard -= max(0.0, end - event.position)
        self._emit(PipelineEvent(self.source.name, event, heard, pipeline.hop_seconds))


def stop_all(listeners: Sequence[Listener], seconds: float) -> None:
    """Close all sources, then wait for what each has to say last, up to `seconds` in all."""
    deadline = time.monotonic() + seconds
    for listener in listeners:
        listener.ask_to_stop()
    # Hundreds of threads that wake together take far longer than one after the other.
    for listener in listeners:
        listener.stop(max(0.0, min(STOP_SECONDS, deadline - time.monotonic())))
    for listener in listeners:
        listener.join(max(0.0, deadline - time.monotonic()))
