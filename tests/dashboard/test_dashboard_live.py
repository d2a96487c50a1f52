"""The page with a real daemon, which plays the demo and is killed and restarted."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from support.browser import CONNECTION_LOST, Page, wait_for
from support.daemon import daemon

DEMO = ("--source", "demo", "--loop")
HAS_PREDICTION = "document.getElementById('now').dataset.look !== 'waiting'"
"""JavaScript that is true while a prediction is shown."""


def hues(page: Page) -> list[list[int]]:
    """Return a few pixels of the latest second of the spectrogram."""
    return [page.pixel("spectrogram", place, 0.8) for place in range(3, 27, 4)]


def test_the_page_follows_the_demo_and_reconnects_to_a_new_daemon(
    page: Page, demo_clip: Path, gtzan_model: Path, tmp_path: Path
) -> None:
    assert demo_clip.is_file()
    assert gtzan_model.is_file()
    with daemon(tmp_path, *DEMO) as first:
        port = first.port
        page.open(f"http://127.0.0.1:{port}/")
        page.until(HAS_PREDICTION)
        genre, bars, picture = page.text("now-genre"), page.texts(".genre-value"), hues(page)
        wait_for(lambda: page.texts(".genre-value") != bars, "the bars move")
        wait_for(lambda: hues(page) != picture, "the spectrogram scrolls")
        wait_for(lambda: page.text("now-genre") != genre, "the label changes")
        page.until("document.querySelectorAll('#heard tr').length >= 2")
        assert page.console_errors() == []
        page.expected_errors = CONNECTION_LOST
        first.signal(signal.SIGKILL)
        first.wait()
        page.until_text("now-genre", "No connection")
    earlier = page.texts(".heard-name")
    with daemon(tmp_path, *DEMO, "--port", port) as second:
        assert second.port == port
        page.until_text("connection", "Connected")
        page.until(HAS_PREDICTION)
        rows = len(earlier) + 1
        page.until("document.querySelectorAll('#heard tr').length >= arguments[0]", rows)
        assert page.texts(".heard-name")[-len(earlier) :] == earlier
        page.driver.get("about:blank")


def test_the_page_says_that_the_only_source_has_ended(
    page: Page, gtzan_model: Path, tmp_path: Path
) -> None:
    assert gtzan_model.is_file()
    sound, pipe = os.pipe()
    raw = ("--source", "tape=-", "--rate", "8000", "--channels", "1")
    with daemon(tmp_path, *raw, stdin=sound) as running:
        os.close(sound)
        page.open(f"http://127.0.0.1:{running.port}/")
        page.until_text("connection", "Connected")
        os.write(pipe, bytes(8000))
        page.until("document.querySelector('.source-state').textContent === 'Live'")
        page.expected_errors = CONNECTION_LOST
        os.close(pipe)
        assert running.wait() == 0
        page.until_text("connection", "Stopped: all sources have ended")
        assert page.text("now-genre") == "Ended"
        page.driver.get("about:blank")
