"""A program that records with PortAudio and writes the samples to its standard output.

Every recording has its own process because PortAudio finds devices that were plugged in later only
after a restart, which would end all other recordings of the process; because some drivers never
return when a device that is gone is closed; and because the monitor of a sound server is chosen by
an environment variable.

The program runs without the rest of the package and imports nothing of it. Its only argument is
JSON: `{"list": true, "rates": ...}` or `{"device": ..., "loopback": ...}`. It writes messages of a
kind (one byte), a length (uint32) and a body:

====== ============================================================================================
kind   body
====== ============================================================================================
``D``  JSON: the input devices and the sources of the sound server
``O``  JSON: the recording has begun: device, sample_rate, channels
``A``  end time (float64, monotonic s), dropped (uint32), overruns so far (uint32), float32 samples
``E``  JSON: why it ends: message, permanent
====== ============================================================================================

It ends when its standard input is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, NoReturn

HEADER = struct.Struct("<cI")
AUDIO = struct.Struct("<dII")
BLOCK_SECONDS = 0.1
QUEUE_BLOCKS = 100
"""Number of blocks that are kept for the reader; beyond it the oldest is dropped."""
RATES = (8000, 16000, 22050, 44100, 48000, 96000, 192000)
"""Sample rates in Hz whose support is listed."""
MONITOR = {
    "pulse": ("PULSE_SOURCE", "@DEFAULT_MONITOR@"),
    "pipewire": ("PIPEWIRE_ALSA", "{ stream.capture.sink=true }"),
}
"""ALSA device of a sound server -> the variable that makes it record what is being played."""
SOUND_SERVER = "PulseAudio"
"""Host of the sources of a sound server; PipeWire answers as PulseAudio does."""
SERVER_CHANNELS = 8
"""Most channels that are recorded of a source of a sound server."""
SERVER_SECONDS = 5.0
"""Longest wait for the answer of a sound server."""
INSTALL_PORTAUDIO = (
    "PortAudio is missing; install it (Debian and Ubuntu: apt install libportaudio2; "
    "Fedora: dnf install portaudio; macOS: brew install portaudio)"
)
_CARD = re.compile(r" ?\(hw:\d+,\d+\)$")
"""ALSA's number of a card, which changes when it is plugged in again."""
_DEVICE_UNAVAILABLE = -9985
"""A PaErrorCode of portaudio.h."""


class CaptureError(Exception):
    """Recording is not possible; one sentence says why and what to do."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


def send(kind: bytes, body: bytes) -> None:
    """Write one message."""
    sys.stdout.buffer.write(HEADER.pack(kind, len(body)) + body)
    sys.stdout.buffer.flush()


def send_json(kind: bytes, value: object) -> None:
    """Write one message with a JSON body."""
    send(kind, json.dumps(value).encode())


def _load_portaudio() -> Any:
    """Import sounddevice, which loads PortAudio."""
    try:
        import sounddevice
    except OSError:
        raise CaptureError(INSTALL_PORTAUDIO, permanent=True) from None
    except Exception as error:
        raise CaptureError(f"PortAudio cannot start: {error}") from None
    return sounddevice


def input_devices(sd: Any, *, rates: bool = False) -> list[dict[str, Any]]:
    """Return the input devices: index, name, host, channels, rate, default.

    With `rates` the sample rates that each supports are added, which opens them all.
    """
    default = sd.default.device[0]
    hosts = sd.query_hostapis()
    devices = [
        {
            "index": device["index"],
            "name": device["name"],
            "host": hosts[device["hostapi"]]["name"],
            "channels": device["max_input_channels"],
            "rate": round(device["default_samplerate"]),
            "default": device["index"] == default,
        }
        for device in sd.query_devices()
        if device["max_input_channels"] > 0
    ]
    for device in devices if rates else ():
        device["rates"] = []
        for rate in RATES:
            with contextlib.suppress(sd.PortAudioError):
                sd.check_input_settings(device=device["index"], samplerate=rate, channels=1)
                device["rates"].append(rate)
    return devices


def server_sources(devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the sources of PulseAudio or PipeWire, as `pactl list sources` shows them.

    They have the keys of `input_devices`, `description`, and `monitor`: whether the source is what
    an output plays. There are none if no server runs, or none of the `devices` leads to it.
    """
    if not any(device["name"] in MONITOR for device in devices):
        return []
    try:
        import pulsectl
    except (ImportError, OSError):  # the library of PulseAudio is missing
        return []

    def connect() -> None:
        with contextlib.suppress(Exception):  # the attribute `connected` tells
            pulse.connect()

    try:
        with pulsectl.Pulse("genre-stream", connect=False) as pulse:
            # With a timeout pulsectl waits for all of it, however soon the server answers.
            connecting = threading.Thread(target=connect, daemon=True)
            connecting.start()
            connecting.join(SERVER_SECONDS)
            if not pulse.connected:
                return []
            default = pulse.server_info().default_source_name
            return [
                {
                    "index": None,
                    "name": source.name,
                    "description": source.description,
                    "host": SOUND_SERVER,
                    "channels": source.channel_count,
                    "rate": source.sample_spec.rate,
                    "default": source.name == default,
                    "monitor": source.monitor_of_sink_name is not None,
                }
                for source in pulse.source_list()
            ]
    except pulsectl.PulseError:
        return []


