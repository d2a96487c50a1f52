"""The alerts sink: evaluates the rules as events come and time passes, and starts their actions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from streamer.core.decision import Decision
from streamer.core.events import PlacedSegment, Published, Sink, SourceStatus
from streamer.core.health import OutputHealth
from streamer.core.rules import Firing, Rule, RuleBook
from streamer.core.segments import Segment
from streamer.sinks import messages
from streamer.sinks.alerts.actions import Action, actions

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""Interval at which rules are looked at while no events come."""


class Alerts(Sink):
    """Fires the rules; `ValueError` if one has an address that apprise does not know.

    `former` are the alerts that these replace: rules that have not changed continue.
    """

    def __init__(self, rules: Sequence[Rule], former: Alerts | None = None) -> None:
        self._book = RuleBook(rules)
        self._actions: dict[str, list[Action]] = {rule.name: actions(rule) for rule in rules}
        self._titles: dict[str, str | None] = {}
        self._former = former
        self._ticking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look at the time."""
        if self._former is not None:  # only now, since it went on until here
            self._book.take_over(self._former._book)
            self._titles = self._former._titles
            self._former = None
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    def close(self) -> None:
        """Stop the programs that run; called on another thread."""
        if self._ticking:
            self._ticking.get_loop().call_soon_threadsafe(self._ticking.cancel)
        for action in self._all_actions():
            action.stop()

    def health(self) -> OutputHealth:
        """Return what was done and lost."""
        every = self._all_actions()
        reason = next((action.reason for action in every if action.reason), "")
        return OutputHealth(
            "alerts",
            not reason,
            reason,
            sum(action.done for action in every),
            sum(action.queue_depth for action in every),
            sum(action.dropped + action.failed for action in every),
        )

    def last_firings(self) -> list[dict[str, Any]]:
        """Return each rule with its last firing, as ``/api/state`` lists it."""
        return [
            {
                **each,
                "fired": messages.timestamp(each["fired"])
                if isinstance(each["fired"], datetime)
                else None,
            }
            for each in self._book.last_firings()
        ]

    def remove_source(self, name: str, segments: Sequence[PlacedSegment] = ()) -> None:
        """Forget a source."""
        self._book.remove(name)
        self._titles.pop(name, None)

    def publish(self, published: Published) -> None:
        """Take an event."""
        source, now = published.source, published.time
        match published.event:
            case SourceStatus(state=state):
                since = now - timedelta(seconds=published.latency)
                self._fire(self._book.status(source, state.value, now, since))
            case Segment(title=title, end=None):
                self._titles[source] = title
            case Decision() as decision:
                fired = self._book.hear(
                    source,
                    now,
                    now - timedelta(seconds=decision.silence_seconds),
                    state=decision.state.value,
                    genre=decision.genre,
                    title=self._titles.get(source),
                )
                self._fire(fired)

    def _fire(self, firings: Sequence[Firing]) -> None:
        for firing in firings:
            logger.info("alert %s: %s", firing.rule.name, firing.message)
            for action in self._actions[firing.rule.name]:
                action.start(firing)

    def _all_actions(self) -> list[Action]:
        return [action for own in self._actions.values() for action in own]

    async def _tick(self) -> None:
        while True:
            self._fire(self._book.advance(datetime.now(UTC)))
            await asyncio.sleep(TICK_SECONDS)
