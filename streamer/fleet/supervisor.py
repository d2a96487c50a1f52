"""The supervisor of a fleet: gives sources to engines, and those of a lost engine to others.

It is an actor of Ray that Ray starts again, as it does with the engines. What it knows it can lose:
the command line sends it the list again, and who holds what is what the engines report.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from streamer.core.events import SourceState
from streamer.fleet.engine import Engine
from streamer.fleet.placement import place
from streamer.fleet.reports import Assignment, EngineStatus, FleetStatus, Report
from streamer.inputs import SourceSettings
from streamer.settings import Settings
from streamer.system import logs

STEP_SECONDS = 1.0
"""Time between two looks at all engines."""
HOLD_SHARE = 0.8
"""Share of the patience with an engine that it may take to start and stop sources."""
STOP_SECONDS = 8.0
"""How long an engine may take to stop for good."""
EVEN_SECONDS = 20.0
"""Time between two moves that only even out the engines' loads, and after any other change."""
START_SECONDS = 30.0
"""How long a new fleet waits for all of its engines before those that have started get sources."""
LEASE_SECONDS = 5.0
"""Time without a question of the command that a fleet follows, after which it follows another."""
RETRY_SECONDS = 30.0
"""Time after which an engine that could not be made is made again."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Engine:
    """An engine's actor, and what is known of it."""

    actor: Any
    patience: float
    """Seconds without an answer after which it has lost its sources, although it may live."""
    asked: asyncio.Task[Report] | None = None
    """The question that it has not answered yet."""
    report: Report | None = None
    """Its last answer; None if the process that gave it is gone."""
    asked_at: float = 0.0
    """`time.monotonic()` of that question."""
    reason: str = "starting"
    """Why there is no report."""
    is_known: bool = False
    """Whether it has answered, or Ray has said why it cannot."""
    died: float | None = None
    """When its actor ended for good; None while Ray keeps it."""

    @property
    def is_lost(self) -> bool:
        waited = time.monotonic() - self.asked_at if self.asked else 0.0
        return self.report is None or waited > self.patience


