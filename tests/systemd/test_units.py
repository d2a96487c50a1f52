import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import support.daemon
from support.model import make_model
from support.sandbox import REPOSITORY, UNIT, sandboxed, settings, write_seccomp_filter
from support.waiting import LONGEST_WAIT_SECONDS
from websockets.sync.client import connect

from streamer import settings as schema
from streamer.commands import install_service

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (package systemd)"
)
needs_bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="needs bwrap (package bubblewrap)"
)


@pytest.fixture
def installed(tmp_path, capsys):
    """The units as install-service writes them for this installation."""
    files = install_service.unit_files(
        Path(sys.executable).parent / "genre-stream", user=False, systemd_version=0
    )
    install_service._write(files, tmp_path)
    return tmp_path / "etc/systemd/system"


@needs_systemd
def test_systemd_accepts_the_units(installed):
    names = ["genre-stream.service", "genre-stream@one.service", "genre-stream.socket"]
    shutil.copy(installed / "genre-stream@.service", installed / "genre-stream@one.service")
    result = subprocess.run(
        ["systemd-analyze", "verify", *(installed / name for name in names)],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_units_wait_for_a_device_that_comes_late():
    for name in ("genre-stream.service", "genre-stream@.service", "user/genre-stream.service"):
        unit = (REPOSITORY / "systemd" / name).read_text()
        assert "\nEnvironment=GENRE_STREAM_WAIT=yes\n" in unit
    assert schema.load({}, environment={"GENRE_STREAM_WAIT": "yes"}).settings.wait


@needs_systemd
def test_systemd_accepts_the_user_unit(tmp_path):
    program = Path(sys.executable).parent / "genre-stream"
    files = install_service.unit_files(program, user=True, systemd_version=0)
    install_service._write(files, tmp_path)
    result = subprocess.run(
        ["systemd-analyze", "--user", "verify", *(tmp_path / where for where in files)],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("name", ["genre-stream.service", "genre-stream@one.service"])
def test_the_exposure_is_at_most_2(installed, name):
    unit = installed / name
    if "@" in name:
        shutil.copy(installed / "genre-stream@.service", unit)
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
    )
    level = re.search(r"exposure level for .*: ([\d.]+)", result.stdout)
    assert level is not None, result.stderr
    assert float(level[1]) <= 2.0


@needs_systemd
def test_sysusers_creates_the_user_of_the_unit(tmp_path):
    (tmp_path / "etc").mkdir()
    lines = (REPOSITORY / "systemd" / "sysusers.conf").read_text().splitlines()
    result = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", "--inline", *lines],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    (user,) = settings("User")
    (group,) = settings("SupplementaryGroups")
    assert f"\n{user}:" in "\n" + (tmp_path / "etc/passwd").read_text()
    groups = (tmp_path / "etc/group").read_text().splitlines()
    assert any(line.startswith(f"{group}:") and line.endswith(f":{user}") for line in groups)


def test_the_template_differs_from_the_service_only_in_its_instance():
    service = UNIT.read_text()
    template = (REPOSITORY / "systemd" / "genre-stream@.service").read_text()
    instance = (
        service.replace("is playing\n", "is playing (%i)\n")
        .replace("bin/genre-stream\n", "bin/genre-stream --config /etc/genre-stream/%i.toml\n")
        .replace("SyslogIdentifier=genre-stream\n", "SyslogIdentifier=genre-stream@%i\n")
        .replace("StateDirectory=genre-stream\n", "StateDirectory=genre-stream/%i\n")
    )
    assert template == instance


@pytest.fixture
def sandbox(tmp_path):
    """A function that puts a command under the restrictions of the unit, and its seccomp file."""
    (tmp_path / "state").mkdir()
    program = tmp_path / "filter.bpf"
    write_seccomp_filter(program)
    descriptor = os.open(program, os.O_RDONLY)
    yield lambda *command: sandboxed(tmp_path, command, seccomp=descriptor), descriptor
    os.close(descriptor)


PROBE = """
import ctypes, json, os, socket, sys
answers = {}
def ask(name, attempt):
    try:
        attempt()
        answers[name] = "done"
    except OSError as error:
        answers[name] = os.strerror(error.errno)
def mount():
    if ctypes.CDLL(None, use_errno=True).mount(b"none", b"/tmp", b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "")
def new_namespace():
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "")
ask("write /etc", lambda: open("/etc/probe", "w"))
ask("write state", lambda: open(sys.argv[1] + "/probe", "w"))
ask("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
ask("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
ask("internet", lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
ask("mount", mount)
ask("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
ask("namespace", new_namespace)
ask("lower priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, 5))
ask("child", lambda: os.waitpid(os.fork() or os._exit(0), 0))
answers["homes"] = os.listdir("/home")
print(json.dumps(answers))
"""


@needs_systemd
@needs_bubblewrap
def test_the_sandbox_of_the_tests_forbids_what_the_unit_forbids(sandbox, tmp_path):
    command, descriptor = sandbox
    result = subprocess.run(
        command(sys.executable, "-c", PROBE, str(tmp_path / "state")),
        pass_fds=[descriptor],
        capture_output=True,
        text=True,
    )
    answers = json.loads(result.stdout or "{}")
    forbidden = {name for name, answer in answers.items() if "not permitted" in answer}
    assert answers.get("write /etc") == "Read-only file system", result.stderr
    assert forbidden == {"netlink", "packet", "mount", "real time", "namespace"}
    allowed = ("write state", "internet", "child", "lower priority")
    assert [answers[name] for name in allowed] == ["done"] * 4


@needs_systemd
@needs_bubblewrap
def test_the_daemon_runs_under_the_restrictions_of_the_unit(sandbox, tmp_path):
    command, descriptor = sandbox
    model = make_model(tmp_path / "thirds.onnx")
    tone = support.daemon.write_tone(tmp_path / "tone.flac", (4000, 30.0))
    manager = support.daemon.ServiceManager(tmp_path / "notify")
    (tmp_path / "token").write_text("\n")
    arguments = ("--model", model, "--source", f"t={tone}", "--loop")
    with support.daemon.daemon(
        Path("/nonexistent"),
        *arguments,
        *("--history", tmp_path / "state" / "history.db"),
        command=tuple(command(*support.daemon.COMMAND)),
        pass_fds=(descriptor,),
        variables={"NOTIFY_SOCKET": str(manager.path), "CREDENTIALS_DIRECTORY": str(tmp_path)},
    ) as running:
        manager.wait_for("READY=1")
        address = f"ws://127.0.0.1:{running.port}/"
        with connect(address, open_timeout=LONGEST_WAIT_SECONDS) as connection:
            frame = {}
            while frame.get("genre") != "high":
                frame = json.loads(connection.recv(timeout=LONGEST_WAIT_SECONDS))
        child = _only_child(running.process.pid)
        os.kill(child, signal.SIGTERM)
        assert running.wait() == 0
    manager.close()
    assert (tmp_path / "state" / "history.db").stat().st_size > 0


@needs_systemd
@needs_bubblewrap
def test_devices_are_listed_under_the_restrictions_of_the_unit(sandbox):
    command, descriptor = sandbox
    result = subprocess.run(
        command(*support.daemon.COMMAND, "--list-devices"),
        cwd=REPOSITORY,
        pass_fds=[descriptor],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout


def test_the_unit_has_the_time_limits_that_the_daemon_expects():
    assert settings("Type") == ["notify"]
    assert settings("WatchdogSec") == ["30s"]
    assert settings("TimeoutStopSec") == ["5s"]
    assert settings("RestartPreventExitStatus") == ["2"]


def _only_child(process: int) -> int:
    (child,) = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(child)
