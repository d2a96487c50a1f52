"""How fast a library is scanned: two processes against one, and seconds of sound a second."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import streamer
from streamer.core.model import DEFAULT_MODEL, Classifier
from streamer.library.answer import FileAnswer
from streamer.library.job import Job, ScanOptions
from streamer.library.workers import do_jobs

MIN_SPEEDUP = 1.5
"""Two processors of one core, or a memory that they share, do not give twice the speed."""
MIN_OF_SEPARATE = 0.8
"""Where they give less than that, even to scans that share nothing: part of the speed of those."""
FILES, ROUNDS, COMPARED = 10, 3, 2
HOP_SECONDS = 2.5
MAX_FOREIGN = 0.1
"""Share of the processors that other programs may use for a speed-up to be judged."""


def busy_seconds() -> tuple[float, float]:
    """Return the processor time that all programs have used, and that of this test."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def scan(songs: list[str], processes: int) -> tuple[float, dict[str, FileAnswer]]:
    """Return seconds of sound a second, not counting the start of the processes, and answers."""
    answers = do_jobs(map(Job, songs), ScanOptions(DEFAULT_MODEL, HOP_SECONDS), processes)
    first = [next(answers) for _ in range(processes)]
    began = time.perf_counter()
    others = list(answers)
    took = time.perf_counter() - began
    seconds = sum(answer.seconds or 0.0 for answer in others)
    return seconds / took, {answer.path: answer for answer in (*first, *others)}


def separate_scans(songs: list[str]) -> float:
    """Return seconds of sound a second of two scans of one process each, side by side."""
    with ThreadPoolExecutor(2) as threads:
        halves = [songs[first::2] for first in range(2)]
        return sum(speed for speed, _ in threads.map(scan, halves, [1, 1]))


@pytest.mark.benchmark
@pytest.mark.shared
def test_two_processes_scan_much_faster_than_one_and_answer_as_a_replay_does(
    shared: Path, measured: Callable[[str], None]
) -> None:
    found = sorted(str(path) for path in (shared / "gtzan" / "audio").rglob("*.flac"))
    songs = found[:: len(found) // FILES][:FILES]
    speeds: dict[int, list[float]] = {1: [], 2: []}
    scanned: dict[int, dict[str, FileAnswer]] = {}
    (all_before, own_before), began = busy_seconds(), time.perf_counter()
    for _ in range(ROUNDS):
        for processes, each in speeds.items():
            speed, scanned[processes] = scan(songs, processes)
            each.append(speed)
        if max(speeds[2]) / max(speeds[1]) >= MIN_SPEEDUP:
            break
    all_after, own_after = busy_seconds()
    foreign = all_after - all_before - (own_after - own_before)
    foreign /= (time.perf_counter() - began) * (os.cpu_count() or 1)
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
    if foreign > MAX_FOREIGN:
        pytest.skip(f"other programs use {foreign:.0%} of the machine: no speed-up can be judged")
    if two / one < MIN_SPEEDUP:
        separate = min(separate_scans(songs) for _ in range(ROUNDS))
        measured(f"two scans of one process each, side by side: {separate:.0f} times real time")
        assert two >= MIN_OF_SEPARATE * separate
