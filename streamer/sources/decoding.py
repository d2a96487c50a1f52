"""Decoding with PyAV: from a container to blocks of samples."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.stream import Stream
from numpy.typing import NDArray

from streamer.sources.base import AudioBlock, SourceError, one_line

BLOCK_SECONDS = 0.1
"""Frames are joined until a block has at least this length, unless a longer one is asked for."""
MAX_VALUES_PER_SECOND = 16_000_000
"""Sample rate times channels that is believed: ten times eight channels at 192 kHz. A damaged
header may claim any rate, and the limits of the queues are in seconds."""
UNTRUSTED_INPUT = {"protocol_whitelist": "http,https,httpproxy,tls,tcp,crypto,data"}
"""Options of FFmpeg for bytes that are passed to it, such as an HLS playlist: they may refer to web
servers, but not to files or ports of this computer. FFmpeg restricts only what it opens itself."""
DAMAGED_PACKET_ERRORS = (
    av.error.InvalidDataError,
    av.error.PatchWelcomeError,
    av.error.UndefinedError,
)
"""Raised for a packet that is damaged or uses a feature unknown to FFmpeg; the next one may be
fine. Some decoders return codes that have no meaning."""
DECLARED_DURATION_FORMATS = ("aiff", "ape", "flac", "matroska,webm", "mov,mp4", "tta", "wv")
"""Formats of files whose headers hold the duration; that of others is estimated. WAV has it, but
programs that record do not know it when they write the header."""
LEAST_MISSING_SECONDS = 1.0
"""Sound that a file must lack for it to be reported: durations are not exact."""
METADATA_ERRORS: dict[str, Any] = (
    {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
)
"""Argument that lets PyAV before 19 open files whose tags are not UTF-8. PyAV 19 has no such
argument and always decodes them in this way."""

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1000)
def warn_once(message: str) -> None:
    """Log a warning, but not each time that a file is repeated or a radio opened again."""
    logger.warning("%s", message)


def open_container(file: object, **options: Any) -> InputContainer:
    """Open a path, a URL or an object with a method `read`, with PyAV 18 or 19.

    Bytes of tags that are not UTF-8 become surrogates, which `song_title` replaces. `options` are
    arguments of `av.open`, whose errors are raised.
    """
    return cast(InputContainer, av.open(cast(Any, file), mode="r", **METADATA_ERRORS, **options))


class InactivityTimeout:
    """Ends a stream that delivers no audio for `seconds`, however much other data.

    A stream that has changed its codec does so, and nothing else would end it.
    """

    def __init__(
        self, display_name: str, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._display_name = display_name
        self._seconds = seconds
        self._clock = clock
        self._last_audio = clock()

    def reset(self) -> None:
        """Note that there was audio."""
        self._last_audio = self._clock()

    def check(self) -> None:
        """Raise `SourceError` if there has been no audio for too long."""
        if self._clock() - self._last_audio > self._seconds:
            raise SourceError(
                f"{self._display_name}: no audio that can be decoded for {self._seconds:g} s"
            )


def _samples_of(frame: AudioFrame) -> NDArray[np.float32]:
    """Return the samples of a decoded frame, shape (n, channels), full scale 1."""
    if frame.format.name == "fltp":
        # What most codecs decode to: several times as fast as by `to_ndarray`.
        planes = frame.planes
        interleaved = np.empty((frame.samples, len(planes)), np.float32)
        for channel, plane in enumerate(planes):
            interleaved[:, channel] = np.frombuffer(memoryview(plane), np.float32, frame.samples)
        return interleaved
    array: NDArray[Any] = frame.to_ndarray()
    samples = array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(samples.dtype, np.integer):
        scale = -float(np.iinfo(samples.dtype).min)
        return (samples / scale).astype(np.float32)
    return np.ascontiguousarray(samples, dtype=np.float32)


def song_title(metadata: Mapping[str, str]) -> str | None:
    """Return "artist - title" from tags, only one of them if the other is missing, or None."""
    tags = {key.lower(): value.encode(errors="surrogateescape") for key, value in metadata.items()}
    parts = (one_line(tags.get(key, b"").decode(errors="replace")) for key in ("artist", "title"))
    return " - ".join(filter(None, parts)) or None


def decode(
    container: InputContainer,
    display_name: str,
    title_at: Callable[[int | None], str | None] | None = None,
    timeout: InactivityTimeout | None = None,
    *,
    continued: bool = False,
    block_seconds: float = BLOCK_SECONDS,
) -> Iterator[AudioBlock]:
    """Decode the best audio stream of a container; packets that cannot be decoded are left out.

    That sound is missing, for one at the end of a truncated file, is logged once. `title_at`
    returns the title at a byte position of the container, if something else than its tags announces
    titles; `timeout` is for streams without an end. If the container is `continued` from another
    one, it has no title unless its tags say so. Blocks grow up to `block_seconds`. `SourceError` is
    raised if there is no audio that can be decoded, its sample rate is impossible, or `timeout` is
    exceeded.
    """
    stream = container.streams.best("audio")
    if stream is None:
        raise SourceError(f"{display_name} has no audio", permanent=True)
    tags = song_title({**container.metadata, **stream.metadata})
    if continued:
        tags = tags or ""
    builder = _BlockBuilder(block_seconds)
    damaged = False
    # All streams are demuxed so that the timeout is checked while only a video stream continues.
    for packet in container.demux():
        if timeout:
            timeout.check()
        if packet.stream_index != stream.index:
            continue
        try:
            frames = packet.decode()
        except DAMAGED_PACKET_ERRORS:
            # A radio is joined within a packet, which is no damage.
            if builder.sample_count and not damaged:
                damaged = True
                warn_once(f"{display_name}: audio that cannot be decoded is left out")
            continue
        except av.error.ArgumentError:
            if packet.size:
                raise
            # An empty packet, at the end of a file that is still being written.
            continue
        new_tags = _new_tags(packet)
        if new_tags is not None:
            tags = song_title(new_tags) or ""
        announced = title_at(packet.pos) if title_at else None
        title = tags if announced is None else announced
        for frame in frames:
            assert isinstance(frame, AudioFrame)
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            if rate * channels > MAX_VALUES_PER_SECOND:
                reason = f"a sample rate of {rate} Hz with {channels} channels is not possible"
                raise SourceError(f"{display_name}: {reason}; the audio is damaged", permanent=True)
            if frame.samples:
                yield from builder.add(_samples_of(frame), rate, title)
                if timeout:
                    timeout.reset()
    yield from builder.flush()
    if not builder.sample_count:
        raise SourceError(f"{display_name} holds no audio that can be decoded", permanent=True)
    _report_missing_end(container, stream, display_name, builder.seconds)


def _report_missing_end(
    container: InputContainer, stream: Stream, display_name: str, seconds: float
) -> None:
    """Log that a file ends before its header says so, given the seconds that were decoded."""
    declared = (container.duration or 0) / av.time_base
    # The header that encoders of MP3 write holds the duration together with their delay.
    has_mp3_header = container.format.name == "mp3" and bool(stream.start_time)
    is_declared = has_mp3_header or container.format.name.startswith(DECLARED_DURATION_FORMATS)
    if is_declared and declared - seconds > max(LEAST_MISSING_SECONDS, 0.01 * declared):
        warn_once(
            f"{display_name}: the file is not complete: it ends after {seconds:.1f} s, "
            f"its header says {declared:.1f} s"
        )


def _new_tags(packet: av.Packet[Any]) -> dict[str, str] | None:
    """Return the tags that begin at `packet`: radios in Ogg announce each song in this way."""
    if not packet.has_sidedata("strings_metadata"):
        return None
    fields = bytes(packet.get_sidedata("strings_metadata")).split(b"\0")
    texts = [field.decode("utf-8", errors="replace") for field in fields]
    return dict(zip(texts[::2], texts[1::2], strict=False))


class _BlockBuilder:
    """Joins frames of the same format and title to blocks.

    The first one has about `BLOCK_SECONDS`, the next ones twice as much each, up to `most_seconds`.
    """

    def __init__(self, most_seconds: float) -> None:
        self._most_seconds = most_seconds
        self._block_seconds = BLOCK_SECONDS
        self.sample_count = 0
        self.seconds = 0.0
        self._frames: list[NDArray[np.float32]] = []
        self._format: tuple[int, int, str | None] = (0, 0, None)

    def add(
        self, samples: NDArray[np.float32], sample_rate: int, title: str | None
    ) -> Iterator[AudioBlock]:
        frame_format = (sample_rate, samples.shape[1], title)
        if frame_format != self._format:
            yield from self.flush()
            self._format = frame_format
        self._frames.append(samples)
        self.sample_count += len(samples)
        self.seconds += len(samples) / sample_rate
        if sum(map(len, self._frames)) >= self._block_seconds * sample_rate:
            yield from self.flush()
            self._block_seconds = min(2 * self._block_seconds, self._most_seconds)

    def flush(self) -> Iterator[AudioBlock]:
        if self._frames:
            sample_rate, _, title = self._format
            samples = np.concatenate(self._frames)
            self._frames.clear()
            yield AudioBlock(samples, sample_rate, time.monotonic(), title)
