"""Standard input: raw samples, or any container that FFmpeg reads from a pipe."""

from __future__ import annotations

import sys
import time
from io import BufferedReader
from types import SimpleNamespace

import av
import numpy as np

from streamer.sources.base import AudioBlock, SourceError
from streamer.sources.block_queue import READ_AHEAD_SECONDS, BlockQueue
from streamer.sources.decoding import BLOCK_SECONDS, UNTRUSTED_INPUT, decode, open_container
from streamer.sources.threaded import ThreadedSource

DISPLAY_NAME = "standard input"


class PipeSource(ThreadedSource):
    """Samples from standard input or another binary pipe, which can be read only once.

    `rate` (Hz) and `channels` are the format of raw signed 16-bit little-endian samples. If both
    are None the input is a container: WAV, FLAC, Ogg, MP3, Matroska and so on. A permanent
    `SourceError` is raised if there is no standard input.
    """

    kind = "pcm"

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
            raise SourceError(f"{DISPLAY_NAME} is closed; send sound into it", permanent=True)
        super().__init__(name, paced=not fast)
        self.real_time = not fast
        self._rate = rate
        self._channels = channels
        self._pipe = pipe

    def produce(self, queue: BlockQueue) -> None:
        """Read the pipe to its end."""
        # A recorder at the other end has its own clock and loses what is not read in time.
        queue.catch_up_seconds = READ_AHEAD_SECONDS / 2
        try:
            # Python aborts if a thread still reads from sys.stdin's buffer when the process ends.
            pipe = self._pipe or open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115
            if self._rate is None and self._channels is None:
                self._read_container(pipe, queue)
            else:
                self._read_raw(pipe, self._rate or 44100, self._channels or 2, queue)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SourceError(f"{DISPLAY_NAME} cannot be read: {reason}", permanent=True) from None

    def _read_raw(self, pipe: BufferedReader, rate: int, channels: int, queue: BlockQueue) -> None:
        frame_bytes = 2 * channels
        rest = b""
        while data := pipe.read1(round(rate * BLOCK_SECONDS) * frame_bytes):
            if queue.stopped.is_set():
                return
            data = rest + data
            whole = len(data) - len(data) % frame_bytes
            rest = data[whole:]
            if whole:
                samples = np.frombuffer(data[:whole], "<i2").reshape(-1, channels)
                scaled = samples.astype(np.float32) / np.float32(32768)
                queue.put(AudioBlock(scaled, rate, time.monotonic()))

    def _read_container(self, pipe: BufferedReader, queue: BlockQueue) -> None:
        try:
            # A file object that returns what has arrived and cannot seek.
            file = SimpleNamespace(name=DISPLAY_NAME, read=pipe.read1)
            with open_container(file, options=UNTRUSTED_INPUT) as container:
                for block in decode(container, DISPLAY_NAME):
                    queue.put(block)
                    if queue.stopped.is_set():
                        return
        except av.FFmpegError:
            raise SourceError(
                f"{DISPLAY_NAME}: this is not audio that FFmpeg can read; for raw 16-bit samples "
                "say --rate and --channels",
                permanent=True,
            ) from None
