from __future__ import annotations

from itertools import pairwise

import pytest

from streamer.system.backoff import Backoff


def test_waits_grow_from_one_second_to_a_minute() -> None:
    for _ in range(20):
        backoff = Backoff()
        waits = [backoff.failed() for _ in range(200)]
        assert all(1.0 <= wait <= 60.0 for wait in waits)
        assert all(wait >= 30.0 for wait in waits[6:])
        assert waits[0] == 1.0


def test_waits_differ_so_that_many_clients_do_not_return_at_once() -> None:
    backoffs = [Backoff() for _ in range(50)]
    for backoff in backoffs:
        for _ in range(9):
            backoff.failed()
    assert len({backoff.failed() for backoff in backoffs}) > 40


def test_only_thirty_seconds_of_success_reset_the_wait() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.failed()
    for _ in range(299):
        backoff.succeeded(0.1)
    assert backoff.failed() >= 30.0
    # The count began again with that failure.
    backoff.succeeded(29.0)
    assert backoff.failed() >= 30.0
    backoff.succeeded(30.0)
    assert backoff.failed() == 1.0


def test_the_longest_possible_wait_doubles_with_each_failure() -> None:
    longest = [max(waits) for waits in zip(*[_waits() for _ in range(300)], strict=True)]
    for before, after in pairwise(longest[:6]):
        assert after / before == pytest.approx(2.0, rel=0.35)


def _waits() -> list[float]:
    backoff = Backoff(shortest=1.0, longest=1000.0)
    return [backoff.failed() for _ in range(7)]
