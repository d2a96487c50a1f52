"""Standard input: raw samples, or any container that FFmpeg reads from a pipe."""

from __future__ import annotations

import logging
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from io import BufferedReader

import av
import numpy as np

from streamer.sources.base import AudioBlock, SourceError
from streamer.sources.block_queue import READ_AHEAD_SECONDS, BlockQueue
from streamer.sources.chain import Chain
from streamer.sources.decoding import (
    BLOCK_SECONDS,
    UNTRUSTED_INPUT,
    decode,
    open_container,
)
from streamer.sources.ffmpeg_errors import NOT_AUDIO, describe
from streamer.sources.threaded import ThreadedSource

DISPLAY_NAME = "standard input"
CONTAINERS = {
    "WAV": re.compile(rb"(?:RIFF|RIFX|RF64)....WAVE", re.DOTALL),
    "FLAC": re.compile(rb"fLaC"),
    "Ogg": re.compile(rb"OggS\0"),
    "MP3": re.compile(rb"ID3[\2-\4]"),
    "Matroska": re.compile(rb"\x1a\x45\xdf\xa3"),
    "MP4": re.compile(rb"....ftyp", re.DOTALL),
    "AIFF": re.compile(rb"FORM....AIF[FC]", re.DOTALL),
    "AU": re.compile(rb"\.snd\0"),
    "CAF": re.compile(rb"caff\0"),
    "WavPack": re.compile(rb"wvpk"),
}
"""First bytes of containers, by which they are told from raw samples."""
WAVPACK = CONTAINERS["WavPack"]
COPY_BYTES = 65_536
HEAD_BYTES = 12
"""Bytes that are needed for that."""

logger = logging.getLogger(__name__)


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
        data = _read_head(pipe)
        found = (name for name, head in CONTAINERS.items() if head.match(data))
        if container := next(found, None):
            logger.warning(
                "%s: %s holds %s audio and not raw samples; rate and channels are taken from it",
                self.name,
                DISPLAY_NAME,
                container,
            )
            self._read_container(pipe, queue, data)
            return
        frame_bytes = 2 * channels
        rest = b""
        while data and not queue.stopped.is_set():
            data = rest + data
            whole = len(data) - len(data) % frame_bytes
            rest = data[whole:]
            if whole:
                samples = np.frombuffer(data[:whole], "<i2").reshape(-1, channels)
                scaled = samples.astype(np.float32) / np.float32(32768)
                queue.put(AudioBlock(scaled, rate, time.monotonic()))
            data = pipe.read1(round(rate * BLOCK_SECONDS) * frame_bytes)

    def _read_container(self, pipe: BufferedReader, queue: BlockQueue, head: bytes = b"") -> None:
        """Decode a container, of which `head` was read already."""
        head = head or _read_head(pipe)
        try:
            if WAVPACK.match(head):
                _put_blocks(_wavpack_blocks(pipe, queue, head), queue)
                return
            with closing(Chain(pipe.read1, DISPLAY_NAME, UNTRUSTED_INPUT, head)) as chain:
                _put_blocks(chain.blocks(), queue)
        except av.FFmpegError as error:
            what = describe(error)
            if isinstance(error, (av.error.InvalidDataError, av.error.ArgumentError)):
                what = f"{NOT_AUDIO}; for raw 16-bit samples say --rate and --channels"
            raise SourceError(f"{DISPLAY_NAME}: {what}", permanent=True) from None


def _put_blocks(blocks: Iterator[AudioBlock], queue: BlockQueue) -> None:
    for block in blocks:
        queue.put(block)
        if queue.stopped.is_set():
            return


def _wavpack_blocks(pipe: BufferedReader, queue: BlockQueue, head: bytes) -> Iterator[AudioBlock]:
    """Decode WavPack, which FFmpeg reads only where it can seek: when it has come to its end."""
    with tempfile.TemporaryFile() as file:
        file.write(head)
        while (data := pipe.read1(COPY_BYTES)) and not queue.stopped.is_set():
            file.write(data)
        file.seek(0)
        with open_container(file) as container:
            yield from decode(container, DISPLAY_NAME)


def _read_head(pipe: BufferedReader) -> bytes:
    """Return the first bytes of a pipe, fewer than `HEAD_BYTES` only at its end."""
    head = b""
    while len(head) < HEAD_BYTES and (data := pipe.read1(HEAD_BYTES - len(head))):
        head += data
    return head
