"""`--json`: write the messages that a client would get as JSON lines on standard output."""

from __future__ import annotations

import signal
import sys
import threading

from streamer.core.events import SourceState, SourceStatus
from streamer.engine.listener import Listener, ListenerEvent, stop_all
from streamer.engine.publisher import Publisher
from streamer.engine.watchdog import TERMINAL_STATES
from streamer.inputs import (
    InputError,
    load_classifier,
    make_inputs,
    pipeline_factory,
    shared_scheduler,
)
from streamer.settings import Settings
from streamer.sinks.json_lines import JsonLines
from streamer.sinks.messages import hello
from streamer.system import logs
from streamer.system.console import print_error

STOP_SECONDS = 2.0
"""How long the listeners may take to stop."""


class _Run:
    """Publishes the events of listeners, which emit them on threads of their own."""

    def __init__(self, lines: JsonLines) -> None:
        self.lines = lines
        self.active: set[str] = set()
        """Names of the sources that have neither ended nor failed."""
        self.failures: list[SourceStatus] = []
        self.done = threading.Event()
        """Set when no source is active any more, or standard output cannot be written."""
        self._publisher = Publisher([lines])
        self._lock = threading.Lock()

    def receive(self, event: ListenerEvent) -> None:
        """Publish an event."""
        with self._lock:
            self._publisher.publish(event)
            if isinstance(event, SourceStatus) and event.state in TERMINAL_STATES:
                self.active.discard(event.source)
                if event.state is SourceState.FAILED:
                    self.failures.append(event)
            if not self.active or self.lines.error:
                self.done.set()


def write_json_lines(settings: Settings) -> int:
    """Listen to every source to its end; return the exit status."""
    # The lines hold the states of the sources: logged are only defects, unless asked for.
    logs.configure("debug" if settings.log_level == "debug" else "error")
    # Like an interrupt, it ends the wait below, and the listeners are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        inputs = make_inputs(settings)
        classifier = load_classifier(settings)
        factory = pipeline_factory(settings, classifier)
    except InputError as error:
        print_error(str(error))
        return 2
    run = _Run(JsonLines(sys.stdout.buffer))
    run.active = set(inputs)
    scheduler = shared_scheduler(settings)
    listeners = [
        Listener(source, factory, run.receive, scheduler=scheduler) for _, source in inputs.values()
    ]
    statuses = [listener.status for listener in listeners]
    run.lines.write(hello(classifier.contract, statuses, hop_seconds=settings.hop_seconds))
    for listener in listeners:
        listener.start()
    try:
        run.done.wait()
    finally:
        stop_all(listeners, STOP_SECONDS)
    if run.lines.error:
        raise run.lines.error
    for failure in run.failures:
        print_error(f"{failure.source}: {failure.detail}")
    return 1 if run.failures else 0
