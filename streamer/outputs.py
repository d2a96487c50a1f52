"""The optional outputs (MQTT, OSC, alerts), made from the settings and when these change."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from streamer.core.colours import colours
from streamer.core.events import PlacedSegment, Published, Sink, SourceKind, SourceStatus
from streamer.core.health import OutputHealth
from streamer.core.model import Classifier
from streamer.core.segments import Segment
from streamer.inputs import InputError, check_colours
from streamer.setting_types import target
from streamer.settings import Settings
from streamer.system.console import unreadable_reason

PASSWORD_CREDENTIAL = "mqtt-password"
"""Name of the credential of systemd with the broker's password."""


PACKAGES = {"alerts": "apprise", "mqtt": "aiomqtt", "osc": "python-osc", "tags": "mutagen"}
"""What the extra of each output installs."""


class Output(Sink, Protocol):
    """A sink that is started after its sources were added."""

    def start(self) -> None:
        """Begin to send."""

    def close(self) -> None:
        """Stop; may block for a part of a second."""

    def health(self) -> OutputHealth:
        """Return its state."""


class Outputs(Sink):
    """Hands events to the outputs that the settings ask for.

    A new output is told at once what there is: sources, their states and open segments. `hello`
    returns the `hello` message with the current states, `owners` are those of a fleet's sources.
    `InputError` is raised if an output cannot be made.
    """

    def __init__(
        self,
        settings: Settings,
        classifier: Classifier,
        hello: Callable[[], Mapping[str, Any]],
        owners: Mapping[str, int] | None = None,
    ) -> None:
        self._classifier = classifier
        self._owners = owners
        self._hello = hello
        self._kinds: dict[str, SourceKind] = {}
        self._latest: dict[tuple[str, type], Published] = {}
        """The latest status and the latest open segment of each source."""
        self._outputs: dict[Hashable, Output] = {}
        self._outputs = {key: make() for key, make in self._wanted(settings)}

    def names(self) -> list[str]:
        """Return what the outputs are called."""
        return [output.health().output for output in self._outputs.values()]

    def start(self) -> None:
        """Start every output."""
        for output in self._outputs.values():
            output.start()

    async def close(self) -> None:
        """Stop every output."""
        await _close_all(self._outputs.values())

    async def reload(self, settings: Settings) -> dict[str, str]:
        """Replace the outputs whose settings have changed; return the colours of the labels.

        If one cannot be made, `InputError` is raised and nothing is changed.
        """
        check_colours(settings, self._classifier)
        wanted = dict(self._wanted(settings))
        new = {key: make() for key, make in wanted.items() if key not in self._outputs}
        former = [output for key, output in self._outputs.items() if key not in wanted]
        self._outputs = {key: self._outputs.get(key) or new[key] for key in wanted}
        # Before the new ones connect, since the same topics may be theirs.
        await _close_all(former)
        for output in new.values():
            self._tell_what_there_is(output)
            output.start()
        return colours(self._classifier.names.labels, settings.colours)

    def health(self) -> list[OutputHealth]:
        """Return the state of every output."""
        return [output.health() for output in self._outputs.values()]

    def publish(self, published: Published) -> None:
        """Hand an event on."""
        if isinstance(published.event, SourceStatus | Segment):
            self._latest[published.source, type(published.event)] = published
        for output in self._outputs.values():
            output.publish(published)

    def add_source(self, name: str, kind: SourceKind) -> None:
        """Announce a source."""
        self._kinds[name] = kind
        for output in self._outputs.values():
            output.add_source(name, kind)

    def remove_source(self, name: str, segments: Sequence[PlacedSegment] = ()) -> None:
        """Forget a source."""
        self._kinds.pop(name, None)
        for kind in (SourceStatus, Segment):
            self._latest.pop((name, kind), None)
        for output in self._outputs.values():
            output.remove_source(name, segments)

    def _tell_what_there_is(self, output: Output) -> None:
        for name, kind in self._kinds.items():
            output.add_source(name, kind)
        for published in self._latest.values():
            if not isinstance(published.event, Segment) or not published.event.final:
                output.publish(published)

    def _wanted(self, settings: Settings) -> Iterator[tuple[Hashable, Callable[[], Output]]]:
        """Yield, for each output, what it depends on and how it is made."""
        own = tuple(sorted(settings.colours.items()))
        if settings.mqtt:
            password = read_password(settings)
            key = ("mqtt", settings.mqtt, password, settings.mqtt_predictions, own)
            yield key, lambda: self._make_mqtt(settings, password)
        if settings.osc:
            yield ("osc", settings.osc, own), lambda: self._make_osc(settings)

        if settings.alerts:
            yield ("alerts", settings.alerts), lambda: self._make_alerts(settings)

    def _make_alerts(self, settings: Settings) -> Output:
        try:
            from streamer.sinks.alerts.sink import Alerts
        except ModuleNotFoundError:
            raise missing("alerts") from None
        labels = self._classifier.names.labels
        for rule in settings.alerts:
            if unknown := [genre for genre in rule.genres if genre not in labels]:
                raise InputError(
                    f"alerts {rule.name!r}: {unknown[0]!r} is no label; "
                    f"the labels are {', '.join(labels)}"
                )
        former = next((each for each in self._outputs.values() if isinstance(each, Alerts)), None)
        try:
            return Alerts(settings.alerts, former)
        except ValueError as error:
            raise InputError(f"alerts: {error}") from None

    def alerts(self) -> list[dict[str, Any]]:
        """Return each rule with its last firing, as ``/api/state`` lists it."""
        return [
            each
            for output in self._outputs.values()
            if (read := getattr(output, "last_firings", None))
            for each in read()
        ]

    def _make_mqtt(self, settings: Settings, password: str | None) -> Output:
        try:
            from streamer.sinks.mqtt.sink import Mqtt
        except ModuleNotFoundError:
            raise missing("mqtt") from None
        assert settings.mqtt
        names, contract = self._classifier.names, self._classifier.contract
        claimable = [label for label in names.labels if label != names.not_music]
        try:
            return Mqtt(
                settings.mqtt,
                password,
                labels=claimable,
                colours=colours(names.labels, settings.colours),
                model=f"{contract.name} {contract.version}",
                predictions=settings.mqtt_predictions,
                hello=self._hello,
                owners=self._owners,
            )
        except OSError as error:
            raise InputError(
                f"mqtt: a certificate or key cannot be used: {error.strerror or error}"
            ) from None

    def _make_osc(self, settings: Settings) -> Output:
        try:
            from streamer.sinks.osc import Osc
        except ModuleNotFoundError:
            raise missing("osc") from None
        own = colours(self._classifier.names.labels, settings.colours)
        return Osc([target(text) for text in settings.osc], own)


def read_password(settings: Settings) -> str | None:
    """Return the broker's password, from `password_file` or systemd's credentials.

    `InputError` is raised if the file cannot be read.
    """
    path = settings.mqtt.password_file if settings.mqtt else None
    is_needed = path is not None
    if path is None and (credentials := os.environ.get("CREDENTIALS_DIRECTORY")):
        path = Path(credentials) / PASSWORD_CREDENTIAL
    if path is None or not (is_needed or path.exists()):
        return None
    try:
        return path.expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        reason = unreadable_reason(error) if isinstance(error, OSError | ValueError) else error
        raise InputError(f"mqtt: password_file {path} cannot be read: {reason}") from None


def missing(extra: str) -> InputError:
    """Return the error for an output whose extra is not installed."""
    return InputError(
        f"{extra} needs {PACKAGES[extra]}; install it with: pip install 'genre-stream[{extra}]'"
    )


async def _close_all(outputs: Sequence[Output] | Any) -> None:
    await asyncio.gather(*(asyncio.to_thread(output.close) for output in outputs))
