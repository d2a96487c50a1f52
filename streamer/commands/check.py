"""`--check`: try everything that a start needs, listen to nothing and leave nothing behind."""

from __future__ import annotations

import socket
from collections.abc import Callable

from streamer.inputs import InputError, load_classifier, make_inputs, pipeline_factory
from streamer.service import read_token
from streamer.settings import Settings
from streamer.sinks.history.database import HistoryError, open_history
from streamer.sinks.websocket.server import ServerError, tls_context
from streamer.system.console import print_error


def check(settings: Settings) -> int:
    """Try each part, say on standard output that it is good; return the exit status."""
    parts: list[Callable[[Settings], str]] = [_sources, _model, _access, _history, _port]
    for part in parts:
        try:
            print(part(settings), flush=True)
        except (InputError, HistoryError, ServerError) as error:
            print_error(str(error))
            return 2
    return 0


def _sources(settings: Settings) -> str:
    return f"sources: {', '.join(make_inputs(settings))}"


def _model(settings: Settings) -> str:
    classifier = load_classifier(settings)
    pipeline_factory(settings, classifier)
    contract = classifier.contract
    return f"model: {contract.name} {contract.version}, {', '.join(contract.labels)}"


def _access(settings: Settings) -> str:
    token = "a token is needed" if read_token(settings) else "no token is needed"
    if settings.tls_cert is None:
        return f"access: {token}, no TLS"
    tls_context(settings.tls_cert, settings.tls_key)
    return f"access: {token}, TLS"


def _history(settings: Settings) -> str:
    if settings.history is None:
        return "history: none is kept"
    new = not settings.history.exists()
    open_history(settings.history).close()
    if new:  # it would belong to whoever checks, and the service could not write into it
        settings.history.unlink()
    return f"history: {settings.history}"


def _port(settings: Settings) -> str:
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise ServerError(
            f"cannot listen on {where}: {error.strerror or error}; choose another --host or --port"
        ) from None
    return f"port: {where} is free"
