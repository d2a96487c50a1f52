"""Starts, watches and stops the listeners of all sources."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from streamer.core.decision import Decision
from streamer.core.events import SourceState, SourceStatus
from streamer.core.health import SourceHealth
from streamer.engine.listener import Listener, stop_all
from streamer.engine.publisher import Publisher
from streamer.engine.watchdog import Progress, needs_restart
from streamer.sources import Source

logger = logging.getLogger(__name__)


class Supervisor:
    """The listeners by the names of their sources; to be used on the event loop's thread.

    `make_listener` must not start the listener. `deliver_all` publishes what listeners have emitted
    so far. `first_seconds` of sound are needed for a first decision; listeners may take
    `stop_seconds` to stop.
    """

    def __init__(
        self,
        make_listener: Callable[[Source], Listener],
        publisher: Publisher,
        deliver_all: Callable[[], None],
        *,
        first_seconds: float,
        stop_seconds: float,
    ) -> None:
        self._make_listener = make_listener
        self._publisher = publisher
        self._deliver_all = deliver_all
        self._first_seconds = first_seconds
        self._stop_seconds = stop_seconds
        self._progress: dict[str, Progress] = {}
        self._closed = False

    @property
    def listeners(self) -> dict[str, Listener]:
        """The listeners that were started and not stopped, by the names of their sources."""
        return {name: progress.listener for name, progress in self._progress.items()}

    def start(self, source: Source, delay: float = 0.0) -> None:
        """Start to listen to a source after `delay` seconds, unless the supervisor was closed."""
        if not self._closed:
            listener = self._make_listener(source)
            self._progress[source.name] = Progress(listener, self._first_seconds)
            listener.start(delay)

    async def change(self, sources: Iterable[Source]) -> None:
        """Stop, start and restart listeners until they are those of `sources`."""
        wanted = {source.name: source for source in sources}
        current = {name: listener.source for name, listener in self.listeners.items()}
        await self._stop([name for name in current if wanted.get(name) is not current[name]])
        for name in [name for name in current if name not in wanted]:
            logger.info("%s: no longer listened to", name)
            self._publisher.remove_source(name)
        for name, source in wanted.items():
            if name not in self._progress and not self._closed:
                self._publisher.add_source(name, source.kind)
                self.start(source)

    async def close(self) -> None:
        """Stop all listeners and start no more."""
        self._closed = True
        await self._stop(list(self._progress))

    async def _stop(self, names: list[str]) -> None:
        listeners = [self._progress.pop(name).listener for name in names]
        await asyncio.to_thread(stop_all, listeners, self._stop_seconds)
        self._deliver_all()

    def decided(self, name: str, decision: Decision) -> None:
        """Record a decision about a source."""
        if name in self._progress:
            self._progress[name].decided(decision)

    def health(self) -> list[SourceHealth]:
        """Return the current state and counters of every source."""
        return [progress.health() for progress in self._progress.values()]

    def needs_restart(self) -> bool:
        """Return whether decisions are overdue such that restarting the daemon may help."""
        return needs_restart(self._progress.values())

    def is_over(self) -> bool:
        """Return whether every source has ended or failed for good."""
        return all(progress.is_over() for progress in self._progress.values())

    def failures(self) -> list[SourceStatus]:
        """Return the states of the sources that have failed."""
        states = [listener.status for listener in self.listeners.values()]
        return [status for status in states if status.state is SourceState.FAILED]
