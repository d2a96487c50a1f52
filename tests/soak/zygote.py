"""Starts one daemon after the other, each from a process that has everything imported already.

Every line on standard input is a JSON list: a pipe to hear, then arguments of genre-stream. All
daemons get the same listening socket, as from systemd. Answers each line with the process's id.
"""

import json
import os
import signal
import sys

import streamer.service  # noqa: F401 - imported here so that no child has to
from streamer.commands import run as cli


def become_a_daemon(pipe: str, arguments: list[str]) -> None:
    """Turn this process into genre-stream."""
    os.dup2(os.open(pipe, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    os._exit(cli.main(arguments))


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pipe, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            become_a_daemon(pipe, arguments)
        print(child, flush=True)
