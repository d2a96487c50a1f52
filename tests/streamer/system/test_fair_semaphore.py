from __future__ import annotations

import threading
import time

import pytest
from support.waiting import LONGEST_WAIT_SECONDS, wait_until

from streamer.system.fair_semaphore import FairSemaphore


def start_waiting(
    semaphore: FairSemaphore, names: list[str], served: list[str]
) -> list[threading.Thread]:
    """Start threads that wait for a slot one after the other; each appends its name."""

    def serve(name: str) -> None:
        with semaphore.slot():
            served.append(name)

    threads = []
    for name in names:
        waiting = semaphore.waiting
        threads.append(threading.Thread(target=serve, args=(name,), daemon=True))
        threads[-1].start()
        wait_until(lambda waiting=waiting: semaphore.waiting > waiting, "a waiting thread")
    return threads


def test_threads_are_served_in_the_order_in_which_they_asked() -> None:
    semaphore, served = FairSemaphore(1), []
    names = [str(number) for number in range(20)]
    with semaphore.slot():
        threads = start_waiting(semaphore, names, served)
        assert not served
    with semaphore.slot():  # asked for after all the others
        assert served == names
    for thread in threads:
        thread.join(LONGEST_WAIT_SECONDS)


def test_as_many_threads_compute_at_once_as_there_are_slots() -> None:
    semaphore, served = FairSemaphore(3), []
    together = threading.Barrier(3)
    done = threading.Event()

    def compute() -> None:
        with semaphore.slot():
            together.wait(LONGEST_WAIT_SECONDS)
            done.wait(LONGEST_WAIT_SECONDS)

    threads = [threading.Thread(target=compute, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    with semaphore.slot():
        together.wait(LONGEST_WAIT_SECONDS)
        threads += start_waiting(semaphore, ["next"], served)
        assert not served
        done.set()
    for thread in threads:
        thread.join(LONGEST_WAIT_SECONDS)
    assert served == ["next"]


def test_a_released_slot_goes_to_the_next_thread_and_is_waited_for_again() -> None:
    semaphore, served = FairSemaphore(1), []
    with semaphore.slot():
        (following,) = start_waiting(semaphore, ["next"], served)
        with semaphore.released():
            following.join(LONGEST_WAIT_SECONDS)
        assert served == ["next"]
        (last,) = start_waiting(semaphore, ["last"], served)
        assert served == ["next"]
    last.join(LONGEST_WAIT_SECONDS)
    assert served == ["next", "last"]


def test_an_error_releases_the_slot() -> None:
    semaphore = FairSemaphore(1)
    with pytest.raises(ZeroDivisionError), semaphore.slot():
        raise ZeroDivisionError
    with semaphore.slot():
        assert semaphore.waiting == 0


def test_a_thread_that_loses_patience_goes_on_without_a_slot() -> None:
    semaphore = FairSemaphore(1, patience=0.05)
    with semaphore.slot():
        start = time.monotonic()
        with semaphore.slot():
            assert time.monotonic() - start >= 0.05
            assert semaphore.waiting == 0
    with semaphore.slot():  # there still is only one
        start = time.monotonic()
        with semaphore.slot():
            assert time.monotonic() - start >= 0.05
