"""The terminal sink: log lines, and below them one live line per source."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from typing import TextIO

from streamer.core.decision import Decision
from streamer.core.events import PlacedSegment, Published, Sink, SourceStatus
from streamer.system.background_writer import BackgroundWriter
from streamer.system.console import strip_control_characters

UP_AND_CLEAR = "\x1b[{}A\r\x1b[J"
"""ECMA-48: cursor up, to the line's start, erase to the end of the screen."""

PLAIN = "\x1b[0m"
BAR_CELLS = 10


class Terminal(BackgroundWriter, Sink):
    """Keeps one line per source at the bottom of a terminal, and lets log lines scroll above them.

    It is a text stream itself, so that a log handler can write to it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._lines: dict[str, tuple[str, str]] = {}
        """Colour code and text of each source's line."""
        self._drawn = 0
        super().__init__(stream)

    def publish(self, published: Published) -> None:
        """Show a decision or a source's state."""
        match published.event:
            case Decision() as decision:
                self.show(published.source, decision_line(published.source, decision))
            case SourceStatus(source=source, state=state, detail=detail):
                self.show(source, status_line(source, state, detail))

    def remove_source(self, name: str, segments: Sequence[PlacedSegment] = ()) -> None:
        """Remove a source's line."""
        with self._change:
            self._lines.pop(name, None)
            self._request_write()

    def show(self, source: str, line: str, colour: str = "") -> None:
        """Replace a source's line; `colour` is the code that begins it, such as ESC [31m."""
        with self._change:
            self._lines[source] = colour, line
            self._request_write()

    def _compose(self, text: str) -> str:
        """Return `text` above the live lines as they are now."""
        erase = UP_AND_CLEAR.format(self._drawn) if self._drawn else ""
        lines = self._live_lines()
        self._drawn = len(lines)
        return erase + text + "".join(f"{line}\n" for line in lines)

    def _live_lines(self) -> list[str]:
        """Return as many lines as fit above the cursor, since those that scroll away stay."""
        size = self._size()
        width, room = size.columns - 1, max(1, size.lines - 1)
        lines = [
            f"{colour}{line[:width]}{PLAIN}" if colour else line[:width]
            for colour, line in self._lines.values()
        ]
        if len(lines) > room:
            lines[room - 1 :] = [f"… and {len(lines) - room + 1} more"[:width]]
        return lines

    def _size(self) -> os.terminal_size:
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self.fileno())
            if size.columns and size.lines:
                return size
        return shutil.get_terminal_size()


def decision_line(source: str, decision: Decision) -> str:
    """Return a decision as one line.

    Examples
    --------
    >>> from streamer.core.segments import State
    >>> decision = Decision(95.0, 1.0, State.MUSIC, "jazz", 0.83, {}, {}, -21.4)
    >>> decision_line("radio", decision)
    'radio         1:35  jazz        83 % ████████░░  -21 dBFS'
    """
    minutes, seconds = divmod(int(decision.position), 60)
    filled = round(decision.confidence * BAR_CELLS)
    bar = "█" * filled + "░" * (BAR_CELLS - filled)
    label = decision.genre or decision.state.replace("_", " ")
    clock = f"{minutes}:{seconds:02d}"
    return strip_control_characters(
        f"{source:<12} {clock:>5}  {label:<10} {decision.confidence * 100:3.0f} % {bar} "
        f"{decision.level_dbfs:4.0f} dBFS"
    )


def status_line(source: str, state: str, detail: str) -> str:
    """Return a source's state, and the reason for it if any, as one line."""
    reason = f": {detail}" if detail else ""
    return strip_control_characters(f"{source:<12} {state}{reason}")
