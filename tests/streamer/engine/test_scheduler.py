from __future__ import annotations

import threading

import pytest
from support.waiting import LONGEST_WAIT_SECONDS, wait_until

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


def test_others_may_compute_while_a_network_runs_and_its_thread_goes_on_before_them() -> None:
    scheduler, order = Scheduler(2), []
    may_end = threading.Event()

    def infer() -> None:
        with scheduler.slot():
            with scheduler.inference():
                order.append("network")
                may_end.wait(LONGEST_WAIT_SECONDS)
            order.append("after the network")

    def compute() -> None:
        with scheduler.slot():
            order.append("another")

    network = threading.Thread(target=infer, daemon=True)
    network.start()
    wait_until(lambda: "network" in order, "the network to run")
    another = threading.Thread(target=compute, daemon=True)
    with scheduler.slot():
        another.start()
        wait_until(lambda: scheduler.waiting == 1, "another thread to wait")
        may_end.set()
        wait_until(lambda: scheduler.waiting == 2, "the network to end")
    for thread in (network, another):
        thread.join(LONGEST_WAIT_SECONDS)
    assert order == ["network", "after the network", "another"]


def test_no_more_networks_run_at_once_than_there_are_processors() -> None:
    scheduler, running, most = Scheduler(2), [], []
    together = threading.Barrier(2)

    def infer() -> None:
        with scheduler.slot(), scheduler.inference():
            running.append(1)
            most.append(len(running))
            together.wait(LONGEST_WAIT_SECONDS)
            running.pop()

    threads = [threading.Thread(target=infer, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST_WAIT_SECONDS)
    assert max(most) == 2
