"""Turns: so many listeners at once, in order, and how long a round of all takes."""

from __future__ import annotations

import threading
import time

import pytest

from streamer.system.scheduler import Scheduler, processors

PATIENCE = 60.0


def asking(scheduler: Scheduler, names: list[str], served: list[str]) -> list[threading.Thread]:
    """Let threads ask for a turn, one after the other; each writes down that it was served."""

    def serve(name: str) -> None:
        with scheduler.turn():
            served.append(name)

    threads = []
    for name in names:
        waiting = scheduler.waiting
        threads.append(threading.Thread(target=serve, args=(name,), daemon=True))
        threads[-1].start()
        while scheduler.waiting == waiting:
            pass
    return threads


def test_who_asked_first_is_served_first_and_nobody_pushes_in() -> None:
    scheduler, served = Scheduler(1), []
    names = [str(number) for number in range(20)]
    with scheduler.turn():
        threads = asking(scheduler, names, served)
        assert not served
    with scheduler.turn():  # asked for after all the others
        assert served == names
    for thread in threads:
        thread.join(PATIENCE)


def test_as_many_compute_at_once_as_may_and_the_next_waits() -> None:
    scheduler, served = Scheduler(3), []
    together = threading.Barrier(3)
    done = threading.Event()

    def compute() -> None:
        with scheduler.turn():
            together.wait(PATIENCE)
            done.wait(PATIENCE)

    threads = [threading.Thread(target=compute, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    with scheduler.turn():
        together.wait(PATIENCE)
        threads += asking(scheduler, ["next"], served)
        assert not served
        done.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert served == ["next"]


def test_who_pauses_lets_the_next_one_in_and_waits_for_another_turn() -> None:
    scheduler, served = Scheduler(1), []
    with scheduler.turn():
        (next_one,) = asking(scheduler, ["next"], served)
        with scheduler.pause():
            next_one.join(PATIENCE)
        assert served == ["next"]
        (last,) = asking(scheduler, ["last"], served)
        assert served == ["next"]
    last.join(PATIENCE)
    assert served == ["next", "last"]


def test_a_crash_gives_the_turn_back() -> None:
    scheduler = Scheduler(1)
    with pytest.raises(ZeroDivisionError), scheduler.turn():
        raise ZeroDivisionError
    with scheduler.turn():
        assert scheduler.waiting == 0


def test_a_round_takes_what_a_decision_about_every_source_usually_takes() -> None:
    scheduler = Scheduler(2)
    for number in range(10):
        for work in (9.0, 0.2, 0.2, 0.2, 0.2, 0.2):  # the first one set something up
            scheduler.note(f"source {number}", work)
    assert scheduler.round_seconds == pytest.approx(1.0)
    scheduler.note("source 0", 30.0)
    assert scheduler.round_seconds == pytest.approx(1.0)


def test_a_source_that_is_alone_or_gone_makes_no_round() -> None:
    scheduler = Scheduler(1)
    for source in ("hall", "radio"):
        for _ in range(5):
            scheduler.note(source, 0.5)
    assert scheduler.round_seconds == pytest.approx(1.0)
    scheduler.forget("hall")
    assert scheduler.round_seconds == 0.0


def test_a_source_that_is_gone_is_left_out_and_what_it_took_is_forgotten() -> None:
    scheduler = Scheduler(1)
    for source in ("hall", "radio", "file"):
        for _ in range(5):
            scheduler.note(source, 0.5)
    scheduler.forget("hall")
    assert scheduler.round_seconds == pytest.approx(1.0)
    scheduler.note("hall", 9.0)  # it is back, and sets something up
    assert scheduler.round_seconds == pytest.approx(1.0)


def test_a_turn_tells_when_it_was_given() -> None:
    scheduler, given = Scheduler(1), []

    def serve() -> None:
        with scheduler.turn() as moment:
            given.append(moment)

    asked = time.monotonic()
    with scheduler.turn() as moment:
        assert asked <= moment <= time.monotonic()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        while not scheduler.waiting:
            pass
        still_busy = time.monotonic()
    thread.join(PATIENCE)
    assert still_busy <= given[0] <= time.monotonic()


def test_there_is_a_processor() -> None:
    assert processors() >= 1


def test_work_that_is_now_short_and_now_long_makes_a_round_as_long_as_it_is() -> None:
    scheduler = Scheduler(1)
    for number in range(100):
        for work in (0.1, 0.1, 0.1, 1.0, 1.0):
            scheduler.note(str(number), work)
    assert scheduler.round_seconds == pytest.approx(100 * 1.3 / 4)
