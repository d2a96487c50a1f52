"""From an open container to blocks of samples: the part that every use of PyAV shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from numpy.typing import NDArray

from streamer.sources.base import AudioBlock, SourceError, one_line

BLOCK_SECONDS = 0.1
"""Frames are joined until a block is at least this long."""
MOST_VALUES_PER_SECOND = 16_000_000
"""Ten times as many as eight channels at 192 kHz have. A header may claim any rate, and what is
held at once is measured in seconds."""
FROM_ELSEWHERE = {"protocol_whitelist": "http,https,httpproxy,tls,tcp,crypto,data"}
"""What bytes that are handed to FFmpeg may make it open: the segments of HLS, say, but no file of
this computer and no port of its own. By itself FFmpeg bounds only what it has opened itself."""

METADATA_ERRORS: dict[str, Any] = (
    {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
)
"""PyAV before 19 refuses files with tags that are not UTF-8 unless told otherwise; from 19 on it
decodes them as given here and takes no such argument."""


def open_container(file: object, **options: Any) -> InputContainer:
    """Open a container for reading, with PyAV 18 or 19.

    Bytes of tags that are not UTF-8 become surrogates; `song_title` replaces them.

    Parameters
    ----------
    file
        A path, a URL, or an object with a method `read`.
    options
        Arguments of `av.open`.

    Raises
    ------
    av.FFmpegError
        If it cannot be opened.
    """
    return cast(InputContainer, av.open(cast(Any, file), mode="r", **METADATA_ERRORS, **options))


class Patience:
    """Gives up a stream that goes on without any audio in it.

    A stream that has changed its codec still brings bytes, and nothing else would end it.

    Parameters
    ----------
    shown
        What to call the stream in the error.
    seconds
        How long it may bring no audio.
    """

    def __init__(self, shown: str, seconds: float) -> None:
        self._shown = shown
        self._seconds = seconds
        self._since = time.monotonic()

    def heard(self) -> None:
        """Note that there was audio."""
        self._since = time.monotonic()

    def check(self) -> None:
        """Raise `SourceError` if there has been none for too long."""
        if time.monotonic() - self._since > self._seconds:
            raise SourceError(
                f"{self._shown}: no audio that can be decoded for {self._seconds:g} s"
            )


def samples_of(frame: AudioFrame) -> NDArray[np.float32]:
    """Return a frame's samples as float32, shape (n, channels), full scale 1.

    Parameters
    ----------
    frame
        A decoded frame in any of FFmpeg's sample formats.
    """
    array: NDArray[Any] = frame.to_ndarray()
    samples = array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(samples.dtype, np.integer):
        scale = -float(np.iinfo(samples.dtype).min)
        return (samples / scale).astype(np.float32)
    return np.ascontiguousarray(samples, dtype=np.float32)


def song_title(metadata: Mapping[str, str]) -> str | None:
    """Return "artist - title" from a container's or a stream's tags, or what there is of it."""
    tags = {key.lower(): one_line(_without_surrogates(value)) for key, value in metadata.items()}
    return " - ".join(part for key in ("artist", "title") if (part := tags.get(key))) or None


def _without_surrogates(text: str) -> str:
    """Replace what was not UTF-8 by U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def decode(
    container: InputContainer,
    shown: str,
    title_at: Callable[[int | None], str | None] | None,
    patience: Patience | None = None,
) -> Iterator[AudioBlock]:
    """Decode a container's best audio stream; a packet that cannot be decoded is left out.

    Parameters
    ----------
    container
        An open container.
    shown
        What to call it in an error.
    title_at
        The title at a byte position of the stream, where something else than tags tells it.
    patience
        For a stream that may go on without audio; a file ends by itself.

    Raises
    ------
    SourceError
        If there is no audio, or nothing of it can be decoded, or its rate is beyond reason, or
        `patience` is at its end.
    """
    stream = container.streams.best("audio")
    if stream is None:
        raise SourceError(f"{shown} has no audio", permanent=True)
    tags = song_title({**container.metadata, **stream.metadata})
    joiner = _Joiner()
    # All streams, so that patience ends, too, while only a picture goes on.
    for packet in container.demux():
        if patience:
            patience.check()
        if packet.stream_index != stream.index:
            continue
        try:
            frames = packet.decode()
        except (av.error.InvalidDataError, av.error.PatchWelcomeError):
            continue
        update = _tag_update(packet)
        if update is not None:
            tags = song_title(update) or ""
        title = title_at(packet.pos) if title_at else None
        if title is None:
            title = tags
        for frame in frames:
            assert isinstance(frame, AudioFrame)
            _check_rate(frame, shown)
            if frame.samples:
                yield from joiner.add(samples_of(frame), frame.sample_rate, title)
                if patience:
                    patience.heard()
    yield from joiner.rest()
    if not joiner.count:
        raise SourceError(f"{shown} holds no audio that can be decoded", permanent=True)


def _check_rate(frame: AudioFrame, shown: str) -> None:
    """Refuse sound that would take any amount of memory."""
    rate, channels = frame.sample_rate, frame.layout.nb_channels
    if rate * channels > MOST_VALUES_PER_SECOND:
        raise SourceError(
            f"{shown}: {rate} samples a second of {channels} channels are no sound to listen to",
            permanent=True,
        )


def _tag_update(packet: av.Packet[Any]) -> dict[str, str] | None:
    """Return the tags that change at `packet`: a radio in Ogg begins a new chain for each song."""
    if not packet.has_sidedata("strings_metadata"):
        return None
    fields = bytes(packet.get_sidedata("strings_metadata")).split(b"\0")
    words = [field.decode("utf-8", errors="replace") for field in fields]
    return dict(zip(words[::2], words[1::2], strict=False))


class _Joiner:
    """Joins frames of the same format and title to blocks of about `BLOCK_SECONDS`."""

    def __init__(self) -> None:
        self.count = 0
        self._frames: list[NDArray[np.float32]] = []
        self._key: tuple[int, int, str | None] = (0, 0, None)

    def add(
        self, samples: NDArray[np.float32], sample_rate: int, title: str | None
    ) -> Iterator[AudioBlock]:
        key = (sample_rate, samples.shape[1], title)
        if key != self._key:
            yield from self.rest()
            self._key = key
        self._frames.append(samples)
        self.count += len(samples)
        if sum(map(len, self._frames)) >= BLOCK_SECONDS * sample_rate:
            yield from self.rest()

    def rest(self) -> Iterator[AudioBlock]:
        if self._frames:
            joined = np.concatenate(self._frames)
            self._frames.clear()
            yield AudioBlock(joined, self._key[0], time.monotonic(), self._key[2])
