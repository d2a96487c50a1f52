from __future__ import annotations

import pytest

from streamer.engine.scheduler import Scheduler


def test_a_round_takes_the_work_of_all_sources_divided_by_the_slots() -> None:
    scheduler = Scheduler(2)
    for number in range(10):
        scheduler.update(f"source {number}", 9.0)
        scheduler.update(f"source {number}", 0.2)
    assert scheduler.round_seconds == pytest.approx(1.0)


def test_a_source_that_is_alone_makes_no_round() -> None:
    scheduler = Scheduler(1)
    scheduler.update("radio", 0.5)
    assert scheduler.round_seconds == 0.0
    scheduler.update("hall", 0.5)
    assert scheduler.round_seconds == pytest.approx(1.0)
    scheduler.forget("hall")
    assert scheduler.round_seconds == 0.0


def test_a_source_that_has_gone_is_left_out() -> None:
    scheduler = Scheduler(1)
    for source in ("hall", "radio", "file"):
        scheduler.update(source, 0.5)
    scheduler.forget("hall")
    scheduler.forget("never there")
    assert scheduler.round_seconds == pytest.approx(1.0)
    scheduler.update("hall", 1.0)
    assert scheduler.round_seconds == pytest.approx(2.0)
