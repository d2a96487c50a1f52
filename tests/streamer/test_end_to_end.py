"""A real song, the embedded model, the daemon and a client, end to end."""

from __future__ import annotations

import itertools
import json
from datetime import datetime
from pathlib import Path

import pytest
import soundfile
from support.daemon import daemon
from support.schema import check_frame
from support.waiting import LONGEST_WAIT_SECONDS
from websockets.sync.client import connect

SECONDS = 12
"""Length of the song, which is played in real time."""


@pytest.mark.shared
def test_a_client_gets_a_song_from_its_first_seconds_to_its_end(
    shared: Path, gtzan_model: Path, tmp_path: Path
) -> None:
    samples, rate = soundfile.read(shared / "gtzan" / "audio" / "jazz" / "jazz.00000.flac")
    song = tmp_path / "jazz.flac"
    soundfile.write(song, samples[: SECONDS * rate], rate)
    with (
        daemon(tmp_path, "--source", song) as running,
        connect(f"ws://127.0.0.1:{running.port}/", open_timeout=LONGEST_WAIT_SECONDS) as socket,
    ):
        # The server closes the connection when every source has ended.
        frames = [check_frame(json.loads(frame)) for frame in socket]
        assert running.wait() == 0
    assert frames[0]["type"] == "hello"
    predictions = [frame for frame in frames if frame["type"] == "prediction"]
    positions = [prediction["position"] for prediction in predictions]
    # Number `seq` is a second after the one before, so this is where number 0 was.
    assert positions[0] - predictions[0]["seq"] < 5
    # One second, unless the machine is too busy for that.
    hops = [prediction["hop_seconds"] for prediction in predictions]
    assert [after - before for before, after in itertools.pairwise(positions)] == pytest.approx(
        hops[1:], abs=0.01
    )
    assert positions[-1] > SECONDS - 1 - hops[-1]
    times = [datetime.fromisoformat(prediction["time"]) for prediction in predictions]
    assert times == sorted(times)
    assert {"type": "source", "source": "jazz", "state": "ended"}.items() <= (frames[-1].items())
