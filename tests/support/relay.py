"""A relay between made-up events and clients: an MQTT sink, a broker and a relay."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from streamer.core.broker import Broker
from streamer.core.colours import colours
from streamer.core.events import Published
from streamer.relay import service
from streamer.relay.service import Relay
from streamer.settings import load
from streamer.sinks.mqtt.sink import Mqtt
from streamer.sinks.websocket.hub import Hub
from streamer.sinks.websocket.server import Server
from streamer.system.notify import Notifier
from support.broker import Mosquitto, mosquitto
from support.published import LABELS, Placer, hello, source_state


class Node:
    """A node that tells a broker of made-up events, as a daemon does."""

    def __init__(
        self,
        broker: Mosquitto,
        name: str,
        *sources: str,
        owners: dict[str, int] | None = None,
        predictions: bool = True,
    ) -> None:
        self._place = Placer()
        self._hub = Hub(hello(*sources))
        self.sink = Mqtt(
            Broker(broker.url, node=name, home_assistant=""),
            None,
            labels=LABELS,
            colours=colours(LABELS),
            model="made-up 1",
            predictions=predictions,
            hello=self._hub.hello,
            owners=owners,
        )
        for source in sources:
            self.add(source)
        self.sink.start()

    def add(self, source: str) -> None:
        self._hub.add_source(source, "demo")
        self.sink.add_source(source, "demo")

    def remove(self, source: str) -> None:
        self._hub.remove_source(source)
        self.sink.remove_source(source)

    def publish(self, *events: Published) -> None:
        for event in events:
            placed = self._place(event)
            self._hub.publish(placed)
            self.sink.publish(placed)

    def close(self) -> None:
        self.sink.close()


@contextlib.contextmanager
def node(broker: Mosquitto, name: str, *sources: str, **options: Any) -> Iterator[Node]:
    """Run a node."""
    made = Node(broker, name, *sources, **options)
    try:
        yield made
    finally:
        made.close()


@contextlib.asynccontextmanager
async def relay(broker: Mosquitto, **settings: Any) -> AsyncIterator[Relay]:
    """Run a relay on a free port; there must be a node."""
    given = {"mqtt": broker.url, "port": 0} | settings
    made = Relay(load(given, environment={}).settings, Notifier())
    try:
        await made.start()
        yield made
    finally:
        await made.close()


class RelayedHub:
    """Takes made-up events as a hub does; clients get them by way of a broker and a relay."""

    def __init__(self, sender: Node, hub: Hub) -> None:
        self.publish = sender.publish
        self.remove_source = sender.remove
        self.state = hub.state
        self._hub = hub

    @property
    def outboxes(self) -> Any:
        return self._hub.outboxes


@contextlib.asynccontextmanager
async def running_relay(
    *sources: str,
    origins: tuple[str, ...] = (),
    token: str | None = None,
    history: Path | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[RelayedHub, Server]]:
    """Run what `support.published.running_server` does, with a relay as the server."""
    names = sources or ("radio",)
    with (
        tempfile.TemporaryDirectory() as folder,
        mosquitto(Path(folder)) as broker,
        node(broker, "house", *names) as sender,
        # All sources are waited for below.
        patch.object(service, "SETTLE_SECONDS", 0.0),
    ):
        sender.publish(*(source_state("live", name) for name in names))
        if token is not None:
            settings["token_file"] = Path(folder, "token")
            settings["token_file"].write_text(token, "utf-8")
        if history is not None:
            settings["history"] = history
        async with relay(broker, origin=tuple(origins), **settings) as made:
            while [each["state"] for each in made.hub.hello()["sources"]] != ["live"] * len(names):
                await asyncio.sleep(0.002)
            yield RelayedHub(sender, made.hub), made.server
