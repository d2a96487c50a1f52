"""Broker, web hook and program at once: while all of them hang, and while the disk is full."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

import pytest
import support.daemon
from support.alerts import Hook, rule
from support.broker import mosquitto, subscriber
from support.daemon import Daemon, daemon
from support.history import rows
from support.waiting import wait_until

from streamer.sinks.history.database import open_query

ALWAYS = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def silence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.daemon.write_tone(tmp_path_factory.mktemp("sound") / "s.flac", (0, 300.0))


@contextlib.contextmanager
def hanging_outputs(model: Path, silence: Path, folder: Path) -> Iterator[tuple[Daemon, int]]:
    """Run a daemon all of whose outputs hang; also return the process of the program."""
    pid, config = folder / "pid", folder / "config.toml"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        program = ["sh", "-c", f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600"]
        config.write_text(
            f'mqtt = "mqtts://{address}"\nosc = ["no-such-host.invalid:9"]\n'
            + rule("hook", when="silence", **{"for": 1}, notify=[f"json://{address}"])
            + rule("program", when="silence", **{"for": 1}, run=program, run_seconds=600)
        )
        arguments = ("--model", model, "--source", f"s={silence}", "--config", config)
        with daemon(folder, *arguments, "--history", folder / "h.db") as running:
            # Kept open, so that both hang: the broker's handshake and the web hook's answer.
            connections = [server.accept()[0] for _ in range(2)]
            wait_until(pid.exists, "the program")
            program_id = int(pid.read_text())
            try:
                yield running, program_id
            finally:
                for connection in connections:
                    connection.close()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program_id, signal.SIGKILL)


def fill_disk(running: Daemon) -> None:
    """Let the daemon write no more to any file."""
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))


def metric(running: Daemon, name: str) -> float:
    with urlopen(f"http://127.0.0.1:{running.port}/metrics") as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("disk", ["free", "full"])
def test_it_stops_in_order_while_broker_web_hook_and_program_hang(
    model: Path, silence: Path, tmp_path: Path, disk: str
) -> None:
    with hanging_outputs(model, silence, tmp_path) as (running, program):
        wait_until(lambda: metric(running, "genre_stream_heard_info{"), "a decision")
        if disk == "full":
            fill_disk(running)
        running.signal(signal.SIGTERM)
        # If it waited for them, it would end itself, with status 1.
        assert running.wait() == 0, running.log
        assert not Path(f"/proc/{program}").exists()
        lost = "could not be written before the end" in running.log
        assert lost == (disk == "full"), running.log


def test_what_was_heard_survives_a_kill_while_all_outputs_hang(
    model: Path, silence: Path, tmp_path: Path
) -> None:
    def segments() -> list[dict[str, object]]:
        return rows(open_query(tmp_path / "h.db", *ALWAYS)).segments

    with hanging_outputs(model, silence, tmp_path) as (running, _):
        wait_until(segments, "the first row")
        running.signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    (before,) = segments()
    (tmp_path / "pid").unlink()
    with hanging_outputs(model, silence, tmp_path):
        wait_until(lambda: len(segments()) == 2, "the first row of the next run")
    assert segments()[0] | {"end": None} == before | {"end": None}


def test_outputs_go_on_while_the_disk_is_full_and_nothing_is_lost(
    model: Path, tmp_path: Path
) -> None:
    sound = support.daemon.write_tone(tmp_path / "s.flac", (4000, 3.5), (0, 2.5))
    config, ran = tmp_path / "config.toml", tmp_path / "ran"
    hook = Hook()
    with mosquitto(tmp_path) as broker, subscriber(broker) as noting:
        config.write_text(
            f'mqtt = "{broker.url}"\n'
            + rule("hook", when="silence", **{"for": 1}, cooldown=0, notify=[hook.url])
            + rule("program", when="silence", **{"for": 1}, cooldown=0, run=["mkdir", str(ran)])
        )
        arguments = ("--model", model, "--source", f"s={sound}", "--loop", "--config", config)
        with daemon(tmp_path, *arguments, "--history", tmp_path / "h.db") as running:
            noting.wait_for(lambda each: b'"label":"silence"' in each.payload)
            wait_until(lambda: hook.received and ran.exists(), "both actions")
            fill_disk(running)
            wait_until(lambda: metric(running, "genre_stream_history_write_errors"), "an error")
            noting.messages.clear()
            hook.received.clear()
            ran.rmdir()
            noting.wait_for(lambda each: b'"label":"silence"' in each.payload)
            wait_until(lambda: hook.received and ran.exists(), "both actions again")
            # What was heard is kept until the disk has room again.
            limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, limit)
            running.signal(signal.SIGTERM)
            assert running.wait() == 0
    segments = rows(open_query(tmp_path / "h.db", *ALWAYS)).segments
    assert {row["state"] for row in segments} >= {"music", "silence"}
    for before, after in itertools.pairwise(segments):
        assert before["end"] == pytest.approx(after["start"], abs=0.01)
