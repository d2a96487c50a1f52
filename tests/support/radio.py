"""A radio for tests: an Icecast server, fed by ffmpeg."""

from __future__ import annotations

import base64
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.waiting import LONGEST_WAIT_SECONDS, wait_until

CONFIGURATION = """
<icecast>
  <location>test</location><admin>test</admin><hostname>127.0.0.1</hostname>
  <limits>
    <burst-size>32768</burst-size>
    <!-- Where a busy machine lets a listener or a feeder wait, none of them is dropped. -->
    <queue-size>16777216</queue-size><source-timeout>60</source-timeout>
  </limits>
  <authentication>
    <source-password>secret</source-password>
    <admin-user>admin</admin-user><admin-password>secret</admin-password>
  </authentication>
  <mount>
    <mount-name>/live</mount-name>
    <fallback-mount>/backup</fallback-mount><fallback-override>1</fallback-override>
  </mount>
  <listen-socket><port>{port}</port><bind-address>127.0.0.1</bind-address></listen-socket>
  <paths>
    <basedir>/usr/share/icecast2</basedir><logdir>{logs}</logdir>
    <webroot>/usr/share/icecast2/web</webroot><adminroot>/usr/share/icecast2/admin</adminroot>
  </paths>
  <logging><accesslog>access.log</accesslog><errorlog>error.log</errorlog></logging>
  <security>{owner}</security>
</icecast>
"""
AS_NOBODY = "<changeowner><user>nobody</user><group>nogroup</group></changeowner>"


PORTS = range(20_000, 32_000)
"""Linux gives none of these to a socket that asks for any port, nor to an outgoing connection, of
which other tests open thousands: until a server takes it, the port stays free."""


def free_port() -> int:
    """Return a TCP port that is not in use."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def need(*programs: str) -> None:
    """Skip the test if a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}; see .ci/apt-packages")


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, even if it is suspended."""
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


class Radio:
    """An Icecast server with one mount, and the ffmpeg that feeds it."""

    def __init__(self, folder: Path, song: Path) -> None:
        self.port = free_port()
        self.song = song
        self._folder = folder
        self.server: subprocess.Popen[bytes] | None = None
        self.feeder: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/live"

    def start_server(self) -> None:
        logs = self._folder / "logs"
        logs.mkdir(exist_ok=True)
        logs.chmod(0o777)
        root = self._folder.owner() == "root"
        configuration = self._folder / "icecast.xml"
        configuration.write_text(
            CONFIGURATION.format(port=self.port, logs=logs, owner=AS_NOBODY if root else "")
        )
        for folder in (self._folder, *self._folder.parents) if root else ():
            # Icecast then runs as the user "nobody", and must reach its logs.
            if not folder.stat().st_mode & 0o001:
                folder.chmod(folder.stat().st_mode | 0o011)
        self._launch()
        self._wait(f"http://127.0.0.1:{self.port}/status-json.xsl", starting=True)

    def _launch(self) -> None:
        with (self._folder / "icecast.log").open("ab") as log:
            command = ["icecast2", "-c", str(self._folder / "icecast.xml")]
            self.server = subprocess.Popen(command, stdout=log, stderr=log)

    def start_feeding(
        self, *encoder: str, content_type: str = "audio/mpeg", container: str = "mp3"
    ) -> None:
        self.wait_until_free()
        encode = encoder or ("-c:a", "libmp3lame", "-b:a", "64k")
        play = ("ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", str(self.song))
        target = f"icecast://source:secret@127.0.0.1:{self.port}/live"
        self.feeder = subprocess.Popen(
            [*play, *encode, "-content_type", content_type, "-f", container, target],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.wait_for_mount()

    def wait_for_mount(self) -> None:
        """Wait until something feeds the mount."""
        self._wait(self.url)

    def wait_until_free(self, mount: str = "live") -> None:
        """Wait until nothing feeds a mount: Icecast refuses a second feeder with 403, and notices
        only after a moment that one has gone.
        """
        status = f"http://127.0.0.1:{self.port}/status-json.xsl"

        def free() -> bool:
            with urllib.request.urlopen(status, timeout=LONGEST_WAIT_SECONDS) as answer:
                return f'/{mount}"' not in answer.read().decode()

        wait_until(free, f"the end of what feeds /{mount}")

    def set_title(self, title: str) -> None:
        query = urllib.parse.urlencode({"mount": "/live", "mode": "updinfo", "song": title})
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/admin/metadata?{query}",
            headers={"Authorization": "Basic " + base64.b64encode(b"admin:secret").decode()},
        )
        urllib.request.urlopen(request, timeout=LONGEST_WAIT_SECONDS).close()

    def stop_server(self) -> None:
        if self.server is not None:
            end(self.server)
        self.server = None
        self.stop_feeding()

    def stop_feeding(self) -> None:
        if self.feeder is not None:
            end(self.feeder)
        self.feeder = None

    def _log(self) -> str:
        """What Icecast wrote, and its exit status if it has ended."""
        status = self.server.poll() if self.server else None
        errors = self._folder / "logs" / "error.log"
        texts = [
            path.read_text() for path in (self._folder / "icecast.log", errors) if path.exists()
        ]
        return f"exit status {status}\n" + "\n".join(text[-2000:] for text in texts)

    def _wait(self, url: str, *, starting: bool = False) -> None:
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while True:
            try:
                urllib.request.urlopen(url, timeout=LONGEST_WAIT_SECONDS).close()
                return
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, f"{url} did not come up: {self._log()}"
                if starting and self.server and self.server.poll() is not None:
                    # Icecast 2.4 now and then crashes if it is asked while it starts.
                    self._launch()
                time.sleep(0.1)


@contextmanager
def radio(folder: Path, song: Path) -> Iterator[Radio]:
    """Run an Icecast server that plays `song` over and over."""
    need("icecast2", "ffmpeg")
    station = Radio(folder, song)
    try:
        station.start_server()
        station.start_feeding()
        yield station
    finally:
        station.stop_server()
