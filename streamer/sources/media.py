"""Files and network streams, decoded by FFmpeg through PyAV."""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import av
from av.container import InputContainer

from streamer.core.events import SourceKind
from streamer.sources import playlist, wav
from streamer.sources.address import default_name, is_url
from streamer.sources.base import AudioBlock, SourceError
from streamer.sources.block_queue import BlockQueue
from streamer.sources.chain import OGG, Chain, is_chainable_file
from streamer.sources.decoding import (
    BLOCK_SECONDS,
    UNTRUSTED_INPUT,
    InactivityTimeout,
    decode,
    open_container,
    warn_once,
)
from streamer.sources.ffmpeg_errors import describe
from streamer.sources.growing_file import GrowingFile
from streamer.sources.http_file import HttpFile
from streamer.sources.http_stream import USER_AGENT, HttpStream, open_stream
from streamer.sources.threaded import ThreadedSource
from streamer.sources.titles import TitleDecoder
from streamer.system.fair_semaphore import FairSemaphore
from streamer.system.processors import processors
from streamer.system.urls import redact

INACTIVITY_SECONDS = 10.0
"""A connection that delivers no data or no audio for this long is broken."""
HLS_INACTIVITY_FACTOR = 3.0
"""HLS delivers segments of up to 10 s, so its timeout is longer by this factor."""
AUDIO_PROBE_BYTES = "16384"
"""What FFmpeg reads of a radio before it plays; its default is eight times as much."""
RECONNECT_OPTIONS = {"reconnect": "1", "reconnect_delay_max": "4"}
"""FFmpeg resumes a file on a web server where the connection broke; delays in seconds."""
LOCAL_BLOCK_SECONDS = 0.25
"""Length of the blocks of local files, which can be decoded ahead."""
MAX_PLAYLISTS = 16
"""Playlists that may lead to one another before that counts as a circle."""
DECODING_SLOTS = FairSemaphore(processors(), patience=0.5)
"""Limits how many radios and files of this process are decoded at once: hundreds of decoding
threads would otherwise compete for the interpreter. A file on a disk that hangs keeps its slot."""


@dataclass(frozen=True, slots=True)
class _OpenMedia:
    """A container or chain that is ready to be decoded."""

    display_name: str
    """Its location without credentials."""
    live: bool
    """Whether it is a stream without an end."""
    container: InputContainer | None = None
    """None if it is a chain."""
    chain: Chain | None = None
    timeout: InactivityTimeout | None = None
    """None for a local file."""
    file: HttpStream | HttpFile | GrowingFile | BinaryIO | None = None
    """What the chain reads; None if FFmpeg reads the location itself."""

    def blocks(self) -> Iterator[AudioBlock]:
        """Decode it; errors are those of `decode`."""
        if self.chain:
            title_at = self.file.title_at if isinstance(self.file, HttpStream) else None
            return self.chain.blocks(title_at, self.timeout, block_seconds=self._block_seconds)
        assert self.container
        return decode(
            self.container,
            self.display_name,
            timeout=self.timeout,
            block_seconds=self._block_seconds,
        )

    @property
    def _block_seconds(self) -> float:
        return LOCAL_BLOCK_SECONDS if self.is_local else BLOCK_SECONDS

    @property
    def is_local(self) -> bool:
        """Whether reading it takes no time to speak of."""
        return self.timeout is None and not isinstance(self.file, GrowingFile)

    def decoding(self) -> AbstractContextManager[object]:
        """Hold one of `DECODING_SLOTS` while this computes, but not while it waits for data."""
        if isinstance(self.file, HttpStream):
            return self.file.decoding(DECODING_SLOTS)
        return DECODING_SLOTS.slot() if self.is_local else nullcontext()

    def close(self) -> None:
        """Close what was opened."""
        for opened in (self.container, self.chain, self.file):
            if opened:
                opened.close()


_Decoded = tuple[_OpenMedia, AudioBlock]


