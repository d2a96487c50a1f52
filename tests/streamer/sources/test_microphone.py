"""Microphones and loopback through PortAudio, ALSA and a real PulseAudio."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.daemon import PATIENT, daemon
from support.listening import Log, read_one, running
from support.sound import SoundServer, sound_server
from support.waiting import LONGEST_WAIT_SECONDS, wait_until

from streamer.core.decision import Decision
from streamer.core.events import SourceState
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline
from streamer.engine.listener import Listener
from streamer.sources import (
    AudioBlock,
    Source,
    SourceError,
    capture,
    list_devices,
    make_device,
    make_source,
)
from streamer.sources.block_queue import BlockQueue
from streamer.sources.microphone import MicrophoneSource
from streamer.system.backoff import Backoff

CONNECTING, LIVE = SourceState.CONNECTING, SourceState.LIVE
STALLED, RECONNECTING = SourceState.STALLED, SourceState.RECONNECTING


def listener(source: Source, classifier: Classifier, log: Log) -> Listener:
    return Listener(source, lambda: Pipeline(classifier), log, backoff=Backoff(0.2, 1.0))


def tone(frequency: int) -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"sine=frequency={frequency}:sample_rate=44100,volume=4")


def open_device(source: Source) -> AudioBlock:
    """Open a device and return its first block; open it again, as a listener does, if it fails.

    PortAudio gives up when a busy machine does not start a device within a second or two.
    """
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while True:
        source.open()
        try:
            return read_one(source)
        except SourceError as error:
            source.close()
            if error.permanent or time.monotonic() > deadline:
                raise


def recorded_pitch(source: Source) -> float:
    """Return the strongest frequency of the next loud second, in Hz."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < 44100:
        assert time.monotonic() < deadline, "nothing loud was recorded"
        block = read_one(source)
        assert block.sample_rate == 44100
        loud = np.abs(block.samples).max() > 0.05
        pieces = [*pieces, block.samples[:, 0]] if loud else []
    samples = np.concatenate(pieces)[:44100]
    return float(np.abs(np.fft.rfft(samples)).argmax())


def test_the_microphone_records_what_is_played_into_it(sound: SoundServer) -> None:
    sound.add_sink("speaker")
    with sound.playing(*tone(440), sink="speaker"):
        source = make_device("mic")
        open_device(source)
        assert recorded_pitch(source) == pytest.approx(440, abs=2)
        block = read_one(source)
        source.close()
    assert (source.name, source.kind, source.live) == ("mic", "microphone", True)
    assert block.samples.shape[1] == 2
    assert 0 <= time.monotonic() - block.end_time < LONGEST_WAIT_SECONDS
    assert not block.discontinuity


def test_loopback_and_microphone_record_different_devices_at_once(
    sound: SoundServer,
) -> None:
    sound.add_sink("room")
    sound.add_sink("speaker")
    sound.control("set-default-source", "room.monitor")
    sound.control("set-default-sink", "speaker")
    with (
        sound.playing(*tone(330), sink="room"),
        sound.playing(*tone(880), sink="speaker"),
    ):
        microphone, loopback = make_device("mic"), make_device("loopback")
        open_device(microphone)
        open_device(loopback)
        assert recorded_pitch(loopback) == pytest.approx(880, abs=2)
        assert recorded_pitch(microphone) == pytest.approx(330, abs=2)
        microphone.close()
        loopback.close()
    assert loopback.kind == "loopback"


def test_a_tone_played_into_the_microphone_is_classified(
    sound: SoundServer, classifier: Classifier
) -> None:
    def has_decided(genre: str) -> bool:
        events = (published.event for published in log.pipeline_events)
        return any(isinstance(event, Decision) and event.genre == genre for event in events)

    sound.add_sink("speaker")
    log = Log()
    with running(listener(make_device("mic"), classifier, log)):
        log.wait_for_states(LIVE)
        with sound.playing(*tone(100), sink="speaker"):
            log.wait(lambda: has_decided("low"), "the genre of low sounds")
        with sound.playing(*tone(9000), sink="speaker"):
            log.wait(lambda: has_decided("high"), "the genre of high sounds")


