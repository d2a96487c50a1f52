"""The whole daemon on real sources, as a WebSocket client sees it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.daemon import daemon
from support.model import make_model
from support.radio import radio
from support.sound import SoundServer
from support.waiting import LONGEST_WAIT_SECONDS
from websockets.sync.client import connect

import streamer

Frame = dict[str, Any]


class Client:
    """A WebSocket client that keeps every frame."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.frames: list[Frame] = []

    def wait(self, wanted: Callable[[Frame], bool], what: str) -> Frame:
        """Read frames until one is wanted; earlier frames are not considered."""
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while True:
            left = deadline - time.monotonic()
            assert left > 0, f"waited in vain for {what}; states: {self.states()}"
            frame = json.loads(self._socket.recv(timeout=left))
            self.frames.append(frame)
            if wanted(frame):
                return frame

    def wait_for_genre(self, source: str, genre: str) -> Frame:
        return self.wait(
            lambda frame: (
                frame["type"] == "prediction"
                and (frame["source"], frame["genre"]) == (source, genre)
            ),
            f"{genre} on {source}",
        )

    def wait_for_state(self, source: str, state: str) -> Frame:
        return self.wait(
            lambda frame: (
                frame["type"] == "source" and (frame["source"], frame["state"]) == (source, state)
            ),
            f"{source} being {state}",
        )

    def states(self) -> list[tuple[str, str]]:
        return [(f["source"], f["state"]) for f in self.frames if f["type"] == "source"]


@contextmanager
def client_of(port: int) -> Iterator[Client]:
    with connect(f"ws://127.0.0.1:{port}", open_timeout=LONGEST_WAIT_SECONDS) as socket:
        yield Client(socket)


def tone(frequency: int) -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"sine=frequency={frequency}:sample_rate=44100,volume=4")


def test_the_microphone_is_labelled_before_and_after_it_was_unplugged(
    sound: SoundServer, tmp_path: Path, demo_clip: Path
) -> None:
    model = make_model(tmp_path / "thirds.onnx")
    module = sound.add_sink("speaker")
    arguments = ("--device", "mic", "--source", f"clip={demo_clip}", "--loop", "--model", model)
    environment = sound.environment
    with (
        daemon(Path(environment["HOME"]), *arguments, variables=environment) as running,
        client_of(running.port) as client,
    ):
        with sound.playing(*tone(100), sink="speaker"):
            frame = client.wait_for_genre("mic", "low")
            assert 0 <= frame["latency_ms"] < 60_000
        with sound.playing(*tone(9000), sink="speaker"):
            client.wait_for_genre("mic", "high")
        sound.remove(module)
        client.wait_for_state("mic", "stalled")
        client.wait(
            lambda frame: frame["type"] == "prediction" and frame["source"] == "clip",
            "the other source",
        )
        sound.add_sink("speaker")
        client.wait_for_state("mic", "live")
        with sound.playing(*tone(100), sink="speaker"):
            client.wait_for_genre("mic", "low")
        states = {state for source, state in client.states() if source == "clip"}
        assert states <= {"connecting", "live"}


def test_segments_carry_the_titles_of_a_radio(tmp_path: Path, demo_clip: Path) -> None:
    model = make_model(tmp_path / "thirds.onnx")
    with (
        radio(tmp_path, demo_clip) as station,
        daemon(tmp_path, "--source", f"radio={station.url}", "--model", model) as running,
        client_of(running.port) as client,
    ):
        station.set_title("Interpret - Erstes Stück")
        client.wait(
            lambda frame: (
                frame["type"] == "segment" and frame["title"] == "Interpret - Erstes Stück"
            ),
            "a segment with the first title",
        )
        station.set_title("Interpret - Zweites Stück")
        frame = client.wait(
            lambda frame: (
                frame["type"] == "segment" and frame["title"] == "Interpret - Zweites Stück"
            ),
            "a segment with the second title",
        )
        assert frame["start"] > 0


@pytest.mark.shared
def test_a_song_through_the_microphone_gets_the_genre_of_its_file(
    sound: SoundServer, shared: Path, gtzan_model: Path, tmp_path: Path
) -> None:
    songs = [
        next(iter(sorted((shared / "gtzan" / "audio" / genre).glob("*.flac"))))
        for genre in ("classical", "hiphop", "disco", "pop")
    ]

    def most(song: Path) -> tuple[int, str, Path]:
        genres = (decision.genre for decision in streamer.replay(str(song), model=gtzan_model))
        ((genre, count),) = Counter(filter(None, genres)).most_common(1) or [("", 0)]
        return count, genre, song

    count, genre, song = max(map(most, songs))
    assert count > 5
    sound.add_sink("speaker")
    environment = sound.environment
    arguments = ("--device", "mic", "--model", gtzan_model)
    with (
        daemon(Path(environment["HOME"]), *arguments, variables=environment) as running,
        client_of(running.port) as client,
        sound.playing("-stream_loop", "-1", "-i", str(song), sink="speaker"),
    ):
        client.wait_for_genre("mic", genre)
