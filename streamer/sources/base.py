"""What all sources have in common: their interface, blocks and errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.events import SourceKind
from streamer.system.console import strip_control_characters

MAX_TITLE_LENGTH = 500
MAX_ERROR_LENGTH = 4000
"""Characters kept of text that a server wrote, since every client and the history receive it."""
NO_THREAD = "the system gives this process no more threads (TasksMax= in its unit, or ulimit -u)"
"""Error of a source whose thread cannot be started."""
READ_SECONDS = 1.0
"""Timeout of one read of `Source.blocks`; a broken source raises an error of its own."""


def one_line(text: str, max_length: int = MAX_TITLE_LENGTH) -> str:
    r"""Return untrusted text as one line without control characters, cut to a length.

    Examples
    --------
    >>> one_line("Song\r\n \x1b[31mA\x07")
    'Song [31mA'
    """
    line = strip_control_characters(" ".join(text.split()))
    return line if len(line) <= max_length else f"{line[: max_length - 1]}…"


class SourceError(Exception):
    """A source cannot be opened or has failed.

    Parameters
    ----------
    message
        One sentence that names the source and says what to do, without credentials. Line breaks
        and control characters are removed, and it is cut to `MAX_ERROR_LENGTH`.
    permanent
        Whether opening the source again is pointless (no such file, 404).
    stalled
        Whether the source stopped delivering without an error (a device was unplugged).
    """

    def __init__(self, message: str, *, permanent: bool = False, stalled: bool = False) -> None:
        super().__init__(one_line(message, MAX_ERROR_LENGTH))
        self.permanent = permanent
        self.stalled = stalled


class SourceEnded(Exception):  # noqa: N818 - the end of a source is not an error
    """The source has delivered its last sample."""


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """Consecutive samples."""

    samples: NDArray[np.float32]
    """Shape (n, channels), nominally within [-1, 1]."""
    sample_rate: int
    """Hz; may differ from the previous block."""
    end_time: float
    """`time.monotonic()` at which the last sample was recorded, arrived or is due to be played."""
    title: str | None = None
    """The title that the stream announces; empty if it announces that there is none, None if it
    announces nothing."""
    discontinuity: bool = False
    """Whether these samples do not continue the previous block."""
    dropped: int = 0
    """Samples per channel that were discarded before this block because they were not read."""

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate


class Source(ABC):
    """Something that delivers samples.

    A source is opened, read until it raises, and closed; it may then be opened again. Only `close`
    and `waiting_blocks` may be used from another thread.
    """

    name: str
    """Name of the source for clients."""
    kind: SourceKind
    live: bool = False
    """Whether it is to be opened again when it ends. Valid once `read` has returned a block: before
    that it is not known whether a URL is a radio or a file."""
    real_time: bool = True
    """Whether blocks come at the speed of sound, rather than as fast as they are read."""
    overruns: int = 0
    """How often the operating system reported that it had to discard samples."""

    @property
    def waiting_blocks(self) -> int:
        """Number of blocks that can be read at once."""
        return 0

    @property
    def processor_seconds(self) -> float:
        """Seconds of a processor that a thread of the source has used since it was opened."""
        return 0.0

    @abstractmethod
    def open(self) -> None:
        """Start without blocking. Failures are raised as `SourceError`, here or by `read`."""

    @abstractmethod
    def read(self, timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
        """Return the next block, or None if there is none within `timeout` seconds.

        A source in real time may wait for up to `timeout` until the block has `enough_seconds`:
        a reader that needs a second wakes once, not for each tenth of it.

        Raises
        ------
        SourceEnded
            After the last sample.
        SourceError
            If the source has failed.
        """

    def blocks(self) -> Generator[AudioBlock, None, None]:
        """Open the source, yield its blocks until it has ended, and close it.

        For a reader that has nothing else to do. Raises `SourceError` if the source fails.
        """
        self.open()
        try:
            while True:
                if block := self.read(READ_SECONDS):
                    yield block
        except SourceEnded:
            return
        finally:
            self.close()

    @abstractmethod
    def close(self) -> None:
        """Stop, and let a waiting `read` raise `SourceEnded`. May be called more than once."""
