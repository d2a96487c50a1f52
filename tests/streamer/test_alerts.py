from __future__ import annotations

import json
import re
import signal
import socket
import textwrap
import threading
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import support.daemon
from support.alerts import Hook, rule
from support.daemon import Daemon, daemon
from support.history import PlacingHistory
from support.published import prediction, segment, source_state
from support.radio import radio
from support.waiting import wait_until

from streamer.commands.config_text import ALERT_EXAMPLES
from streamer.core.rules import Firing, Rule
from streamer.settings import load
from streamer.sinks.alerts.actions import Command


@pytest.fixture
def hook() -> Iterator[Hook]:
    running = Hook()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def hanging() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def state(running: Daemon) -> dict[str, Any]:
    with urlopen(f"http://127.0.0.1:{running.port}/api/state") as response:
        found: dict[str, Any] = json.load(response)
        return found


def test_dead_air_of_a_radio_fires_once_and_tells_when_it_is_over(
    model: Path, hook: Hook, hanging: socket.socket, tmp_path: Path
) -> None:
    song = support.daemon.write_tone(tmp_path / "song.flac", (4000, 6.0), (0, 7.0))
    hangs = f"json://127.0.0.1:{hanging.getsockname()[1]}"
    pid = tmp_path / "pid"
    sleep = ["sh", "-c", f"echo $$ > {pid}; sleep 600"]
    config = tmp_path / "config.toml"
    config.write_text(
        rule("slow", when="silence", **{"for": 1}, notify=[hangs])
        + rule("endless", when="silence", **{"for": 1}, run=sleep, run_seconds=600)
        + rule("dead air", when="silence", **{"for": 2}, notify=[hook.url])
    )
    with radio(tmp_path, song) as station:
        arguments = ("--model", model, "--source", f"r={station.url}", "--config", config)
        with daemon(tmp_path, *arguments) as running:
            wait_until(lambda: len(hook.received) == 2, "the alarm and its end")
            assert [each["title"] for each in hook.received] == ["genre-stream: dead air"] * 2
            assert [each["type"] for each in hook.received] == ["warning", "success"]
            assert hook.received[0]["message"].startswith("r: dead air, silence since ")
            assert hook.received[1]["message"].startswith("r: dead air is over after ")
            alerts = {each["name"]: each for each in state(running)["alerts"]}
            assert (alerts["dead air"]["source"], alerts["dead air"]["active"]) == ("r", [])
            with urlopen(f"http://127.0.0.1:{running.port}/metrics") as response:
                metrics = response.read().decode()
            assert 'genre_stream_alert_fired_timestamp_seconds{rule="dead air"}' in metrics

            def is_silent_again() -> bool:
                heard = state(running)["sources"][0]["prediction"]
                return bool(heard["silence_seconds"] > 3)

            wait_until(is_silent_again, "silence in the next round")
            assert len(hook.received) == 2
            wait_until(pid.exists, "the program")
            running.signal(signal.SIGTERM)
            # If it waited for them, it would end itself, with status 1.
            assert running.wait() == 0, running.log
    wait_until(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists(), "the program's end")


def firing(rule: Rule) -> Firing:
    now = datetime.now(UTC)
    return Firing(rule, "$(id) {title}", now, now, False, "silence", None, "a b")


