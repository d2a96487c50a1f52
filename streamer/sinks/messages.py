"""Values turned into the JSON frames of protocol 1, for WebSocket clients and `--fast --json`.

Every function returns a dict with a `type`, ready for `encode`; nothing is sent from here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from streamer.core.contract import ModelContract
from streamer.core.decision import Decision, Segment
from streamer.core.events import SpectrogramColumns

PROTOCOL = 1
"""Version of the protocol."""

SHARES = 10_000
"""Probabilities are sent as whole multiples of one part in this many."""

Message = dict[str, Any]


def hello(
    server: str,
    contract: ModelContract,
    *,
    hop_seconds: float,
    sources: Iterable[Mapping[str, str]],
) -> Message:
    """Return the frame that greets a client.

    Parameters
    ----------
    server : str
        Name and version of this program.
    contract : ModelContract
        The model in use.
    hop_seconds : float
        Seconds from one prediction to the next, as set.
    sources : iterable of mappings
        `name`, `kind` and `state` of each source.
    """
    return {
        "type": "hello",
        "protocol": PROTOCOL,
        "server": server,
        "model": {"name": contract.name, "version": contract.version},
        "labels": list(contract.labels),
        "window_seconds": round(contract.window_seconds, 3),
        "hop_seconds": round(hop_seconds, 3),
        "sources": [
            {"name": source["name"], "kind": source["kind"], "state": str(source["state"])}
            for source in sources
        ],
    }


def prediction(
    source: str, seq: int, decision: Decision, time: datetime, latency_ms: float
) -> Message:
    """Return the frame that tells what is heard now.

    Parameters
    ----------
    source : str
        Name of the source.
    seq : int
        Number of the prediction within its source, counting up.
    decision : Decision
        What was decided.
    time : datetime
        When, with a time zone.
    latency_ms : float
        Milliseconds from the last sample heard to this frame.
    """
    probabilities = shares(decision.probabilities)
    confidence = round(decision.confidence, 4)
    return {
        "type": "prediction",
        "source": source,
        "seq": seq,
        "time": timestamp(time),
        "position": round(decision.position, 3),
        "hop_seconds": round(decision.hop_seconds, 3),
        "state": decision.state.value,
        "genre": decision.genre,
        "confidence": probabilities[decision.genre] if decision.genre else confidence,
        "probabilities": probabilities,
        "window_probabilities": shares(decision.window_probabilities),
        "level_dbfs": round(decision.level_dbfs, 1),
        "latency_ms": round(latency_ms, 1),
    }


def segment(source: str, segment: Segment) -> Message:
    """Return the frame for a stretch that begins, is revised or ends."""
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


def source_state(source: str, state: str, detail: str) -> Message:
    """Return the frame that tells a source's new state and, in `detail`, why."""
    return {"type": "source", "source": source, "state": str(state), "detail": detail}


def spectrogram(source: str, columns: SpectrogramColumns) -> Message:
    """Return the frame with new columns: base64 of one byte a cell, column after column."""
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
    """Return the frame that fills a pause; `time` must have a time zone."""
    return {"type": "heartbeat", "time": timestamp(time)}


def error(code: str, message: str) -> Message:
    """Return the frame that answers a bad request."""
    return {"type": "error", "code": code, "message": message}


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a frame as compact JSON; half a surrogate pair in a title becomes a question mark.

    Raises
    ------
    ValueError
        If a number is NaN or infinite: JSON has no word for it.

    Examples
    --------
    >>> encode(error("bad_json", "not a JSON object"))
    b'{"type":"error","code":"bad_json","message":"not a JSON object"}'
    """
    text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="replace")


def timestamp(time: datetime) -> str:
    """Return a moment in UTC as ISO 8601 with milliseconds.

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


def shares(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Round probabilities to four decimals such that they still sum to 1.

    Largest remainder: all are rounded down, and the parts left over go to those that lost most.

    Examples
    --------
    >>> shares({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    {'a': 0.3334, 'b': 0.3333, 'c': 0.3333}
    """
    parts = {label: int(p * SHARES) for label, p in probabilities.items()}
    missing = SHARES - sum(parts.values())
    by_loss = sorted(parts, key=lambda label: parts[label] - probabilities[label] * SHARES)
    for label in by_loss[:missing]:
        parts[label] += 1
    return {label: part / SHARES for label, part in parts.items()}
