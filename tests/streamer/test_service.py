import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import support.daemon
from support.daemon import ServiceManager, daemon
from support.history import rows
from support.model import make_model
from support.waiting import LONGEST_WAIT_SECONDS
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from streamer.sinks.history.database import open_query
from streamer.system import notify


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    return support.daemon.write_tone(tmp_path_factory.mktemp("tone") / "tone.flac", (4000, 30.0))


@pytest.fixture
def manager(tmp_path):
    listening = ServiceManager(tmp_path / "notify")
    yield listening
    listening.close()


@contextlib.contextmanager
def client(port):
    with connect(f"ws://127.0.0.1:{port}/", open_timeout=LONGEST_WAIT_SECONDS) as connection:
        yield connection


def frames(connection, wanted):
    """Return the frames up to the first that is wanted."""
    received = []
    while not received or not wanted(received[-1]):
        received.append(json.loads(connection.recv(timeout=LONGEST_WAIT_SECONDS)))
    return received


def is_prediction(frame):
    return frame["type"] == "prediction"


def test_history_and_state_have_the_labels_of_the_settings(model, tone, tmp_path):
    database = tmp_path / "heard.db"
    arguments = ("--model", model, "--source", f"t={tone}", "--history", database)
    with daemon(tmp_path, *arguments, "--labels", "high=treble") as running:
        with client(running.port) as connection:
            assert frames(connection, is_prediction)[-1]["genre"] == "treble"
        with urlopen(f"http://127.0.0.1:{running.port}/api/state") as response:
            state = json.load(response)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
    assert state["labels"] == ["low", "middle", "treble"]
    assert [segment["genre"] for segment in rows(open_query(database)).segments] == ["treble"]


def test_log_hello_and_metrics_tell_the_arithmetic(tone, tmp_path):
    rounded = make_model(tmp_path / "rounded.onnx", tolerance=0.5)
    arguments = ("--model", rounded, "--source", f"t={tone}", "--arithmetic", "int8")
    with daemon(tmp_path, *arguments) as running:
        with client(running.port) as connection:
            (hello,) = frames(connection, lambda frame: True)
        with urlopen(f"http://127.0.0.1:{running.port}/metrics") as response:
            metrics = response.read().decode()
        assert running.wait_for_line(lambda line: line.endswith("computing in int8\n"))
    assert hello["model"] == {"name": "thirds", "version": "1", "arithmetic": "int8"}
    assert 'genre_stream_model_info{arithmetic="int8",name="thirds",version="1"} 1.0' in metrics


def test_the_service_manager_is_sent_status_ready_and_watchdog_in_this_order(
    model, tone, manager, tmp_path
):
    variables = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "30000000"}
    arguments = ("--model", model, "--source", f"t={tone}", "--loop")
    with daemon(tmp_path, *arguments, variables=variables) as running:
        before = manager.wait_for("READY=1")
        assert before == ["STATUS=loading the model", "READY=1"]
        with client(running.port) as connection:
            assert frames(connection, lambda frame: True)[0]["type"] == "hello"
        assert "WATCHDOG=1" in manager.wait_for("STATUS=t: high")
        running.signal(signal.SIGTERM)
        assert manager.wait_for("STOPPING=1")
        assert running.wait() == 0


def test_a_faulty_model_is_refused_before_ready(manager, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    arguments = ("--model", tmp_path / "broken.onnx", "--source", "demo")
    with daemon(tmp_path, *arguments, variables={"NOTIFY_SOCKET": str(manager.path)}) as running:
        assert running.wait() == 2
    assert running.log.startswith("genre-stream: ")
    assert running.log.count("\n") == 1
    assert manager.received_within(0.1) == ["STATUS=loading the model"]


@contextlib.contextmanager
def feeder(sound):
    """A process that sends raw samples in real time, as a capture program would."""
    program = ["ffmpeg", "-v", "error", "-re", "-f", "lavfi", "-i", sound]
    process = subprocess.Popen(
        [*program, "-ac", "1", "-ar", "22050", "-f", "s16le", "-"], stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


RAW = ("--source", "in=-", "--rate", "22050", "--channels", "1", "--hop-seconds", "0.5")


def test_the_watchdog_pings_only_while_there_are_decisions(model, manager, tmp_path):
    variables = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "1000000"}
    with (
        feeder("sine=frequency=4000") as process,
        daemon(
            tmp_path, "--model", model, *RAW, stdin=process.stdout, variables=variables
        ) as running,
    ):
        manager.wait_for("STATUS=in: high")
        manager.wait_for("WATCHDOG=1")
        process.send_signal(signal.SIGSTOP)
        running.wait_for_line(lambda line: "stalled" in line)
        manager.wait_for("STATUS=in: stalled")
        manager.received_within(1.0)
        assert "WATCHDOG=1" not in manager.received_within(3.0)
        process.send_signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1")


def test_the_watchdog_pings_in_silence(model, manager, tmp_path):
    variables = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "1000000"}
    with (
        feeder("anullsrc=r=22050") as process,
        daemon(tmp_path, "--model", model, *RAW, stdin=process.stdout, variables=variables),
    ):
        manager.wait_for("STATUS=in: silence")
        for _ in range(5):
            manager.wait_for("WATCHDOG=1")


