"""An MQTT broker (mosquitto), and a subscriber that notes what it is sent."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage, MQTTv5
from paho.mqtt.subscribeoptions import SubscribeOptions

from support.radio import free_port, need
from support.waiting import LONGEST_WAIT_SECONDS, wait_until


class Mosquitto:
    """A broker on a free port, whose process can be ended and started again."""

    def __init__(self, folder: Path, *lines: str) -> None:
        need("mosquitto")
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        access = () if any("password_file" in line for line in lines) else ("allow_anonymous true",)
        text = "\n".join((f"listener {self.port} 127.0.0.1", "user root", *access, *lines))
        self._config.write_text(text + "\n")
        self.log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = ["mosquitto", "-c", str(self._config), "-v"]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._answers, "the broker")

    def pause(self) -> None:
        """Let the broker answer nothing any more; its connections stay open."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


@contextmanager
def mosquitto(folder: Path, *lines: str) -> Iterator[Mosquitto]:
    """Run a broker with further lines of configuration."""
    broker = Mosquitto(folder, *lines)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@dataclass(frozen=True)
class Noted:
    """A message as its sender published it."""

    topic: str
    payload: bytes
    retain: bool
    owner: str | None = field(default=None, compare=False)
    """The user property of that name."""


class Subscriber:
    """Notes every message, with `MQTTv5` and the retain flag that the publisher set."""

    def __init__(self, broker: Mosquitto) -> None:
        self.messages: list[Noted] = []
        self._new = threading.Condition()
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self.client.on_message = self._note
        self.client.reconnect_delay_set(1, 1)
        subscribed = threading.Event()
        options = SubscribeOptions(qos=1, retainAsPublished=True)
        self.client.on_connect = lambda *_: self.client.subscribe("#", options=options)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        assert subscribed.wait(LONGEST_WAIT_SECONDS)

    def _note(self, client: Client, data: object, message: MQTTMessage) -> None:
        with self._new:
            properties = dict(getattr(message.properties, "UserProperty", ()))
            noted = Noted(message.topic, message.payload, message.retain, properties.get("owner"))
            self.messages.append(noted)
            self._new.notify_all()

    def wait_for(self, wanted: Callable[[Noted], bool], what: str = "a message") -> Noted:
        """Return the first wanted message."""
        found: list[Noted] = []

        def is_found() -> bool:
            found[:] = [message for message in self.messages if wanted(message)]
            return bool(found)

        with self._new:
            assert self._new.wait_for(is_found, LONGEST_WAIT_SECONDS), (what, self.messages)
        return found[0]

    def of(self, topic: str) -> list[bytes]:
        """Return the payloads of a topic so far."""
        return [message.payload for message in self.messages if message.topic == topic]

    def latest(self) -> dict[str, bytes]:
        """Return the latest payload of every retained topic that is not removed."""
        kept = {each.topic: each.payload for each in self.messages if each.retain}
        return {topic: payload for topic, payload in kept.items() if payload}

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish a message and wait until the broker has it."""
        self.client.publish(topic, payload, 1, retain).wait_for_publish(LONGEST_WAIT_SECONDS)

    def close(self) -> None:
        """Disconnect."""
        self.client.disconnect()
        self.client.loop_stop()


def subscriber(broker: Mosquitto) -> closing[Subscriber]:
    """Subscribe to everything."""
    return closing(Subscriber(broker))
