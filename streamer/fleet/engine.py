"""An engine of a fleet: the daemon's engine and its MQTT sink, in an actor of Ray."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median

import numpy as np

from streamer.core.events import Published, SourceState
from streamer.core.health import OutputHealth, SourceHealth
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline
from streamer.engine.scheduler import Scheduler
from streamer.fleet.reports import Assignment, Report
from streamer.inputs import SourceSettings
from streamer.listening import Listening
from streamer.settings import Settings
from streamer.sources.base import AudioBlock, Source, SourceError
from streamer.system import logs
from streamer.system.ending import end_with
from streamer.system.memory import share_one_heap, trim_memory

FULL = 0.7
"""Share of an engine's processors that its sources may take."""
MEASURE_SECONDS = 10.0
"""Period over which the processor time is measured."""
MEASURED_PERIODS = 9
LEAST_COST = 1e-4
"""Processor time of a source that is not believed to be less, in seconds a second."""
MEASURED_SOUND_SECONDS = 10.0
"""Sound that an engine classifies when it starts, to see how long that takes."""

logger = logging.getLogger(__name__)


def first_cost(classifier: Classifier, hop_seconds: float) -> float:
    """Return the processor time of a second of sound, in seconds, measured on made-up sound."""
    rate = classifier.contract.spectrogram.sample_rate
    noise = np.random.default_rng(0).standard_normal(int(MEASURED_SOUND_SECONDS * rate))
    sound = 0.1 * noise.astype(np.float32)[:, None]
    pipeline = Pipeline(classifier, hop_seconds=hop_seconds)
    pipeline.feed(sound, rate)  # the first time sets things up
    before = time.process_time()
    pipeline.feed(sound, rate)
    return (time.process_time() - before) / MEASURED_SOUND_SECONDS


class UnusableSource(Source):
    """Takes the place of a source that cannot be made on this machine, and says why."""

    kind = "media"

    def __init__(self, name: str, error: SourceError) -> None:
        self.name = name
        self._error = error

    def open(self) -> None:
        """Raise the error."""
        raise self._error

    def read(self, timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
        """Raise the error."""
        raise self._error

    def close(self) -> None:
        """Do nothing."""


class Engine:
    """The sources that one actor listens to; its coroutines run on one event loop.

    Parameters
    ----------
    settings
        Of the model, the decisions and the broker.
    name
        Name of the actor, which is the node of its topics.
    cores
        Processors that Ray keeps for the actor.
    """

    def __init__(self, settings: Settings, name: str, cores: float) -> None:
        # Without it an engine goes on for minutes after its raylet, which ends without a head.
        end_with(os.getppid())
        share_one_heap()
        logs.configure(settings.log_level)
        assert settings.mqtt
        # A device of Home Assistant belongs to one node, while sources move.
        broker = replace(settings.mqtt, node=name, home_assistant="")
        settings = settings.model_copy(update={"mqtt": broker})
        self._hop_seconds = settings.hop_seconds
        slots = max(1, int(cores // settings.threads))
        self._owners: dict[str, int] = {}
        self._held: dict[str, tuple[Assignment, Source]] = {}
        self._listening = Listening(
            settings,
            {},
            _ignore,
            owners=self._owners,
            scheduler=Scheduler(slots),
            spectrogram=False,
        )
        self._load = _Load(cores, first_cost(self._listening.classifier, settings.hop_seconds))
        self._changing = asyncio.Lock()
        self._started = False

    async def hold(self, assignments: Mapping[str, Assignment]) -> Report:
        """Listen to these sources and no others; those that stay the same are not touched."""
        async with self._changing:
            if not self._started:
                self._started = True
                self._listening.open()
                self._listening.start()
                self._trimming = asyncio.create_task(trim_memory())
            kept = {
                name: held for name, held in self._held.items() if assignments.get(name) == held[0]
            }
            # Before the new ones start, so that the last words of an owner have its number.
            await self._change(kept)
            new = {
                name: (assignment, await asyncio.to_thread(_make, name, assignment.source))
                for name, assignment in assignments.items()
                if name not in kept
            }
            await self._change(kept | new)
        return self._report()

    async def _change(self, held: Mapping[str, tuple[Assignment, Source]]) -> None:
        for name, (assignment, _) in held.items():
            self._owners[name] = assignment.owner
        await self._listening.supervisor.change(source for _, source in held.values())
        for name in [name for name in self._owners if name not in held]:
            del self._owners[name]
        self._held = dict(held)

    async def held(self) -> dict[str, Assignment]:
        """Return the sources that it was given."""
        return {name: assignment for name, (assignment, _) in self._held.items()}

    async def ask(self) -> Report:
        """Return how the engine is."""
        return self._report()

    def _report(self) -> Report:
        """Return how the engine is."""
        health = self._listening.supervisor.health()
        outputs = self._listening.outputs.health()
        return Report(
            machine=socket.gethostname(),
            process=os.getpid(),
            owners=dict(self._owners),
            states={one.source: one.state for one in health},
            failures={one.source: one.detail for one in health if one.state == SourceState.FAILED},
            capacity=self._load.capacity(health, self._hop_seconds),
            hop_seconds=max((one.hop_seconds for one in health), default=self._hop_seconds),
            decisions=sum(one.inferences for one in health),
            audio_seconds=sum(one.audio_seconds for one in health),
            inference_seconds=sum(one.inference_seconds for one in health),
            cpu_seconds=time.process_time(),
            output=outputs[0] if outputs else OutputHealth("mqtt", False),
        )

    async def stop(self) -> None:
        """Stop all sources, which ends their segments, and say goodbye to the broker."""
        async with self._changing:
            if self._started:
                await self._listening.close_sources()
                await self._listening.outputs.close()


class _Load:
    """How many sources an engine can serve, from the processor time that its sources take.

    `cost` is the processor time of one source in a second, in seconds; it holds until there are
    sources.
    """

    def __init__(self, cores: float, cost: float) -> None:
        self._cores = cores
        self._first_cost = cost
        self._costs: deque[float] = deque(maxlen=MEASURED_PERIODS)
        self._since = (time.monotonic(), time.process_time())

    def capacity(self, health: Sequence[SourceHealth], hop_seconds: float) -> int:
        """Return the number of sources at a hop of `hop_seconds`."""
        now, cpu = time.monotonic(), time.process_time()
        if now - self._since[0] >= MEASURE_SECONDS:
            hops = [one.hop_seconds for one in health if one.state == SourceState.LIVE]
            if hops:
                cost = (cpu - self._since[1]) / (now - self._since[0]) / len(hops)
                # A hop that has grown hides what the hop asked for would cost.
                self._costs.append(cost * fmean(hops) / hop_seconds)
            self._since = (now, cpu)
        # The median leaves out periods in which sources were started.
        cost = median(self._costs) if self._costs else self._first_cost
        return max(1, int(FULL * self._cores / max(cost, LEAST_COST)))


def _make(name: str, source: SourceSettings) -> Source:
    """Make a source, or what says why it cannot be made here."""
    try:
        return source.make()
    except SourceError as error:
        return UnusableSource(name, error)


def _ignore(published: Published) -> None:
    pass
