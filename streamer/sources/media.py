"""Files and network streams, decoded by FFmpeg through PyAV."""

from __future__ import annotations

import logging
import ssl
from collections import deque
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import av
from av.container import InputContainer

from streamer.core.events import SourceKind
from streamer.sources import playlist
from streamer.sources.address import default_name, is_url
from streamer.sources.base import SourceError
from streamer.sources.decoding import FROM_ELSEWHERE, Patience, decode, open_container
from streamer.sources.http_stream import USER_AGENT, HttpStream, Resource, open_resource
from streamer.sources.threaded import Session, ThreadedSource
from streamer.system.scheduler import Scheduler, processors
from streamer.system.urls import redact

QUIET_SECONDS = 10.0
"""A connection that brings no byte, or no audio, for so long is broken."""
HLS_QUIET_FACTOR = 3.0
"""HLS brings whole segments of up to 10 s: no new one for this many `QUIET_SECONDS` is broken."""
AUDIO_PROBE_BYTES = "16384"
"""What FFmpeg looks at before it plays a radio; by default it waits for eight times as much."""
RECONNECT = {"reconnect": "1", "reconnect_delay_max": "4"}
"""FFmpeg goes on where a web server's file broke off, if the server lets it; delays in seconds."""
PLAYLISTS = 16
"""How many playlists may lead to one another before that counts as going in circles."""
DECODING = Scheduler(processors())
"""Radios are decoded in turn: hundreds that want the interpreter at once would hardly get on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A container that is ready to be decoded."""

    container: InputContainer
    shown: str
    """Its location without secrets."""
    live: bool
    """Whether it has no end of its own."""
    quiet_seconds: float | None = None
    """How long it may bring no audio; None for a file of this computer."""
    http: HttpStream | None = None


