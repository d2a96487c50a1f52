"""How long a test waits for what must happen, before it fails."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_WAIT_SECONDS = 60.0
"""No test depends on it: what is waited for comes at once unless there is a defect, and this only
ends a test that would otherwise hang, on a machine that is busy with others."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds; fail with `what` after `LONGEST_WAIT_SECONDS`."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.002)
