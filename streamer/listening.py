"""The sources, the model and the sinks that are not a server, wired to each other.

The daemon and each engine of a fleet have one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version

from streamer.core.decision import Decision
from streamer.core.events import Published, Sink, SourceState, SourceStatus
from streamer.engine.listener import Listener, ListenerEvent
from streamer.engine.mailbox import Mailbox
from streamer.engine.publisher import Publisher
from streamer.engine.scheduler import Scheduler
from streamer.engine.supervisor import Supervisor
from streamer.inputs import (
    SourceSettings,
    describe_arithmetic,
    load_classifier,
    pipeline_factory,
    shared_scheduler,
)
from streamer.outputs import Outputs
from streamer.settings import Settings
from streamer.sinks import messages
from streamer.sinks.history.writer import History
from streamer.sinks.metrics import Metrics
from streamer.sinks.terminal import Terminal
from streamer.sinks.websocket.hub import Hub
from streamer.sources import Source
from streamer.system.processors import processors

SWITCH_SECONDS = 0.02
"""How long a thread that waits for the interpreter lets another one go on before it insists. It
wakes that often; at Python's 0.005, with hundreds of sources, waking costs more than the work."""
SOURCE_STOP_SECONDS = 0.6
"""How long the sources may take to stop."""
MAX_SPREAD_SECONDS = 2.0
"""Longest hop over which the starts of several sources are spread."""
START_WORK_SECONDS = 0.15
"""What a source costs a processor until it is known which of its windows can be repeated. Starts of
many sources are spread over this work, so that it does not pile up."""
MAX_START_SECONDS = 20.0
"""Longest time over which the starts of many sources are spread."""


class Listening:
    """Listens to sources and tells every sink what is heard; used on the event loop's thread.

    `InputError` is raised if the model or an output cannot be made.

    Parameters
    ----------
    settings
        Those of model, decisions and outputs.
    inputs
        The sources to begin with, as `make_inputs` returns them.
    delivered
        Called with every event, after the sinks.
    history, terminal
        Further sinks.
    owners
        The number of each source's owner, if the sources are those of a fleet; see `Mqtt`.
    scheduler
        Used instead of one for all processors of this machine.
    spectrogram
        Whether columns of the spectrogram are published.
    """

    def __init__(
        self,
        settings: Settings,
        inputs: Mapping[str, tuple[SourceSettings, Source]],
        delivered: Callable[[Published], None],
        *,
        history: History | None = None,
        terminal: Terminal | None = None,
        owners: Mapping[str, int] | None = None,
        scheduler: Scheduler | None = None,
        spectrogram: bool = True,
    ) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        self._inputs = inputs
        self._delivered = delivered
        is_crowded = len(inputs) > processors() and not settings.fast
        hop = min(settings.hop_seconds, MAX_SPREAD_SECONDS)
        work = min(len(inputs) * START_WORK_SECONDS / processors(), MAX_START_SECONDS)
        self._spread_seconds = max(hop, work) if is_crowded else 0.0
        self.classifier = classifier = load_classifier(settings)
        contract = classifier.contract
        self.arithmetic = describe_arithmetic(classifier)
        """The numbers that the model is computed with, in words."""
        factory = pipeline_factory(settings, classifier, spectrogram=spectrogram)
        scheduler = scheduler or shared_scheduler(settings)
        scheduler.inference_seconds = classifier.inference_seconds
        statuses = [
            SourceStatus(name, source.kind, SourceState.CONNECTING, "")
            for name, (_, source) in inputs.items()
        ]
        self.hub = Hub(
            messages.hello(
                contract,
                statuses,
                arithmetic=classifier.arithmetic,
                hop_seconds=settings.hop_seconds,
                labels=classifier.names.labels,
                own_colours=settings.colours,
            )
        )
        if terminal:
            terminal.recolour(self.hub.hello()["colours"])
        self.outputs = Outputs(settings, classifier, self.hub.hello, owners)
        self.metrics = Metrics(
            version=version("genre-stream"),
            model=self.hub.hello()["model"],
            health=lambda: self.supervisor.health(),
            clients=self.hub,
            history=history,
            outputs=self.outputs.health,
            alerts=self.outputs.alerts,
        )
        sinks: list[Sink | None] = [self.hub, self.metrics, history, terminal, self.outputs]
        self.publisher = Publisher(sink for sink in sinks if sink is not None)
        self.supervisor = Supervisor(
            lambda source: Listener(
                source,
                factory,
                lambda event: self.mailbox.put(event),
                scheduler=scheduler,
                paced=not settings.fast,
                effort=settings.effort,
            ),
            self.publisher,
            lambda: self.mailbox.deliver_all(),
            first_seconds=contract.window_seconds + settings.hop_seconds,
            stop_seconds=SOURCE_STOP_SECONDS,
        )

    def open(self) -> None:
        """Take the running event loop, on which events are published."""
        self.mailbox = Mailbox[ListenerEvent](asyncio.get_running_loop(), self._deliver)

    def start(self) -> None:
        """Connect the outputs and start the sources."""
        for name, (_, source) in self._inputs.items():
            self.outputs.add_source(name, source.kind)
        self.outputs.start()
        # Decisions of sources that start together would all be due at once.
        spread = self._spread_seconds / len(self._inputs) if self._inputs else 0.0
        for number, (_, source) in enumerate(self._inputs.values()):
            self.supervisor.start(source, number * spread)

    async def close_sources(self) -> None:
        """Stop the sources, which ends their segments; nothing is published after that."""
        await self.supervisor.close()
        self.mailbox.close()

    def _deliver(self, event: ListenerEvent) -> None:
        published = self.publisher.publish(event)
        if isinstance(published.event, Decision):
            self.supervisor.decided(event.source, published.event)
        self._delivered(published)
