import logging
import re
from pathlib import Path

import pytest

from streamer.terminal import Terminal, prediction_line, state_line


def prediction(source="radio", **fields):
    return {
        "type": "prediction",
        "source": source,
        "state": "music",
        "genre": "jazz",
        "confidence": 0.83,
        "level_dbfs": -21.4,
        "position": 95.0,
    } | fields


PATIENCE_SECONDS = 90.0


@pytest.fixture
def terminal(tmp_path):
    """A terminal that keeps all it is sent, in a file."""
    with (tmp_path / "terminal").open("w+") as stream:
        yield Terminal(stream)


def screen(terminal: Terminal) -> list[str]:
    """What a terminal shows: a screen that knows the two codes in use."""
    assert terminal.drain(PATIENCE_SECONDS)
    written = Path(f"/proc/self/fd/{terminal.fileno()}").read_bytes().decode()
    shown, *redrawn = re.split(r"\x1b\[(\d+)A\r\x1b\[J", written)
    lines = shown.split("\n")
    for up, text in zip(redrawn[::2], redrawn[1::2], strict=True):
        lines[-1 - int(up) :] = text.split("\n")
    return lines[:-1]


def test_each_source_keeps_one_live_line_and_log_lines_scroll_above(terminal):
    handler = logging.StreamHandler(terminal)
    log = logging.Logger("test")
    log.addHandler(handler)
    terminal.show(prediction("radio", position=1.0))
    terminal.show(prediction("hall", position=1.0))
    assert [line.split()[0] for line in screen(terminal)] == ["radio", "hall"]
    log.warning("the first word")
    terminal.show(prediction("radio", position=2.0, genre="blues"))
    log.warning("the second word")
    lines = screen(terminal)
    assert lines[:2] == ["the first word", "the second word"]
    assert "blues" in lines[2]
    assert lines[3].startswith("hall")
    assert len(lines) == 4


def test_a_lost_source_shows_why_until_it_is_heard_again(terminal):
    terminal.show(prediction())
    terminal.show(
        {"type": "source", "source": "radio", "state": "reconnecting", "detail": "refused"}
    )
    assert screen(terminal) == ["radio        reconnecting: refused"]
    terminal.show({"type": "source", "source": "radio", "state": "live", "detail": ""})
    terminal.show(prediction())
    assert "jazz" in screen(terminal)[0]
    terminal.forget("radio")
    assert screen(terminal) == []


def test_segments_do_not_disturb_the_live_lines(terminal):
    terminal.show({"type": "segment", "source": "radio"})
    assert screen(terminal) == []


def test_a_line_says_what_is_heard_how_surely_and_how_loud():
    assert prediction_line(prediction()) == (
        "radio         1:35  jazz        83 % ████████░░  -21 dBFS"
    )
    silence = prediction(state="silence", genre=None, confidence=1.0, level_dbfs=-90.0)
    assert "silence    100 %" in prediction_line(silence)
    assert state_line({"source": "a", "state": "ended", "detail": ""}) == "a            ended"
