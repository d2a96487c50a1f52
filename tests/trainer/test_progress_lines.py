"""Progress of long steps where there is no terminal."""

from __future__ import annotations

import pytest

pytest.importorskip("rich")

from trainer.progress import LINE_SECONDS, progress_bar

FORCING = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Variables by which rich takes any output for a terminal."""


@pytest.fixture(autouse=True)
def no_forced_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FORCING:
        monkeypatch.delenv(name, raising=False)


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def advance(total: int, seconds: float, *, transient: bool) -> None:
    """Do `total` steps that take so many seconds each."""
    clock = Clock()
    with progress_bar(transient=transient, clock=clock) as progress:
        task = progress.add_task("tracks", total=total)
        for _ in range(total):
            clock.now += seconds
            progress.advance(task)


def test_without_a_terminal_a_line_tells_the_progress_every_half_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    advance(10, LINE_SECONDS / 3, transient=False)
    assert capsys.readouterr().err.splitlines() == [
        "tracks 3/10  70 s left",
        "tracks 6/10  40 s left",
        "tracks 9/10  10 s left",
        "tracks 10/10",
    ]


def test_a_short_step_whose_bar_would_be_erased_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    advance(10, LINE_SECONDS / 11, transient=True)
    assert capsys.readouterr().err == ""


def test_a_terminal_that_cannot_move_the_cursor_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of rich: taken for a terminal, as with a real one.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    advance(2, LINE_SECONDS, transient=True)
    assert capsys.readouterr().err.splitlines() == ["tracks 1/2", "tracks 2/2"]
