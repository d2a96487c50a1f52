"""What every source of samples has in common: its states, its blocks, its errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.core.events import SourceKind
from streamer.system.console import strip_control_characters

LONGEST_TITLE = 500
LONGEST_ERROR = 4000
"""Letters that are kept of what somebody else wrote: every client gets them, and the history."""


def one_line(text: str, longest: int = LONGEST_TITLE) -> str:
    r"""Return what somebody else wrote as one line without control characters, cut to a length.

    A server chooses its words and titles, and they are shown in terminals.

    Examples
    --------
    >>> one_line("Song\r\n \x1b[31mA\x07")
    'Song [31mA'
    """
    line = strip_control_characters(" ".join(text.split()))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


class SourceError(Exception):
    """A source cannot be opened or has broken.

    Parameters
    ----------
    message
        One sentence that names the source and says what to do. It never holds credentials; line
        breaks and control characters are taken out of it, and it is cut if it is long.
    permanent
        Whether trying again is pointless (no such file, 404). If not, the source should be opened
        again.
    stalled
        Whether the source went quiet without saying why (a device unplugged).
    """

    def __init__(self, message: str, *, permanent: bool = False, stalled: bool = False) -> None:
        super().__init__(one_line(message, LONGEST_ERROR))
        self.permanent = permanent
        self.stalled = stalled


class SourceEnded(Exception):  # noqa: N818 - an ending is not an error
    """The source has delivered its last sample."""


NO_THREAD = "the system gives this process no more threads (TasksMax= in its unit, or ulimit -u)"
"""Why a source is not heard whose thread cannot be started."""


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """A stretch of consecutive samples."""

    samples: NDArray[np.float32]
    """Shape (n, channels), nominally within [-1, 1]."""
    sample_rate: int
    """Hz; may differ from the block before."""
    heard: float
    """`time.monotonic()`, in seconds, at which the last sample was heard."""
    title: str | None = None
    """What the stream says is playing; empty if it says that this has no title, None if it says
    nothing."""
    discontinuity: bool = False
    """Whether these samples do not follow on the block before."""
    dropped: int = 0
    """Samples (per channel) that were lost before this block because nobody read them in time."""

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate


class Source(ABC):
    """Something that delivers samples.

    A source is opened, read until it raises, and closed; it may then be opened again. Only `close`
    may be called from another thread.

    Attributes
    ----------
    name
        What clients call it.
    kind
        What sort of source it is.
    live
        Whether it should be opened again when it ends. Settled once `read` has returned the first
        block: only then is it known whether a URL is a radio or a file.
    real_time
        Whether its blocks come as they are heard, rather than as fast as they are read.
    overruns
        How often the operating system reported that it had to discard samples.
    """

    name: str
    kind: SourceKind
    live: bool
    real_time: bool = True
    overruns: int = 0

    @property
    def waiting_blocks(self) -> int:
        """Blocks that wait to be read; safe to ask from another thread."""
        return 0

    @abstractmethod
    def open(self) -> None:
        """Begin; never blocks for long. Failures surface here or in `read`.

        Raises
        ------
        SourceError
            If it cannot be opened.
        """

    @abstractmethod
    def read(self, timeout: float) -> AudioBlock | None:
        """Return the next block, or None if `timeout` seconds brought none.

        Raises
        ------
        SourceEnded
            After the last sample.
        SourceError
            If the source has broken.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop and wake a waiting `read`, which then raises `SourceEnded`. Harmless twice."""
