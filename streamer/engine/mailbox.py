"""The way from the listeners' threads to the event loop: bounded, one hop for what has gathered."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

LIMIT = 1000
"""Items that may wait for the loop."""
PATIENCE_SECONDS = 1.0
"""How long a thread waits for room before the oldest item goes."""


class Mailbox(Generic[Item]):
    """Hands items of any thread to a function on the event loop, in order.

    Parameters
    ----------
    loop
        Where `deliver` is called.
    deliver
        Takes one item.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[Item], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._items: deque[Item] = deque()
        self._room = threading.Condition()
        self._called = False
        self._closed = False
        self.lost = 0
        """Items that had to go because the loop took none for too long."""

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Leave an item for the loop; from any thread but the loop's own."""
        with self._room:
            has_room = self._room.wait_for(
                lambda: len(self._items) < LIMIT or self._closed, PATIENCE_SECONDS
            )
            if self._closed:
                return
            if not has_room:
                self._items.popleft()
                self.lost += 1
            self._items.append(item)
            if not self._called:
                self._called = True
                self._loop.call_soon_threadsafe(self.deliver_all)

    def deliver_all(self) -> None:
        """Deliver what waits; on the loop."""
        with self._room:
            items = list(self._items)
            self._items.clear()
            self._called = False
            self._room.notify_all()
        for item in items:
            try:
                self._deliver(item)
            except Exception as error:
                # What waits behind it is owed to everybody all the same.
                self._loop.call_exception_handler(
                    {"message": f"could not deliver {item!r:.200}", "exception": error}
                )

    def close(self) -> None:
        """Deliver what waits, and take nothing more."""
        with self._room:
            self._closed = True
            self._room.notify_all()
        self.deliver_all()
