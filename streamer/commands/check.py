"""`--check`: try everything that a start needs, without listening or leaving anything behind."""

from __future__ import annotations

import socket

from streamer.inputs import describe_arithmetic, load_classifier, make_inputs, pipeline_factory
from streamer.outputs import Outputs
from streamer.service import read_token
from streamer.settings import Settings
from streamer.sinks.history.database import open_history
from streamer.sinks.websocket.server import tls_context
from streamer.system.commandline import UserError


def check(settings: Settings) -> int:
    """Print a line for each part and return the exit status; raise `UserError` if one fails."""
    for part in (_sources, _model, _outputs, _access, _history, _port):
        print(part(settings), flush=True)
    return 0


def _sources(settings: Settings) -> str:
    return f"sources: {', '.join(make_inputs(settings))}"


def _model(settings: Settings) -> str:
    classifier = load_classifier(settings)
    pipeline_factory(settings, classifier)
    contract = classifier.contract
    tagger = f", with {contract.fusion.tagger} beside it" if contract.fusion else ""
    labels = ", ".join(classifier.names.labels)
    arithmetic = describe_arithmetic(classifier)
    return f"model: {contract.name} {contract.version}{tagger}, computed in {arithmetic}, {labels}"


def _outputs(settings: Settings) -> str:
    names = Outputs(settings, load_classifier(settings), dict).names()
    return f"outputs: {', '.join(names) or 'none'}"


def _access(settings: Settings) -> str:
    token = "a token is needed" if read_token(settings) else "no token is needed"
    if settings.tls_cert is None:
        return f"access: {token}, no TLS"
    tls_context(settings.tls_cert, settings.tls_key)
    return f"access: {token}, TLS"


def _history(settings: Settings) -> str:
    if settings.history is None:
        return "history: none is kept"
    is_new = not settings.history.exists()
    open_history(settings.history).close()
    if is_new:
        # It would belong to this user, and the service could not write to it.
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
        raise UserError(
            f"cannot listen on {where}: {error.strerror or error}; choose another --host or --port"
        ) from None
    return f"port: {where} is free"
