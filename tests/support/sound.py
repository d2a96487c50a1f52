"""A sound server for tests: PulseAudio with null sinks instead of loudspeakers."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.radio import end, need
from support.waiting import LONGEST_WAIT_SECONDS

ASOUNDRC = "pcm.!default { type pulse }\nctl.!default { type pulse }\n"
SERVER = ("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disable-shm=yes")


class ExclusiveDevice:
    """What ALSA reads the samples of a device from: a terminal that is held, or silence.

    Root may open a terminal that another program holds, unless `UNPRIVILEGED` takes that away.
    """

    UNPRIVILEGED = ("setpriv", "--bounding-set", "-sys_admin") if os.geteuid() == 0 else ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._terminal = pty.openpty()
        fcntl.ioctl(self._terminal[1], termios.TIOCEXCL)
        path.symlink_to(os.ttyname(self._terminal[1]))

    def release(self) -> None:
        """Let other programs open the device."""
        free = self.path.with_name("free")
        free.symlink_to("/dev/zero")
        free.rename(self.path)
        for descriptor in self._terminal:
            os.close(descriptor)


class SoundServer:
    """A PulseAudio server, found by programs that run with the variables in `environment`."""

    def __init__(self, folder: Path) -> None:
        socket = folder / "socket"
        (folder / ".asoundrc").write_text(ASOUNDRC)
        self.environment = {
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            "PULSE_SERVER": f"unix:{socket}",
        }
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [*SERVER, f"--load=module-native-protocol-unix socket={socket} auth-anonymous=1"],
            env=self._whole_environment(),
            stdout=self._log,
            stderr=self._log,
        )
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while self._pactl("info").returncode:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)

    def control(self, *arguments: str) -> str:
        """Run pactl and return what it prints."""
        done = self._pactl(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def add_sink(self, name: str, *properties: str) -> str:
        """Add a null sink and return the number of its module."""
        arguments = [f"sink_name={name}", *properties]
        return self.control("load-module", "module-null-sink", *arguments).strip()

    def remove(self, module: str) -> None:
        """Unload a module."""
        self.control("unload-module", module)

    @contextmanager
    def playing(self, *source: str, sink: str) -> Iterator[None]:
        """Play what ffmpeg reads from `source` into a sink, over and over."""
        player = subprocess.Popen(
            ["ffmpeg", "-v", "error", "-re", *source, "-f", "pulse", "-device", sink, "test"],
            env=self._whole_environment(),
            stdin=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            end(player)

    def add_exclusive_device(self, name: str) -> ExclusiveDevice:
        """Add a device of ALSA that one program at a time can open, and hold it."""
        folder = Path(self.environment["HOME"])
        device = ExclusiveDevice(folder / name)
        slave = '{ type pulse }, file "/dev/null", format raw'
        with (folder / ".asoundrc").open("a") as settings:
            settings.write(
                f'pcm.{name} {{ type file, slave.pcm {slave}, infile "{device.path}", '
                f'hint {{ show on, description "{name}" }} }}\n'
            )
        return device

    def freeze(self) -> None:
        """Suspend the server, so that it hangs as a faulty driver does."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the server."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill the server."""
        end(self._process)
        self._log.close()

    def _pactl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["pactl", *arguments],
            env=self._whole_environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def _whole_environment(self) -> dict[str, str]:
        return os.environ | self.environment


@contextmanager
def sound_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SoundServer]:
    """Run a sound server that is the default of programs started in this context."""
    need("pulseaudio", "pactl", "ffmpeg")
    # The path of a socket has at most 107 bytes, which pytest's folders may exceed.
    with tempfile.TemporaryDirectory(prefix="sound") as folder:
        server = SoundServer(Path(folder))
        try:
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            yield server
        finally:
            server.stop()
