"""genre-stream fleet: thousands of streams on the machines of a Ray cluster."""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamer import settings as schema
from streamer.commands.run import add_option
from streamer.fleet import actors
from streamer.fleet.metrics import FleetMetrics
from streamer.fleet.reports import FleetStatus
from streamer.fleet.source_list import SourceList, read_source_list
from streamer.fleet.table import table, words
from streamer.inputs import InputError, load_classifier, make, pipeline_factory
from streamer.outputs import missing, read_password
from streamer.settings import Settings
from streamer.system import logs
from streamer.system.cluster import join
from streamer.system.commandline import ArgumentParser, UserError, print_line
from streamer.system.console import print_error

ANSWER_SECONDS = 10.0
"""How long the supervisor may take to answer."""
STOP_SECONDS = 20.0
"""How long all engines together may take to stop."""
PATIENCE_SECONDS = 10
"""How long an engine may not answer, unless the command line says otherwise."""
POLL_SECONDS = 1.0
PROGRESS_SECONDS = 2.0
"""Shortest time between two lines of the log about the progress."""
STATUS = "status"
OPTIONS = ("loop", "follow", "fast", "mqtt", "mqtt_predictions", "host", "port", "log_level")
"""Settings beside those of the model and the decisions that a fleet has options for."""
WITHOUT_EFFECT = ("history", "osc", "alerts", "token_file", "tls_cert")

EPILOG = """\
SOURCES.toml has the settings of genre-stream, above all source = ["NAME=LOCATION", ...] and mqtt; a
CSV file has the columns source, name and charset. The list is read again when it changes, and on
SIGHUP. Prometheus finds the metrics of all engines under http://HOST:PORT/metrics.

  genre-stream fleet SOURCES.toml --mqtt mqtt://broker     Ray on this machine
  genre-stream fleet SOURCES.csv --address auto            the cluster that this machine is part of
  genre-stream fleet status                                a table of the engines
"""

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-command's options."""
    parser = ArgumentParser(
        prog="genre-stream fleet",
        description="Listen to thousands of streams on the machines of a Ray cluster and tell an "
        "MQTT broker what they play.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "list", type=Path, metavar="SOURCES", help="TOML or CSV file with the sources; or 'status'"
    )
    name_help = f"of the fleet, where several run on one cluster (default: {actors.DEFAULT_NAME})"
    parser.add_argument("--name", type=_name, default=actors.DEFAULT_NAME, help=name_help)
    address_help = "a Ray cluster: 'auto' is that of this machine; without it Ray is started here"
    parser.add_argument("--address", default=None, help=address_help)
    engines_help = "engines at most; without it as many as there are processors for"
    parser.add_argument("--engines", type=_positive, default=None, metavar="N", help=engines_help)
    cores_help = "processors of one engine (default: 1)"
    parser.add_argument("--cores", type=_positive, default=1, metavar="N", help=cores_help)
    patience_help = (
        "seconds that an engine may not answer before its sources go to others "
        f"(default: {PATIENCE_SECONDS})"
    )
    parser.add_argument(
        "--patience", type=_positive, default=PATIENCE_SECONDS, metavar="S", help=patience_help
    )
    config_help = "TOML file with settings for a list in CSV"
    parser.add_argument("--config", type=Path, default=None, metavar="FILE", help=config_help)
    for heading, fields in schema.fields_by_group().items():
        of_engine = heading in (schema.MODEL, schema.DECISIONS)
        own = [(name, field) for name, field in fields if of_engine or name in OPTIONS]
        if own:
            group = parser.add_argument_group(heading)
            for name, field in own:
                add_option(group, name, field)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number from 1 up")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} should have 1 to 64 letters, digits, and _ . or -"
        )
    return text


