"""Longer limits where the product gives up early and a test needs what it waits for.

Nobody wants to wait for a daemon that hangs, so it ends within seconds and tells what it leaves
undone. A disk or a virtual machine that stalls for longer is no defect, and fails no test that is
not about such a limit.
"""

from __future__ import annotations

import importlib

from streamer.__main__ import main
from streamer.system.ending import exit_on_sigterm
from support.waiting import LONGEST_WAIT_SECONDS

LIMITS = {
    "streamer.listening": ("SOURCE_STOP_SECONDS",),
    "streamer.relay.service": ("STOP_SECONDS",),
    "streamer.service": ("STOP_SECONDS",),
    "streamer.sinks.history.database": ("READ_LOCKED_SECONDS",),
    "streamer.sinks.history.writer": ("CLOSE_SECONDS",),
}
"""Names of limits in seconds, by module."""


def be_patient() -> None:
    """Set all limits to `LONGEST_WAIT_SECONDS` in this process."""
    for module, names in LIMITS.items():
        for name in names:
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"
            setattr(importlib.import_module(module), name, LONGEST_WAIT_SECONDS)


def run_patiently() -> int:
    """Run genre-stream with these limits; return its exit status."""
    exit_on_sigterm()
    be_patient()
    return main()
