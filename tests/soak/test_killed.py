import contextlib
import itertools
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import support.daemon
from support.model import make_model
from support.waiting import LONGEST_WAIT_SECONDS
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

KILLS = 50
RATE = 8000
SPEED = 40
"""Speed of the sound as a multiple of real time."""
PART_SECONDS = 8


@pytest.fixture
def zygote(tmp_path):
    """Starts daemons by forking: a function (pipe, arguments) -> process id, and their port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(listening.fileno())],
            env=support.daemon.environment(tmp_path) | {"PYTHONPATH": os.pathsep.join(PATHS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
            text=True,
        )

        def start(pipe, *arguments):
            process.stdin.write(json.dumps([str(pipe), *map(str, arguments)]) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield start, listening.getsockname()[1]
        process.stdin.close()
        process.wait(LONGEST_WAIT_SECONDS)
        process.stdout.close()


HERE = Path(__file__).parent
PATHS = (str(HERE.parents[1]), str(HERE))
LAUNCHER = (
    "import os, runpy, sys; os.dup2(int(sys.argv[1]), 3);"
    "runpy.run_module('zygote', run_name='__main__')"
)


def feed(pipe, opened, written, killed):
    """Write sound at `SPEED` until the pipe is closed.

    As in real life a segment lasts until the one before it has been written to disk: the part of
    the sound that ends it comes after that. `written` returns how many have been.
    """
    with contextlib.suppress(BrokenPipeError), pipe.open("wb", buffering=0) as out:
        opened.set()
        for number, sound in enumerate(itertools.cycle(tones())):
            while written() < number - 1 and not killed.is_set():
                time.sleep(0.005)
            for at in range(0, len(sound), RATE * 2):
                out.write(sound[at : at + RATE * 2])
                time.sleep(1 / SPEED)


def tones():
    """Return the parts of the sound, two genres and silence; each ends the segment before it."""
    at = np.arange(PART_SECONDS * RATE) / RATE
    parts = [np.sin(2 * np.pi * frequency * at) for frequency in (150, 2000, 0)]
    return [(part * 15000).astype("<i2").tobytes() for part in parts]


def listen(line, seen, received):
    """Record the final segments that a client receives until the connection is cut."""
    with (
        contextlib.suppress(WebSocketException, OSError, EOFError),
        connect("ws://127.0.0.1/", sock=line, open_timeout=60) as connection,
    ):
        for text in connection:
            frame = json.loads(text)
            if frame["type"] == "segment" and frame["final"]:
                segment = (frame["id"], frame["state"], frame["genre"])
                seen.append(segment)
                received.release()


def count_ended(database):
    """Return the number of ended segments in the file."""
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection,
    ):
        return connection.execute("SELECT count(*) FROM segments WHERE NOT is_open").fetchone()[0]
    return 0


def kept(database):
    """Return the ended segments in the file, by session."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not connection.execute("SELECT name FROM sqlite_master").fetchall():
            return {}
        rows = connection.execute(
            "SELECT session, number, state, genre FROM segments WHERE NOT is_open"
            " ORDER BY session, number"
        ).fetchall()
    sessions = {}
    for session, *segment in rows:
        sessions.setdefault(session, []).append(tuple(segment))
    return sessions


def test_a_kill_at_any_moment_loses_at_most_the_open_segment(zygote, tmp_path):
    start, port = zygote
    chance = random.Random(11)
    model = make_model(tmp_path / "thirds.onnx")
    database = tmp_path / "heard.db"
    before, checked = {}, 0
    for number in range(KILLS):
        pipe = tmp_path / f"pipe{number}"
        os.mkfifo(pipe)
        opened, killed = threading.Event(), threading.Event()
        earlier = sum(map(len, before.values()))
        feeder = threading.Thread(
            target=feed,
            args=(pipe, opened, lambda: count_ended(database) - earlier, killed),  # noqa: B023
            daemon=True,
        )
        feeder.start()
        seen, received = [], threading.Semaphore(0)
        process = start(
            pipe,
            *("--source", "t=-", "--rate", RATE, "--channels", 1, "--fast", "--model", model),
            *("--smoothing", "none", "--look-back-seconds", 0, "--history", database),
        )
        line = socket.create_connection(("127.0.0.1", port))
        client = threading.Thread(target=listen, args=(line, seen, received), daemon=True)
        client.start()
        assert opened.wait(LONGEST_WAIT_SECONDS)
        for _ in range(chance.randrange(5)):
            assert received.acquire(timeout=LONGEST_WAIT_SECONDS)
        time.sleep(chance.uniform(0.0, 0.3))
        os.kill(process, signal.SIGKILL)
        killed.set()
        # A connection that the daemon never took would wait for the next daemon.
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        client.join(LONGEST_WAIT_SECONDS)
        feeder.join(LONGEST_WAIT_SECONDS)
        assert not client.is_alive()
        assert not feeder.is_alive()
        if not database.exists():
            continue
        after = kept(database)
        new = [segment for session in after.keys() - before.keys() for segment in after[session]]
        lost = [segment for segment in seen if segment not in new]
        assert lost in ([], seen[-1:]), f"kill {number}: received {seen}, kept {new}"
        assert all(after[session] == segments for session, segments in before.items())
        before, checked = after, checked + len(seen)
    assert checked, "the kills came too early to say anything"
