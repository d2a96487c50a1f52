"""Events as the JSON messages of protocol 1, for every sink that writes JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

from streamer.core.arithmetic import Arithmetic
from streamer.core.colours import colours
from streamer.core.contract import ModelContract
from streamer.core.decision import Decision
from streamer.core.events import (
    PlacedSegment,
    PlacedState,
    Published,
    SourceStatus,
    SpectrogramColumns,
)
from streamer.core.segments import Segment

PROTOCOL = 1
"""Version of the protocol."""

PROBABILITY_STEPS = 10_000
"""Probabilities are sent as multiples of one part in this many."""

Message = dict[str, Any]


def hello(
    contract: ModelContract,
    sources: Iterable[SourceStatus],
    *,
    hop_seconds: float,
    arithmetic: Arithmetic,
    labels: Sequence[str] | None = None,
    own_colours: Mapping[str, str] | None = None,
) -> Message:
    """Return the message that greets a client; `hop_seconds` is the configured interval.

    `arithmetic` are the numbers that the model is computed with. `labels` are those of the
    predictions, if they are not the model's; `own_colours` are colours that the settings give to
    some of them.
    """
    labels = contract.labels if labels is None else labels
    return {
        "type": "hello",
        "protocol": PROTOCOL,
        "server": f"genre-stream {version('genre-stream')}",
        "model": {
            "name": contract.name,
            "version": contract.version,
            "arithmetic": arithmetic,
        },
        "labels": list(labels),
        "colours": colours(labels, own_colours),
        "window_seconds": round(contract.window_seconds, 3),
        "hop_seconds": round(hop_seconds, 3),
        "spectrogram": contract.spectrogram.to_dict(),
        "sources": [
            {
                "name": status.source,
                "kind": status.kind,
                "state": status.state.value,
                "reason": status.reason,
                "since": None,
                "next_attempt": None,
                "heard_until": None,
            }
            for status in sources
        ],
    }


def message(published: Published) -> Message:
    """Return the message of an event: `prediction`, `segment`, `source` or `spectrogram`."""
    match published.event:
        case Decision() as decision:
            return _prediction(published, decision)
        case Segment() as segment:
            return _segment(published.source, segment)
        case SourceStatus() as status:
            return _source(published, status)
        case SpectrogramColumns() as columns:
            return spectrogram(published.source, columns)


def _prediction(published: Published, decision: Decision) -> Message:
    probabilities = shares(decision.probabilities)
    return {
        "type": "prediction",
        "source": published.source,
        "seq": published.sequence,
        "time": timestamp(published.time),
        "position": round(decision.position, 3),
        "hop_seconds": round(decision.hop_seconds, 3),
        "state": decision.state.value,
        "genre": decision.genre,
        "confidence": confidence(decision, probabilities),
        "carried": decision.carried,
        "change": decision.change,
        "repeated": decision.repeated,
        "probabilities": probabilities,
        "window_probabilities": shares(decision.window_probabilities),
        "level_dbfs": round(decision.level_dbfs, 1),
        "silence_seconds": round(decision.silence_seconds, 3),
        "latency_ms": round(published.latency * 1000, 1),
    }


def _source(published: Published, status: SourceStatus) -> Message:
    retry = status.retry_seconds
    return {
        "type": "source",
        "source": status.source,
        "state": status.state.value,
        "detail": status.detail,
        "reason": status.reason,
        "since": timestamp(published.time - timedelta(seconds=published.latency)),
        "next_attempt": None
        if retry is None
        else timestamp(published.time + timedelta(seconds=retry)),
    }


def _segment(source: str, segment: Segment) -> Message:
    return {
        "type": "segment",
        "source": source,
        "id": segment.id,
        "start": round(segment.start, 3),
        "end": None if segment.end is None else round(segment.end, 3),
        "state": segment.state.value,
        "genre": segment.genre,
        "confidence": round(segment.confidence, 4),
        "title": segment.title,
        "final": segment.final,
    }


def spectrogram(source: str, columns: SpectrogramColumns) -> Message:
    """Return the `spectrogram` message of columns; one byte per cell, column after column."""
    mels, count = columns.levels.shape
    return {
        "type": "spectrogram",
        "source": source,
        "position": round(columns.position, 3),
        "columns": count,
        "mels": mels,
        "levels": base64.b64encode(columns.levels.tobytes(order="F")).decode("ascii"),
    }


def heartbeat(time: datetime) -> Message:
    """Return the message that is sent when there was no other; `time` must have a time zone."""
    return {"type": "heartbeat", "time": timestamp(time)}


def error(code: str, text: str) -> Message:
    """Return the message that answers a bad request."""
    return {"type": "error", "code": code, "message": text}


def segment_in_clock_time(placed: PlacedSegment) -> dict[str, Any]:
    """Return a segment as `/api/state` lists it."""
    return {
        "source": placed.source,
        "start": timestamp(placed.start),
        "end": None if placed.is_open else timestamp(placed.end),
        "state": placed.segment.state.value,
        "genre": placed.segment.genre,
        "confidence": round(placed.segment.confidence, 4),
        "title": placed.segment.title,
    }


def state_in_clock_time(placed: PlacedState) -> dict[str, Any]:
    """Return a stretch of a source's state as `/api/state` lists it."""
    return {
        "source": placed.source,
        "start": timestamp(placed.start),
        "end": None if placed.is_open else timestamp(placed.end),
        "state": placed.state.value,
        "reason": placed.reason,
    }


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as compact JSON; a lone surrogate in a title becomes a question mark.

    Raises
    ------
    ValueError
        If a number is NaN or infinite, which JSON cannot express.

    Examples
    --------
    >>> encode(error("bad_json", "not a JSON object"))
    b'{"type":"error","code":"bad_json","message":"not a JSON object"}'
    """
    text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="replace")


def timestamp(time: datetime) -> str:
    """Return a time in UTC as ISO 8601 with milliseconds.

    Raises
    ------
    ValueError
        If `time` has no time zone.

    Examples
    --------
    >>> timestamp(datetime(2026, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC))
    '2026-05-01T12:00:00.250Z'
    """
    if time.tzinfo is None:
        raise ValueError(f"time must have a time zone, unlike {time!r}")
    return time.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def day_before(time: datetime) -> datetime:
    """Return the start of the default period of a history; `ValueError` before the calendar."""
    try:
        return time - timedelta(days=1)
    except OverflowError:
        raise ValueError(f"there is no day before {timestamp(time)}; say from, too") from None


def confidence(decision: Decision, probabilities: Mapping[str, float]) -> float:
    """Return a confidence to four decimals; a genre's is that of `probabilities`, from `shares`."""
    if decision.genre:
        return probabilities[decision.genre]
    return round(decision.confidence, 4)


def shares(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Round probabilities to four decimals such that they still sum to 1.

    Largest remainder: all are rounded down, and the parts left over go to those that lost most.

    Examples
    --------
    >>> shares({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    {'a': 0.3334, 'b': 0.3333, 'c': 0.3333}
    """
    parts = {label: int(p * PROBABILITY_STEPS) for label, p in probabilities.items()}
    missing = PROBABILITY_STEPS - sum(parts.values())
    by_loss = sorted(
        parts, key=lambda label: parts[label] - probabilities[label] * PROBABILITY_STEPS
    )
    for label in by_loss[:missing]:
        parts[label] += 1
    return {label: part / PROBABILITY_STEPS for label, part in parts.items()}
