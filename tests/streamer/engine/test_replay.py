"""Replays of a recording, live runs and pieces of any size give the same decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.daemon import run
from support.listening import Log
from support.model import band_noise, make_model
from support.songs import write_audio

import streamer
from streamer.core.contract import AudioInput
from streamer.core.events import SourceState
from streamer.core.model import Classifier
from streamer.core.pipeline import Event, Pipeline
from streamer.engine.listener import Listener, PipelineEvent
from streamer.engine.replay import events
from streamer.sources import make_source

CLOCK = ("time", "latency_ms", "since")


@pytest.fixture(scope="module", params=["song.wav", "song.mp3"])
def song(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds: a low sound, a pause, a high sound; in stereo at a rate not the model's."""
    rate = 44100
    pause = np.zeros(round(2.2 * rate), np.float32)
    sound = [band_noise("low", 4, rate), pause, band_noise("high", 4, rate)]
    samples = np.repeat(np.concatenate(sound)[:, None], 2, axis=1)
    return write_audio(tmp_path_factory.mktemp("songs") / request.param, samples, rate)


@pytest.fixture(scope="module", params=[1, 2], ids=["one network", "two networks"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of contract 1, and one of contract 2."""
    audio = AudioInput(sample_rate=16000, seconds=5.0, min_seconds=3.0)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    return make_model(path, audio=audio if request.param == 2 else None)


def frames(model: Path, song: Path, home: Path) -> list[dict[str, Any]]:
    done = run(home, "--source", song, "--fast", "--json", "--model", model)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_json_lines_are_the_same_in_every_run(model: Path, song: Path, tmp_path: Path) -> None:
    first, second = (
        [
            {k: v for k, v in frame.items() if k not in CLOCK}
            for frame in frames(model, song, tmp_path)
        ]
        for _ in range(2)
    )
    assert first == second
    replayed = list(streamer.replay(song, model=model))
    predictions = [frame for frame in first if frame["type"] == "prediction"]
    assert [(p["position"], p["state"], p["genre"]) for p in predictions] == [
        (round(d.position, 3), d.state, d.genre) for d in replayed
    ]
    assert [p["genre"] for p in predictions][:1] == ["low"]
    assert [p["genre"] for p in predictions][-1:] == ["high"]


def test_a_live_run_gives_the_events_of_a_replay(model: Path, song: Path) -> None:
    classifier = Classifier.load(model)
    log = Log()
    # Not paced, so that the hop does not grow on a busy machine.
    listener = Listener(make_source(str(song)), lambda: Pipeline(classifier), log, paced=False)
    listener.start()
    log.wait(lambda: listener.status.state is SourceState.ENDED, "the end of the song")
    listener.stop()
    live: list[Event] = [event.event for event in log.events if isinstance(event, PipelineEvent)]
    assert repr(live) == repr(list(events(song, Pipeline(classifier))))


@pytest.mark.shared
def test_real_music_replays_identically_in_any_pieces(shared: Path, gtzan_model: Path) -> None:
    track = shared / "gtzan" / "audio" / "disco" / "disco.00000.flac"
    classifier = Classifier.load(gtzan_model)
    first, second = (repr(list(events(track, Pipeline(classifier)))) for _ in range(2))
    assert first == second
    samples, rate = _decoded(track)
    pipeline = Pipeline(classifier)
    in_pieces: list[Event] = []
    for piece in np.array_split(samples, 997):
        in_pieces += pipeline.feed(piece, rate)
    assert repr(in_pieces + pipeline.finish()) == first


def _decoded(path: Path) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
    import soundfile

    samples, rate = soundfile.read(path, dtype="float32")
    return samples, rate
