"""Times as users and clients write them."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_timestamp(name: str, text: str) -> datetime:
    """Parse an ISO 8601 time, which is in UTC unless it has an offset.

    The `ValueError` for anything else is one sentence about the parameter `name`.

    Examples
    --------
    >>> parse_timestamp("from", "2026-05-01T12:00:00Z")
    datetime.datetime(2026, 5, 1, 12, 0, tzinfo=datetime.timezone.utc)
    """
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{name} must be a moment such as 2026-05-01T12:00:00Z, not {ascii(text)[:60]}"
        ) from None
