"""Clock time of positions within a source."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any


class Clocks:
    """Tells when a position of a source was heard, by the last prediction of that source.

    A position counts the seconds of sound since the source's first sample. A live source that was
    cut off for a while goes on counting where it stopped, so every prediction sets its clock anew.
    """

    def __init__(self) -> None:
        self._zero: dict[str, datetime] = {}

    def note(self, prediction: Mapping[str, Any]) -> None:
        """Set a source's clock by `time` and `position` of a prediction frame."""
        heard = datetime.fromisoformat(prediction["time"])
        self._zero[prediction["source"]] = heard - timedelta(seconds=prediction["position"])

    def at(self, source: str, position: float) -> datetime:
        """Return when a position was heard; now, if nothing is known of the source yet."""
        since_zero = timedelta(seconds=position)
        return self._zero.setdefault(source, datetime.now(UTC) - since_zero) + since_zero


def clock_text(moment: datetime) -> str:
    """Return a moment as the protocol writes it: UTC, ISO 8601, milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