def test_a_device_that_is_unplugged_and_returns_is_live_again(
    sound: SoundServer, classifier: Classifier, demo_clip: Path
) -> None:
    module = sound.add_sink("speaker")
    log, other = Log(), Log()
    clip = make_source(f"clip={demo_clip}", loop=True)
    with (
        running(listener(make_device("mic"), classifier, log)) as running_listener,
        running(listener(clip, classifier, other)) as unaffected,
    ):
        log.wait_for_states(LIVE)
        other.wait_for_states(LIVE)
        sound.remove(module)
        log.wait_for_states(LIVE, STALLED, RECONNECTING)
        before = len(other.pipeline_events)
        other.wait(lambda: len(other.pipeline_events) > before + 2, "decisions of the other source")
        sound.add_sink("speaker")
        log.wait_for_states(LIVE, STALLED, RECONNECTING, LIVE)
        with sound.playing(*tone(100), sink="speaker"):
            before = len(log.pipeline_events)
            log.wait(lambda: len(log.pipeline_events) > before + 2, "decisions after the return")
        assert running_listener.reconnects >= 1
        assert running_listener.crashes == 0
        assert (unaffected.reconnects, unaffected.dropped) == (0, 0)
    assert other.states == [CONNECTING, LIVE, SourceState.ENDED]


def test_a_device_that_stops_does_not_affect_another_one(
    sound: SoundServer, classifier: Classifier
) -> None:
    sound.add_sink("kept")
    sound.add_sink("dead")
    sound.control("set-default-source", "dead.monitor")
    sound.control("set-default-sink", "kept")
    log, other = Log(), Log()
    with (
        running(listener(make_device("mic"), classifier, log)) as running_listener,
        running(listener(make_device("loopback"), classifier, other)) as unaffected,
    ):
        log.wait_for_states(LIVE)
        other.wait_for_states(LIVE)
        sound.control("suspend-sink", "dead", "1")
        log.wait_for_states(LIVE, STALLED, RECONNECTING)
        before = len(other.pipeline_events)
        other.wait(
            lambda: len(other.pipeline_events) > before + 2, "decisions of the other recording"
        )
        sound.control("suspend-sink", "dead", "0")
        log.wait_for_states(LIVE, STALLED, RECONNECTING, LIVE)
        assert running_listener.reconnects >= 1
        assert (unaffected.reconnects, unaffected.dropped) == (0, 0)
    assert other.states == [CONNECTING, LIVE, SourceState.ENDED]


def test_a_driver_that_hangs_is_stalled_until_it_works_again(
    sound: SoundServer, classifier: Classifier
) -> None:
    sound.add_sink("speaker")
    log = Log()
    with running(listener(MicrophoneSource(None, name="mic"), classifier, log)):
        log.wait_for_states(LIVE)
        sound.freeze()
        log.wait_for_states(LIVE, STALLED)
        sound.thaw()
        log.wait_for_states(LIVE, STALLED, RECONNECTING, LIVE)


class StubDevice(MicrophoneSource):
    """A device that delivers blocks on request and lets the test set the clock."""

    def __init__(self) -> None:
        super().__init__(None, name="mic", clock=lambda: self.now)
        self.now = 1000.0
        self._stub_queue: BlockQueue | None = None

    def produce(self, queue: BlockQueue) -> None:
        self._stub_queue = queue
        queue.blocking = False
        queue.stopped.wait(LONGEST_WAIT_SECONDS)

    def deliver(self) -> None:
        wait_until(lambda: self._stub_queue is not None, "the producing thread")
        assert self._stub_queue is not None
        self._stub_queue.put(AudioBlock(np.zeros((100, 1), np.float32), 1000, self.now))


def stalls_after(device: StubDevice, seconds: float) -> bool:
    """Tell whether a device stalls after this time without a block, but not a moment before."""
    device.now += seconds
    assert device.read(0.0) is None
    device.now += 0.1
    with pytest.raises(SourceError, match="the device delivers no audio") as caught:
        device.read(0.0)
    return caught.value.stalled and not caught.value.permanent


def test_a_device_without_a_block_stalls_after_three_seconds() -> None:
    device = StubDevice()
    device.open()
    device.deliver()
    read_one(device)
    assert stalls_after(device, 3.0)
    device.close()


def test_a_device_has_fifteen_seconds_to_start() -> None:
    device = StubDevice()
    device.open()
    assert stalls_after(device, 15.0)
    device.close()


def test_a_recording_program_that_is_killed_is_started_again(
    sound: SoundServer, classifier: Classifier
) -> None:
    sound.add_sink("speaker")
    log = Log()
    with running(listener(make_device("mic"), classifier, log)):
        log.wait_for_states(LIVE)
        (recorder,) = recorders_of(os.getpid())
        os.kill(recorder, signal.SIGKILL)
        log.wait_for_states(LIVE, STALLED, RECONNECTING, LIVE)


