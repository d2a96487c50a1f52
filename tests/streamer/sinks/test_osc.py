from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_server import BlockingOSCUDPServer
from support.published import LABELS, prediction
from support.radio import free_port, need
from support.waiting import wait_until

from streamer.core.colours import colours
from streamer.sinks import osc
from streamer.sinks.osc import Osc

ROOT = "/genre-stream/radio_1"
MESSAGES_OF_A_DECISION = 6 + len(LABELS)
EXPECTED_TYPES = {
    f"{ROOT}/label": "s",
    f"{ROOT}/genre": "s",
    f"{ROOT}/state": "s",
    f"{ROOT}/confidence": "f",
    f"{ROOT}/level": "f",
    f"{ROOT}/colour": "fff",
    **{f"{ROOT}/probability/{label}": "f" for label in LABELS},
    f"{ROOT}/change": "ss",
}


class Receiver:
    """python-osc's own server, which notes what it gets."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, tuple[Any, ...]]] = []
        dispatcher = Dispatcher()
        dispatcher.set_default_handler(
            lambda address, *values: self.messages.append((address, values))
        )
        self.server = BlockingOSCUDPServer(("127.0.0.1", 0), dispatcher)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def target(self) -> tuple[str, int]:
        return "127.0.0.1", self.server.server_address[1]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.server.shutdown()
    running.server.server_close()


def send(targets: list[tuple[str, int]], *events: Any) -> Osc:
    """Send events and close the sink."""
    sink = Osc(targets, colours(LABELS))
    sink.start()
    for event in events:
        sink.publish(event)
    sink.close()
    return sink


def test_a_receiver_gets_every_address_and_value(receiver: Receiver) -> None:
    decision = prediction(1, "radio 1")
    silence = prediction(2, "radio 1", state="silence", genre=None, confidence=1.0)
    sink = send([receiver.target], decision, silence)
    number = 2 * (MESSAGES_OF_A_DECISION + 1)
    wait_until(lambda: len(receiver.messages) == number, "all messages")
    first = dict(receiver.messages[: number // 2])
    second = dict(receiver.messages[number // 2 :])
    assert set(first) == set(EXPECTED_TYPES)
    assert (first[f"{ROOT}/label"], first[f"{ROOT}/genre"]) == (("blues",), ("blues",))
    assert first[f"{ROOT}/state"] == ("music",)
    assert first[f"{ROOT}/change"] == ("blues", "")
    blue = [channel / 255 for channel in bytes.fromhex(colours(LABELS)["blues"][1:])]
    assert first[f"{ROOT}/colour"] == pytest.approx(blue)
    probabilities = decision.event.probabilities
    assert first[f"{ROOT}/confidence"] == pytest.approx((probabilities["blues"],))
    assert first[f"{ROOT}/probability/jazz"] == pytest.approx((probabilities["jazz"],))
    assert (second[f"{ROOT}/label"], second[f"{ROOT}/genre"]) == (("silence",), ("",))
    assert second[f"{ROOT}/colour"] == (0.0, 0.0, 0.0)
    assert second[f"{ROOT}/change"] == ("silence", "blues")
    assert sink.health().sent == number


def test_a_change_is_sent_only_when_the_label_changes(receiver: Receiver) -> None:
    send([receiver.target], *(prediction(seq, "radio 1") for seq in range(1, 5)))
    wait_until(lambda: len(receiver.messages) == 4 * MESSAGES_OF_A_DECISION + 1, "all messages")
    assert [address for address, _ in receiver.messages].count(f"{ROOT}/change") == 1


def test_oscdump_reads_every_address_and_type() -> None:
    need("oscdump")
    port = free_port()
    command = ["oscdump", "-L", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dump:
        assert dump.stdout
        sink = Osc([("127.0.0.1", port)], colours(LABELS))
        sink.start()
        stop = threading.Event()

        def repeat() -> None:
            # It does not say when it listens.
            while not stop.wait(0.05):
                sink.remove_source("radio 1")
                sink.publish(prediction(1, "radio 1"))

        sender = threading.Thread(target=repeat)
        sender.start()
        types: dict[str, str] = {}
        try:
            while set(types) != set(EXPECTED_TYPES):
                _, address, kinds, *_ = dump.stdout.readline().split()
                types[address] = kinds
        finally:
            stop.set()
            sender.join()
            dump.kill()
            sink.close()
    assert types == EXPECTED_TYPES


def test_a_target_that_cannot_be_found_does_not_keep_others_waiting(receiver: Receiver) -> None:
    sink = send([("no-such-host.invalid", 9), receiver.target], prediction(1, "radio 1"))
    wait_until(lambda: len(receiver.messages) == MESSAGES_OF_A_DECISION + 1, "all messages")
    wait_until(lambda: sink.health().reason, "the reason")
    assert sink.health().reason.startswith("no-such-host.invalid: ")
    assert sink.health().dropped == MESSAGES_OF_A_DECISION + 1


def test_what_waits_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(osc, "QUEUE_LIMIT", 2)
    sink = Osc([("127.0.0.1", 9)], {})
    for seq in range(5):
        sink.publish(prediction(seq))
    assert (sink.health().queue_depth, sink.health().dropped) == (2, 3)
