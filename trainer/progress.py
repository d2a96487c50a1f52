"""How far a long step is, on standard error: as a bar, or as lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

LINE_SECONDS = 30.0
"""Time between two lines of progress."""
SPEED_SECONDS = 120.0
"""The remaining time is estimated from what was done in the latest seconds, so many at most."""


def progress_bar(
    *,
    transient: bool = False,
    quiet: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Return a progress bar with a count and the remaining time.

    Without a terminal that can draw it, a line is printed every `LINE_SECONDS` instead. A transient
    bar is erased at the end; of its lines there is none at the end. A quiet one shows nothing.
    """
    console = Console(stderr=True, quiet=quiet)
    if not console.is_jupyter and (not console.is_terminal or console.is_dumb_terminal):
        return _Lines(console, clock, last_line=not transient)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        speed_estimate_period=SPEED_SECONDS,
        get_time=clock,
    )


def duration(seconds: float) -> str:
    """Return a duration as people say it, such as `40 s` or `12 min`."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class _Lines(Progress):
    """Progress as lines of text, for logs and terminals that cannot move the cursor."""

    def __init__(self, console: Console, clock: Callable[[], float], *, last_line: bool) -> None:
        super().__init__(
            console=console,
            auto_refresh=False,
            disable=True,
            speed_estimate_period=SPEED_SECONDS,
            get_time=clock,
        )
        self._last_line = last_line
        self._next = clock() + LINE_SECONDS

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task, and print a line if it is time for one."""
        super().advance(task_id, advance)
        self._print_if_due()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Update a task, and print a line if it is time for one."""
        super().update(task_id, **changes)
        self._print_if_due()

    def stop(self) -> None:
        """Stop, and print where the tasks are unless the progress is transient."""
        super().stop()
        if self._last_line:
            self._print()

    def _print_if_due(self) -> None:
        if self.get_time() >= self._next:
            self._next = self.get_time() + LINE_SECONDS
            self._print()

    def _print(self) -> None:
        for task in self.tasks:
            self.console.print(_line(task), markup=False, highlight=False, soft_wrap=True)


def _line(task: Task) -> str:
    """Return description, count and remaining time of a task."""
    total = "" if task.total is None else f"/{task.total:.0f}"
    line = f"{task.description} {task.completed:.0f}{total}"
    if task.time_remaining and not task.finished:
        line += f"  {duration(task.time_remaining)} {task.fields.get('left', 'left')}"
    return line