SOCKET_LAUNCHER = (
    "import os, sys; os.dup2(int(os.environ['FROM']), 3);"
    "os.environ['LISTEN_PID'] = str(os.getpid());"
    f"os.execv(sys.executable, [*{support.daemon.PATIENT!r}, *sys.argv[1:]])"
)
"""Starts genre-stream on a socket that listens already, as systemd does."""


def daemon_on(listening, home, *arguments):
    return daemon(
        home,
        *arguments,
        command=(sys.executable, "-c", SOCKET_LAUNCHER),
        pass_fds=(listening.fileno(),),
        variables={"LISTEN_FDS": "1", "FROM": str(listening.fileno())},
    )


def test_a_connection_to_the_socket_of_systemd_before_the_start_is_answered(model, tone, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        early = socket.create_connection(("127.0.0.1", port), timeout=LONGEST_WAIT_SECONDS)
        early.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with daemon_on(listening, tmp_path, "--model", model, "--source", f"t={tone}") as running:
            assert early.recv(9) == b"HTTP/1.1 "
            assert running.port == port
        early.close()


def test_a_socket_of_systemd_other_than_tcp_is_refused(model, tone, tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        with daemon_on(listening, tmp_path, "--model", model, "--source", f"t={tone}") as running:
            assert running.wait() == 2
    assert running.log == (
        f"genre-stream: the socket {tmp_path / 's'} that was handed over is not one of TCP; "
        "say ListenStream=ADDRESS:PORT in its unit\n"
    )


def test_sigterm_ends_segments_closes_clients_with_1001_and_exits_with_0(model, tone, tmp_path):
    database = tmp_path / "heard.db"
    arguments = ("--model", model, "--source", f"t={tone}", "--history", database)
    with daemon(tmp_path, *arguments) as running, client(running.port) as connection:
        frames(connection, is_prediction)
        running.signal(signal.SIGTERM)
        last = frames(connection, lambda frame: frame["type"] == "segment" and frame["final"])
        assert last[-1]["end"] > 0
        with pytest.raises(ConnectionClosed) as closing:
            frames(connection, lambda frame: False)
        assert closing.value.rcvd.code == 1001
        assert running.wait() == 0
    assert "exiting at once" not in running.log
    kept = support.daemon.run(tmp_path, "history", database, "--csv").stdout
    assert "high" in kept


def test_a_file_name_that_is_not_utf8_is_played_and_affects_no_other(
    model, tone, manager, tmp_path
):
    odd = tmp_path / os.fsdecode(b"caf\xe9.flac")
    odd.write_bytes(tone.read_bytes())
    sources = ("--source", odd, "--source", f"t={tone}", "--loop")
    arguments = ("--model", model, *sources, "--history", tmp_path / "heard.db")
    with daemon(tmp_path, *arguments, variables={"NOTIFY_SOCKET": str(manager.path)}) as running:
        manager.wait_for("STATUS=caf?: high")
        with urlopen(f"http://127.0.0.1:{running.port}/metrics") as page:
            assert b'source="caf?"' in page.read()
        with client(running.port) as connection:
            frames(connection, lambda frame: is_prediction(frame) and frame["source"] == "t")
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
    assert "Traceback" not in running.log
    kept = rows(open_query(tmp_path / "heard.db"))
    assert {row["source"] for row in kept.minutes} == {"caf?", "t"}


def test_sigterm_exits_with_0_although_a_read_of_a_pipe_is_blocked(model, tmp_path):
    reading, writing = os.pipe()
    with daemon(tmp_path, "--model", model, *RAW, stdin=reading) as running:
        os.close(reading)
        os.write(writing, bytes(44100))
        running.wait_for_line(lambda line: "in: live" in line)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0, running.log
    os.close(writing)


def test_a_second_signal_exits_at_once(model, tone, tmp_path):
    with (
        daemon(tmp_path, "--model", model, "--source", f"t={tone}") as running,
        socket.create_connection(("127.0.0.1", running.port)) as never_closes,
    ):
        never_closes.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert b"101" in never_closes.recv(100)
        running.signal(signal.SIGTERM)
        running.wait_for_line(lambda line: "SIGTERM: stopping" in line)
        running.signal(signal.SIGTERM)
        assert running.wait() == 128 + signal.SIGTERM


def test_the_exit_status_is_0_when_every_file_has_ended(model, tmp_path):
    short = support.daemon.write_tone(tmp_path / "short.flac", (4000, 5.0))
    with daemon(tmp_path, "--model", model, "--source", short, "--fast") as running:
        assert running.wait() == 0
    assert "short: ended" in running.log


def test_the_exit_status_is_1_and_the_source_named_when_one_has_failed(model, tmp_path):
    short = support.daemon.write_tone(tmp_path / "short.flac", (4000, 5.0))
    (tmp_path / "text.wav").write_text("no sound")
    arguments = ("--source", short, "--source", tmp_path / "text.wav", "--fast")
    with daemon(tmp_path, "--model", model, *arguments) as running:
        assert running.wait() == 1
    assert running.lines[-1].startswith("genre-stream: text: ")


def test_a_port_in_use_is_one_line_and_status_1(model, tone, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ("--model", model, "--source", tone, "--port", port)
        with daemon(tmp_path, *arguments) as running:
            assert running.wait() == 1
    assert running.log.startswith(f"genre-stream: cannot listen on 127.0.0.1:{port}: ")
    assert running.log.endswith("already in use; choose another --host or --port\n")
    assert running.log.count("\n") == 1


def test_an_error_at_the_start_ends_the_daemon_although_its_log_is_not_read(model, tone, tmp_path):
    unread, stderr = os.pipe()
    fill(stderr)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [*support.daemon.COMMAND, "--model", model, "--source", tone, "--port", port]
        done = subprocess.run(
            command,
            env=support.daemon.environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            timeout=LONGEST_WAIT_SECONDS,
        )
    assert done.returncode == 1
    os.close(stderr)
    os.close(unread)


def test_sighup_adds_removes_and_changes_sources_and_keeps_the_others(
    model, tone, tmp_path, manager
):
    other = support.daemon.write_tone(tmp_path / "other.flac", (200, 30.0))
    config = tmp_path / "config.toml"

    def settle(*sources, more=""):
        config.write_text(f"source = {json.dumps(sources)}\nloop = true\n{more}\n")

    settle(f"stays={tone}", f"leaves={tone}", f"changes={tone}")
    arguments = ("--model", model, "--config", config)
    variables = {"NOTIFY_SOCKET": str(manager.path)}
    with daemon(tmp_path, *arguments, variables=variables) as running:
        with client(running.port) as connection:
            frames(connection, is_prediction)
            settle(f"stays={tone}", f"comes={tone}", f"changes={other}", more="threads = 2")
            manager.wait_for("READY=1")
            running.signal(signal.SIGHUP)
            manager.wait_for("RELOADING=1")
            manager.wait_for("READY=1")
            news = frames(
                connection, lambda frame: is_prediction(frame) and frame["source"] == "comes"
            )
            news += frames(
                connection, lambda frame: is_prediction(frame) and frame["genre"] == "low"
            )
        with client(running.port) as connection:
            hello = frames(connection, lambda frame: True)[0]
    of = {name: [frame for frame in news if frame.get("source") == name] for name in NAMES}
    assert {source["name"] for source in hello["sources"]} == {"stays", "comes", "changes"}
    assert [frame["state"] for frame in of["leaves"] if frame["type"] == "source"] == ["ended"]
    assert not [frame for frame in of["stays"] if frame["type"] == "source"]
    numbers = [frame["seq"] for frame in of["stays"] if is_prediction(frame)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert news[-1]["source"] == "changes"
    assert "threads: changed settings that hold after a restart" in running.log


NAMES = ("stays", "leaves", "changes", "comes")


def test_sighup_does_not_repeat_a_file_that_has_ended(model, tone, tmp_path):
    short = support.daemon.write_tone(tmp_path / "short.flac", (4000, 3.5))
    arguments = ("--model", model, "--source", short, "--source", f"stays={tone}")
    with daemon(tmp_path, *arguments) as running, client(running.port) as connection:
        running.wait_for_line(lambda line: "short: ended" in line)
        running.signal(signal.SIGHUP)
        for _ in range(4):
            frames(connection, is_prediction)
    assert running.log.count("short: live") == 1


def test_sighup_with_a_faulty_file_changes_nothing(model, tone, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(f'source = "t={tone}"\nloop = true\n')
    arguments = ("--model", model, "--config", config)
    with daemon(tmp_path, *arguments) as running, client(running.port) as connection:
        frames(connection, is_prediction)
        config.write_text(f'source = "t={tone}"\nlop = true\n')
        running.signal(signal.SIGHUP)
        line = running.wait_for_line(lambda line: "settings not read again" in line)
        assert "unknown setting (did you mean loop?)" in line
        config.write_text(f'source = "{"x" * 300}"')
        running.signal(signal.SIGHUP)
        running.wait_for_line(lambda line: "file name too long; check the path" in line)
        config.write_text("")
        running.signal(signal.SIGHUP)
        running.wait_for_line(lambda line: "nothing to hear is left" in line)
        frames(connection, is_prediction)


def test_sighup_survives_a_defect_in_reading_the_settings(model, tone, tmp_path):
    program = (
        "import sys; from streamer import service; from streamer.commands import run as cli; "
        "run = service.run; "
        "service.run = lambda settings, reload: run(settings, lambda: 1 // 0);"
        "sys.exit(cli.main())"
    )
    arguments = ("--model", model, "--source", f"t={tone}", "--loop")
    command = (sys.executable, "-c", program)
    with daemon(tmp_path, *arguments, command=command) as running, client(running.port) as client_:
        frames(client_, is_prediction)
        running.signal(signal.SIGHUP)
        running.wait_for_line(lambda line: "settings not read again: ZeroDivisionError: " in line)
        frames(client_, is_prediction)
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
    assert "Traceback" not in running.log


@pytest.mark.parametrize("request_", notify.REQUEST_SIGNALS)
def test_sighup_and_sigusr1_during_start_and_stop_are_ignored(
    request_, model, tone, tmp_path, manager
):
    variables = {"NOTIFY_SOCKET": str(manager.path)}
    arguments = ("--model", model, "--source", f"t={tone}")
    with daemon(tmp_path, *arguments, variables=variables) as running:
        manager.wait_for("STATUS=loading the model")
        running.signal(request_)
        manager.wait_for("READY=1")
        running.signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        while running.process.poll() is None:
            running.signal(request_)
            time.sleep(0.001)
        assert running.wait() == 0


def test_sigusr1_logs_every_thread_and_queue(model, tone, tmp_path):
    arguments = ("--model", model, "--source", f"t={tone}", "--history", tmp_path / "heard.db")
    with daemon(tmp_path, *arguments) as running:
        running.wait_for_line(lambda line: "t: live" in line)
        running.signal(signal.SIGUSR1)
        running.wait_for_line(lambda line: line.startswith("history: "))
        for start in ("thread listener t: ", "thread history: ", "source ", "mailbox: 0 wait"):
            running.wait_for_line(lambda line, start=start: start in line)


def test_a_terminal_shows_the_address_and_one_live_line(model, tone, tmp_path):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*support.daemon.PATIENT, "--port", "0", "--model", model, "--source", f"t={tone}"],
        env=support.daemon.environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stderr=follower,
    )
    os.close(follower)
    screen = ""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while "dBFS" not in screen and time.monotonic() < deadline:
        screen += os.read(leader, 4096).decode(errors="replace")
    process.send_signal(signal.SIGINT)
    assert process.wait(LONGEST_WAIT_SECONDS) == 0
    os.close(leader)
    assert "Dashboard: http://127.0.0.1:" in screen
    assert "high" in screen


def test_it_stops_when_its_terminal_is_closed(model, tone, tmp_path):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [
            *support.daemon.PATIENT,
            "--port",
            "0",
            "--model",
            model,
            "--source",
            f"t={tone}",
            "--loop",
        ],
        env=support.daemon.environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stderr=follower,
    )
    os.close(follower)
    screen = ""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while "dBFS" not in screen and time.monotonic() < deadline:
        screen += os.read(leader, 4096).decode(errors="replace")
    os.close(leader)
    process.send_signal(signal.SIGHUP)
    assert process.wait(LONGEST_WAIT_SECONDS) == 0


def fill(descriptor):
    """Write until the buffer is full, as if it had not been read for a while."""
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(descriptor, b".")
    os.set_blocking(descriptor, True)


@pytest.mark.parametrize("make", [pty.openpty, os.pipe])
def test_it_serves_and_stops_although_its_terminal_or_log_is_not_read(make, model, tone, tmp_path):
    unread, stderr = make()
    fill(stderr)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        variables = {"LISTEN_FDS": "1", "FROM": str(listening.fileno())}
        process = subprocess.Popen(
            [sys.executable, "-c", SOCKET_LAUNCHER, "--model", model, "--source", f"t={tone}"],
            env=support.daemon.environment(tmp_path, **variables),
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=(listening.fileno(),),
        )
        os.close(stderr)
        try:
            with client(listening.getsockname()[1]) as connection:
                frames(connection, is_prediction)
                process.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed):
                    frames(connection, lambda frame: False)
            assert process.wait(LONGEST_WAIT_SECONDS) == 0
        finally:
            process.kill()
            process.wait()
            os.close(unread)


def test_the_exit_deadline_holds_even_if_the_log_hangs(tmp_path):
    hanging = (
        "import logging, time; from streamer.system import logs, stop_signals;"
        "logs.configure('info'); logging.getLogger().handlers[0].acquire();"
        "start = stop_signals.exit_deadline(0.1); start(); time.sleep(1000)"
    )
    process = subprocess.run(
        [sys.executable, "-c", hanging],
        env=support.daemon.environment(tmp_path),
        cwd=support.daemon.REPOSITORY,
        timeout=LONGEST_WAIT_SECONDS,
    )
    assert process.returncode == 1


def test_a_public_port_without_a_token_is_warned_of(model, tone, tmp_path):
    arguments = ("--model", model, "--source", f"t={tone}", "--host", "0.0.0.0")
    with daemon(tmp_path, *arguments) as running:
        running.wait_for_line(lambda line: "WARNING" in line and "set token_file" in line)


def test_the_token_of_systemds_credentials_is_required(model, tone, tmp_path):
    (tmp_path / "token").write_text("open sesame\n")
    variables = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    arguments = ("--model", model, "--source", f"t={tone}")
    with daemon(tmp_path, *arguments, variables=variables) as running:
        with pytest.raises(Exception, match="401"), client(running.port):
            pass
        address = f"ws://127.0.0.1:{running.port}/"
        bearer = {"Authorization": "Bearer open sesame"}
        with connect(address, additional_headers=bearer, open_timeout=LONGEST_WAIT_SECONDS):
            pass


def test_a_public_port_with_systemds_token_is_not_warned_of(model, tone, tmp_path):
    (tmp_path / "token").write_text("open sesame\n")
    variables = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    arguments = ("--model", model, "--source", f"t={tone}", "--host", "0.0.0.0")
    with daemon(tmp_path, *arguments, variables=variables) as running:
        running.wait_for_line(lambda line: "t: live" in line)
    assert "may listen in" not in running.log


def test_a_credential_that_is_not_text_is_one_line_and_status_2(model, tone, tmp_path):
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    variables = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    arguments = ("--model", model, "--source", f"t={tone}")
    with daemon(tmp_path, *arguments, variables=variables) as running:
        assert running.wait() == 2
    sentence = f"token_file {tmp_path / 'token'} cannot be read: it is not text in UTF-8"
    assert running.log == f"genre-stream: {sentence}\n"


def test_one_source_with_the_embedded_model_takes_less_than_400_mib(gtzan_model, tmp_path):
    arguments = ("--model", gtzan_model, "--source", "demo", "--loop", "--fast")
    with daemon(tmp_path, *arguments) as running, client(running.port) as connection:
        frames(connection, lambda frame: is_prediction(frame) and frame["seq"] >= 60)
        status = Path(f"/proc/{running.process.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    assert peak < 400, f"{peak:.0f} MiB at the highest"