def choose(devices: list[dict[str, Any]], wanted: str | int | None) -> dict[str, Any]:
    """Return the one device with an index, a name or a part of it; None: the default device.

    `devices` are those of `input_devices` and `server_sources`. A description is as good as a name.

    `CaptureError` is raised if there is none, or more than one.
    """
    if not devices:
        raise CaptureError(no_devices())
    own = [device for device in devices if device["host"] != SOUND_SERVER]
    if wanted is None:
        return next((device for device in own if device["default"]), devices[0])
    if isinstance(wanted, int):
        found = [device for device in devices if device["index"] == wanted]
    else:
        found = _find_by_name(devices, wanted)
    # Windows lists each device once for each of its sound systems.
    hosts = [device["host"] for device in own if device["default"]]
    found = [device for device in found if device["host"] in hosts] or found
    names = ", ".join(map(_shown, found or devices))
    if not found:
        # PortAudio does not list a device that it cannot open.
        problem = f"no input device is '{wanted}', or another program uses it"
        raise CaptureError(f"{problem}; there are: {names}")
    if len({device["name"] for device in found}) > 1:
        raise CaptureError(f"several input devices match '{wanted}': {names}; name one of them")
    return found[0]


def _shown(device: dict[str, Any]) -> str:
    return (
        f"'{device['name']}'"
        if device["index"] is None
        else f"{device['index']} '{device['name']}'"
    )


def _find_by_name(devices: list[dict[str, Any]], wanted: str) -> list[dict[str, Any]]:
    """Return the devices with this name, else with it on another card, else with it as a part."""
    card, part = _CARD.sub("", wanted), wanted.casefold()
    candidates = (
        [device for device in devices if device["name"] == wanted],
        [device for device in devices if device.get("description") == wanted],
        [device for device in devices if _CARD.sub("", device["name"]) == card],
        _preferred([device for device in devices if part in _searched(device)]),
    )
    return next(filter(None, candidates), [])


def _searched(device: dict[str, Any]) -> str:
    return f"{device['name']}\n{device.get('description', '')}".casefold()


