"""Standard input: raw samples, or any container that FFmpeg reads from a pipe."""

from __future__ import annotations

import sys
import time
from io import BufferedReader

import av
import numpy as np

from streamer.sources.base import AudioBlock, SourceError
from streamer.sources.decoding import BLOCK_SECONDS, FROM_ELSEWHERE, decode, open_container
from streamer.sources.threaded import AHEAD_SECONDS, Session, ThreadedSource

SHOWN = "standard input"


class PipeSource(ThreadedSource):
    """Samples from standard input or another binary pipe.

    Parameters
    ----------
    name
        What clients call it.
    rate, channels
        Format of raw signed 16-bit little-endian samples (rate in Hz). If both are None the input
        is a container: WAV, FLAC, Ogg, MP3, Matroska and so on.
    fast
        Deliver as fast as the pipe does rather than in real time.
    pipe
        What to read; None: standard input. It can be read only once.

    Raises
    ------
    SourceError
        If there is no standard input; permanent.
    """

    def __init__(
        self,
        *,
        name: str = "stdin",
        rate: int | None = None,
        channels: int | None = None,
        fast: bool = False,
        pipe: BufferedReader | None = None,
    ) -> None:
        if pipe is None and sys.stdin is None:
            raise SourceError(f"{SHOWN} is closed; send sound into it", permanent=True)
        super().__init__(name, paced=not fast)
        self.real_time = not fast
        self.kind = "pcm"
        self.live = False
        self._rate = rate
        self._channels = channels
        self._pipe = pipe

    def produce(self, session: Session) -> None:
        """Read the pipe to its end."""
        # A recorder at the other end has a clock of its own, and nowhere to keep what we leave.
        session.catch_up_seconds = AHEAD_SECONDS / 2
        try:
            # Not sys.stdin's own buffer: Python aborts if a thread still reads that when it ends.
            pipe = self._pipe or open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115
            if self._rate is None and self._channels is None:
                self._read_container(pipe, session)
            else:
                self._read_raw(pipe, self._rate or 44100, self._channels or 2, session)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SourceError(f"{SHOWN} cannot be read: {reason}", permanent=True) from None

    def _read_raw(self, pipe: BufferedReader, rate: int, channels: int, session: Session) -> None:
        frame_bytes = 2 * channels
        rest = b""
        while data := pipe.read1(round(rate * BLOCK_SECONDS) * frame_bytes):
            if session.stopped.is_set():
                return
            data = rest + data
            whole = len(data) - len(data) % frame_bytes
            rest = data[whole:]
            if whole:
                samples = np.frombuffer(data[:whole], "<i2").reshape(-1, channels)
                scaled = samples.astype(np.float32) / np.float32(32768)
                session.put(AudioBlock(scaled, rate, time.monotonic()))

    def _read_container(self, pipe: BufferedReader, session: Session) -> None:
        try:
            with open_container(_Pipe(pipe), options=FROM_ELSEWHERE) as container:
                for block in decode(container, SHOWN, None):
                    session.put(block)
                    if session.stopped.is_set():
                        return
        except av.FFmpegError:
            raise SourceError(
                f"{SHOWN}: this is not audio that FFmpeg can read; for raw 16-bit samples say "
                "--rate and --channels",
                permanent=True,
            ) from None


class _Pipe:
    """What PyAV needs to read from a pipe: whatever has arrived, and no seeking."""

    name = SHOWN

    def __init__(self, pipe: BufferedReader) -> None:
        self._pipe = pipe

    def read(self, size: int) -> bytes:
        return self._pipe.read1(size)
