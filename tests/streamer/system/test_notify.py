import os
import socket
import subprocess
import sys

import pytest
from support.waiting import LONGEST_WAIT_SECONDS

from streamer.system.notify import Notifier, inherited_sockets


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    """A service manager's socket, to which NOTIFY_SOCKET leads."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = str(tmp_path / "notify") if request.param == "path" else f"@{os.getpid()}-notify"
    receiver.bind(name.replace("@", "\0"))
    receiver.settimeout(LONGEST_WAIT_SECONDS)
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with receiver:
        yield receiver


def test_every_message_reaches_the_service_manager(manager):
    notifier = Notifier()
    notifier.status("loading\nthe model")
    notifier.ready()
    notifier.watchdog()
    notifier.stopping()
    notifier.close()
    received = [manager.recv(4096).decode() for _ in range(4)]
    assert received == ["STATUS=loading the model", "READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_an_unchanged_status_is_not_sent_again(manager):
    notifier = Notifier()
    for text in ("jazz", "jazz", "rock"):
        notifier.status(text)
    assert [manager.recv(4096) for _ in range(2)] == [b"STATUS=jazz", b"STATUS=rock"]


def test_reloading_reports_when_it_began(manager):
    Notifier().reloading()
    first, second = manager.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket"])
def test_without_a_service_manager_nothing_happens(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notifier = Notifier()
    notifier.ready()
    notifier.close()


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_is_on_only_if_it_watches_this_process(monkeypatch, variables, seconds):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Notifier().watchdog_seconds == seconds


def test_sockets_for_another_process_are_ignored(monkeypatch):
    variables = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert inherited_sockets() == []
    assert not variables.keys() & os.environ.keys()


def test_an_inherited_socket_is_returned_and_hidden_from_child_processes():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = (
            "import os; os.dup2(int(os.environ['FROM']), 3);"
            "os.environ['LISTEN_PID'] = str(os.getpid());"
            "from streamer.system.notify import inherited_sockets;"
            "found = inherited_sockets();"
            "print(found[0].getsockname()[1], found[0].get_inheritable(),"
            " 'LISTEN_FDS' in os.environ)"
        )
        result = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"LISTEN_FDS": "1", "FROM": str(listener.fileno())},
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.split() == [str(listener.getsockname()[1]), "False", "False"]
