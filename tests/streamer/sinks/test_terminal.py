import logging
import os
import pty
import re
import termios
from pathlib import Path

import pytest

from streamer.sinks.terminal import Terminal, prediction_line, state_line


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


def sent(terminal: Terminal) -> str:
    """All that the terminal in a file was sent."""
    assert terminal.drain(PATIENCE_SECONDS)
    return Path(f"/proc/self/fd/{terminal.fileno()}").read_bytes().decode()


def screen(written: str) -> list[str]:
    """What a terminal shows that was sent `written`: it knows the two codes in use."""
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
    assert [line.split()[0] for line in screen(sent(terminal))] == ["radio", "hall"]
    log.warning("the first word")
    terminal.show(prediction("radio", position=2.0, genre="blues"))
    log.warning("the second word")
    lines = screen(sent(terminal))
    assert lines[:2] == ["the first word", "the second word"]
    assert "blues" in lines[2]
    assert lines[3].startswith("hall")
    assert len(lines) == 4


def test_a_lost_source_shows_why_until_it_is_heard_again(terminal):
    terminal.show(prediction())
    terminal.show(
        {"type": "source", "source": "radio", "state": "reconnecting", "detail": "refused"}
    )
    assert screen(sent(terminal)) == ["radio        reconnecting: refused"]
    terminal.show({"type": "source", "source": "radio", "state": "live", "detail": ""})
    terminal.show(prediction())
    assert "jazz" in screen(sent(terminal))[0]
    terminal.forget("radio")
    assert screen(sent(terminal)) == []


def test_segments_do_not_disturb_the_live_lines(terminal):
    terminal.show({"type": "segment", "source": "radio"})
    assert screen(sent(terminal)) == []


def test_of_more_sources_than_rows_the_last_line_says_how_many_more_there_are():
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (6, 80))
    with os.fdopen(follower, "w") as stream:
        terminal = Terminal(stream)
        for source in range(8):
            terminal.show(prediction(str(source)))
            assert terminal.drain(PATIENCE_SECONDS)
        terminal.forget("0")
        assert terminal.drain(PATIENCE_SECONDS)
        output = b""
        while output.count(b"more\r\n") < 4:
            output += os.read(leader, 65536)
    os.close(leader)
    written = output.decode().replace("\r\n", "\n")
    assert re.findall("… and . more\n", written) == [f"… and {n} more\n" for n in (2, 3, 4, 3)]
    assert max(map(int, re.findall(r"\x1b\[(\d+)A", written))) == 5
    assert [line.split()[0] for line in screen(written)] == ["1", "2", "3", "4", "…"]


def test_a_line_says_what_is_heard_how_surely_and_how_loud():
    assert prediction_line(prediction()) == (
        "radio         1:35  jazz        83 % ████████░░  -21 dBFS"
    )
    silence = prediction(state="silence", genre=None, confidence=1.0, level_dbfs=-90.0)
    assert "silence    100 %" in prediction_line(silence)
    assert state_line({"source": "a", "state": "ended", "detail": ""}) == "a            ended"
