"""Microphones and loopback: PortAudio, in a process of its own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from streamer.sources import capture
from streamer.sources.address import split_name
from streamer.sources.base import AudioBlock, SourceError
from streamer.sources.block_queue import BlockQueue
from streamer.sources.threaded import ThreadedSource
from streamer.system.console import aligned

DEVICE_INACTIVITY_SECONDS = 3.0
"""A device that delivers nothing for this long has failed."""
START_SECONDS = 15.0
"""Longest time to the first block, in which the process starts and PortAudio searches devices."""
LIST_SECONDS = 30.0
"""Longest time in which PortAudio lists the devices."""

logger = logging.getLogger(__name__)


class MicrophoneSource(ThreadedSource):
    """An input device, or with `loopback` what the computer plays.

    `device` is its name, a part of it or its index; None: the default device when the source is
    opened.
    """

    live = True

    def __init__(
        self,
        device: str | int | None,
        *,
        name: str,
        loopback: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, paced=False)
        self.kind = "loopback" if loopback else "microphone"
        self._request = {"device": device, "loopback": loopback}
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._process_lock = threading.Lock()
        self._deadline = 0.0
        self._played = False

    def open(self) -> None:
        """Start to record; errors are raised by `read`."""
        self._deadline = self._clock() + START_SECONDS
        super().open()

    def read(self, timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
        """Return the next block or None; a device that delivers nothing is a stalled source."""
        block = super().read(timeout, enough_seconds)
        now = self._clock()
        if block is not None:
            self._deadline = now + DEVICE_INACTIVITY_SECONDS
        elif now > self._deadline:
            raise SourceError("the device delivers no audio", stalled=True)
        return block

    def close(self) -> None:
        """Stop to record, even if the driver hangs."""
        super().close()
        with self._process_lock:
            if self._process is not None:
                self._process.kill()

    def produce(self, queue: BlockQueue) -> None:
        """Run the recording program and put its blocks into the queue."""
        queue.blocking = False
        with _capture(self._request) as process:
            with self._process_lock:
                # The source may have been closed, and even opened again with another process.
                if queue.stopped.is_set():
                    return
                self._process = process
            self._put_blocks(process, queue)
        if not queue.stopped.is_set():
            raise SourceError("the recording program has ended", stalled=True)

    def _put_blocks(self, process: subprocess.Popen[bytes], queue: BlockQueue) -> None:
        rate, channels = 0, 0
        earlier_overruns, discontinuity = self.overruns, self._played
        for kind, body in _read_messages(process):
            if kind == b"O":
                opened = json.loads(body)
                rate, channels = opened["sample_rate"], opened["channels"]
                logger.info("%s: recording from '%s'", self.name, opened["device"])
            elif kind == b"E":
                raise _failure(body, stalled=rate > 0)
            elif kind == b"A":
                end_time, dropped, overruns = capture.AUDIO.unpack_from(body)
                values = np.frombuffer(body, np.float32, offset=capture.AUDIO.size)
                self.overruns = earlier_overruns + overruns
                samples = values.reshape(-1, channels)
                queue.put(AudioBlock(samples, rate, end_time, None, discontinuity, dropped))
                self._played, discontinuity = True, False


def _find_devices(*, rates: bool = False) -> list[dict[str, Any]]:
    """Return what `capture.input_devices` and `capture.server_sources` do."""
    with _capture({"list": True, "rates": rates}) as process:
        timer = threading.Timer(LIST_SECONDS, process.kill)
        timer.start()
        try:
            for kind, body in _read_messages(process):
                if kind == b"E":
                    raise _failure(body)
                devices: list[dict[str, Any]] = json.loads(body)
                return devices
        finally:
            timer.cancel()
    raise SourceError("the sound system does not answer; is it hanging?")


def list_devices() -> str:
    """Return tables of the input devices and of the sound server's sources.

    `SourceError` is raised if PortAudio is missing or does not answer.
    """
    devices = _find_devices(rates=True)
    if not devices:
        return capture.no_devices()
    own = [device for device in devices if device["host"] != capture.SOUND_SERVER]
    sources = [device for device in devices if device["host"] == capture.SOUND_SERVER]
    rows = [["", "index", "name", "host", "channels", "rate", "also takes"]]
    for device in own:
        others = " ".join(str(rate) for rate in device["rates"] if rate != device["rate"])
        values = [device[key] for key in ("index", "name", "host", "channels")]
        default = "*" if device["default"] else ""
        rows.append([default, *map(str, values), f"{device['rate']} Hz", others])
    lines = [*aligned(rows), ""]
    if sources:
        rows = [["", "source of PulseAudio or PipeWire", "description", "channels", "rate"]]
        for source in sources:
            default = "*" if source["default"] else ""
            shown = [source["name"], source["description"], str(source["channels"])]
            rows.append([default, *shown, f"{source['rate']} Hz"])
        lines += [*aligned(rows), ""]
    hint = (
        "* the default, --device mic; --device also takes an index, a part of a name or "
        "description, loopback"
    )
    return "\n".join([*lines, hint])


def make_device(text: str, *, wait: bool = False) -> MicrophoneSource:
    """Make the source that `--device` names.

    `text` is "mic" (the default input), "loopback" (what the computer plays), an index, a device's
    name or any part of it; "NAME=" in front names the source. The device is looked up now and from
    then on identified by its name, since indices change when devices are plugged in or out. A
    permanent `SourceError` is raised if there is no such device, or no PortAudio. With `wait`, a
    device that is not there is looked up whenever the source is opened.
    """
    name, device = split_name(text)
    wanted = int(device) if device.isdecimal() else device
    try:
        devices = _find_devices()
        if device == "loopback":
            capture.choose_loopback(devices)
            return MicrophoneSource(None, name=name or device, loopback=True)
        if device == "mic":
            capture.choose(devices, None)
            return MicrophoneSource(None, name=name or device)
        found = capture.choose(devices, wanted)
    except (capture.CaptureError, SourceError) as error:
        if not wait or error.permanent:
            raise SourceError(str(error), permanent=True) from None
        by_default = device in ("loopback", "mic")
        return MicrophoneSource(
            None if by_default else wanted, name=name or device, loopback=device == "loopback"
        )
    return MicrophoneSource(found["name"], name=name or found.get("description") or found["name"])


@contextmanager
def _capture(request: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the recording program, and kill it at the end, since a failed device may block it."""
    with subprocess.Popen(
        [sys.executable, "-P", capture.__file__, json.dumps(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # ALSA warns of every device that it cannot open
        start_new_session=True,  # Ctrl-C in the terminal is not for the child
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _read_messages(process: subprocess.Popen[bytes]) -> Iterator[tuple[bytes, bytes]]:
    pipe = process.stdout
    assert pipe is not None
    while len(header := pipe.read(capture.HEADER.size)) == capture.HEADER.size:
        kind, length = capture.HEADER.unpack(header)
        body = pipe.read(length)
        if len(body) == length:
            yield kind, body


def _failure(body: bytes, *, stalled: bool = False) -> SourceError:
    error = json.loads(body)
    return SourceError(error["message"], permanent=error["permanent"], stalled=stalled)
