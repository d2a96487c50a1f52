"""Forks one daemon after the other from a process that has imported everything.

Every line on standard input is a JSON list: a pipe to listen to, then arguments of genre-stream.
All daemons get the same listening socket, as from systemd. Each line is answered with a process id.
"""

import json
import os
import signal
import sys

import streamer.service  # noqa: F401 - imported once, not by every child
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