def main(argv: Sequence[str]) -> int:
    """Run the fleet, or print its status; return the exit status."""
    given = vars(build_parser().parse_args(argv))
    path, name, address, engines, cores, patience, config = (
        given.pop(option)
        for option in ("list", "name", "address", "engines", "cores", "patience", "config")
    )
    if path == Path(STATUS):
        return _print_status(name, address or "auto")
    source_list = read_source_list(path, given, config)
    settings = _checked(source_list, name, is_local=address is None)
    logs.configure(settings.log_level)
    ignored = [name for name in WITHOUT_EFFECT if getattr(settings, name)]
    if ignored:
        logger.warning("%s: without effect in a fleet", ", ".join(ignored))
    ray = join(address, user="fleet", namespace=name)
    try:
        fleet = _Fleet(ray, name, settings, cores, engines, patience)
        _serve_metrics(fleet, settings)
        return fleet.run(path, source_list, lambda: read_source_list(path, given, config))
    finally:
        ray.shutdown()


def _print_status(name: str, address: str) -> int:
    ray = join(address, user="fleet", namespace=name)
    try:
        supervisor = actors.find_supervisor(ray)
        if supervisor is None:
            raise UserError(
                f"no fleet {name} runs on the cluster of --address {address}", exit_status=1
            )
        try:
            status = ray.get(supervisor.status.remote(), timeout=ANSWER_SECONDS)
        except (ray.exceptions.RayError, TimeoutError):
            raise UserError(
                "the supervisor of the fleet does not answer; Ray may be starting it again: try "
                "once more",
                exit_status=1,
            ) from None
        print_line(table(status))
    finally:
        ray.shutdown()
    return 0


def _checked(source_list: SourceList, name: str, *, is_local: bool) -> Settings:
    """Try model and broker, and on a single machine the sources; return what engines are given.

    The password of a file becomes part of the broker's address, since the file need not be on every
    machine.
    """
    settings = source_list.settings
    pipeline_factory(settings, load_classifier(settings))
    for source in source_list.sources.values() if is_local else ():
        make(source)
    assert settings.mqtt
    try:
        from streamer.sinks.mqtt.connection import try_broker
    except ModuleNotFoundError:
        raise missing("mqtt") from None
    password = read_password(settings)
    broker = settings.mqtt
    try:
        reason = try_broker(broker, password)
    except OSError as error:
        reason = f"a certificate or key cannot be used: {error.strerror or error}"
    if reason:
        raise InputError(f"mqtt {broker.host}:{broker.port}: {reason}")
    # Fleets on one cluster are mostly heard by one broker.
    node = broker.node or ("fleet" if name == actors.DEFAULT_NAME else name)
    broker = replace(broker.with_password(password), node=node)
    return settings.model_copy(update={"mqtt": broker})