class MediaSource(ThreadedSource):
    """Anything that FFmpeg reads: a file, a radio, HLS, RTSP, UDP, or a playlist of them.

    The entries of a playlist are played in order; one that breaks or cannot be opened gives way to
    the next, as the mirrors of a radio do.

    Parameters
    ----------
    location
        A path or a URL.
    name
        What clients call it; None: after the location.
    kind
        "media", or "demo" for the clip that ships with the program.
    fast
        Deliver as fast as it can be decoded rather than in real time.
    loop
        Begin again at the end of a file or a playlist.
    quiet_seconds
        Seconds without a byte, or without audio, after which a connection counts as broken.
    """

    def __init__(
        self,
        location: str,
        *,
        name: str | None = None,
        kind: SourceKind = "media",
        fast: bool = False,
        loop: bool = False,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        super().__init__(name or default_name(location), paced=not fast)
        self.real_time = not fast
        self.kind = kind
        self.live = False
        self._location = location
        self._loop = loop
        self._quiet_seconds = quiet_seconds
        self._played = False

    def produce(self, session: Session) -> None:
        """Play the location, again and again if it loops."""
        self._play_entries(session)
        while self._loop and not session.stopped.is_set():
            self._play_entries(session)

    def _play_entries(self, session: Session) -> None:
        """Play the location, or what it lists, one after the other."""
        pending = deque([self._location])
        playlists = 0
        failures: list[SourceError] = []
        ended = False
        while pending and not session.stopped.is_set():
            location = pending.popleft()
            try:
                found = self._open(location)
                if isinstance(found, list):
                    playlists += 1
                    if playlists > PLAYLISTS:
                        raise SourceError(f"{redact(location)}: too many playlists", permanent=True)
                    pending.extendleft(reversed(found))
                    continue
                self._play(found, session)
                ended = True
            except SourceError as error:
                logger.debug("%s: %s", self.name, error)
                failures.append(error)
        if failures and (self.live or not ended):
            failure = next((error for error in failures if not error.permanent), failures[-1])
            # A radio may be back the next time: Icecast answers 404 while nobody feeds a mount.
            raise SourceError(str(failure), permanent=failure.permanent and not self.live)

    def _play(self, opened: _Opened, session: Session) -> None:
        # Once a radio, always a radio, even if it answers with a file while it is off air.
        self.live = self.live or opened.live
        session.patient = not opened.live
        fresh = self._played
        title_at = opened.http.title_at if opened.http else None
        patience = Patience(opened.shown, opened.quiet_seconds) if opened.quiet_seconds else None
        if opened.http:
            opened.http.patience = patience
        try:
            with opened.http.decoded_in_turn(DECODING) if opened.http else nullcontext():
                for block in decode(opened.container, opened.shown, title_at, patience):
                    session.put(replace(block, discontinuity=fresh))
                    if session.stopped.is_set():
                        return
                    self._played, fresh = True, False
        except av.FFmpegError as error:
            raise self._failure(opened.shown, error, permanent=self._is_final(opened)) from None
        finally:
            opened.container.close()
            if opened.http:
                opened.http.close()
        if self.live:
            raise SourceError(f"{opened.shown}: the stream has ended")

    def _is_final(self, opened: _Opened) -> bool:
        """Tell whether what broke while it was played is not to be opened again."""
        local = opened.quiet_seconds is None
        # Whoever wants a recording as fast as it goes wants it whole, and no part of it twice.
        return local or not (opened.live or self.real_time)

    def _open(self, location: str) -> _Opened | list[str]:
        """Open a location, or return what it lists if it is a playlist."""
        scheme = location.partition(":")[0].lower() if is_url(location) else ""
        if scheme in ("http", "https"):
            return self._open_http(open_resource(location, self._quiet_seconds))
        if scheme and scheme != "file":
            return self._open_ffmpeg(location, self._quiet_seconds)
        try:
            path = Path(unquote(urlsplit(location).path)) if scheme else Path(location)
        except ValueError:
            raise SourceError(f"{redact(location)}: this is no URL", permanent=True) from None
        return self._open_file(path)

    def _open_http(self, resource: Resource) -> _Opened | list[str]:
        if not resource.is_playlist and not resource.is_file:
            return self._open_stream(resource)
        if not resource.is_playlist:
            resource.stream.close()
            opened = self._open_ffmpeg(resource.url, self._quiet_seconds, RECONNECT)
            return replace(opened, live=False)
        text = resource.stream.text()
        resource.stream.close()
        if playlist.is_hls(text):
            return self._open_ffmpeg(resource.url, self._quiet_seconds * HLS_QUIET_FACTOR)
        return _not_empty(playlist.network_entries(text, resource.url), redact(resource.url))

    def _open_stream(self, resource: Resource) -> _Opened:
        shown = redact(resource.url)
        probing = {"probesize": AUDIO_PROBE_BYTES} if resource.is_audio else {}
        try:
            container = open_container(resource.stream, options=FROM_ELSEWHERE | probing)
        except av.FFmpegError as error:
            resource.stream.close()
            raise self._failure(shown, error) from None
        except SourceError:
            resource.stream.close()
            raise
        return _Opened(container, shown, True, self._quiet_seconds, resource.stream)

    def _open_file(self, path: Path) -> _Opened | list[str]:
        try:
            if path.is_file() and path.stat().st_size == 0:
                raise SourceError(f"{path}: the file is empty", permanent=True)
            if path.suffix.lower() in playlist.ENDINGS:
                text = path.read_text("utf-8", errors="replace")
                if not playlist.is_hls(text):
                    found = [_beside(path, entry) for entry in playlist.entries(text)]
                    return _not_empty(found, str(path))
            container = open_container(f"file:{path}")
        except (OSError, av.FFmpegError) as error:
            raise self._failure(str(path), error, permanent=True) from None
        return _Opened(container, str(path), live=False)

    def _open_ffmpeg(
        self, url: str, quiet_seconds: float, more: Mapping[str, str] | None = None
    ) -> _Opened:
        """Open a URL that FFmpeg itself is to read."""
        micros = str(round(self._quiet_seconds * 1e6))
        options = {"rw_timeout": micros, "user_agent": USER_AGENT, "live_start_index": "-1"}
        options.update(more or {})
        if url.startswith("rtsp"):
            options = {"rtsp_flags": "prefer_tcp", "timeout": micros}
        elif url.startswith("udp"):
            options = {"timeout": micros}
        elif url.startswith("https"):
            options.update(_trust())
        shown = redact(url)
        try:
            container = open_container(url, options=options, timeout=(quiet_seconds, quiet_seconds))
        except av.FFmpegError as error:
            raise self._failure(shown, error) from None
        return _Opened(container, shown, not container.duration, quiet_seconds)

    def _failure(self, shown: str, error: Exception, *, permanent: bool = False) -> SourceError:
        """Say in one sentence why a container could not be opened or read."""
        if isinstance(error, (av.error.ExitError, TimeoutError)):
            reason = f"no data for {self._quiet_seconds:g} s"
        elif isinstance(error, av.error.InvalidDataError):
            reason = "this is not audio that FFmpeg can read, or it is damaged"
        else:
            reason = (getattr(error, "strerror", None) or type(error).__name__).lower()
        gone = (av.error.HTTPNotFoundError, av.error.ProtocolNotFoundError)
        return SourceError(f"{shown}: {reason}", permanent=permanent or isinstance(error, gone))


def _trust() -> dict[str, str]:
    """Return what makes FFmpeg trust the certificates that Python does: by itself it trusts any.

    HLS does not hand it on to what a playlist names.
    """
    bundle = ssl.get_default_verify_paths().cafile
    return {"tls_verify": "1", "ca_file": bundle} if bundle else {}


def _beside(path: Path, entry: str) -> str:
    return entry if is_url(entry) else str(path.parent / entry)


def _not_empty(entries: list[str], shown: str) -> list[str]:
    if not entries:
        raise SourceError(f"{shown}: the playlist names nothing that can be played", permanent=True)
    return entries
