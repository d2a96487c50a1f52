import io
import logging

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


def screen(written: str) -> list[str]:
    """What a terminal shows that was sent `written`: a screen that knows the two codes in use."""
    lines = [""]
    for part in written.replace("\x1b[J", "\x00").split("\x1b["):
        if lines != [""] or part is not written:
            up, letter, rest = part.partition("A")
            if letter and up.isdecimal():
                del lines[len(lines) - 1 - int(up) :]
                lines.append("")
                part = rest.replace("\r\x00", "")
        for character in part:
            if character == "\n":
                lines.append("")
            else:
                lines[-1] += character
    return lines[:-1]


def test_each_source_keeps_one_live_line_and_log_lines_scroll_above():
    stream = io.StringIO()
    terminal = Terminal(stream)
    handler = logging.StreamHandler(terminal)
    log = logging.Logger("test")
    log.addHandler(handler)
    terminal.show(prediction("radio", position=1.0))
    terminal.show(prediction("hall", position=1.0))
    log.warning("the first word")
    terminal.show(prediction("radio", position=2.0, genre="blues"))
    log.warning("the second word")
    lines = screen(stream.getvalue())
    assert lines[:2] == ["the first word", "the second word"]
    assert "blues" in lines[2]
    assert lines[3].startswith("hall")
    assert len(lines) == 4


def test_a_lost_source_shows_why_until_it_is_heard_again():
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.show(prediction())
    terminal.show(
        {"type": "source", "source": "radio", "state": "reconnecting", "detail": "refused"}
    )
    assert screen(stream.getvalue()) == ["radio        reconnecting: refused"]
    terminal.show({"type": "source", "source": "radio", "state": "live", "detail": ""})
    terminal.show(prediction())
    assert "jazz" in screen(stream.getvalue())[0]
    terminal.forget("radio")
    assert screen(stream.getvalue()) == []


def test_segments_do_not_disturb_the_live_lines():
    stream = io.StringIO()
    Terminal(stream).show({"type": "segment", "source": "radio"})
    assert stream.getvalue() == ""


def test_a_line_says_what_is_heard_how_surely_and_how_loud():
    assert prediction_line(prediction()) == (
        "radio         1:35  jazz        83 % ████████░░  -21 dBFS"
    )
    silence = prediction(state="silence", genre=None, confidence=1.0, level_dbfs=-90.0)
    assert "silence    100 %" in prediction_line(silence)
    assert state_line({"source": "a", "state": "ended", "detail": ""}) == "a            ended"
