from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from support.schema import check_frame

from streamer.core.decision import Decision, Segment, State
from streamer.core.events import SourceState, SourceStatus, SpectrogramColumns
from streamer.core.model import Classifier
from streamer.engine.listener import PipelineEvent
from streamer.sinks.websocket.frames import FrameMaker, hello
from streamer.sources import make_source

DECISION = Decision(
    position=3.0,
    hop_seconds=1.0,
    state=State.MUSIC,
    genre="jazz",
    confidence=0.75,
    probabilities={"blues": 0.25, "jazz": 0.75},
    window_probabilities={"blues": 0.25, "jazz": 0.75},
    level_dbfs=-20.0,
)


def test_predictions_are_numbered_within_their_source() -> None:
    maker = FrameMaker()
    frames = [
        check_frame(maker.make(PipelineEvent(source, DECISION, time.monotonic(), 1.0)))
        for source in ("radio", "radio", "hall", "radio")
    ]
    assert [(frame["source"], frame["seq"]) for frame in frames] == [
        ("radio", 0),
        ("radio", 1),
        ("hall", 0),
        ("radio", 2),
    ]


def test_a_prediction_tells_how_long_ago_its_last_sample_was_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.25)
    frame = FrameMaker().make(PipelineEvent("radio", DECISION, 1000.0, 1.0))
    assert frame["latency_ms"] == 250.0
    told = datetime.fromisoformat(frame["time"])
    assert abs(told - datetime.now(UTC)) < timedelta(minutes=1)


def test_all_else_becomes_the_frame_of_its_kind() -> None:
    maker = FrameMaker()
    segment = Segment(1, 0.0, None, State.MUSIC, "jazz", 0.75, None, False)
    columns = SpectrogramColumns(3.0, np.zeros((2, 4), np.uint8))
    frames = [
        check_frame(maker.make(event))
        for event in (
            SourceStatus("radio", "media", SourceState.STALLED, "no sound"),
            PipelineEvent("radio", segment, 0.0, 1.0),
            PipelineEvent("radio", columns, 0.0, 1.0),
        )
    ]
    assert [(frame["type"], frame["source"]) for frame in frames] == [
        ("source", "radio"),
        ("segment", "radio"),
        ("spectrogram", "radio"),
    ]
    assert (frames[0]["state"], frames[0]["detail"]) == ("stalled", "no sound")


def test_clients_are_greeted_with_program_model_and_sources(
    classifier: Classifier, demo_clip: Path
) -> None:
    contract = classifier.contract
    frame = check_frame(hello(contract, [make_source(f"clip={demo_clip}")], hop_seconds=0.5))
    assert frame["server"] == f"genre-stream {version('genre-stream')}"
    assert frame["model"] == {"name": contract.name, "version": contract.version}
    assert frame["hop_seconds"] == 0.5
    assert frame["sources"] == [{"name": "clip", "kind": "media", "state": "connecting"}]
