from __future__ import annotations

import os
import subprocess
import sys
import time

from support.waiting import LONGEST_WAIT_SECONDS

from streamer.system.processors import processors, seconds_without_processor


def test_there_is_a_processor() -> None:
    assert processors() >= 1


def test_a_thread_that_others_keep_from_a_processor_is_told_so() -> None:
    allowed = os.sched_getaffinity(0)
    busy = [sys.executable, "-c", "while True: pass"]
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    os.sched_setaffinity(0, {min(allowed)})
    other = subprocess.Popen(busy)
    try:
        before = seconds_without_processor()
        while seconds_without_processor() < before + 0.05 and time.monotonic() < deadline:
            pass
        assert seconds_without_processor() >= before + 0.05
    finally:
        os.sched_setaffinity(0, allowed)
        other.kill()
        other.wait()
