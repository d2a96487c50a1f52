"""`--json`: write the messages that a client would get as JSON lines on standard output."""

from __future__ import annotations

import queue
import signal
import sys
import threading

from streamer.core.events import SourceState, SourceStatus
from streamer.engine.listener import Listener, ListenerEvent, state_logger, stop_all
from streamer.engine.publisher import Publisher
from streamer.engine.watchdog import TERMINAL_STATES
from streamer.inputs import load_classifier, make_inputs, pipeline_factory, shared_scheduler
from streamer.settings import Settings
from streamer.sinks.json_lines import JsonLines
from streamer.sinks.messages import hello
from streamer.system import logs
from streamer.system.console import print_error

STOP_SECONDS = 2.0
"""How long the listeners may take to stop."""


def write_json_lines(settings: Settings) -> int:
    """Listen to every source to its end; return the exit status."""
    # The lines show the states of the sources already, but not that sound is missing.
    logs.configure("warning" if settings.log_level == "info" else settings.log_level)
    state_logger.disabled = settings.log_level != "debug"
    inputs = make_inputs(settings)
    classifier = load_classifier(settings)
    factory = pipeline_factory(settings, classifier)
    scheduler = shared_scheduler(settings)
    lines = JsonLines(sys.stdout.buffer)
    publisher = Publisher([lines])
    active = set(inputs)
    failures: list[SourceStatus] = []
    lock = threading.Lock()
    # Unlike an event, a queue may be used by a handler of signals.
    done = queue.SimpleQueue[None]()

    def receive(event: ListenerEvent) -> None:
        """Publish an event, on a listener's thread."""
        with lock:
            publisher.publish(event)
            if isinstance(event, SourceStatus) and event.state in TERMINAL_STATES:
                active.discard(event.source)
                if event.state is SourceState.FAILED:
                    failures.append(event)
            if not active or lines.error:
                done.put(None)

    listeners = [
        Listener(source, factory, receive, scheduler=scheduler, effort=settings.effort)
        for _, source in inputs.values()
    ]
    statuses = [listener.status for listener in listeners]
    lines.write(
        hello(
            classifier.contract,
            statuses,
            hop_seconds=settings.hop_seconds,
            arithmetic=classifier.arithmetic,
            labels=classifier.names.labels,
            own_colours=settings.colours,
        )
    )
    # Like an interrupt, SIGTERM ends the wait below, and the listeners are stopped.
    signal.signal(signal.SIGTERM, lambda *_: done.put(None))
    try:
        for listener in listeners:
            listener.start()
        done.get()
    finally:
        stop_all(listeners, STOP_SECONDS)
    if lines.error:
        raise lines.error
    for failure in failures:
        print_error(f"{failure.source}: {failure.detail}")
    return 1 if failures else 0