def _preferred(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out monitors where there are inputs, and cards that a sound server holds."""
    found = [device for device in found if not device.get("monitor")] or found
    if any(device["host"] == SOUND_SERVER for device in found):
        return [device for device in found if not _CARD.search(device["name"])]
    return found


def no_devices() -> str:
    """Return a sentence that says why there are no input devices, as far as is known."""
    nodes = list(Path("/dev/snd").glob("pcm*c"))
    if nodes and not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return (
            "no permission to use the sound devices; add the user to the group that owns them: "
            f"usermod -aG {nodes[0].group()} USER"
        )
    return "no microphone was found; plug one in, or start the sound server"


def choose_loopback(devices: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the device that records what the computer plays; CaptureError if there is none."""
    if sys.platform.startswith("linux"):
        found = [device for name in MONITOR for device in devices if device["name"] == name]
        advice = (
            "loopback needs PulseAudio or PipeWire; start it, and let ALSA reach it "
            "(Debian and Ubuntu: apt install libasound2-plugins, or pipewire-alsa)"
        )
    else:
        found = [device for device in devices if "[loopback]" in device["name"].casefold()]
        advice = (
            "this PortAudio offers no loopback; install a loopback device (macOS: BlackHole, "
            "Windows: VB-CABLE, or switch on 'Stereo Mix') and name it: --device NAME"
        )
    if not found:
        raise CaptureError(advice)
    return found[0]


class Recording:
    """The queue of blocks between PortAudio's callback and standard output."""

    def __init__(self, channels: int) -> None:
        self.source_removed = False
        """Set when the source that is recorded is gone; the sound server records another one."""
        self._frame_bytes = 4 * channels
        self._blocks: deque[tuple[float, bytes]] = deque()
        self._ready = threading.Event()
        self._dropped = 0
        self._overruns = 0

    def callback(self, data: Any, _frames: int, _time: Any, status: Any) -> None:
        """Queue a copy of the samples; PortAudio calls this on its real-time thread."""
        if status.input_overflow:
            self._overruns += 1
        if len(self._blocks) >= QUEUE_BLOCKS:
            self._dropped += len(self._blocks.popleft()[1]) // self._frame_bytes
        self._blocks.append((time.monotonic(), bytes(data)))
        self._ready.set()

    def write(self, stream: Any) -> NoReturn:
        """Write blocks while `stream` is recording; raise `CaptureError` when it has stopped."""
        while stream.active and not self.source_removed:
            self._ready.wait(BLOCK_SECONDS)
            self._ready.clear()
            while self._blocks:
                end_time, samples = self._blocks.popleft()
                dropped, self._dropped = self._dropped, 0
                send(b"A", AUDIO.pack(end_time, dropped, self._overruns) + samples)
        reason = "was removed" if self.source_removed else "has stopped"
        raise CaptureError(f"the device {reason}")


def record(sd: Any, device: str | int | None, loopback: bool) -> NoReturn:
    """Record at the device's own rate, with two channels if it has them, until it fails.

    Of a sound server's source all channels are recorded, up to `SERVER_CHANNELS`.
    """
    devices = input_devices(sd)
    server = [] if loopback or device is None else server_sources(devices)
    chosen = choose_loopback(devices) if loopback else choose([*devices, *server], device)
    opened = chosen["index"]
    if loopback and chosen["name"] in MONITOR:
        variable, value = MONITOR[chosen["name"]]
        os.environ.setdefault(variable, value)
    elif chosen["host"] == SOUND_SERVER:
        opened = _select_source(devices, chosen["name"])
    # ALSA names dozens of channels for devices that have two; a sound server names the real ones.
    most = SERVER_CHANNELS if chosen["host"] == SOUND_SERVER else 2
    rate, channels = chosen["rate"], min(chosen["channels"], most)
    recording = Recording(channels)
    try:
        stream = sd.RawInputStream(
            device=opened,
            samplerate=rate,
            channels=channels,
            dtype="float32",
            blocksize=round(rate * BLOCK_SECONDS),
            callback=recording.callback,
        )
        stream.start()
    except sd.PortAudioError as error:
        raise CaptureError(_open_error(error, chosen["name"])) from None
    if chosen["host"] == SOUND_SERVER:
        watch = threading.Thread(target=_watch, args=(chosen["name"], recording), daemon=True)
        watch.start()
    send_json(b"O", {"device": chosen["name"], "sample_rate": rate, "channels": channels})
    recording.write(stream)


def _select_source(devices: list[dict[str, Any]], source: str) -> int:
    """Make the sound server's device record one source; return the index of that device."""
    found = {device["name"]: device["index"] for device in devices if device["name"] in MONITOR}
    if "pulse" in found:
        os.environ["PULSE_SOURCE"] = source
        return int(found["pulse"])
    sink = source.removesuffix(".monitor")
    monitor = " stream.capture.sink=true" if sink != source else ""
    os.environ["PIPEWIRE_ALSA"] = f'{{ target.object="{sink}"{monitor} }}'
    return int(found["pipewire"])


def _watch(source: str, recording: Recording) -> None:
    """Wait until the sound server has no such source, and let the recording know."""
    import pulsectl

    def stop(_event: object) -> NoReturn:
        raise pulsectl.PulseLoopStop

    # If the server itself ends, so does the recording.
    with contextlib.suppress(pulsectl.PulseError), pulsectl.Pulse("genre-stream") as pulse:
        pulse.event_mask_set("source")
        pulse.event_callback_set(stop)
        while source in [known.name for known in pulse.source_list()]:
            pulse.event_listen()
        recording.source_removed = True


def _open_error(error: Exception, name: str) -> str:
    if len(error.args) > 1 and error.args[1] == _DEVICE_UNAVAILABLE:
        return (
            f"'{name}' cannot be opened: another program uses it, or this user may not; "
            "close that program or choose the sound server's device"
        )
    host = error.args[2][2] if len(error.args) > 2 else ""
    return f"'{name}' cannot be opened: {host or error}"


def _exit_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> NoReturn:
    """Run the request; exit without cleaning up, since closing a failed device may block."""
    request = json.loads(sys.argv[1])
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    status = 0
    with contextlib.suppress(BrokenPipeError):
        try:
            sd = _load_portaudio()
            if request.pop("list", False):
                devices = input_devices(sd, **request)
                send_json(b"D", [*devices, *server_sources(devices)])
            else:
                record(sd, **request)
        except Exception as error:
            status = 1
            is_defect = not isinstance(error, CaptureError)
            message = f"{type(error).__name__}: {error}" if is_defect else str(error)
            send_json(b"E", {"message": message, "permanent": getattr(error, "permanent", False)})
    os._exit(status)


if __name__ == "__main__":
    main()
