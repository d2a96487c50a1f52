"""Reading sources to their end, and waiting for the events of listeners."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamer.core.events import SourceState, SourceStatus
from streamer.engine.listener import Listener, ListenerEvent, PipelineEvent
from streamer.sources import AudioBlock, Source, SourceEnded
from support.waiting import LONGEST_WAIT_SECONDS


def read_all(source: Source) -> list[AudioBlock]:
    """Open a source and return its blocks up to its end."""
    blocks = []
    source.open()
    try:
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while time.monotonic() < deadline:
            block = source.read(1.0)
            if block is not None:
                blocks.append(block)
    except SourceEnded:
        return blocks
    finally:
        source.close()
    raise AssertionError(f"{source.name} did not end")


def read_one(source: Source) -> AudioBlock:
    """Return the next block of an open source."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while time.monotonic() < deadline:
        block = source.read(1.0)
        if block is not None:
            return block
    raise AssertionError(f"{source.name} delivered nothing")


class Log:
    """The events that a listener emitted."""

    def __init__(self) -> None:
        self.events: list[ListenerEvent] = []
        self._changed = threading.Condition()

    def __call__(self, event: ListenerEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait(self, wanted: Callable[[], bool], what: str) -> None:
        """Wait until `wanted` returns true; it is called after each event."""
        with self._changed:
            assert self._changed.wait_for(wanted, LONGEST_WAIT_SECONDS), (
                f"waited in vain for {what}; {self}"
            )

    def wait_for_states(self, *states: SourceState) -> None:
        """Wait until these states have occurred in this order, possibly with others in between."""
        self.wait(lambda: self._in_order(states), " -> ".join(states))

    def wait_for_detail(self, words: str) -> SourceStatus:
        """Wait for a status whose detail contains `words`, and return it."""
        self.wait(lambda: any(words in status.detail for status in self.statuses), words)
        return next(status for status in self.statuses if words in status.detail)

    @property
    def statuses(self) -> list[SourceStatus]:
        return [event for event in self.events if isinstance(event, SourceStatus)]

    @property
    def states(self) -> list[SourceState]:
        return [status.state for status in self.statuses]

    @property
    def pipeline_events(self) -> list[PipelineEvent]:
        return [event for event in self.events if isinstance(event, PipelineEvent)]

    def __str__(self) -> str:
        return ", ".join(f"{status.state} '{status.detail}'" for status in self.statuses)

    def _in_order(self, states: tuple[SourceState, ...]) -> bool:
        seen = iter(self.states)
        return all(state in seen for state in states)


@contextmanager
def running(listener: Listener) -> Iterator[Listener]:
    """Run a listener for the length of a test."""
    listener.start()
    try:
        yield listener
    finally:
        listener.stop(LONGEST_WAIT_SECONDS)
