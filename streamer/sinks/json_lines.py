"""`--json`: what clients would be sent, as JSON lines on standard output."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable
from typing import Any

from streamer.core.events import SourceState, SourceStatus
from streamer.engine.listener import Listener, ListenerEvent, stop_all
from streamer.inputs import (
    InputError,
    load_classifier,
    make_inputs,
    pipeline_factory,
    shared_scheduler,
)
from streamer.settings import Settings
from streamer.sinks import messages
from streamer.sinks.websocket.frames import FrameMaker, hello
from streamer.system import logs
from streamer.system.console import discard_standard_output, print_error

STOP_SECONDS = 2.0
"""How long the sources may take to stop."""


class _Lines:
    """Standard output as the listeners' threads share it.

    Parameters
    ----------
    sources
        Names of the sources.
    """

    def __init__(self, sources: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._frames = FrameMaker()
        self._heard = set(sources)
        self.failures: list[SourceStatus] = []
        """The sources that failed, and why."""
        self.error: OSError | None = None
        """Why nothing can be written any more."""
        self.done = threading.Event()
        """Set when no source is heard any more, or nothing can be written."""

    def write_event(self, event: ListenerEvent) -> None:
        """Write the frame for one event."""
        with self._lock:
            self.write(self._frames.make(event))
            if isinstance(event, SourceStatus):
                self._note(event)

    def write(self, message: dict[str, Any]) -> None:
        """Write one frame."""
        try:
            # In UTF-8 whatever the terminal takes: that is what JSON is written in.
            sys.stdout.buffer.write(messages.encode(message) + b"\n")
            sys.stdout.buffer.flush()
        except OSError as error:
            discard_standard_output()
            self.error = error
            self.done.set()

    def _note(self, status: SourceStatus) -> None:
        if status.state in (SourceState.ENDED, SourceState.FAILED):
            self._heard.discard(status.source)
        if status.state == SourceState.FAILED:
            self.failures.append(status)
        if not self._heard:
            self.done.set()


def write_json_lines(settings: Settings) -> int:
    """Hear every source to its end; return the exit status."""
    # The lines tell how the sources are; only a defect of ours is worth another word.
    logs.configure("debug" if settings.log_level == "debug" else "error")
    # As an interrupt does, it ends the waiting below and leaves the sources to be stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        inputs = make_inputs(settings)
        classifier = load_classifier(settings)
        factory = pipeline_factory(settings, classifier)
    except InputError as error:
        print_error(str(error))
        return 2
    lines = _Lines(inputs)
    sources = [source for _, source in inputs.values()]
    lines.write(hello(classifier.contract, sources, hop_seconds=settings.hop_seconds))
    scheduler = shared_scheduler(settings)
    listeners = [
        Listener(source, factory, lines.write_event, scheduler=scheduler) for source in sources
    ]
    for listener in listeners:
        listener.start()
    try:
        lines.done.wait()
    finally:
        stop_all(listeners, STOP_SECONDS)
    if lines.error:
        raise lines.error
    for failure in lines.failures:
        print_error(f"{failure.source}: {failure.detail}")
    return 1 if lines.failures else 0
