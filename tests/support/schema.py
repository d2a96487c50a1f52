"""Validation of frames against the schema of the protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

import streamer

SCHEMA = json.loads(
    (Path(streamer.__file__).parent / "sinks" / "websocket" / "protocol.schema.json").read_text(
        encoding="utf-8"
    )
)
_VALIDATORS = {
    name: Draft202012Validator(SCHEMA | {"oneOf": [{"$ref": f"#/$defs/{name}"}]})
    for name in (
        *("hello", "prediction", "segment", "source", "spectrogram", "heartbeat", "error"),
        "subscribe",
    )
}


def check_frame(frame: dict[str, Any]) -> dict[str, Any]:
    """Return a frame if it is valid; raise `jsonschema.ValidationError` otherwise."""
    _VALIDATORS[frame["type"]].validate(frame)
    return frame
