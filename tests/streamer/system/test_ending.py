from __future__ import annotations

import subprocess
import sys

from support.daemon import REPOSITORY
from support.waiting import LONGEST_WAIT_SECONDS

PROGRAM = """
import sys, time
from streamer.system.ending import end_with
end_with(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(int(sys.argv[2]))
"""


def test_a_process_ends_with_another_one() -> None:
    seconds = str(2 * int(LONGEST_WAIT_SECONDS))
    with subprocess.Popen(["sleep", seconds]) as other:
        command = [sys.executable, "-c", PROGRAM, str(other.pid), seconds]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            assert process.poll() is None
            other.kill()
            other.wait()
            assert process.wait(LONGEST_WAIT_SECONDS) == 1