def test_the_recording_program_ends_when_the_daemon_is_killed(sound: SoundServer) -> None:
    sound.add_sink("speaker")
    program = (
        "from streamer.sources import SourceError, make_device\n"
        "source = make_device('mic')\n"
        "block = None\n"
        "source.open()\n"
        "while block is None:\n"
        "    try: block = source.read(1.0)\n"
        "    except SourceError: source.close(); source.open()\n"
        "print(flush=True)\n"
        "while True: source.read(1.0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        (recorder,) = recorders_of(daemon.pid)
        daemon.kill()
    wait_until(lambda: not is_running(recorder), "the end of the recording program")


def test_opening_and_closing_leaves_no_recording_program(sound: SoundServer) -> None:
    sound.add_sink("speaker")
    source = make_device("mic")
    for pause in (0.0, 0.0, 0.05, 0.3, 1.0):
        source.open()
        time.sleep(pause)
        source.close()
    wait_until(lambda: not recorders_of(os.getpid()), "the end of the recording programs")


def recorders_of(parent_id: int) -> list[int]:
    """Return the process ids of the recording programs that a process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == parent_id and "capture.py" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


def is_running(process_id: int) -> bool:
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_the_device_table_has_the_rates_and_marks_the_default(
    sound: SoundServer,
) -> None:
    sound.add_sink("speaker")
    table = list_devices().splitlines()
    assert table[0].split() == ["index", "name", "host", "channels", "rate", "also", "takes"]
    marked = [line for line in table[1:] if line.startswith("*") and "ALSA" in line]
    assert len(marked) == 1
    assert "default" in marked[0]
    assert "44100 Hz" in marked[0]
    assert "8000 16000 22050 48000 96000 192000" in marked[0]


def test_a_device_is_found_by_index_name_or_part_of_a_name(
    sound: SoundServer,
) -> None:
    sound.add_sink("speaker")
    index = next(line.split()[0] for line in list_devices().splitlines() if "pulse" in line)
    for text in (index, "pulse", "PUL"):
        source = make_device(text)
        assert source.name == "pulse"
        open_device(source)
        source.close()
    assert make_device(f"desk={index}").name == "desk"


def test_the_error_of_an_unknown_device_lists_the_known_ones(sound: SoundServer) -> None:
    sound.add_sink("speaker")
    for text in ("Blue Yeti", "99"):
        with pytest.raises(
            SourceError,
            match=f"no input device is '{text}', or another program uses it; there are: ",
        ) as caught:
            make_device(text)
        assert "'pulse'" in str(caught.value)
        assert caught.value.permanent


@pytest.mark.parametrize("text", ["mic", "loopback", "desk=pul"])
def test_a_device_that_is_waited_for_is_live_when_it_comes(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, classifier: Classifier
) -> None:
    if Path("/dev/snd").exists():
        pytest.skip("this machine has sound devices of its own")
    for name in ("HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    log = Log()
    with running(listener(make_device(text, wait=True), classifier, log)) as waiting:
        log.wait_for_states(CONNECTING, RECONNECTING)
        with sound_server(monkeypatch) as server:
            server.add_sink("speaker")
            log.wait_for_states(RECONNECTING, LIVE)
        assert waiting.crashes == 0
    assert waiting.source.name == ("desk" if "desk" in text else text)


def test_a_device_that_another_program_uses_is_told_and_waited_for(
    sound: SoundServer, model: Path, tmp_path: Path
) -> None:
    sound.add_sink("speaker")
    device = sound.add_exclusive_device("exclusive")
    command = (*device.UNPRIVILEGED, *PATIENT)
    arguments = ("--device", "exclusive", "--model", model)
    sentence = "no input device is 'exclusive', or another program uses it; there are: 0 'pulse'"
    options = {"command": command, "variables": sound.environment}
    with daemon(tmp_path, *arguments, **options) as refused:
        assert refused.wait() == 2
        assert sentence in refused.log
    with daemon(tmp_path, *arguments, "--wait", **options) as waiting:
        waiting.wait_for_line(lambda line: f"exclusive: reconnecting ({sentence}" in line)
        device.release()
        waiting.wait_for_line(lambda line: "exclusive: live" in line)
        waiting.signal(signal.SIGTERM)
        assert waiting.wait() == 0


def test_a_suspended_source_is_stalled_until_it_resumes(
    sound: SoundServer, classifier: Classifier
) -> None:
    sound.add_sink("speaker")
    log = Log()
    with running(listener(make_device("speaker.monitor"), classifier, log)):
        log.wait_for_states(LIVE)
        sound.control("suspend-sink", "speaker", "1")
        log.wait_for_states(LIVE, STALLED)
        sound.control("suspend-sink", "speaker", "0")
        log.wait_for_states(STALLED, LIVE)


def test_without_portaudio_no_device_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SourceError, match="PortAudio is missing") as caught:
        make_device("mic", wait=True)
    assert caught.value.permanent


def test_a_part_of_several_names_is_refused(sound: SoundServer) -> None:
    sound.add_sink("speaker")
    with pytest.raises(SourceError, match="several input devices match 'ul'") as caught:
        make_device("ul")
    assert "'pulse'" in str(caught.value)
    assert "'default'" in str(caught.value)


HALL = "sink_properties=device.description=Hall"


def test_the_device_table_has_the_sources_that_pactl_lists(sound: SoundServer) -> None:
    sound.add_sink("speaker")
    sound.add_sink("hall", HALL, "channels=6", "rate=48000")
    sound.control("set-default-source", "hall.monitor")
    names = [line.split("\t")[1] for line in sound.control("list", "short", "sources").splitlines()]
    lines = list_devices().splitlines()
    start = next(number for number, line in enumerate(lines) if "PulseAudio or PipeWire" in line)
    rows = lines[start + 1 : start + 1 + len(names)]
    assert names == ["speaker.monitor", "hall.monitor"]
    assert [row.removeprefix("*").split()[0] for row in rows] == names
    assert re.fullmatch(r"\*  hall\.monitor +Monitor of Hall +6 +48000 Hz", rows[1])
    assert rows[0].startswith(" ")


def test_the_sources_of_a_server_are_there_as_soon_as_it_answers(
    sound: SoundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound.add_sink("hall")
    monkeypatch.setattr(capture, "SERVER_SECONDS", 10 * LONGEST_WAIT_SECONDS)
    found: list[dict[str, Any]] = []
    look = threading.Thread(
        target=lambda: found.extend(capture.server_sources([device(0, "pulse")])), daemon=True
    )
    look.start()
    look.join(LONGEST_WAIT_SECONDS)
    assert [source["name"] for source in found] == ["hall.monitor"]


def test_a_server_that_hangs_has_no_sources(
    sound: SoundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound.add_sink("hall")
    monkeypatch.setattr(capture, "SERVER_SECONDS", 0.1)
    sound.freeze()
    assert capture.server_sources([device(0, "pulse")]) == []
    sound.thaw()


@pytest.mark.parametrize(
    "text", ["hall.monitor", "desk=hall.monitor", "Monitor of Hall", "desk=of hall", "HALL.mon"]
)
def test_a_source_of_the_sound_server_is_recorded_by_its_name(
    sound: SoundServer, text: str
) -> None:
    sound.add_sink("room")
    sound.add_sink("hall", HALL, "channels=1")
    sound.control("set-default-source", "room.monitor")
    with sound.playing(*tone(330), sink="room"), sound.playing(*tone(880), sink="hall"):
        source = make_device(text)
        open_device(source)
        assert recorded_pitch(source) == pytest.approx(880, abs=2)
        assert read_one(source).samples.shape[1] == 1
        source.close()
    assert source.name == ("desk" if "=" in text else "Monitor of Hall")


def test_sound_in_one_channel_of_a_surround_source_is_recorded(sound: SoundServer) -> None:
    sound.add_sink("cinema", "channels=6")
    centre = ("-af", "pan=5.1|FC=c0")
    with sound.playing(*tone(330), *centre, sink="cinema"):
        source = make_device("cinema.monitor")
        open_device(source)
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        peaks = np.zeros(6)
        while not peaks.any() and time.monotonic() < deadline:
            peaks = np.abs(read_one(source).samples).max(axis=0)
        source.close()
    assert np.count_nonzero(peaks > 0.05 * peaks.max()) == 1


def test_a_source_of_the_sound_server_is_found_again_by_its_name(
    sound: SoundServer, classifier: Classifier
) -> None:
    sound.add_sink("room")
    module = sound.add_sink("hall", HALL)
    log = Log()
    with running(listener(make_device("hall.monitor"), classifier, log)):
        log.wait_for_states(LIVE)
        sound.remove(module)
        log.wait_for_detail("the device was removed")
        log.wait_for_detail(
            "no input device is 'hall.monitor', or another program uses it; there are: "
        )
        sound.add_sink("hall", HALL)
        log.wait_for_states(LIVE, RECONNECTING, LIVE)


def test_the_error_of_an_unknown_device_lists_the_sources_of_the_server(
    sound: SoundServer,
) -> None:
    sound.add_sink("hall", HALL)
    with pytest.raises(
        SourceError, match="no input device is 'Blue Yeti', or another program uses it; there are: "
    ) as caught:
        make_device("Blue Yeti")
    assert str(caught.value).endswith(", 'hall.monitor'")


def device(index: int, name: str, host: str = "ALSA", *, default: bool = False) -> dict[str, Any]:
    return {"index": index, "name": name, "host": host, "channels": 2, "default": default}


def test_a_device_is_found_when_its_card_has_a_new_number() -> None:
    before = device(3, "Blue Yeti: USB Audio (hw:1,0)")
    after = [
        device(1, "HDA Intel (hw:0,0)", default=True),
        device(7, "Blue Yeti: USB Audio (hw:2,0)"),
    ]
    assert capture.choose(after, before["name"]) is after[1]
    both = [*after, before]
    assert capture.choose(both, before["name"]) is before


def server_source(name: str, description: str, *, monitor: bool = False) -> dict[str, Any]:
    own = {"index": None, "description": description, "monitor": monitor}
    return device(0, name, capture.SOUND_SERVER) | own


def test_an_input_of_the_sound_server_goes_before_its_card_and_its_monitor() -> None:
    devices = [
        device(0, "Blue Yeti: USB Audio (hw:1,0)"),
        device(1, "pulse", default=True),
        server_source("alsa_output.yeti.monitor", "Monitor of Blue Yeti", monitor=True),
        server_source("alsa_input.yeti", "Blue Yeti Analog Stereo"),
    ]
    assert capture.choose(devices, "yeti") is devices[3]
    assert capture.choose(devices, "monitor of blue") is devices[2]
    assert capture.choose(devices, devices[0]["name"]) is devices[0]
    assert capture.choose(devices[:2], "yeti") is devices[0]


def test_a_device_of_several_sound_systems_is_taken_from_the_default_one() -> None:
    devices = [
        device(0, "Microphone (Blue Yet", "MME"),
        device(1, "Microphone (Blue Yeti)", "Windows WASAPI", default=True),
    ]
    assert capture.choose(devices, "blue") is devices[1]


@pytest.mark.parametrize("text", ["mic", "loopback"])
def test_the_error_without_a_sound_server_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PULSE_SERVER", f"unix:{tmp_path}/nobody")
    if Path("/dev/snd").exists():
        pytest.skip("this machine has sound devices of its own")
    with pytest.raises(SourceError) as caught:
        make_device(text)
    assert caught.value.permanent
    wanted = "start the sound server" if text == "mic" else "loopback needs PulseAudio or PipeWire"
    assert wanted in str(caught.value)


def test_the_error_without_portaudio_names_its_package(tmp_path: Path) -> None:
    library = next(Path("/usr/lib").glob("*/libportaudio.so.2.*"), None)
    if library is None or shutil.which("bwrap") is None:
        pytest.skip("needs bwrap and libportaudio2; see .ci/apt-packages")
    # The library is hidden from this one program only.
    hide = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", "/dev/null", str(library)]
    program = "from streamer.sources import list_devices; list_devices()"
    done = subprocess.run(
        [*hide, sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    if "bwrap" in done.stderr:
        pytest.skip("bwrap may not do its work here")
    assert "SourceError: PortAudio is missing; install it" in done.stderr
    assert "apt install libportaudio2" in done.stderr


def test_blocks_that_are_not_read_are_dropped_oldest_first_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording = capture.Recording(channels=2)
    for number in range(capture.QUEUE_BLOCKS + 7):
        recording.callback(
            struct.pack("<f", number) * 20, 10, None, SimpleNamespace(input_overflow=number == 3)
        )
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=written))
    active = iter([True, False])
    stream = type("Stream", (), {"active": property(lambda _: next(active))})()
    with pytest.raises(capture.CaptureError, match="has stopped"):
        recording.write(stream)
    kind, length = capture.HEADER.unpack_from(written.getvalue())
    _, dropped, overruns = capture.AUDIO.unpack_from(written.getvalue(), capture.HEADER.size)
    assert (kind, length) == (b"A", capture.AUDIO.size + 80)
    assert (dropped, overruns) == (7 * 10, 1)
    size = capture.HEADER.size + length
    assert len(written.getvalue()) == capture.QUEUE_BLOCKS * size
