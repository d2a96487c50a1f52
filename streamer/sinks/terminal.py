"""The terminal sink: log lines, and below them one live line per source."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TextIO

from streamer.core.colours import ansi
from streamer.core.decision import Decision
from streamer.core.events import PlacedSegment, Published, Sink, SourceStatus
from streamer.core.segments import State
from streamer.system.background_writer import BackgroundWriter
from streamer.system.console import strip_control_characters

UP_AND_CLEAR = "\x1b[{}A\r\x1b[J"
"""ECMA-48: cursor up, to the line's start, erase to the end of the screen."""

PLAIN = "\x1b[0m"
DIM = "\x1b[2m"
BAR_CELLS = 10
NAME_CELLS = 12
"""Width of the column with the sources' names."""
DUMB_COLUMNS = 200
"""Longest line of a terminal that cannot move its cursor; it may wrap."""

COUNTDOWN_SECONDS = 1.0
"""Interval at which lines with a countdown are drawn."""

Line = Callable[[int], str]
"""Returns a source's line for a terminal with this many columns."""


class Terminal(BackgroundWriter, Sink):
    """Keeps one line per source at the bottom of a terminal, and lets log lines scroll above them.

    It is a text stream itself, so that a log handler can write to it. A terminal that cannot move
    its cursor (``TERM=dumb``) gets a line for every change instead, without escape sequences.
    """

    def __init__(self, stream: TextIO) -> None:
        self._lines: dict[str, tuple[str, Line]] = {}
        """Colour code and text of each source's line."""
        self._told: dict[str, Hashable] = {}
        """What each source's last line said, if lines are not replaced."""
        self._countdowns: dict[str, float] = {}
        """`time.monotonic()` until which a source's line counts down."""
        self._colours: Mapping[str, str] = {}
        self._drawn = 0
        self._is_dumb = os.environ.get("TERM") == "dumb"
        super().__init__(stream)

    def recolour(self, colours: Mapping[str, str]) -> None:
        """Set the colour of each label, ``#rrggbb``, for the decisions from now on."""
        self._colours = colours

    def publish(self, published: Published) -> None:
        """Show a decision or a source's state."""
        source = published.source
        match published.event:
            case Decision() as decision:
                line = partial(decision_line, source, decision)
                self.show(
                    source,
                    line,
                    self._code(decision.genre),
                    change=(decision.state, decision.genre),
                )
            case SourceStatus(state=state, reason=reason, retry_seconds=seconds) as status:
                retry_at = None if seconds is None else time.monotonic() + seconds
                detail = status.detail if seconds is None else reason
                line = partial(status_line, source, state, detail, retry_at=retry_at)
                self.show(
                    source, line, self._code(None), change=(state, status.detail), until=retry_at
                )

    def _code(self, genre: str | None) -> str:
        """Return the code that begins a line about a genre, or about something else; or nothing."""
        if not self._colours:
            return ""
        colour = self._colours.get(genre) if genre else None
        return ansi(colour) if colour else DIM

    def remove_source(self, name: str, segments: Sequence[PlacedSegment] = ()) -> None:
        """Remove a source's line."""
        with self._change:
            for kept in (self._lines, self._told, self._countdowns):
                kept.pop(name, None)
            self._request_write()

    def show(
        self,
        source: str,
        line: Line,
        colour: str = "",
        *,
        change: Hashable,
        until: float | None = None,
    ) -> None:
        """Replace a source's line.

        `colour` is the code that begins it, such as ESC [31m. The line is drawn every second until
        `time.monotonic()` is `until`. Where lines are not replaced, a line is written if `change`
        differs from that of the one before.
        """
        if self._is_dumb:
            if self._told.get(source) != change:
                self._told[source] = change
                self.write(f"{line(DUMB_COLUMNS).rstrip()}\n")
            return
        with self._change:
            self._lines[source] = colour, line
            self._countdowns[source] = 0.0 if until is None else until
            self._request_write()

    def _redraw_seconds(self) -> float | None:
        is_counting = max(self._countdowns.values(), default=0.0) > time.monotonic()
        return COUNTDOWN_SECONDS if is_counting else None

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
            f"{colour}{line(width)}{PLAIN}" if colour else line(width)
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


def decision_line(source: str, decision: Decision, width: int = 80) -> str:
    """Return a decision as one line of at most `width` characters.

    Where there is little room the label stays longest: first go level, bar, time and confidence,
    then the source's name.

    Examples
    --------
    >>> from streamer.core.segments import State
    >>> decision = Decision(95.0, 1.0, State.MUSIC, "jazz", 0.83, {}, {}, -21.4)
    >>> decision_line("radio", decision)
    'radio         1:35  jazz        83 % ████████░░  -21 dBFS'
    >>> decision_line("radio", decision, width=19)
    'radio        jazz'
    """
    minutes, seconds = divmod(int(decision.position), 60)
    clock = f" {minutes}:{seconds:02d}".rjust(6)
    label = decision.genre or decision.state.replace("_", " ")
    confidence, bar = _certainty(decision)
    level = f" {decision.level_dbfs:4.0f} dBFS"
    column = f"  {label:<10}"
    rests = (
        clock + column + confidence + bar + level,
        clock + column + confidence + bar,
        clock + column + confidence,
        column[1:] + confidence,
        f" {label}",
    )
    return _fit(source, rests, label, width)


def _certainty(decision: Decision) -> tuple[str, str]:
    """Return the confidence of a decision and its bar; of an uncertain one the likeliest label."""
    nothing = " " * 6, " " * (1 + BAR_CELLS)
    if decision.state is State.SILENCE:
        return nothing
    if decision.state is State.UNCERTAIN:
        shares = decision.probabilities
        if len(set(shares.values())) < 2:  # equal while the window is filled anew
            return nothing
        return " maybe", f" {max(shares, key=shares.__getitem__):<{BAR_CELLS}}"
    filled = round(decision.confidence * BAR_CELLS)
    bar = "█" * filled + "░" * (BAR_CELLS - filled)
    return f" {decision.confidence * 100:3.0f} %", f" {bar}"


def status_line(
    source: str, state: str, detail: str, width: int = 80, *, retry_at: float | None = None
) -> str:
    """Return a source's state, and the reason for it if any, as one line of `width` characters.

    It says how long it is until `time.monotonic()` is `retry_at`, when the source is opened again.
    """
    if retry_at is not None:
        seconds = max(0, math.ceil(retry_at - time.monotonic()))
        detail = f"{detail}; next attempt in {seconds} s"
    rest = f" {state}: {detail}" if detail else f" {state}"
    rests = (rest[: max(len(state) + 1, width - NAME_CELLS)], f" {state}")
    return _fit(source, rests, state, width)


def _fit(source: str, rests: Sequence[str], last: str, width: int) -> str:
    """Return the name of a source and the first of `rests` that fits beside it, else `last`."""
    source, last, *rests = map(strip_control_characters, (source, last, *rests))
    for rest in rests:
        room = width - len(rest)
        if room >= min(len(source), NAME_CELLS):
            return f"{_shorten(source, room):<{min(room, NAME_CELLS)}}{rest}"
    room = width - len(last) - 1
    return f"{_shorten(source, room)} {last}" if room > 1 else last[:width]


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
