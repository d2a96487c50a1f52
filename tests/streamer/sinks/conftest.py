"""What the tests of the protocol share: a server that is told of made-up events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.published import running_server
from support.relay import running_relay


@pytest.fixture(params=[running_server, running_relay], ids=["daemon", "relay"])
def running(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return how to run a server: of a daemon, or a relay that a broker tells of the events."""
    runner: Callable[..., Any] = request.param
    return runner
