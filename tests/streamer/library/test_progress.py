from __future__ import annotations

import io

from streamer.library.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_files_a_second_and_the_time_left():
    now = [0.0]
    terminal = Terminal()
    progress = Progress(100, stream=terminal, clock=lambda: now[0])
    for _ in range(10):
        now[0] += 0.5
        progress.advance()
    lines = terminal.getvalue().split("\x1b[K")
    assert lines[-2] == "\r10 of 100 files, 2 files a second, 45 s left"
    progress.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_a_log_has_a_line_of_progress_each_half_minute():
    now = [0.0]
    log = io.StringIO()
    progress = Progress(10_000, stream=log, clock=lambda: now[0])
    for _ in range(100):
        now[0] += 0.7
        progress.advance()
    assert log.getvalue().splitlines() == [
        "43 of 10000 files, 1.43 files a second, 1 h 56 min left",
        "86 of 10000 files, 1.43 files a second, 1 h 55 min left",
    ]
    progress.clear()
    assert log.getvalue().count("\n") == 2


def test_progress_may_be_hidden():
    log = io.StringIO()
    now = [0.0]
    progress = Progress(2, shown=False, stream=log, clock=lambda: now[0])
    now[0] = 100.0
    progress.advance()
    assert (progress.done, log.getvalue()) == (1, "")
