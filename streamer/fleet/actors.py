"""The actors of a fleet by their names."""

from __future__ import annotations

from typing import Any

DEFAULT_NAME = "genre-stream"
"""Name of a fleet, which is the namespace of its actors."""
SUPERVISOR = "supervisor"
HEAD = "node:__internal_head__"
"""Resource that only the head of a cluster has."""


def find_supervisor(ray: Any) -> Any | None:
    """Return the fleet's supervisor, None if no fleet runs."""
    try:
        return ray.get_actor(SUPERVISOR)
    except ValueError:
        return None
