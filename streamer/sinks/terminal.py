"""What a person at a terminal sees: the dashboard's address, and one live line a source."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from streamer.system.background_writer import BackgroundWriter
from streamer.system.console import strip_control_characters

UP_AND_CLEAR = "\x1b[{}A\r\x1b[J"
"""ECMA-48: cursor up, to the line's start, erase to the end of the screen."""

PLAIN = "\x1b[0m"
BAR_CELLS = 10
MARKS = {"silence": "silence", "not_music": "not music", "uncertain": "uncertain"}


class Terminal(BackgroundWriter):
    """Keeps one line a source at the bottom of a terminal, and lets log lines scroll above them.

    It is a text stream itself, so that a log handler can write to it.

    Parameters
    ----------
    stream
        The terminal.
    paint
        Returns the code that colours a frame's line, such as ESC [31m; None for plain lines.
    """

    def __init__(
        self, stream: TextIO, paint: Callable[[Mapping[str, Any]], str] | None = None
    ) -> None:
        self._paint = paint
        self._lines: dict[str, str] = {}
        self._colours: dict[str, str] = {}
        self._drawn = 0
        super().__init__(stream)

    def show(self, message: Mapping[str, Any]) -> None:
        """Show a frame of the protocol, if it changes a live line."""
        if message["type"] not in ("prediction", "source"):
            return
        line = prediction_line(message) if message["type"] == "prediction" else state_line(message)
        source = message["source"]
        with self._change:
            self._lines[source] = line
            if self._paint is not None:
                self._colours[source] = self._paint(message)
            self._request_write()

    def forget(self, source: str) -> None:
        """Take a source's line away."""
        with self._change:
            self._lines.pop(source, None)
            self._request_write()

    def _compose(self, text: str) -> str:
        """Return `text` above the live lines as they are now."""
        erase = UP_AND_CLEAR.format(self._drawn) if self._drawn else ""
        lines = self._live_lines()
        self._drawn = len(lines)
        return erase + text + "".join(f"{line}\n" for line in lines)

    def _live_lines(self) -> list[str]:
        """Return as many lines as fit above the cursor: what has scrolled away stays there."""
        size = self._size()
        width, room = size.columns - 1, max(1, size.lines - 1)
        lines = [self._coloured(source, line[:width]) for source, line in self._lines.items()]
        if len(lines) > room:
            lines[room - 1 :] = [f"… and {len(lines) - room + 1} more"[:width]]
        return lines

    def _size(self) -> os.terminal_size:
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self.fileno())
            if size.columns and size.lines:
                return size
        return shutil.get_terminal_size()

    def _coloured(self, source: str, line: str) -> str:
        colour = self._colours.get(source)
        return f"{colour}{line}{PLAIN}" if colour else line


def prediction_line(message: Mapping[str, Any]) -> str:
    """Write a prediction as one line.

    Examples
    --------
    >>> prediction_line({"source": "radio", "state": "music", "genre": "jazz", "confidence": 0.83,
    ...     "level_dbfs": -21.4, "position": 95.0})
    'radio         1:35  jazz        83 % ████████░░  -21 dBFS'
    """
    minutes, seconds = divmod(int(message["position"]), 60)
    share = message["confidence"]
    full = round(share * BAR_CELLS)
    bar = "█" * full + "░" * (BAR_CELLS - full)
    what = message["genre"] or MARKS[message["state"]]
    clock = f"{minutes}:{seconds:02d}"
    return strip_control_characters(
        f"{message['source']:<12} {clock:>5}  {what:<10} {share * 100:3.0f} % {bar} "
        f"{message['level_dbfs']:4.0f} dBFS"
    )


def state_line(message: Mapping[str, Any]) -> str:
    """Write a source's state as one line."""
    detail = f": {message['detail']}" if message["detail"] else ""
    return strip_control_characters(f"{message['source']:<12} {message['state']}{detail}")
