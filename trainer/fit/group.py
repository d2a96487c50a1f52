"""The processes of a training on several machines: how they meet, agree and part."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from trainer.fit_settings import Group
from trainer.run import RunError

MEETING_SECONDS = 300.0
"""How long the others wait for process 0 to start."""
FOR_EVER = 10**6
"""Seconds that process 0 waits for the others, since JAX aborts the program when they are over."""
PARTING_SECONDS = 2.0
"""How long a process 0 that has failed stays, so that the others can say what happened."""


def join(group: Group, work: str) -> None:
    """Wait for the other processes of a group, and compare with theirs what each is to do.

    `work` describes it. It has to be called before JAX computes anything. `RunError` is raised if
    process 0 is not reached, or one of them is to do something else.
    """
    _check_coordinator(group)
    import jax

    # Keras' `initialize` does the same, without a choice of the timeout.
    with _plain_signals():
        jax.distributed.initialize(
            group.coordinator, group.processes, group.process, initialization_timeout=FOR_EVER
        )
    digest = np.frombuffer(hashlib.sha256(work.encode()).digest()[:4], np.uint32)
    digests = _gather(digest)
    if others := [str(number) for number in np.flatnonzero(digests != digests[0])]:
        raise RunError(
            f"process {', '.join(others)} has other options or other data than process 0: give "
            "the same on every machine"
        )


def _check_coordinator(group: Group) -> None:
    """Check what JAX would abort the program for, and wait until process 0 can be reached."""
    host, _, port = group.coordinator.rpartition(":")
    others = "process 0" if group.process else f"{group.processes - 1} more"
    print(f"waiting for {others} at {group.coordinator}", file=sys.stderr, flush=True)
    deadline = time.monotonic() + MEETING_SECONDS
    while True:
        try:
            if group.process == 0:
                with socket.create_server(("", int(port))):
                    return
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
            return
        except OSError as error:
            # Python adds the address in parentheses.
            reason = (error.strerror or str(error)).partition(" (")[0]
            is_late = time.monotonic() > deadline
            if group.process == 0 or is_late or isinstance(error, socket.gaierror):
                raise RunError(
                    f"--coordinator {group.coordinator}: {reason}; give the "
                    "address of the machine that runs --process 0, and a port that is free there",
                    exit_status=1,
                ) from None
        time.sleep(0.5)


@contextmanager
def _plain_signals() -> Iterator[None]:
    """Let Ctrl-C end the program while JAX waits, and undo that JAX takes SIGTERM for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def any_of(group: Group | None, flag: bool) -> bool:
    """Return whether the flag of any process is set; all of them have to call it."""
    return bool(_gather(np.array([flag])).any()) if group else flag


def _gather(values: np.ndarray) -> np.ndarray:
    """Return the values of all processes, one after the other."""
    from jax.experimental import multihost_utils

    return np.ravel(multihost_utils.process_allgather(values))


@contextmanager
def parting(group: Group | None) -> Iterator[None]:
    """End the process at once if the block fails after `join`.

    At its end JAX waits for the other processes, which may be waiting for this one. They notice
    that its connections are closed: `RunError` is raised there.
    """
    try:
        yield
    except BaseException as error:
        if group is None or not _joined():
            raise
        # What fails in JAX begins with a status such as UNKNOWN.
        if isinstance(error, RuntimeError | ValueError) and re.match("[A-Z_]{6,}: ", str(error)):
            error = RunError(
                "another process of the group has ended; --resume goes on after the last epoch "
                f"({str(error).splitlines()[0]})",
                exit_status=1,
            )
        atexit.register(_leave, group, getattr(error, "exit_status", 1))
        raise error from None


def _joined() -> bool:
    import jax

    return bool(jax.process_count() > 1)


def _leave(group: Group, status: int) -> None:
    if group.process == 0:
        # JAX aborts the others when process 0 is gone; they may be about to say what happened.
        time.sleep(PARTING_SECONDS)
    os._exit(status)
