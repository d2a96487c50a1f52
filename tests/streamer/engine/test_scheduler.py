from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time

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
            scheduler.infer(run_network)
            order.append("after the network")

    def run_network() -> None:
        order.append("network")
        may_end.wait(LONGEST_WAIT_SECONDS)

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

    def run_network() -> None:
        running.append(1)
        most.append(len(running))
        together.wait(LONGEST_WAIT_SECONDS)
        running.pop()

    def infer() -> None:
        with scheduler.slot():
            scheduler.infer(run_network)

    threads = [threading.Thread(target=infer, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST_WAIT_SECONDS)
    assert max(most) == 2


def test_the_error_of_a_network_is_raised_where_it_was_to_run() -> None:
    scheduler = Scheduler(2)

    def fail() -> None:
        raise ZeroDivisionError("a defect")

    for _ in range(3):
        with scheduler.slot(), pytest.raises(ZeroDivisionError, match="a defect"):
            scheduler.infer(fail)
    assert scheduler.infer(lambda: "an answer")[0] == "an answer"


def test_networks_run_where_the_system_refuses_another_priority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", refuse)
    answers: list[tuple[str, float]] = []
    scheduler = Scheduler(1)
    asking = threading.Thread(target=lambda: answers.append(scheduler.infer(lambda: "an answer")))
    asking.daemon = True
    asking.start()
    asking.join(LONGEST_WAIT_SECONDS)
    assert answers
    assert answers[0][0] == "an answer"


def test_waiting_for_a_processor_is_no_work() -> None:
    def compute() -> None:
        while time.thread_time() - began < 0.05:
            pass

    busy = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    allowed = os.sched_getaffinity(0)
    others = []
    try:
        os.sched_setaffinity(0, {min(allowed)})  # of this thread and what it starts
        for _ in range(2):
            others.append(subprocess.Popen(busy, stdout=subprocess.PIPE))
            others[-1].stdout.readline()
        scheduler, start = Scheduler(1), time.monotonic()
        began = 0.0  # the thread is new
        _, work = scheduler.infer(compute)
        took = time.monotonic() - start
    finally:
        os.sched_setaffinity(0, allowed)
        for other in others:
            other.kill()
            other.communicate()
    assert work < 0.5 * took


def test_time_in_which_others_compute_for_a_network_is_its_work() -> None:
    _, work = Scheduler(1).infer(lambda: time.sleep(0.2))
    assert work > 0.1


def test_the_threads_for_networks_end_with_their_scheduler() -> None:
    scheduler, threads = Scheduler(2), []
    scheduler.infer(lambda: threads.extend(threading.enumerate()))
    ours = [thread for thread in threads if thread.name.startswith("inference")]
    assert ours
    del scheduler
    gc.collect()
    wait_until(lambda: not any(thread.is_alive() for thread in ours), "the threads to end")


def test_sources_whose_work_is_not_known_yet_are_expected_to_classify_every_window() -> None:
    scheduler = Scheduler(2)
    scheduler.inference_seconds = 0.02
    for number in range(100):
        scheduler.expect(f"source {number}")
    assert scheduler.expected_seconds == pytest.approx(1.0)
    scheduler.update("source 0", 0.01)
    scheduler.expect("source 0")
    scheduler.forget("source 1")
    assert scheduler.expected_seconds == pytest.approx(0.99)
    assert scheduler.round_seconds == pytest.approx(0.005)
