"""The daemon: starts everything in order, watches it, and stops it in order."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import ipaddress
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streamer.core.events import SourceState, SourceStatus, SpectrogramColumns
from streamer.core.health import SourceHealth
from streamer.engine.listener import Listener, ListenerEvent, PipelineEvent, stop_all
from streamer.engine.mailbox import Mailbox
from streamer.engine.watchdog import OVER, Progress, needs_restart, threads_and_tasks
from streamer.inputs import (
    InputError,
    SourceSettings,
    load_classifier,
    make_inputs,
    pipeline_factory,
    shared_scheduler,
)
from streamer.settings import INPUTS, Settings, SettingsError, extra
from streamer.sinks.history.writer import History, HistoryError
from streamer.sinks.metrics import Metrics
from streamer.sinks.terminal import Terminal
from streamer.sinks.websocket.frames import FrameMaker, hello
from streamer.sinks.websocket.hub import Hub
from streamer.sinks.websocket.server import Server, ServerError
from streamer.sources import Source
from streamer.system import logs
from streamer.system.background_writer import BackgroundWriter
from streamer.system.console import print_error, unreadable_reason
from streamer.system.memory import TRIM_SECONDS, return_freed_memory, share_one_heap
from streamer.system.notify import Notifier, ignore_requests, inherited_sockets

STOP_SECONDS = 2.0
"""An orderly stop takes no longer; then the process ends as it stands."""
SOURCE_STOP_SECONDS = 0.6
"""How long the sources may take of it; clients may take as long as the server lets them."""
LAST_WORD_SECONDS = 0.1
"""How long the log may take to say that the stop was not orderly."""
WATCH_SECONDS = 1.0
"""How often progress is looked at."""

logger = logging.getLogger(__name__)


class Service:
    """The daemon as one object, from start to stop.

    Parameters
    ----------
    settings
        What holds.
    reload
        Reads the settings again.
    notifier
        Whom to tell how it goes.
    terminal
        Where live lines are kept, if a person watches.

    Raises
    ------
    InputError, HistoryError, ServerError
        If the settings ask for what cannot be had.
    """

    def __init__(
        self,
        settings: Settings,
        reload: Callable[[], Settings],
        *,
        notifier: Notifier,
        terminal: Terminal | None = None,
    ) -> None:
        self._settings = settings
        self._reload = reload
        self._notifier = notifier
        self._terminal = terminal
        self._inputs = make_inputs(settings)
        classifier = load_classifier(settings)
        contract = classifier.contract
        self._factory = pipeline_factory(settings, classifier, spectrogram=True)
        self._scheduler = shared_scheduler(settings)
        self._first_seconds = contract.window_seconds + settings.hop_seconds
        self._frames = FrameMaker()
        self._progress: dict[str, Progress] = {}
        self._heard_now: dict[str, str] = {}
        self._spectrogram_wanted = False
        self._history = (
            History(settings.history, settings.retention_days) if settings.history else None
        )
        self._metrics = Metrics(
            version=version("genre-stream"),
            model={"name": contract.name, "version": contract.version},
            health=self._health,
        )
        recorders = [self._metrics.record]
        if self._history:
            recorders.append(self._history.record)
            self._metrics.watch_history(self._history)
        if terminal:
            recorders.append(terminal.show)
        self._hub = Hub(
            hello(
                contract,
                (source for _, source in self._inputs.values()),
                hop_seconds=settings.hop_seconds,
            ),
            recorders=recorders,
        )
        self._metrics.watch_hub(self._hub)
        self._token = read_token(settings)
        self._server = Server(
            self._hub,
            host=settings.host,
            port=settings.port,
            sockets=inherited_sockets() or None,
            token=self._token,
            origins=settings.origin,
            max_clients=settings.max_clients,
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
            health=self._health,
            history=self._history,
            metrics=self._metrics,
        )

    async def run(self) -> int:
        """Serve until every source is over or a signal comes; return the exit status.

        Raises
        ------
        ServerError
            If the port cannot be had.
        """
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._mailbox = Mailbox[ListenerEvent](self._loop, self._deliver)
        self._stop_signals = 0
        self._count_down = _last_resort(STOP_SECONDS)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take_stop_signal)
        # The thread for this chore and others is there before the sources take all there may be.
        await asyncio.to_thread(return_freed_memory)
        await self._server.start()
        self._answer(signal.SIGHUP, self._start_reload)
        self._answer(signal.SIGUSR1, self._describe)
        self._announce()
        for name, (_, source) in self._inputs.items():
            self._listen(name, source)
        self._notifier.ready()
        chores = [asyncio.create_task(chore()) for chore in (self._watch, _stay_small)]
        await self._over.wait()
        for chore in chores:
            chore.cancel()
        return await self._stop()

    def _announce(self) -> None:
        if self._terminal:
            self._terminal.write(f"Dashboard: {self._server.url}\n")
        else:
            logger.info("serving on %s", self._server.url)
        if self._token is None and not _is_private(self._server.addresses):
            logger.warning("anybody who reaches %s may listen in; set token_file", self._server.url)

    def _listen(self, name: str, source: Source) -> None:
        listener = Listener(
            source,
            self._factory,
            self._receive,
            scheduler=self._scheduler,
            paced=not self._settings.fast,
        )
        self._progress[name] = Progress(listener, self._first_seconds)
        listener.start()

    def _receive(self, event: ListenerEvent) -> None:
        """Take an event on a listener's thread; spectrograms only if somebody looks at them."""
        if (
            isinstance(event, PipelineEvent)
            and isinstance(event.event, SpectrogramColumns)
            and not self._spectrogram_wanted
        ):
            return
        self._mailbox.put(event)

    def _deliver(self, event: ListenerEvent) -> None:
        """Tell everybody an event, on the loop."""
        message = self._frames.make(event)
        self._hub.publish(message)
        progress = self._progress.get(event.source)
        if message["type"] == "prediction":
            self._spectrogram_wanted = self._hub.wanted("spectrogram")
            self._heard_now[event.source] = _in_words(message)
            if progress:
                progress.decided()
        elif isinstance(event, SourceStatus):
            self._heard_now[event.source] = str(event.state)
            if progress and event.state in OVER:
                self._end_if_all_is_over()

    def _end_if_all_is_over(self) -> None:
        over = all(progress.is_over() for progress in self._progress.values())
        if over and not self._reloading.locked():
            self._over.set()

    async def _watch(self) -> None:
        """Tell the service manager what is heard, and that all is well while it is."""
        interval = min(WATCH_SECONDS, (self._notifier.watchdog_seconds or WATCH_SECONDS) / 2)
        while True:
            if not needs_restart(self._progress.values()) and self._notifier.watchdog_seconds:
                self._notifier.watchdog()
            heard = ", ".join(f"{name}: {words}" for name, words in self._heard_now.items())
            self._notifier.status(heard or "listening")
            await asyncio.sleep(interval)

    def _health(self) -> list[SourceHealth]:
        return [progress.health() for progress in self._progress.values()]

    def _describe(self) -> None:
        """Log the state of every thread and queue."""
        lines = list(threads_and_tasks())
        lines += [f"source {health}" for health in self._health()]
        lines.append(f"mailbox: {len(self._mailbox)} wait, {self._mailbox.lost} lost")
        waiting = [len(outbox) for outbox in self._hub.outboxes]
        lines.append(f"clients: {len(waiting)}, {sum(waiting)} frames wait")
        if self._history:
            history = self._history
            lines.append(
                f"history: {history.queue_depth} wait, {history.dropped} dropped, "
                f"{history.write_errors} write errors"
            )
        logger.warning("%s", "\n".join(lines))

    def _answer(self, request: signal.Signals, act: Callable[[], None]) -> None:
        """Call `act` on the loop whenever the signal comes.

        Not by `add_signal_handler`: when the loop closes, that makes the signal deadly. One that
        comes just as the loop goes to sleep is seen when the loop looks at progress again.
        """
        signal.signal(request, lambda *_: self._loop.call_soon_threadsafe(act))

    def _take_stop_signal(self, number: int, _frame: object) -> None:
        """Stop, and at the latest when the time is up: the loop may hang as well."""
        self._stop_signals += 1
        if self._stop_signals > 1:
            os._exit(128 + number)
        self._count_down()
        # A loop that is closed has stopped already.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop_by_signal, signal.Signals(number))

    def _stop_by_signal(self, number: signal.Signals) -> None:
        logger.info("%s: stopping", number.name)
        self._over.set()

    async def _stop(self) -> int:
        """Stop in order: sources, then clients, then the history."""
        ignore_requests()
        self._notifier.stopping()
        self._count_down()
        failures = [
            progress.listener.status
            for progress in self._progress.values()
            if progress.listener.status.state is SourceState.FAILED
        ]
        await self._stop_listening(list(self._progress))
        self._mailbox.close()
        closing = [self._server.close()]
        if self._history:
            closing.append(asyncio.to_thread(self._history.close))
        await asyncio.gather(*closing)
        self._notifier.close()
        for failure in failures:
            print_error(f"{failure.source}: {failure.detail}")
        return 1 if failures and not self._stop_signals else 0

    async def _stop_listening(self, names: list[str]) -> None:
        listeners = [self._progress.pop(name).listener for name in names]
        await asyncio.to_thread(stop_all, listeners, SOURCE_STOP_SECONDS)
        self._mailbox.deliver_all()

    def _start_reload(self) -> None:
        if self._terminal and not self._terminal.isatty():
            logger.info("the terminal was closed: stopping")
            self._over.set()
            return
        task = self._loop.create_task(self._reload_settings())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_settings(self) -> None:
        """Read the settings again; a source whose settings did not change is not touched."""
        async with self._reloading:
            self._notifier.reloading()
            try:
                settings = self._reload()
                # A device is looked for, and that takes time.
                inputs = await asyncio.to_thread(make_inputs, settings, self._heard_sources())
                if not inputs:
                    raise SettingsError("nothing to hear is left")
                logs.set_level(settings.log_level)
                await self._listen_to(inputs)
                self._name_unchanged(settings)
            except (SettingsError, InputError) as error:
                logger.error("settings not read again: %s", error)
            except Exception as error:  # whatever it is, what runs goes on
                logger.error("settings not read again: %s: %s", type(error).__name__, error)
            finally:
                self._notifier.ready()
        self._end_if_all_is_over()

    def _heard_sources(self) -> dict[SourceSettings, Source]:
        """Return the sources that need not be opened again, by their settings.

        What failed is tried once more; what has ended was heard to its end.
        """
        return {
            self._inputs[name][0]: progress.listener.source
            for name, progress in self._progress.items()
            if progress.listener.status.state is not SourceState.FAILED
        }

    async def _listen_to(self, inputs: Mapping[str, tuple[SourceSettings, Source]]) -> None:
        """Stop, start and restart sources until `inputs` are those that are heard."""
        kept = {
            name
            for name, (_, source) in inputs.items()
            if name in self._progress and self._progress[name].listener.source is source
        }
        leaving = [name for name in self._progress if name not in kept]
        await self._stop_listening(leaving)
        for name in leaving:
            self._heard_now.pop(name, None)
            if name not in inputs:
                self._forget(name)
        if self._over.is_set():
            return
        for name, (_, source) in inputs.items():
            if name not in kept:
                self._hub.add_source(name, source.kind)
                self._listen(name, source)
        self._inputs = dict(inputs)

    def _forget(self, name: str) -> None:
        logger.info("%s: no longer listened to", name)
        self._hub.remove_source(name)
        if self._terminal:
            self._terminal.forget(name)

    def _name_unchanged(self, settings: Settings) -> None:
        """Say which settings hold only after a restart."""
        changed = [
            name
            for name, field in type(settings).model_fields.items()
            if getattr(settings, name) != getattr(self._settings, name)
            and extra(field, "group") != INPUTS
            and name != "log_level"
        ]
        if changed:
            logger.warning("%s: changed settings that hold after a restart", ", ".join(changed))


