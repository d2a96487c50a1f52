"""A bounded queue from the listeners' threads to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

CAPACITY = 1000
"""Items that may wait for the loop."""
PUT_SECONDS = 1.0
"""How long `Mailbox.put` waits while the mailbox is full before it discards the oldest item."""


class Mailbox(Generic[Item]):
    """Passes items from any thread to the function `deliver` on the event loop, in order.

    The loop is woken once for all the items that have gathered. `lost` counts the items discarded
    because the loop was blocked for too long.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[Item], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._scheduled = False
        self._closed = False
        self.lost = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Queue an item; from any thread but the loop's own."""
        with self._changed:
            has_room = self._changed.wait_for(
                lambda: len(self._items) < CAPACITY or self._closed, PUT_SECONDS
            )
            if self._closed:
                return
            if not has_room:
                self._items.popleft()
                self.lost += 1
            self._items.append(item)
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon_threadsafe(self.deliver_all)

    def deliver_all(self) -> None:
        """Deliver the queued items; on the loop's thread."""
        with self._changed:
            items, self._items = self._items, deque()
            self._scheduled = False
            self._changed.notify_all()
        for item in items:
            try:
                self._deliver(item)
            except Exception as error:  # one item's failure must not lose those behind it
                self._loop.call_exception_handler(
                    {"message": f"could not deliver {item!r:.200}", "exception": error}
                )

    def close(self) -> None:
        """Deliver the queued items, and discard any that are put from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.deliver_all()
