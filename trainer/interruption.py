"""Ctrl-C between two steps of a training."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """Context manager that turns the first Ctrl-C into a request, answered at the next `check`.

    Python ignores a `KeyboardInterrupt` that arrives while a destructor runs, and TensorFlow has
    many: a training would go on. A second Ctrl-C raises at once. Outside the main thread, where
    signals cannot be handled, and in a background job, which ignores Ctrl-C, everything stays as
    it was.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> Interruption:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if it was asked for."""
        if self._asked:
            raise KeyboardInterrupt
