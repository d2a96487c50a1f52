"""From the frames of protocol 1 back to the events that they were made of.

`KeyError`, `TypeError` or `ValueError` is raised for what is no such frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from streamer.core.decision import Decision
from streamer.core.events import SourceState, SourceStatus
from streamer.core.segments import Segment, State

Frame = Mapping[str, Any]


def decision(frame: Frame) -> Decision:
    """Return the decision of a `prediction` frame."""
    return Decision(
        position=float(frame["position"]),
        hop_seconds=float(frame["hop_seconds"]),
        state=State(frame["state"]),
        genre=frame["genre"],
        confidence=float(frame["confidence"]),
        probabilities={label: float(p) for label, p in frame["probabilities"].items()},
        window_probabilities={
            label: float(p) for label, p in frame["window_probabilities"].items()
        },
        level_dbfs=float(frame["level_dbfs"]),
        carried=bool(frame.get("carried", False)),
        change=bool(frame.get("change", False)),
        silence_seconds=float(frame.get("silence_seconds", 0.0)),
        repeated=bool(frame.get("repeated", False)),
    )


def segment(frame: Frame) -> Segment:
    """Return the segment of a `segment` frame."""
    return Segment(
        id=int(frame["id"]),
        start=float(frame["start"]),
        end=None if frame["end"] is None else float(frame["end"]),
        state=State(frame["state"]),
        genre=frame["genre"],
        confidence=float(frame["confidence"]),
        title=frame["title"],
        final=bool(frame["final"]),
    )


def status(entry: Frame, name: str, now: datetime) -> SourceStatus:
    """Return the status of a source that a `hello` frame lists, as an event of `now`.

    `SourceStatus.since` is relative to `now`, so negative.
    """
    reason = str(entry.get("reason") or "")
    since, next_attempt = (
        None if entry.get(key) is None else (datetime.fromisoformat(entry[key]) - now)
        for key in ("since", "next_attempt")
    )
    retry = None if next_attempt is None else next_attempt.total_seconds()
    detail = reason if retry is None else f"{reason}; next attempt in {max(0.0, retry):.0f} s"
    return SourceStatus(
        name,
        entry["kind"],
        SourceState(entry["state"]),
        detail,
        reason=reason,
        since=None if since is None else since.total_seconds(),
        retry_seconds=retry,
    )
