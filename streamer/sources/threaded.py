"""A source that produces its blocks on a thread of its own, so that `read` never hangs."""

from __future__ import annotations

import threading
from abc import abstractmethod

from streamer.sources.base import NO_THREAD, AudioBlock, Source, SourceEnded, SourceError
from streamer.sources.block_queue import BlockQueue


class ThreadedSource(Source):
    """A source whose blocks are produced on a thread of its own.

    If `paced`, they are released in real time however fast they are produced.
    """

    def __init__(self, name: str, *, paced: bool) -> None:
        self.name = name
        self._paced = paced
        self._queue: BlockQueue | None = None

    @property
    def waiting_blocks(self) -> int:
        """Number of blocks that can be read at once."""
        queue = self._queue
        return 0 if queue is None else len(queue)

    @property
    def processor_seconds(self) -> float:
        """Seconds of a processor that the producing thread has used for the blocks so far."""
        queue = self._queue
        return 0.0 if queue is None else queue.producer_seconds

    @abstractmethod
    def produce(self, queue: BlockQueue) -> None:
        """Put blocks into `queue` until the source ends (return), fails (raise) or is stopped."""

    def open(self) -> None:
        """Start the producing thread; its errors are raised by `read`."""
        self.close()
        queue = self._queue = BlockQueue(paced=self._paced)
        name = f"source {self.name}"
        try:
            threading.Thread(target=self._run, args=(queue,), name=name, daemon=True).start()
        except RuntimeError:
            raise SourceError(NO_THREAD) from None

    def read(self, timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
        """Return the next block, or None if there is none within `timeout` seconds."""
        queue = self._queue
        if queue is None:
            raise SourceEnded
        return queue.get(timeout, enough_seconds)

    def close(self) -> None:
        """Stop the queue. A producer that is stuck in a system call returns when that does."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.stop()

    def _run(self, queue: BlockQueue) -> None:
        try:
            self.produce(queue)
            queue.end(SourceEnded())
        except Exception as error:
            queue.end(error)