def test_a_program_gets_its_arguments_without_a_shell(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = 'printf "%s|" "$@" > "$0"'
    run = ("sh", "-c", script, str(out), "{source}", "-{title}-", "{event}")
    own = Rule("it", "silence", run=run)
    assert Command(own).perform(firing(own)) == ""
    assert out.read_text() == "$(id) {title}|-a b-|begins|"


def test_a_program_that_never_ends_is_stopped_with_what_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    run = ("sh", "-c", f"sleep 600 & echo $! > {pid}; wait")
    own = Rule("it", "silence", run=run, run_seconds=0.3)
    assert Command(own).perform(firing(own)) == "sh was stopped after 0.3 s"
    child = Path(f"/proc/{pid.read_text().strip()}/stat")

    def has_ended() -> bool:
        return not child.exists() or child.read_text().split()[2] == "Z"

    wait_until(has_ended, "the end of its child")


def test_no_program_is_started_after_the_one_that_a_stop_ends(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    run = ("sh", "-c", f"echo $$ >> {pids}; exec sleep 600")
    own = Rule("it", "silence", run=run, run_seconds=600.0)
    action = Command(own)
    for _ in range(2):
        action.start(firing(own))
    wait_until(lambda: pids.exists() and pids.read_text(), "the program")
    action.stop()
    wait_until(lambda: "alert it" not in [each.name for each in threading.enumerate()], "the end")
    assert len(pids.read_text().splitlines()) == 1


def test_a_program_that_fails_or_is_missing_is_told() -> None:
    for program, reason in (("false", "ended with status 1"), ("/no/x", "no such file")):
        own = Rule("it", "silence", run=(program,))
        assert reason in Command(own).perform(firing(own))


def alerts(home: Path, config: Path, *arguments: object) -> Any:
    return support.daemon.run(home, "alerts", "--config", config, *arguments)


def test_a_rule_can_be_tested_by_hand(hook: Hook, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        rule("dead air", when="silence", notify=[hook.url])
        + rule("broken", when="silence", run=["false"])
    )
    done = alerts(tmp_path, config, "--test", "dead air")
    assert (done.returncode, done.stdout, done.stderr) == (0, "dead air: done\n", "")
    assert [each["title"] for each in hook.received] == ["genre-stream: dead air"]
    done = alerts(tmp_path, config, "--test", "broken")
    assert done.returncode == 1
    assert done.stderr == "genre-stream: alerts 'broken': false ended with status 1\n"
    done = alerts(tmp_path, config, "--test", "dead ait")
    assert done.returncode == 2
    assert done.stderr.endswith("no rule has the name 'dead ait' (did you mean dead air?)\n")


def test_the_command_of_the_document_on_lights_activates_a_scene(
    hook: Hook, tmp_path: Path
) -> None:
    page = support.daemon.REPOSITORY / "streamer/sinks/lights.md"
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    (block,) = (each for each in blocks if "/api/scenes" in each)
    config = tmp_path / "config.toml"
    config.write_text(block.replace("127.0.0.1:8888", f"127.0.0.1:{hook.server.server_port}"))
    done = alerts(tmp_path, config, "--test", "guitar lights")
    assert (done.returncode, done.stdout, done.stderr) == (0, "guitar lights: done\n", "")
    # As the API of LedFx takes it: https://docs.ledfx.app/en/latest/apis/scenes.html
    assert hook.requests == [("PUT", "/api/scenes")]
    assert hook.received == [{"id": "guitar", "action": "activate"}]


def test_a_history_tells_when_the_rules_would_have_fired(tmp_path: Path) -> None:
    database = tmp_path / "heard.db"
    history = PlacingHistory(database)
    clock = "2026-05-01T12:00:{:02}+00:00".format
    history.publish(source_state("live"))
    for number, (genre, kind) in enumerate([("jazz", "music"), (None, "silence")], 1):
        start = 10 * (number - 1)
        fields = {"genre": genre, "state": kind, "title": None}
        history.publish(prediction(start, time=clock(start), position=float(start)))
        history.publish(segment(number, start=float(start), **fields))
        history.publish(prediction(start + 9, time=clock(start + 9), position=start + 9.0))
        history.publish(segment(number, start=float(start), end=start + 10.0, final=True, **fields))
    history.close()
    config = tmp_path / "config.toml"
    config.write_text(rule("dead air", when="silence", **{"for": 5}, run=["true"]))
    done = alerts(tmp_path, config, "--replay", database)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    fired = datetime(2026, 5, 1, 12, 0, 15, tzinfo=UTC).astimezone()
    assert line.startswith(f"{fired:%Y-%m-%d %H:%M:%S}  dead air: radio: dead air, silence since")
    done = alerts(tmp_path, config, "--replay", tmp_path / "none.db")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_the_examples_of_the_sample_file_are_rules(tmp_path: Path) -> None:
    lines = [line[1:] for line in ALERT_EXAMPLES.splitlines() if not line.startswith(("# ", "##"))]
    config = tmp_path / "config.toml"
    config.write_text("\n".join(lines))
    assert len(tomllib.loads(config.read_text())["alerts"]) == 4
    rules = load({}, config=config, environment={"HOME": str(tmp_path)}).settings.alerts
    assert [each.name for each in rules][:2] == ["dead air", "stream down"]


@pytest.mark.parametrize(
    "page", sorted((support.daemon.REPOSITORY / "streamer/sinks").glob("*.md"))
)
def test_the_settings_in_the_documents_can_be_used(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    config = tmp_path / "config.toml"
    for block in blocks:
        config.write_text(textwrap.dedent("\n" + block))
        load({}, config=config, environment={"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (rule("x", when="silence"), "alerts 'x': a rule needs notify or run"),
        (rule("x", when="silence", run="true", fro=1), "alerts 'x' fro: unexpected keyword"),
        (rule("x", when="silence", run="true") * 2, "alerts: two rules have the name 'x'"),
        (rule("x", when="genre", genres="polka", run="a"), "alerts 'x': 'polka' is no label; the"),
        (rule("x", when="silence", notify="tgram2://secret"), "alerts: tgram2://… is no address"),
        (rule("x", when="dusk", notify="json://secret"), "alerts 'x' when: input should be"),
        ("alerts = 1", "alerts: should be tables, each under [[alerts]]"),
    ],
)
def test_a_rule_that_cannot_be_used_is_one_line(
    text: str, sentence: str, model: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    arguments = ("--model", model, "--source", "demo", "--config", config, "--check")
    done = support.daemon.run(tmp_path, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sentence in done.stderr
    assert "secret" not in done.stderr
