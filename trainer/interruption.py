"""Handle Ctrl-C between two steps of a training."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interruption:
    """Context manager that defers the first Ctrl-C until the next call of `check`.

    Python ignores a `KeyboardInterrupt` in a destructor, and TensorFlow runs many, so a training
    would continue after Ctrl-C. A second Ctrl-C raises at once. Outside the main thread, which
    alone can handle signals, and in a background job, which ignores Ctrl-C, nothing is changed.
    """

    requested = False
    _previous: Any = None

    def __enter__(self) -> Interruption:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.check()
        self.requested = True

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C was pressed."""
        if self.requested:
            raise KeyboardInterrupt
