"""SIGTERM and SIGINT: an orderly stop, and the end of a process that does not stop in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable

LOG_SECONDS = 0.1
"""How long the last log record may take to be written."""

logger = logging.getLogger(__name__)


class StopSignals:
    """Handles SIGTERM and SIGINT; to be made on the event loop's thread.

    The first signal requests an orderly stop and starts the deadline, since the event loop may
    hang. A second one ends the process at once, with status 128 + its number. `stop` is called on
    the event loop's thread, `deadline` (see `exit_deadline`) in the signal handler.
    """

    def __init__(
        self, stop: Callable[[signal.Signals], None], deadline: Callable[[], None]
    ) -> None:
        self.received = 0
        """Number of signals so far."""
        self._stop = stop
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        self.received += 1
        if self.received > 1:
            os._exit(128 + number)
        self._deadline()
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has stopped already
            self._loop.call_soon_threadsafe(self._stop, signal.Signals(number))


def exit_deadline(seconds: float) -> Callable[[], None]:
    """Return a function that ends the process with status 1 `seconds` after its first call.

    It may be called in a signal handler, whatever the event loop and the log are doing.
    """
    started = queue.SimpleQueue[None]()

    def end() -> None:
        started.get()
        time.sleep(seconds)
        record = ("not stopped within %.0f s; exiting at once", seconds)
        # Not on this thread: a handler of the log may hang.
        threading.Thread(target=logger.error, args=record, daemon=True).start()
        time.sleep(LOG_SECONDS)
        os._exit(1)

    threading.Thread(target=end, name="exit deadline", daemon=True).start()
    return lambda: started.put(None)


def call_on_loop(number: signal.Signals, callback: Callable[[], None]) -> None:
    """Call a function on the running event loop whenever a signal arrives.

    Unlike `loop.add_signal_handler`, which restores the default action of the signal, deadly for
    many, when the loop closes.
    """
    loop = asyncio.get_running_loop()
    signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback))
