"""How long a test waits for what must happen, before it fails."""

from __future__ import annotations

LONGEST_WAIT_SECONDS = 60.0
"""No test depends on it: what is waited for comes at once unless there is a defect, and this only
ends a test that would otherwise hang, on a machine that is busy with others."""
