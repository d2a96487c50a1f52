from __future__ import annotations

from streamer.system.processors import processors


def test_there_is_a_processor() -> None:
    assert processors() >= 1
