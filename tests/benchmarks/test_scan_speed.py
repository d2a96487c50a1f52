"""How fast a library is scanned: two processes against one, and seconds of sound a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import streamer
from streamer.core.model import DEFAULT_MODEL, Classifier
from streamer.library.answer import FileAnswer
from streamer.library.job import Job, ScanOptions
from streamer.library.workers import do_jobs

MIN_SPEEDUP = 1.8
FILES, ROUNDS, COMPARED = 10, 3, 2
HOP_SECONDS = 2.5


def scan(songs: list[str], processes: int) -> tuple[float, dict[str, FileAnswer]]:
    """Return seconds of sound a second, not counting the start of the processes, and answers."""
    answers = do_jobs(map(Job, songs), ScanOptions(DEFAULT_MODEL, HOP_SECONDS), processes)
    first = [next(answers) for _ in range(processes)]
    began = time.perf_counter()
    others = list(answers)
    took = time.perf_counter() - began
    seconds = sum(answer.seconds or 0.0 for answer in others)
    return seconds / took, {answer.path: answer for answer in (*first, *others)}


@pytest.mark.benchmark
@pytest.mark.shared
def test_two_processes_scan_nearly_twice_as_fast_and_answer_as_a_replay_does(
    shared: Path, measured: Callable[[str], None]
) -> None:
    found = sorted(str(path) for path in (shared / "gtzan" / "audio").rglob("*.flac"))
    songs = found[:: len(found) // FILES][:FILES]
    speeds: dict[int, list[float]] = {1: [], 2: []}
    scanned: dict[int, dict[str, FileAnswer]] = {}
    for _ in range(ROUNDS):
        for processes, each in speeds.items():
            speed, scanned[processes] = scan(songs, processes)
            each.append(speed)
        if max(speeds[2]) / max(speeds[1]) >= MIN_SPEEDUP:
            break
    one, two = (max(each) for each in speeds.values())
    measured(
        f"scan: {one:.0f} times real time with one process, {two:.0f} with two "
        f"({two / one:.2f} times as fast)"
    )
    assert scanned[1] == scanned[2]
    assert len(scanned[2]) == FILES
    classifier = Classifier.load(DEFAULT_MODEL)
    for song in songs[:COMPARED]:
        decisions = list(streamer.replay(song, model=classifier, hop_seconds=HOP_SECONDS))
        heard = [d for d in decisions if d.state != "silence"]
        answer = scanned[2][song]
        assert answer.genre
        weighted = sum(d.probabilities[answer.genre] * d.hop_seconds for d in heard)
        assert answer.confidence == weighted / sum(d.hop_seconds for d in heard)
    assert two / one >= MIN_SPEEDUP
