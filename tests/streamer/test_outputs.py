from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import support.daemon
from support.broker import Mosquitto, Noted, mosquitto, subscriber
from support.daemon import Daemon, daemon
from support.waiting import wait_until

ROOT = "genre-stream/house"


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.daemon.write_tone(tmp_path_factory.mktemp("tone") / "tone.flac", (4000, 30.0))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path) as running:
        yield running


def get(running: Daemon, path: str) -> str:
    with urlopen(f"http://127.0.0.1:{running.port}{path}") as response:
        return str(response.read().decode())


def table(url: str) -> str:
    return f'[mqtt]\nurl = "{url}"\nnode = "house"\n'


def test_a_daemon_tells_a_broker_and_says_goodbye(
    model: Path, tone: Path, broker: Mosquitto, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(table("mqtt://elsewhere"))
    arguments = ("--model", model, "--source", f"t={tone}", "--config", config)
    with (
        subscriber(broker) as noting,
        daemon(tmp_path, *arguments, "--mqtt", broker.url, "--labels", "high=treble") as running,
    ):
        state = noting.wait_for(lambda each: b'"treble"' in each.payload and "state" in each.topic)
        assert state.topic == f"{ROOT}/t/state"
        (shown,) = json.loads(get(running, "/api/state"))["outputs"]
        assert (shown["output"], shown["reachable"], shown["reason"]) == ("mqtt", True, "")
        assert 'genre_stream_output_reachable{output="mqtt"} 1.0' in get(running, "/metrics")
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        noting.wait_for(lambda each: each == Noted(f"{ROOT}/status", b"offline", True))


def test_the_last_will_speaks_for_a_daemon_that_was_killed(
    model: Path, tone: Path, broker: Mosquitto, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(table(broker.url))
    arguments = ("--model", model, "--source", f"t={tone}", "--config", config)
    with subscriber(broker) as noting, daemon(tmp_path, *arguments) as running:
        noting.wait_for(lambda each: each == Noted(f"{ROOT}/t/available", b"online", True))
        noting.messages.clear()
        running.signal(signal.SIGKILL)
        noting.wait_for(lambda each: each == Noted(f"{ROOT}/status", b"offline", True))


def test_a_reload_changes_the_broker_and_tells_it_what_there_is(
    model: Path, tone: Path, broker: Mosquitto, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("hop_seconds = 1.0\n")
    arguments = ("--model", model, "--source", f"t={tone}", "--config", config)
    with subscriber(broker) as noting, daemon(tmp_path, *arguments) as running:
        wait_until(lambda: "genre_stream_heard_info{" in get(running, "/metrics"), "a decision")
        config.write_text('colours = { high = "#112233" }\n' + table(broker.url))
        running.signal(signal.SIGHUP)
        state = noting.wait_for(lambda each: each.topic == f"{ROOT}/t/state")
        assert json.loads(state.payload)["colour"] == "#112233"
        assert json.loads(get(running, "/api/state"))["colours"]["high"] == "#112233"
        config.write_text("hop_seconds = 1.0\n")
        running.signal(signal.SIGHUP)
        noting.wait_for(lambda each: each == Noted(f"{ROOT}/status", b"offline", True))
        assert "hold after a restart" not in running.log


@pytest.mark.parametrize(
    ("option", "value", "module", "line"),
    [
        (
            "--mqtt",
            "mqtt://h",
            "aiomqtt",
            "mqtt needs aiomqtt; install it with: pip install 'genre-stream[mqtt]'",
        ),
        (
            "--osc",
            "h:1",
            "pythonosc",
            "osc needs python-osc; install it with: pip install 'genre-stream[osc]'",
        ),
    ],
)
def test_a_missing_extra_is_one_line(
    option: str, value: str, module: str, line: str, model: Path, tone: Path, tmp_path: Path
) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from streamer.__main__ import main; main()"
    arguments = ("--model", model, "--source", tone, "--port", "0", option, value)
    done = subprocess.run(
        [sys.executable, "-c", code.replace("main()", "sys.exit(main())"), *map(str, arguments)],
        cwd=support.daemon.REPOSITORY,
        env=support.daemon.environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, f"genre-stream: {line}\n")


def test_without_outputs_their_libraries_are_not_imported() -> None:
    code = (
        "import sys, streamer.service; "
        "print({'aiomqtt', 'paho', 'pythonosc', 'apprise'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=support.daemon.REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('mqtt = "mqtt://me:secret@h/x"', "should be mqtt[s]://[user:password@]host[:port]"),
        ('mqtt = "http://h"', "should be mqtt[s]://[user:password@]host[:port]"),
        ('[mqtt]\nurl = "mqtt://h"\nprefix = "a/#"', "prefix should be the beginning of a topic"),
        ('[mqtt]\nurl = "mqtts://h"\nkey_file = "k"', "cert_file and key_file need each other"),
        ('[mqtt]\nurl = "mqtt://h"\nca_file = "c"', "ca_file and cert_file need an address that"),
        ('[mqtt]\nurl = "mqtt://h"\npassword_file = "/no"', "password_file /no cannot be read: no"),
        ('[mqtt]\nurl = "mqtts://h"\nca_file = "/no"', "a certificate or key cannot be used: no s"),
        ('[mqtt]\nurl = "mqtt://h"\nprefx = "a"', "mqtt.prefx = "),
        ('osc = "localhost"', "should be host:port, with a port from 1 to 65535"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line(
    text: str, sentence: str, model: Path, tone: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    arguments = ("--model", model, "--source", tone, "--config", config, "--port", "0")
    done = support.daemon.run(tmp_path, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sentence.lower() in done.stderr.lower()
    assert "secret" not in done.stderr