class MediaSource(ThreadedSource):
    """Anything that FFmpeg reads: a file, a radio, HLS, RTSP, UDP, or a playlist of them.

    The entries of a playlist are played in order. If one cannot be opened or breaks, the next one
    is played, as with the mirrors of a radio.

    Parameters are those of `make_source`, but for `inactivity_seconds`: after this time without
    data, or without audio, a connection counts as broken.
    """

    def __init__(
        self,
        location: str,
        *,
        name: str | None = None,
        kind: SourceKind = "media",
        fast: bool = False,
        loop: bool = False,
        follow: bool = False,
        charset: str | None = None,
        inactivity_seconds: float = INACTIVITY_SECONDS,
    ) -> None:
        super().__init__(name or default_name(location), paced=not fast)
        self.real_time = not fast
        self.kind = kind
        self._location = location
        self._titles = TitleDecoder(charset)
        # A file that is followed is played again only if another one takes its place.
        self._loop = loop or follow
        self._follow = follow
        self._inactivity_seconds = inactivity_seconds
        self._played = False

    def produce(self, queue: BlockQueue) -> None:
        """Play the location, repeatedly with `loop`."""
        for media, block in self._play(queue.stopped, with_slot=True):
            queue.blocking = not media.live
            if media.is_local and queue.is_full:
                with DECODING_SLOTS.released():
                    queue.wait_for_room()
            queue.put(block)

    def blocks(self) -> Generator[AudioBlock, None, None]:
        """As in `Source`; a file that is wanted as fast as possible is decoded by the caller.

        Two threads, one of which decodes while the other uses what is decoded, would pass the
        interpreter to and fro for every packet.
        """
        if self.real_time or is_url(self._location):
            yield from super().blocks()
            return
        # Without a slot, which it would hold while the caller does something else.
        for _, block in self._play(threading.Event(), with_slot=False):
            yield block

    def _play(self, stopped: threading.Event, *, with_slot: bool) -> Iterator[_Decoded]:
        """Play the location, repeatedly with `loop`; `with_slot` holds one of `DECODING_SLOTS`."""
        yield from self._play_location(stopped, with_slot)
        while self._loop and not stopped.is_set():
            yield from self._play_location(stopped, with_slot)

    def _play_location(self, stopped: threading.Event, with_slot: bool) -> Iterator[_Decoded]:
        """Play the location, or the entries of the playlist that it is."""
        pending = deque([self._location])
        playlists = 0
        failures: list[SourceError] = []
        ended = False
        while pending and not stopped.is_set():
            location = pending.popleft()
            try:
                found = self._open(location, stopped)
                if isinstance(found, list):
                    if not found:
                        reason = "the playlist names nothing that can be played"
                        raise SourceError(f"{redact(location)}: {reason}", permanent=True)
                    playlists += 1
                    if playlists > MAX_PLAYLISTS:
                        raise SourceError(f"{redact(location)}: too many playlists", permanent=True)
                    pending.extendleft(reversed(found))
                    continue
                yield from self._play_medium(found, stopped, with_slot)
                ended = True
            except SourceError as error:
                if playlists:
                    warn_once(f"{self.name}: an entry of the playlist is left out: {error}")
                failures.append(error)
        if failures and (self.live or not ended):
            failure = next((error for error in failures if not error.permanent), failures[-1])
            # A radio may return: Icecast answers 404 while nothing feeds a mount.
            raise SourceError(str(failure), permanent=failure.permanent and not self.live)

    def _play_medium(
        self, media: _OpenMedia, stopped: threading.Event, with_slot: bool
    ) -> Iterator[_Decoded]:
        # A radio that answers with a file while it is off air is still a radio.
        self.live = self.live or media.live
        discontinuity = self._played
        # A recording that is wanted as fast as possible is wanted whole, and no part twice.
        permanent = media.timeout is None or not (media.live or self.real_time)
        try:
            with (
                self._reported_errors(media.display_name, permanent=permanent),
                media.decoding() if with_slot else nullcontext(),
            ):
                for block in media.blocks():
                    yield media, replace(block, discontinuity=discontinuity)
                    if stopped.is_set():
                        return
                    self._played, discontinuity = True, False
                if media.chain and media.chain.cut_short and not media.live:
                    warn_once(f"{media.display_name}: the file is not complete: its end is cut off")
        finally:
            media.close()
        if self.live:
            raise SourceError(f"{media.display_name}: the stream has ended")

    def _open(self, location: str, stopped: threading.Event) -> _OpenMedia | list[str]:
        """Open a location, or return the entries if it is a playlist."""
        scheme = location.partition(":")[0].lower() if is_url(location) else ""
        if scheme in ("http", "https"):
            stream = open_stream(location, self._inactivity_seconds, titles=self._titles)
            return self._open_http(stream)
        if scheme and scheme != "file":
            return self._open_with_ffmpeg(location)
        try:
            path = Path(unquote(urlsplit(location).path)) if scheme else Path(location)
        except ValueError:
            raise SourceError(f"{redact(location)}: this is no URL", permanent=True) from None
        return self._open_file(path, stopped)

    def _open_http(self, stream: HttpStream) -> _OpenMedia | list[str]:
        stream.timeout = InactivityTimeout(stream.name, self._inactivity_seconds)
        with _closed_on_error(stream):
            is_playlist = stream.is_playlist or stream.looks_like_playlist()
            if is_playlist:
                text = stream.text()
        if is_playlist:
            stream.close()
            if text.lstrip().startswith("<"):
                problem = stream.foreign_content() or "this is no playlist; check the address"
                raise SourceError(f"{stream.name}: {problem}", permanent=True)
            if playlist.is_hls(text):
                return self._open_hls(text, stream.url)
            return playlist.network_entries(text, stream.url)
        with _closed_on_error(stream):
            if foreign := stream.foreign_start():
                raise SourceError(f"{stream.name}: {foreign}", permanent=True)
        if stream.is_file and not stream.is_compressed:
            return self._open_http_file(stream)
        probing = {"probesize": AUDIO_PROBE_BYTES} if stream.is_audio else {}
        chain = Chain(stream.read, stream.name, UNTRUSTED_INPUT | probing)
        self._open_chain(chain, stream, content=stream)
        return _OpenMedia(
            stream.name, not stream.is_file, chain=chain, timeout=stream.timeout, file=stream
        )

    def _open_hls(self, text: str, url: str) -> _OpenMedia:
        """Open a playlist of HLS; FFmpeg does not say that it is the key that cannot be had."""
        try:
            return self._open_with_ffmpeg(url, HLS_INACTIVITY_FACTOR)
        except SourceError:
            for key in playlist.hls_keys(text, url):
                try:
                    open_stream(key, self._inactivity_seconds).close()
                except SourceError as error:
                    problem = f"the key of the stream cannot be had: {error}"
                    raise SourceError(problem, permanent=error.permanent) from None
            raise

    def _open_http_file(self, stream: HttpStream) -> _OpenMedia:
        """Open a file on a web server: FFmpeg reads it, unless it may be a chain."""
        timeout, stream.timeout = stream.timeout, None
        assert timeout
        file = HttpFile(stream, self._inactivity_seconds, timeout)
        with _closed_on_error(file):
            head = file.read(len(OGG))
            while 0 < len(head) < len(OGG) and (more := file.read(len(OGG) - len(head))):
                head += more
        if head != OGG:
            file.close()
            opened = self._open_with_ffmpeg(stream.url, resumable=True, content=stream)
            return replace(opened, live=False)
        chain = Chain(file.read, stream.name, UNTRUSTED_INPUT, head)
        self._open_chain(chain, file, content=stream)
        return _OpenMedia(stream.name, False, chain=chain, timeout=timeout, file=file)

    def _open_chain(
        self,
        chain: Chain,
        file: HttpStream | HttpFile | GrowingFile | BinaryIO,
        *,
        permanent: bool = False,
        content: HttpStream | None = None,
    ) -> None:
        """Open the first link of a chain; close `file` if that fails."""
        with (
            _closed_on_error(file),
            self._reported_errors(chain.name, permanent=permanent, content=content),
        ):
            chain.open()

    def _open_file(self, path: Path, stopped: threading.Event) -> _OpenMedia | list[str]:
        name = str(path)
        with self._reported_errors(name, permanent=True):
            if self._follow and path.is_file() and name == self._location:
                growing = GrowingFile(path, stopped)
                options = {"ignore_length": "1", "probesize": AUDIO_PROBE_BYTES}
                chain = Chain(growing.read, name, options)
                self._open_chain(chain, growing, permanent=True)
                return _OpenMedia(name, False, chain=chain, file=growing)
            if path.is_file() and path.stat().st_size == 0:
                raise SourceError(f"{path}: the file is empty", permanent=True)
            if path.suffix.lower() in playlist.SUFFIXES:
                text = playlist.decode_text(path.read_bytes())
                if not playlist.is_hls(text):
                    return playlist.local_entries(text, path.parent)
            if not is_chainable_file(path):
                found = wav.length_problem(path) if path.is_file() else None
                if not found:
                    return _OpenMedia(name, False, open_container(f"file:{path}"))
                problem, end = found
                warn_once(f"{name}: {problem}")
                options = {"protocol_whitelist": "file,subfile"}
                part = f"subfile,,start,0,end,{end},,:file:{path}"
                return _OpenMedia(name, False, open_container(part, options=options))
            file = path.open("rb")
            chain = Chain(file.read, name)
            self._open_chain(chain, file, permanent=True)
            return _OpenMedia(name, False, chain=chain, file=file)

    def _open_with_ffmpeg(
        self,
        url: str,
        inactivity_factor: float = 1.0,
        *,
        resumable: bool = False,
        content: HttpStream | None = None,
    ) -> _OpenMedia:
        """Open a URL that FFmpeg reads itself."""
        microseconds = str(round(self._inactivity_seconds * 1e6))
        options = {"rw_timeout": microseconds, "user_agent": USER_AGENT, "live_start_index": "-1"}
        if resumable:
            options |= RECONNECT_OPTIONS
        if url.startswith("rtsp"):
            options = {"rtsp_flags": "prefer_tcp", "timeout": microseconds}
        elif url.startswith("udp"):
            options = {"timeout": microseconds}
        elif url.startswith("https") and (bundle := ssl.get_default_verify_paths().cafile):
            # Without these it verifies no certificate; those of HLS segments it never does.
            options |= {"tls_verify": "1", "ca_file": bundle}
        display_name = redact(url)
        seconds = self._inactivity_seconds * inactivity_factor
        with self._reported_errors(display_name, content=content):
            container = open_container(url, options=options, timeout=(seconds, seconds))
        timeout = InactivityTimeout(display_name, seconds)
        return _OpenMedia(display_name, not container.duration, container, timeout=timeout)

    @contextmanager
    def _reported_errors(
        self, display_name: str, *, permanent: bool = False, content: HttpStream | None = None
    ) -> Iterator[None]:
        """Raise errors of opening and reading as a `SourceError` of one sentence.

        If what cannot be read is the `content` of a response, the sentence names its type, and the
        error is permanent where that is not audio.
        """
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            is_late = isinstance(error, (av.error.ExitError, TimeoutError))
            what = f"no data for {self._inactivity_seconds:g} s" if is_late else describe(error)
            gone = (av.error.HTTPNotFoundError, av.error.ProtocolNotFoundError)
            permanent = permanent or isinstance(error, gone)
            if content and isinstance(error, av.error.InvalidDataError):
                if foreign := content.foreign_content():
                    what, permanent = foreign, True
                elif content.content_type:
                    what += f"; the server says that it is {content.content_type}"
            raise SourceError(f"{display_name}: {what}", permanent=permanent) from None


@contextmanager
def _closed_on_error(opened: HttpStream | HttpFile | GrowingFile | BinaryIO) -> Iterator[None]:
    """Close what was opened if the block raises a `SourceError`."""
    try:
        yield
    except SourceError:
        opened.close()
        raise