async def _stay_small() -> None:
    """Give freed memory back, again and again."""
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        await asyncio.to_thread(return_freed_memory)


def _is_private(addresses: list[tuple[str, int]]) -> bool:
    """Tell whether only programs on this computer reach the port."""
    return all(ipaddress.ip_address(host).is_loopback for host, _ in addresses)


def _in_words(prediction: Mapping[str, Any]) -> str:
    if prediction["genre"]:
        return f"{prediction['genre']} {prediction['confidence'] * 100:.0f} %"
    return str(prediction["state"]).replace("_", " ")


def read_token(settings: Settings) -> str | None:
    """Return the token that clients must know, from the file set or from systemd's credentials.

    Raises
    ------
    InputError
        If the file that was set holds none, or a file cannot be read.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    path, asked_for = settings.token_file, settings.token_file is not None
    if path is None and credentials:
        path = Path(credentials) / "token"
    if path is None:
        return None
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and not asked_for:
            return None
        reason = unreadable_reason(error)
        raise InputError(f"token_file {path} cannot be read: {reason}") from None
    if asked_for and not token:
        raise InputError(f"token_file {path} is empty; write a long random word into it")
    return token or None


def _last_resort(seconds: float) -> Callable[[], None]:
    """Return what ends the process as it stands `seconds` after it is first called.

    It may be called in a signal handler, whatever the loop and the log are doing.
    """
    begun = queue.SimpleQueue[None]()

    def end() -> None:
        begun.get()
        time.sleep(seconds)
        words = ("not stopped within %.0f s; ending as it stands", seconds)
        threading.Thread(target=logger.error, args=words, daemon=True).start()
        time.sleep(LAST_WORD_SECONDS)
        os._exit(1)

    threading.Thread(target=end, name="last resort", daemon=True).start()
    return lambda: begun.put(None)


def run(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Run the daemon; return the exit status."""
    faulthandler.enable()
    share_one_heap()
    terminal = Terminal(sys.stderr) if sys.stderr.isatty() else None
    console = terminal or BackgroundWriter(sys.stderr)
    # The live lines tell the news already.
    level = "warning" if terminal and settings.log_level == "info" else settings.log_level
    logs.configure(level, stream=console)
    with contextlib.redirect_stderr(console):
        try:
            return _serve(settings, reload, terminal)
        finally:
            console.drain()


def _serve(settings: Settings, reload: Callable[[], Settings], terminal: Terminal | None) -> int:
    notifier = Notifier()
    notifier.status("loading the model")
    try:
        service = Service(settings, reload, notifier=notifier, terminal=terminal)
    except (InputError, HistoryError, ServerError) as error:
        print_error(str(error))
        return 2
    try:
        with contextlib.suppress(KeyboardInterrupt):
            return asyncio.run(service.run())
        return 130
    except ServerError as error:
        print_error(str(error))
        return 1
