"""Microphones and what the computer plays: PortAudio, in a process of its own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from streamer.sources import capture
from streamer.sources.base import AudioBlock, SourceError
from streamer.sources.threaded import Session, ThreadedSource

QUIET_SECONDS = 3.0
"""A device that delivers nothing for so long has died."""
START_SECONDS = 15.0
"""How long the first block may take: the process starts, PortAudio looks for devices."""
LIST_SECONDS = 30.0

logger = logging.getLogger(__name__)


class MicrophoneSource(ThreadedSource):
    """An input device, or with `loopback` what the computer plays.

    Parameters
    ----------
    device
        A device's name or a part of it; None: whatever is the default at the time of opening.
    name
        What clients call it.
    loopback
        Record what is being played instead of `device`.
    rate, channels
        None: the device's own rate, and two channels if it has them.
    quiet_seconds
        Seconds without a block after which the device counts as gone.
    """

    def __init__(
        self,
        device: str | None,
        *,
        name: str,
        loopback: bool = False,
        rate: int | None = None,
        channels: int | None = None,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        super().__init__(name, paced=False)
        self.kind = "loopback" if loopback else "microphone"
        self.live = True
        self._request = {
            "device": device,
            "loopback": loopback,
            "rate": rate,
            "channels": channels,
        }
        self._quiet_seconds = quiet_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._process_lock = threading.Lock()
        self._expected = 0.0
        self._played = False

    @property
    def process_id(self) -> int | None:
        """The recording program's process, while there is one."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def open(self) -> None:
        """Start to record; what goes wrong is raised by `read`."""
        self._expected = time.monotonic() + START_SECONDS
        super().open()

    def read(self, timeout: float) -> AudioBlock | None:
        """Return the next block; a device that has gone quiet is a `SourceError`, stalled."""
        block = super().read(timeout)
        now = time.monotonic()
        if block is not None:
            self._expected = now + self._quiet_seconds
        elif now > self._expected:
            raise SourceError("the device delivers no audio", stalled=True)
        return block

    def close(self) -> None:
        """Stop recording, whatever the driver is doing."""
        super().close()
        with self._process_lock:
            if self._process is not None:
                self._process.kill()

    def produce(self, session: Session) -> None:
        """Run the recording program and hand on its blocks."""
        session.patient = False
        with _capture(self._request) as process:
            with self._process_lock:
                # Closed meanwhile, and perhaps opened again: the process is no longer ours to set.
                if session.stopped.is_set():
                    return
                self._process = process
            assert process.stdout is not None
            self._hand_on(process.stdout, session)
        if not session.stopped.is_set():
            raise SourceError("the recording program has ended", stalled=True)

    def _hand_on(self, messages: IO[bytes], session: Session) -> None:
        sample_rate, channels = 0, 0
        overruns_before, fresh = self.overruns, self._played
        for kind, body in _read_messages(messages):
            if kind == b"O":
                opened = json.loads(body)
                sample_rate, channels = opened["sample_rate"], opened["channels"]
                logger.info("%s: recording from '%s'", self.name, opened["device"])
            elif kind == b"E":
                raise _failure(body, stalled=sample_rate > 0)
            elif kind == b"A":
                heard, dropped, overruns = capture.AUDIO.unpack_from(body)
                samples = np.frombuffer(body, np.float32, offset=capture.AUDIO.size)
                self.overruns = overruns_before + overruns
                session.put(
                    AudioBlock(
                        samples.reshape(-1, channels),
                        sample_rate,
                        heard,
                        discontinuity=fresh,
                        dropped=dropped,
                    )
                )
                self._played, fresh = True, False


def find_devices(*, rates: bool = False) -> list[dict[str, Any]]:
    """Return the input devices: index, name, host, channels, rate, default.

    Parameters
    ----------
    rates
        Find out, too, which `rates` each device takes; that means opening them all.

    Raises
    ------
    SourceError
        If PortAudio is missing or does not answer.
    """
    with _capture({"list": True, "rates": rates}) as process:
        timer = threading.Timer(LIST_SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            for kind, body in _read_messages(process.stdout):
                if kind == b"E":
                    raise _failure(body)
                devices: list[dict[str, Any]] = json.loads(body)
                return devices
        finally:
            timer.cancel()
    raise SourceError("the sound system does not answer; is it hanging?", permanent=True)


def device_table(devices: list[dict[str, Any]]) -> str:
    """Return the devices as a table for people, the default marked with an asterisk."""
    if not devices:
        return capture.no_devices()
    heads = ("", "index", "name", "host", "channels", "rate", "also takes")
    rows = [
        (
            "*" if device["default"] else "",
            str(device["index"]),
            device["name"],
            device["host"],
            str(device["channels"]),
            f"{device['rate']} Hz",
            " ".join(str(rate) for rate in device["rates"] if rate != device["rate"]),
        )
        for device in devices
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
    hint = "* the default, --device mic; --device also takes an index, a part of a name, loopback"
    return "\n".join([*lines, "", hint])


def make_microphone(text: str, *, name: str | None = None) -> MicrophoneSource:
    """Make the source for "mic", "loopback", a device's index, its name or a part of it.

    The device is looked up now, and from then on known by its name: an index changes when devices
    come and go.

    Raises
    ------
    SourceError
        If there is no such device; permanent.
    """
    devices = find_devices()
    try:
        if text == "loopback":
            capture.choose_loopback(devices)
            return MicrophoneSource(None, name=name or text, loopback=True)
        if text == "mic":
            capture.choose(devices, None)
            return MicrophoneSource(None, name=name or text)
        chosen = capture.choose(devices, int(text) if text.isdecimal() else text)
    except capture.CaptureError as error:
        raise SourceError(str(error), permanent=True) from None
    return MicrophoneSource(chosen["name"], name=name or chosen["name"])


@contextmanager
def _capture(request: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the recording program; it is killed at the end, as a dead device may hang it."""
    process = subprocess.Popen(
        [sys.executable, "-P", capture.__file__, json.dumps(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # ALSA's complaints about devices that nobody asked for.
        stderr=subprocess.DEVNULL,
        # An interrupt from the terminal is ours to handle.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _read_messages(pipe: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    while len(header := pipe.read(capture.HEADER.size)) == capture.HEADER.size:
        kind, length = capture.HEADER.unpack(header)
        body = pipe.read(length)
        if len(body) == length:
            yield kind, body


def _failure(body: bytes, *, stalled: bool = False) -> SourceError:
    why = json.loads(body)
    return SourceError(why["message"], permanent=why["permanent"], stalled=stalled)