class _Fleet:
    """The command line's end of a fleet: sends the list, reports and stops."""

    def __init__(
        self,
        ray: Any,
        name: str,
        settings: Settings,
        cores: int,
        engines: int | None,
        patience: int,
    ) -> None:
        self._ray = ray
        self._name = name
        self._command = f"process {os.getpid()} on {socket.gethostname()}"
        self._settings = settings
        self._cores = cores
        self._limit = engines
        self._patience = patience
        self._stop = threading.Event()
        self._reload = False
        self.status = FleetStatus("", 0, (), 0)
        """What the supervisor answered last."""
        self._noted = (0.0, "")
        """When the log was last told about the progress, and what."""

    def run(self, path: Path, current: SourceList, read: Callable[[], SourceList]) -> int:
        """Run until a signal comes or every source is over; return the exit status.

        `UserError` is raised if the fleet follows another command.
        """
        signals: list[signal.Signals] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._request_stop(signals, number))
        signal.signal(signal.SIGHUP, lambda *_: self._request_reload())
        supervisor = self._find_or_start()
        sources, version, changed = current.sources, _version(current), _changed(path)
        leads, questions = False, 0
        while not self._stop.wait(POLL_SECONDS):
            force, self._reload = self._reload, False
            if force or _changed(path) != changed:
                changed = _changed(path)
                sources, version = self._read_again(read, sources)
            try:
                status = self._answer(supervisor.status.remote(self._command))
                if status.command != self._command:
                    # A command that was killed does not ask again; the fleet soon follows this one.
                    if leads or 0 < questions < status.questions:
                        raise self._taken(status.command)
                    questions = status.questions
                    continue
                self.status, leads = status, True
                if force or self.status.list_version != version:
                    settings = self._settings
                    self._answer(supervisor.set_list.remote(version, settings, sources))
                    continue
            except (self._ray.exceptions.RayError, TimeoutError) as error:
                logger.warning(
                    "the supervisor does not answer (%s); if the head of the cluster is gone, Ray "
                    "ends the fleet after a minute",
                    type(error).__name__,
                )
                supervisor = self._find_or_start()
                continue
            self._tell_progress()
            if self.status.is_over():
                break
        if not leads:
            return 0
        self._stop_all(supervisor)
        for name, reason in self.status.failures.items() if not signals else ():
            print_error(f"{name}: {reason}")
        return 1 if self.status.failures and not signals else 0

    def _taken(self, command: str) -> UserError:
        return UserError(
            f"the fleet {self._name} of this cluster follows {command}: stop that one first, or "
            "give this one another --name",
            exit_status=1,
        )

    def _request_stop(self, signals: list[signal.Signals], number: int) -> None:
        if signals:  # the second one
            raise SystemExit(128 + number)
        signals.append(signal.Signals(number))
        self._stop.set()

    def _request_reload(self) -> None:
        self._reload = True

    def _find_or_start(self) -> Any:
        """Return the supervisor, which Ray keeps running."""
        from streamer.fleet.supervisor import Supervisor

        assert self._settings.mqtt
        actor = self._ray.remote(Supervisor).options(
            name=actors.SUPERVISOR,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=0,
            # The cluster does not survive its head, so nothing is gained by another place.
            resources={actors.HEAD: 0.001},
        )
        prefix = f"{self._settings.mqtt.node}-"
        return actor.remote(self._cores, self._limit, prefix, self._patience)

    def _answer(self, reference: Any) -> Any:
        return self._ray.get(reference, timeout=ANSWER_SECONDS)

    def _read_again(
        self, read: Callable[[], SourceList], sources: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], str]:
        """Return the sources of the list and its version; those in force if it cannot be used."""
        try:
            current = read()
            logger.info("the list was read again: %d sources", len(current.sources))
        except UserError as error:
            logger.error("the list was not read again: %s", error)
            current = SourceList(self._settings, sources)
        return current.sources, _version(current)

    def _tell_progress(self) -> None:
        status = self.status
        running = f"{len(status.running)} of {len(status.engines)} engines"
        is_starting = any(state in status.states for state in ("waiting", "connecting"))
        text = f"{running}, {words(status.states)}" if is_starting else running
        told, before = self._noted
        if text != before and time.monotonic() - told >= PROGRESS_SECONDS:
            self._noted = (time.monotonic(), text)
            logger.info("%s, room for %d: %s", running, status.capacity, words(status.states))

    def _stop_all(self, supervisor: Any) -> None:
        logger.info("stopping %d engines", len(self.status.running))
        try:
            self._ray.get(supervisor.stop.remote(), timeout=STOP_SECONDS)
        except (self._ray.exceptions.RayError, TimeoutError) as error:
            logger.warning("not every engine stopped in order (%s)", type(error).__name__)
            for name in self._ray.util.list_named_actors():
                self._ray.kill(self._ray.get_actor(name), no_restart=True)
        else:
            self._ray.kill(supervisor, no_restart=True)


def _version(source_list: SourceList) -> str:
    """Return a digest of the sources, by which a list is recognised."""
    text = repr(sorted((name, repr(each)) for name, each in source_list.sources.items()))
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _changed(path: Path) -> tuple[int, int] | None:
    """Return what changes with the file at `path`; None while there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _serve_metrics(fleet: _Fleet, settings: Settings) -> None:
    from prometheus_client import start_http_server

    registry = FleetMetrics(lambda: fleet.status).registry
    try:
        server, _ = start_http_server(settings.port, settings.host, registry)
    except OSError as error:
        raise UserError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; choose "
            "another --host or --port"
        ) from None
    logger.info("metrics on http://%s:%d/metrics", settings.host, server.server_port)
