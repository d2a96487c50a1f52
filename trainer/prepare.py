"""Prepare a folder of audio: one spectrogram picture for each track.

Every picture stores its origin in a text chunk: size, time and hash of the audio file, and the
grid. An interrupted preparation continues, and only what has changed is made again.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from streamer.core.spectrogram import SpectrogramSpec, log_mel, relative_to_peak, to_levels
from streamer.system.files import write_json
from streamer.system.processors import processors
from trainer.audio import AudioError, read_audio
from trainer.discovery import MANIFEST_FILE, find_background, find_tracks
from trainer.pictures import Levels, read_origin, read_picture, write_picture
from trainer.progress import progress_bar
from trainer.tracks import SPEC_FILE, DatasetError, Skipped, is_picture_folder


@dataclass(frozen=True, slots=True)
class Prepared:
    """Result of `prepare`."""

    folder: Path
    made: int
    """Pictures made now."""
    kept: int
    """Pictures that were there already and up to date."""
    removed: int
    """Pictures whose track is gone, and remains of a killed preparation."""
    skipped: list[Skipped]


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a picture was made from, stored in it as JSON."""

    size: int
    mtime_ns: int
    sha256: str
    spec: dict[str, int | float]

    def matches(self, path: Path) -> bool:
        """Tell whether `path` has the same content; it is read only if its time has changed."""
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns):
            return True
        return status.st_size == self.size and _sha256(path) == self.sha256


def prepare(
    data: Path,
    out: Path,
    spec: SpectrogramSpec,
    *,
    background: bool = False,
    workers: int | None = None,
) -> Prepared:
    """Make the pictures of a folder of audio; pictures that are up to date are kept.

    `spectrogram.json` is written last, so that an incomplete folder is not taken for pictures.

    Parameters
    ----------
    data : Path
        Audio as `find_tracks` takes it; with `background`, as `find_background` does.
    out : Path
        Picture folder, created if missing.
    workers : int, optional
        Processes; by default one for each core that this process may use.

    Raises
    ------
    DatasetError
        If `data` cannot be used or `out` contains pictures from elsewhere.
    OSError
        If `out` cannot be written.
    """
    if is_picture_folder(data):
        raise DatasetError(f"{data} holds pictures already; give a folder of audio")
    tracks, skipped = find_background(data) if background else find_tracks(data)
    sources = {
        out / track.genre / f"{track.name.rpartition('/')[2]}.png": track.path for track in tracks
    }
    if out.resolve() == data.resolve():
        raise DatasetError(f"--out {out} is the data folder itself; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    existing = {path: _read_origin(path) for path in out.glob("*/*.png")}
    for path, origin in existing.items():
        # Hidden files are what a killed process left of an atomic write.
        if origin is None and not path.name.startswith("."):
            raise DatasetError(f"{path} was not made by prepare; give another --out folder")
    (out / SPEC_FILE).unlink(missing_ok=True)
    stale = set(existing) - set(sources)
    for path in stale:
        path.unlink()
    todo = {
        target: source
        for target, source in sources.items()
        if not _is_current(target, source, existing.get(target), spec)
    }
    failed = list(_make_pictures(todo, spec, workers))
    skipped = sorted([*skipped, *failed], key=lambda entry: entry.path)
    write_json(
        out / MANIFEST_FILE,
        {
            "source": str(data.resolve()),
            "skipped": [{"path": str(entry.path), "reason": entry.reason} for entry in skipped],
        },
    )
    write_json(out / SPEC_FILE, spec.to_dict())
    made, kept = len(todo) - len(failed), len(sources) - len(todo)
    return Prepared(out, made, kept, removed=len(stale), skipped=skipped)


def cache_folder(data: Path, spec: SpectrogramSpec) -> Path:
    """Return the default picture folder for a folder of audio, in the user's cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    identity = json.dumps([str(data.resolve()), spec.to_dict()], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return root / "genre-stream" / "pictures" / f"{data.resolve().name}-{digest}"


def levels_of(path: Path, spec: SpectrogramSpec) -> Levels:
    """Return the picture levels of audio, shape (n_mels, frames); raise AudioError if unusable."""
    samples = read_audio(path, spec.sample_rate)
    return to_levels(relative_to_peak(log_mel(samples, spec), spec.top_db), spec.top_db)


def _read_origin(path: Path) -> _Origin | None:
    try:
        return _Origin(**json.loads(read_origin(path)))
    except (ValueError, TypeError):
        return None


def _is_current(target: Path, source: Path, origin: _Origin | None, spec: SpectrogramSpec) -> bool:
    if origin is None or origin.spec != spec.to_dict() or not origin.matches(source):
        return False
    try:
        # The origin precedes the cells in the file, which may be cut short after it.
        read_picture(target)
    except DatasetError:
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_picture(target: Path, source: Path, spec: SpectrogramSpec) -> str:
    """Make one picture in a worker process; return why it failed, or an empty string."""
    try:
        target.unlink(missing_ok=True)
        levels = levels_of(source, spec)
        status = source.stat()
        origin = _Origin(status.st_size, status.st_mtime_ns, _sha256(source), spec.to_dict())
        target.parent.mkdir(exist_ok=True)
        write_picture(target, levels, json.dumps(dataclasses.asdict(origin)))
    except AudioError as error:
        return str(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return f"its name is too long for a picture ({target.name[:40]}...): shorten it"
    return ""


def _make_pictures(
    sources: Mapping[Path, Path], spec: SpectrogramSpec, workers: int | None
) -> Iterator[Skipped]:
    """Make pictures, given the audio of each, in parallel; yield the tracks that failed."""
    if not sources:
        return
    workers = min(workers or processors(), len(sources))
    # Not forked: TensorFlow's threads in the parent process would not survive a fork.
    context = multiprocessing.get_context("forkserver")
    with (
        # Ctrl-C reaches all processes; only the parent process handles it.
        ProcessPoolExecutor(
            workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
        ) as pool,
        progress_bar() as progress,
    ):
        running = {
            pool.submit(_make_picture, target, source, spec): source
            for target, source in sources.items()
        }
        done = as_completed(running)
        try:
            for future in progress.track(done, total=len(sources), description="pictures"):
                if reason := future.result():
                    yield Skipped(running[future], reason)
        except BrokenProcessPool as error:
            raise DatasetError(
                "a process that reads tracks was killed, perhaps for want of memory; "
                "run prepare again with fewer --workers: what is made is kept"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
