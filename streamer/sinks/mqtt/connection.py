"""The connection to an MQTT broker, on a thread of its own with an event loop of its own.

The client library blocks while it looks up a host and connects, so neither can the daemon's event
loop wait for it, nor may the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from streamer.core.broker import Broker
from streamer.system.backoff import Backoff

logger = logging.getLogger(__name__)
_library_logger = logging.getLogger(f"{__name__}.library")
_library_logger.disabled = True
"""What it has to say is said by `Connection.reason`, once."""

QUEUE_LIMIT = 1000
"""Messages that are not retained and wait for the broker; beyond it the oldest is discarded."""
ANSWER_SECONDS = 10.0
"""How long an answer of the broker may take."""
KEEPALIVE_SECONDS = 20
"""Interval at which a silent connection is probed."""
CLOSE_SECONDS = 0.7
"""How long `Connection.close` waits for the broker to take the last message."""


class _DaemonExecutor(ThreadPoolExecutor):
    """Runs each call on a daemon thread: the end of the process does not wait for a connect."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="mqtt connect", daemon=True).start()
        return future


class Connection:
    """Keeps a broker informed: every retained topic has its latest payload, others come in order.

    `OSError` is raised if a certificate cannot be used.

    Parameters
    ----------
    broker, password
        Where to connect; the password overrides that of the broker's address.
    status
        Topic with ``online`` while connected and ``offline`` as the last will; None for none. It
        is said again if another connection says ``offline``: the broker may learn of a broken one
        after the next has begun.
    subscriptions
        Topics that `received` is called about, on this connection's thread, with topic, payload and
        whether the broker had kept it.
    queue_limit
        Messages that may wait to be received.
    """

    def __init__(
        self,
        broker: Broker,
        password: str | None,
        *,
        status: str | None,
        subscriptions: Iterable[str],
        received: Callable[[str, bytes, bool], None],
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self.connected = False
        self.reason = ""
        """Why there is no connection; empty while there is one or before the first attempt."""
        self.dropped = 0
        """Messages discarded because the broker did not take them, since the start."""
        self.sent = 0
        """Messages that the broker has been sent, since the start."""
        self.is_shared = False
        """Whether another connection said ``online`` as well."""
        self._broker = broker
        self._password = password or broker.login[1]
        self._status = status
        self._subscriptions = (*subscriptions, *([status] if status else []))
        self._received = received
        self._queue_limit = queue_limit
        self._lock = threading.Lock()
        self._retained: dict[str, tuple[bytes, int | None]] = {}
        self._unsent: dict[str, None] = {}
        """Retained topics to be sent, in the order of their changes."""
        self._queue: deque[tuple[str, bytes, int, bool]] = deque()
        self._closing = False
        self._backoff = Backoff()
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._tls = tls_context(broker)
        self._thread = threading.Thread(target=self._work, name="mqtt", daemon=True)

    @property
    def queue_depth(self) -> int:
        """Messages that wait to be sent."""
        return len(self._queue) + len(self._unsent)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def retain(self, topic: str, payload: bytes, *, owner: int | None = None) -> None:
        """Let the broker keep a payload; an empty one removes the topic.

        A number of an owner becomes the user property ``owner`` of the message.
        """
        with self._lock:
            if self._retained.get(topic) == (payload, owner):
                return
            self._retained[topic] = payload, owner
            self._unsent[topic] = None
        self._notify()

    def send(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Queue a message; once the broker has it, unlike those of `retain` it is never sent again.

        The broker does not keep it unless `retain` is true.
        """
        with self._lock:
            self._queue.append((topic, payload, qos, retain))
            if len(self._queue) > QUEUE_LIMIT:
                self._queue.popleft()
                self.dropped += 1
        self._notify()

    def send_again(self, topic: str | None = None) -> None:
        """Send a retained topic again, by default all of them."""
        with self._lock:
            if topic is None:
                self._unsent = dict.fromkeys(self._retained)
            elif topic in self._retained:
                self._unsent[topic] = None
        self._notify()

    def close(self) -> None:
        """Send what waits, say ``offline`` and disconnect, within `CLOSE_SECONDS`."""
        self._closing = True
        self._notify()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_SECONDS)

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._wake.set)

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_default_executor(_DaemonExecutor())
        self._loop.set_exception_handler(lambda _, context: logger.debug("%s", context["message"]))
        self._loop.run_until_complete(self._run())

    async def _run(self) -> None:
        while not self._closing:
            session = asyncio.create_task(self._session())
            stop = asyncio.create_task(self._stop.wait())
            await asyncio.wait((session, stop), return_when=asyncio.FIRST_COMPLETED)
            if self._closing:
                # A session says goodbye itself; a connect that hangs is left to the thread's end.
                await asyncio.wait((session,), timeout=CLOSE_SECONDS if self.connected else 0)
                return
            stop.cancel()
            self._failed(_reason(session.exception()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._backoff.failed())

    def _failed(self, reason: str) -> None:
        self.connected = False
        if reason != self.reason:
            logger.warning("MQTT %s:%d: %s", self._broker.host, self._broker.port, reason)
        self.reason = reason

    async def _session(self) -> None:
        """Be connected until the connection breaks, which raises, or is closed."""
        async with aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            username=self._broker.login[0],
            password=self._password,
            protocol=aiomqtt.ProtocolVersion.V5,
            will=aiomqtt.Will(self._status, b"offline", qos=1, retain=True)
            if self._status
            else None,
            keepalive=KEEPALIVE_SECONDS,
            timeout=ANSWER_SECONDS,
            max_queued_incoming_messages=self._queue_limit,
            tls_context=self._tls,
            logger=_library_logger,
        ) as client:
            started = self._loop.time()
            self.connected, self.reason = True, ""
            logger.info("MQTT %s:%d: connected", self._broker.host, self._broker.port)
            for topic in self._subscriptions:
                await client.subscribe(topic, options=SubscribeOptions(qos=1, noLocal=True))
            if self._status:
                self.retain(self._status, b"online")
            self.send_again()
            receiving = asyncio.create_task(self._receive(client))
            sending = asyncio.create_task(self._send(client))
            try:
                done, _ = await asyncio.wait(
                    (receiving, sending), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
            finally:
                receiving.cancel()
                sending.cancel()
                self._backoff.succeeded(self._loop.time() - started)

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            topic, payload, kept = message.topic.value, message.payload, bool(message.retain)
            if not isinstance(payload, bytes):
                continue
            if topic != self._status:
                self._received(topic, payload, kept)
            elif kept:
                pass  # from before
            elif payload != b"online":
                self.send_again(topic)
            elif not self.is_shared:
                self.is_shared = True
                logger.warning(
                    "MQTT %s:%d: %s is of another genre-stream, too: set mqtt.node of one",
                    self._broker.host,
                    self._broker.port,
                    topic.rpartition("/")[0],
                )

    async def _send(self, client: aiomqtt.Client) -> None:
        """Send what waits, until the connection is closed and nothing does."""
        while True:
            self._wake.clear()
            once = None
            with self._lock:
                topic = next(iter(self._unsent), None)
                # First what is sent once: `hello` says that a source has ended, and follows the
                # last that is heard of it.
                if self._queue:
                    once = topic, payload, qos, retain = self._queue.popleft()
                    owner = None
                elif topic is not None:
                    del self._unsent[topic]
                    (payload, owner), qos, retain = self._retained[topic], 1, True
            if topic is None:
                if self._closing:
                    break
                await self._wake.wait()
                continue
            try:
                await client.publish(
                    topic, payload, qos=qos, retain=retain, properties=_properties(owner)
                )
            except BaseException:
                # The broker did not confirm it, and what is retained is sent again in any case.
                if once:
                    self._put_back(once)
                raise
            self.sent += 1
            with self._lock:
                if self._retained.get(topic) == (b"", None) and not payload:
                    del self._retained[topic]
        if self._status:
            await client.publish(self._status, b"offline", qos=1, retain=True)

    def _put_back(self, message: tuple[str, bytes, int, bool]) -> None:
        """Let a message be the next one, unless it would be the oldest of too many."""
        with self._lock:
            if len(self._queue) < QUEUE_LIMIT:
                self._queue.appendleft(message)
            else:
                self.dropped += 1


def try_broker(broker: Broker, password: str | None) -> str:
    """Connect once; return why that fails, or nothing.

    `OSError` is raised if a certificate cannot be used.
    """

    async def connect() -> None:
        async with aiomqtt.Client(
            broker.host,
            broker.port,
            username=broker.login[0],
            password=password or broker.login[1],
            protocol=aiomqtt.ProtocolVersion.V5,
            timeout=ANSWER_SECONDS,
            tls_context=context,
            logger=_library_logger,
        ):
            pass

    context = tls_context(broker)
    try:
        asyncio.run(connect())
    except (aiomqtt.MqttError, OSError) as error:
        return _reason(error)
    return ""


def tls_context(broker: Broker) -> ssl.SSLContext | None:
    """Return how to encrypt, None for not at all; `OSError` if a certificate cannot be used."""
    if not broker.is_tls:
        return None
    context = ssl.create_default_context(cafile=broker.ca_file)
    if broker.cert_file:
        context.load_cert_chain(broker.cert_file, broker.key_file)
    return context


def _properties(owner: int | None) -> Properties | None:
    """Return the properties of a message about a source with an owner."""
    if owner is None:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.UserProperty = [("owner", str(owner))]
    return properties


def _reason(error: BaseException | None) -> str:
    """Return why a session ended, as a sentence for a person."""
    if isinstance(error, aiomqtt.MqttCodeError) and isinstance(error.rc, ReasonCode):
        return f"the broker refuses the connection: {str(error.rc).lower()}"
    text = str(error) if error else "the connection was closed"
    if text == "Operation timed out":
        return "the broker does not answer"
    return re.sub(r"^\[(Errno [-\d]+|code:\d+)\] ", "", text).lower()
