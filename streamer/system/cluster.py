"""Joins a Ray cluster or starts Ray on this machine; every failure is one sentence."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from streamer.system.commandline import UserError
from streamer.system.processors import processors

CONNECT_SECONDS = 5.0
"""How long a machine of the cluster may take to take a connection."""
OBJECT_STORE_BYTES = 100_000_000
"""Shared memory of a Ray that is started here; only the list of sources passes through it."""


def join(address: str | None, *, user: str, namespace: str | None = None) -> Any:
    """Join the cluster at `address`, or start Ray on this machine; return the module `ray`.

    `user` is what needs Ray, for the error if there is none; actors have names in `namespace`.
    `UserError` is raised if Ray is not installed or the cluster cannot be reached.
    """
    # Ray reads these when it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError(
            f"{user} needs ray; install it with: pip install 'genre-stream[fleet]'"
        ) from None
    options: dict[str, Any] = {
        "namespace": namespace,
        "log_to_driver": False,
        "configure_logging": False,
        "logging_level": logging.ERROR,
    }
    if address is None:
        options |= {
            "address": "local",
            "num_cpus": processors(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    else:
        _check(address)
        options["address"] = address
    try:
        ray.init(**options)
    except Exception as error:  # a node that takes too long to start is a bare Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if address is None:
            raise UserError(
                f"Ray does not start on this machine: {reason}", exit_status=1
            ) from None
        if address == "auto":
            raise _no_cluster() from None
        raise _unreachable(address, reason) from None
    return ray


def _no_cluster() -> UserError:
    return UserError(
        "--address auto: no Ray runs on this machine; join it to a cluster with "
        "'ray start --address=HOST:6379', or leave out --address"
    )


def _check(address: str) -> None:
    """Raise `UserError` if nothing answers at an address: Ray would try for a minute."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise UserError(
            f"--address {address}: should be auto, or HOST:PORT of the head of a cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(getattr(error, "strerror", None) or error)) from None


def _unreachable(address: str, reason: str) -> UserError:
    return UserError(
        f"--address {address}: the cluster cannot be reached ({reason}); "
        "is 'ray start --head' running there?"
    )
