import logging
import os
import pty
import re
import termios
from pathlib import Path

import pytest
from support.published import prediction, segment, source_state
from support.waiting import LONGEST_WAIT_SECONDS, wait_until

from streamer.core.colours import ansi
from streamer.sinks.terminal import DIM, Terminal, decision_line, status_line


def jazz(source="radio", **fields):
    """A decision for jazz."""
    defaults = {"genre": "jazz", "confidence": 0.83, "level_dbfs": -21.4, "position": 95.0}
    return prediction(1, source, **(defaults | fields))


@pytest.fixture
def terminal(tmp_path):
    """A terminal that is a file."""
    with (tmp_path / "terminal").open("w+") as stream:
        yield Terminal(stream)


def sent(terminal: Terminal) -> str:
    """All that was written to the terminal in a file."""
    assert terminal.drain(LONGEST_WAIT_SECONDS)
    return Path(f"/proc/self/fd/{terminal.fileno()}").read_bytes().decode()


def screen(written: str) -> list[str]:
    """The lines that a terminal shows after `written`; no other codes are interpreted."""
    shown, *redrawn = re.split(r"\x1b\[(\d+)A\r\x1b\[J", written)
    lines = shown.split("\n")
    for up, text in zip(redrawn[::2], redrawn[1::2], strict=True):
        lines[-1 - int(up) :] = text.split("\n")
    return lines[:-1]


def test_each_source_keeps_one_live_line_and_log_lines_scroll_above(terminal):
    handler = logging.StreamHandler(terminal)
    log = logging.Logger("test")
    log.addHandler(handler)
    terminal.publish(jazz("radio", position=1.0))
    terminal.publish(jazz("hall", position=1.0))
    assert [line.split()[0] for line in screen(sent(terminal))] == ["radio", "hall"]
    log.warning("the first line")
    terminal.publish(jazz("radio", position=2.0, genre="blues"))
    log.warning("the second line")
    lines = screen(sent(terminal))
    assert lines[:2] == ["the first line", "the second line"]
    assert "blues" in lines[2]
    assert lines[3].startswith("hall")
    assert len(lines) == 4


def test_a_broken_source_shows_the_reason_until_the_next_decision(terminal):
    terminal.publish(jazz())
    terminal.publish(source_state("reconnecting", detail="refused"))
    assert screen(sent(terminal)) == ["radio        reconnecting: refused"]
    terminal.publish(source_state("live"))
    terminal.publish(jazz())
    assert "jazz" in screen(sent(terminal))[0]
    terminal.remove_source("radio")
    assert screen(sent(terminal)) == []


def test_a_line_has_the_colour_of_its_label(terminal):
    terminal.recolour({"jazz": "#92dadd"})
    terminal.publish(jazz())
    terminal.publish(source_state("live", "hall"))
    assert [line.partition("a")[0] for line in screen(sent(terminal))] == [
        f"{ansi('#92dadd')}r",
        f"{DIM}h",
    ]


def test_a_countdown_to_the_next_attempt_counts(terminal):
    terminal.publish(source_state("reconnecting", detail="refused", retry_seconds=3.0))
    (line,) = screen(sent(terminal))
    assert re.fullmatch(r"radio        reconnecting: refused; next attempt in [123] s", line)
    wait_until(lambda: screen(sent(terminal)) != [line], "another number of seconds")
    last = line[: -len("3 s")] + "0 s"
    wait_until(lambda: screen(sent(terminal)) == [last], "the last second")
    terminal.publish(source_state("live"))
    assert screen(sent(terminal)) == ["radio        live"]


def test_segments_do_not_change_the_live_lines(terminal):
    terminal.publish(segment(1))
    assert screen(sent(terminal)) == []


def test_the_last_line_counts_the_sources_that_do_not_fit():
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (6, 80))
    with os.fdopen(follower, "w") as stream:
        terminal = Terminal(stream)
        for source in range(8):
            terminal.publish(jazz(str(source)))
            assert terminal.drain(LONGEST_WAIT_SECONDS)
        terminal.remove_source("0")
        assert terminal.drain(LONGEST_WAIT_SECONDS)
        output = b""
        while output.count(b"more\r\n") < 4:
            output += os.read(leader, 65536)
    os.close(leader)
    written = output.decode().replace("\r\n", "\n")
    assert re.findall("… and . more\n", written) == [f"… and {n} more\n" for n in (2, 3, 4, 3)]
    assert max(map(int, re.findall(r"\x1b\[(\d+)A", written))) == 5
    assert [line.split()[0] for line in screen(written)] == ["1", "2", "3", "4", "…"]


def test_a_line_shows_label_confidence_and_level():
    assert decision_line("radio", jazz().event) == (
        "radio         1:35  jazz        83 % ████████░░  -21 dBFS"
    )
    silence = jazz(state="silence", genre=None, confidence=1.0, level_dbfs=-90.0)
    assert decision_line("radio", silence.event).split() == [
        "radio",
        "1:35",
        "silence",
        "-90",
        "dBFS",
    ]
    assert status_line("a", "ended", "") == "a            ended"


def test_an_uncertain_line_names_the_likeliest_label_without_a_percentage():
    shares = {"disco": 0.6, "rock": 0.4}
    event = jazz(state="uncertain", genre=None, confidence=0.6, probabilities=shares).event
    assert decision_line("radio", event) == (
        "radio         1:35  uncertain  maybe disco       -21 dBFS"
    )
    equal = {"disco": 0.5, "rock": 0.5}
    refilled = jazz(state="uncertain", genre=None, confidence=0.5, probabilities=equal)
    assert decision_line("radio", refilled.event).split()[2:] == ["uncertain", "-21", "dBFS"]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "the loudspeaker in the hall  1:35  jazz        83 % ████████░░  -21 dBFS"),
        (60, "the loudspeake…  1:35  jazz        83 % ████████░░  -21 dBFS"),
        (49, "the loudspeak…  1:35  jazz        83 % ████████░░"),
        (40, "the loudspeaker…  1:35  jazz        83 %"),
        (30, "the loudspea… jazz        83 %"),
        (19, "the loudspeak… jazz"),
        (7, "t… jazz"),
        (5, "jazz"),
        (3, "jaz"),
    ],
)
def test_the_label_stays_longest_on_a_narrow_terminal(width, line):
    shown = decision_line("the loudspeaker in the hall", jazz().event, width)
    assert shown == line
    assert len(shown) <= width


def test_a_narrow_terminal_shows_the_state_of_a_source_before_the_reason():
    assert status_line("radio", "reconnecting", "refused by the server", 40) == (
        "radio        reconnecting: refused by th"
    )
    assert status_line("the loudspeaker", "reconnecting", "refused", 19) == "the l… reconnecting"
    assert status_line("the loudspeaker", "reconnecting", "refused", 8) == "reconnec"


def test_a_dumb_terminal_gets_a_line_for_each_change_without_escape_sequences(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("TERM", "dumb")
    with (tmp_path / "terminal").open("w+") as stream:
        terminal = Terminal(stream)
        for position in (1.0, 2.0):
            terminal.publish(jazz(position=position))
        terminal.publish(jazz(position=3.0, genre="blues"))
        terminal.publish(source_state("ended"))
        terminal.remove_source("radio")
        written = sent(terminal)
    assert "\x1b" not in written
    assert [line.split()[:3] for line in written.splitlines()] == [
        ["radio", "0:01", "jazz"],
        ["radio", "0:03", "blues"],
        ["radio", "ended"],
    ]