class Supervisor:
    """Keeps every source of the list with one engine.

    It has many methods because each task of its loop is one, and they share its tables.

    Parameters
    ----------
    cores
        Processors of one engine.
    limit
        Largest number of engines; None for as many as the cluster has processors for.
    prefix
        Beginning of the engines' names, before their numbers.
    patience
        Seconds that an engine may not answer before its sources go to others.
    """

    def __init__(self, cores: float, limit: int | None, prefix: str, patience: float) -> None:
        self._cores = cores
        self._limit = limit
        self._prefix = prefix
        self._patience = patience
        self._settings: Settings | None = None
        self._sources: Mapping[str, SourceSettings] = {}
        self._version = ""
        self._engines: dict[str, _Engine] = {}
        self._given: dict[str, tuple[str, Assignment]] = {}
        """Engine and assignment of each source that has been given to one."""
        self._ended: set[str] = set()
        """Sources that have ended, which no other engine is to begin again."""
        self._recovered = False
        """Whether it is known what an earlier supervisor has given to engines."""
        self._owner = 0
        self._handovers = 0
        self._changed = time.monotonic()
        self._began = time.monotonic()
        self._command, self._questions, self._asked = "", 0, -math.inf
        """The command that the fleet follows, how often it has asked, and when it did last."""
        self._stopping = False
        self._stepping = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Start to look after the engines, unless that has begun."""
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def set_list(
        self, version: str, settings: Settings, sources: Mapping[str, SourceSettings]
    ) -> None:
        """Take the list of the sources; what has not changed is left alone.

        Sources that have failed are tried again.
        """
        async with self._stepping:
            self._version, self._settings, self._sources = version, settings, sources
            self._drop_changed()
            self._ended.intersection_update(self._given)
            for engine in self._engines.values():
                for name in engine.report.failures if engine.report else ():
                    self._given.pop(name, None)
        await self.begin()

    async def status(self, command: str = "") -> FleetStatus:
        """Return how the fleet is; `command` is the one that asks, if it has a list to give."""
        await self.begin()
        if time.monotonic() - self._asked > LEASE_SECONDS:
            self._command, self._questions = command, 0
        if command and command == self._command:
            self._questions += 1
            self._asked = time.monotonic()
        states = Counter({"ended": len(self._ended)} if self._ended else {})
        failures: dict[str, str] = {}
        reported = set(self._ended)
        for engine in self._engines.values():
            if engine.is_lost or engine.report is None:
                continue
            for name, state in engine.report.states.items():
                if name not in reported:
                    states[state] += 1
                    reported.add(name)
            failures |= engine.report.failures
        if waiting := len(self._sources.keys() - reported):
            states["waiting"] = waiting
        return FleetStatus(
            list_version=self._version,
            sources=len(self._sources),
            engines=[
                EngineStatus(
                    name,
                    None if engine.is_lost else engine.report,
                    engine.reason or "does not answer" if engine.is_lost else "",
                )
                for name, engine in sorted(self._engines.items(), key=lambda item: _number(item[0]))
            ],
            handovers=self._handovers,
            command=self._command,
            questions=self._questions,
            states=dict(states.most_common()),
            failures=failures,
        )

    async def stop(self) -> None:
        """Let all engines stop in order, and end their actors."""
        self._stopping = True
        async with self._stepping:
            self._find_engines()
            stops = [
                _answer(engine.actor.stop.remote(), STOP_SECONDS)
                for engine in self._engines.values()
                if not engine.is_lost
            ]
            await asyncio.gather(*stops, return_exceptions=True)
            for engine in self._engines.values():
                ray.kill(engine.actor, no_restart=True)
            self._engines = {}

    async def _run(self) -> None:
        logs.configure("info")
        while not self._stopping:
            try:
                async with self._stepping:
                    await self._step()
            except Exception:  # the next look may succeed
                logger.exception("the fleet could not be looked after")
            await asyncio.sleep(STEP_SECONDS)

    async def _step(self) -> None:
        self._find_engines()
        if self._settings is None:
            return
        self._start_engines(self._settings)
        await self._ask_all()
        if not self._recovered:
            if self._may_wait():
                return
            await self._recover()
        self._take_note()
        await self._give(self._wanted())

    def _may_wait(self) -> bool:
        """Return whether engines may still answer that this supervisor has not heard of yet."""
        if all(engine.is_known for engine in self._engines.values()):
            return False
        reports = [engine.report for engine in self._engines.values()]
        is_new = not any(report.owners for report in reports if report)
        waited = time.monotonic() - self._began
        return waited < (START_SECONDS if is_new else self._patience)

    async def _recover(self) -> None:
        """Take over what engines hold that an earlier supervisor has given them."""
        names = [name for name, engine in self._engines.items() if engine.report]
        seconds = HOLD_SHARE * self._patience
        held = await asyncio.gather(
            *(_answer(self._engines[name].actor.held.remote(), seconds) for name in names)
        )
        for name, assignments in zip(names, held, strict=True):
            for source, assignment in assignments.items():
                known = self._given.get(source)
                if known is None or known[1].owner < assignment.owner:
                    self._given[source] = (name, assignment)
        self._drop_changed()
        self._recovered = True

    def _drop_changed(self) -> None:
        """Take back what is no longer in the list, or not as it was given."""
        for name, (_, given) in list(self._given.items()):
            if self._sources.get(name) != given.source:
                del self._given[name]

    def _find_engines(self) -> None:
        """Take the engines that there are, also those of an earlier supervisor."""
        for name in ray.util.list_named_actors():
            if name.startswith(self._prefix) and name not in self._engines:
                self._engines[name] = _Engine(ray.get_actor(name), self._patience)

    def _start_engines(self, settings: Settings) -> None:
        """Start as many engines as the cluster has room for and sources need."""
        rooms = sum(
            int(node["Resources"].get("CPU", 0.0) / self._cores)
            for node in ray.nodes()
            if node["Alive"]
        )
        wanted = min(max(1, rooms), max(1, len(self._sources)), self._limit or rooms or 1)
        for name, engine in list(self._engines.items()):
            if engine.died and time.monotonic() - engine.died > RETRY_SECONDS:
                del self._engines[name]
        number = 0
        while len(self._engines) < wanted:
            number += 1
            name = f"{self._prefix}{number}"
            if name not in self._engines:
                actor = ray.remote(Engine).options(
                    name=name,
                    lifetime="detached",
                    get_if_exists=True,
                    max_restarts=-1,
                    num_cpus=self._cores,
                    scheduling_strategy="SPREAD",
                )
                self._engines[name] = _Engine(
                    actor.remote(settings, name, self._cores), self._patience
                )

    async def _ask_all(self) -> None:
        """Ask every engine how it is, and wait for those that answer at once."""
        for engine in self._engines.values():
            if engine.asked is None:
                engine.asked_at = time.monotonic()
                engine.asked = asyncio.ensure_future(_answer(engine.actor.ask.remote(), None))
        asked = [engine.asked for engine in self._engines.values() if engine.asked]
        if asked:
            await asyncio.wait(asked, timeout=STEP_SECONDS)
        for name, engine in self._engines.items():
            if engine.asked is None or not engine.asked.done():
                continue
            task, engine.asked, engine.is_known = engine.asked, None, True
            if (error := task.exception()) is None:
                self._answered(engine, task.result())
            else:
                # Its process is gone; Ray starts another one as soon as there is room.
                if engine.report:
                    logger.warning("%s: lost (%s)", name, type(error).__name__)
                engine.report, engine.reason = None, _reason(error)
                if isinstance(error, ray.exceptions.ActorDiedError):
                    engine.died = engine.died or time.monotonic()

    def _answered(self, engine: _Engine, report: Report) -> None:
        engine.report, engine.reason = report, ""
        self._owner = max(self._owner, *report.owners.values(), 0)

    def _take_note(self) -> None:
        """Compare who was given what with what the engines report."""
        holders: dict[str, tuple[int, str]] = {}
        for name, engine in self._engines.items():
            if engine.report is None or engine.is_lost:
                continue
            for source, owner in engine.report.owners.items():
                holders[source] = max(holders.get(source, (0, "")), (owner, name))
            for source, state in engine.report.states.items():
                if state == SourceState.ENDED and source in self._given:
                    self._ended.add(source)
        for source, (_, assignment) in list(self._given.items()):
            if holders.get(source, (0, ""))[0] < assignment.owner:
                del self._given[source]

    def _wanted(self) -> dict[str, dict[str, Assignment]]:
        """Return what each engine that answers is to hold."""
        engines = {
            name: engine.report
            for name, engine in self._engines.items()
            if engine.report and not engine.is_lost
        }
        held: dict[str, list[str]] = {name: [] for name in engines}
        for source, (name, _) in self._given.items():
            if name in held:
                held[name].append(source)
        sources = [
            source for source in self._sources if source in self._given or source not in self._ended
        ]
        is_complete = all(
            engine.report is None or not engine.is_lost for engine in self._engines.values()
        )
        even = is_complete and time.monotonic() - self._changed > EVEN_SECONDS
        capacities = {name: report.capacity for name, report in engines.items()}
        placed = place(sources, held, capacities, even=even)
        wanted: dict[str, dict[str, Assignment]] = {}
        self._owner = max(self._owner + 1, int(time.time()))
        for name, own in placed.items():
            wanted[name] = {}
            for source in own:
                given = self._given.get(source)
                if given is None or given[0] != name:
                    given = (name, Assignment(self._sources[source], self._owner))
                wanted[name][source] = given[1]
        return wanted

    async def _give(self, wanted: Mapping[str, Mapping[str, Assignment]]) -> None:
        """Tell the engines what to hold: first what to stop, then what to start."""
        for source, (name, _) in list(self._given.items()):
            if source not in wanted.get(name, {}):
                del self._given[source]
        kept, started = {}, {}
        for name, assignments in wanted.items():
            report = self._engines[name].report
            assert report
            same = {
                source: each
                for source, each in assignments.items()
                if report.owners.get(source) == each.owner
            }
            if len(same) < len(report.owners):
                kept[name] = same
            if len(same) < len(assignments):
                started[name] = dict(assignments)
                self._handovers += len(assignments) - len(same)
                for source, each in assignments.items():
                    self._given[source] = (name, each)
        for holds in (kept, started):
            if holds:
                await self._hold(holds)
                self._changed = time.monotonic()

    async def _hold(self, holds: Mapping[str, Mapping[str, Assignment]]) -> None:
        """Let engines hold exactly these sources; one that fails is noticed by what it reports."""
        names = list(holds)
        seconds = HOLD_SHARE * self._patience
        answers = await asyncio.gather(
            *(
                _answer(self._engines[name].actor.hold.remote(holds[name]), seconds)
                for name in names
            ),
            return_exceptions=True,
        )
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Report):
                self._answered(self._engines[name], answer)
            else:
                logger.warning("%s: did not take its sources (%s)", name, type(answer).__name__)


async def _answer(reference: Any, seconds: float | None) -> Any:
    """Return the answer of an actor; the errors of Ray and `TimeoutError` are raised."""
    return await asyncio.wait_for(reference, seconds)


def _reason(error: BaseException) -> str:
    """Return why an engine does not answer, for a person."""
    text = str(error).strip()
    if "creation task" in text:
        return text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]
    return "Ray starts it again as soon as a machine has room for it"


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])
