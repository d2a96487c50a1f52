"""Spectrogram pictures: one 8-bit grey PNG a track, highest band on top, columns are time.

Each picture that `prepare` makes says inside, in a text chunk, which source and which grid it came
from. So a folder needs no other bookkeeping to be continued after an interruption, and only what
changed is made again.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamer.core.spectrogram import (
    SpecError,
    SpectrogramSpec,
    log_mel,
    relative_to_peak,
    to_levels,
)
from streamer.system.scheduler import processors
from trainer.audio import AudioError, read_audio
from trainer.splits import (
    MANIFEST_FILE,
    MIN_SECONDS,
    SPEC_FILE,
    DatasetError,
    Skipped,
    find_background,
    find_tracks,
    is_picture_folder,
)
from trainer.writing import replacing, write_json

Levels = NDArray[np.uint8]

# A picture is as long as its track: Pillow's own limit is reached after hours on a fine grid.
Image.MAX_IMAGE_PIXELS = None

MAX_CELLS = 2**30
"""Largest picture that is read, in bands times columns: a day in 128 bands every 10 ms."""

FORMATS = ("PNG",)
"""What Pillow may take a picture for. By a file's content alone it would take it for PostScript,
too, and have that run by another program."""

ORIGIN_KEY = "genre-stream"
"""Keyword of the PNG text chunk that says what a picture was made from."""


def read_picture(path: Path) -> Levels:
    """Read a spectrogram picture.

    Returns
    -------
    uint8, shape (n_mels, frames)
        Levels; row 0 is the lowest band, unlike in the picture.

    Raises
    ------
    DatasetError
        If the file is no 8-bit grey picture, or one that no memory holds; the message is the
        reason, without the path.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.mode != "L":
                raise DatasetError(f"not an 8-bit grey picture but mode {picture.mode}")
            if picture.width * picture.height > MAX_CELLS:
                raise DatasetError(f"too large: {picture.width} x {picture.height} cells")
            return np.ascontiguousarray(np.asarray(picture)[::-1])
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"damaged picture ({_first_line(error)})") from error


def write_picture(path: Path, levels: Levels, origin: str | None = None) -> None:
    """Write a spectrogram picture so that a reader sees all of it or none.

    Parameters
    ----------
    path : Path
        Where to; its folder exists.
    levels : uint8, shape (n_mels, frames)
        Row 0 is the lowest band.
    origin : str, optional
        Kept inside the picture, see `prepare`.
    """
    about = PngInfo()
    if origin is not None:
        about.add_text(ORIGIN_KEY, origin)
    with replacing(path) as partial:
        Image.fromarray(np.ascontiguousarray(levels[::-1])).save(partial, "PNG", pnginfo=about)


def min_columns(spec: SpectrogramSpec) -> int:
    """Return how many columns the shortest usable track has."""
    return 1 + int(MIN_SECONDS * spec.sample_rate) // spec.hop_length


def read_spec(folder: Path) -> SpectrogramSpec:
    """Read a picture folder's grid.

    Raises
    ------
    DatasetError
        If `spectrogram.json` is missing or is not a spectrogram specification.
    """
    path = Path(folder) / SPEC_FILE
    try:
        return SpectrogramSpec.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        reason = str(error) if isinstance(error, SpecError) else _first_line(error)
        raise DatasetError(f"cannot use {path}: {reason}") from error


def check_grid(folder: Path, spec: SpectrogramSpec) -> None:
    """Refuse pictures on another grid than the model's.

    Raises
    ------
    DatasetError
        Naming the fields that differ.
    """
    own, wanted = read_spec(folder).to_dict(), spec.to_dict()
    differing = [
        f"{name} {own[name]:g} instead of {wanted[name]:g}"
        for name in wanted
        if own[name] != wanted[name]
    ]
    if differing:
        raise DatasetError(
            f"the pictures in {folder} are on another grid than the model: {', '.join(differing)}; "
            "prepare them again or give the audio"
        )


def picture_of(path: Path, spec: SpectrogramSpec) -> Levels:
    """Decode a track and return its picture: levels `(n_mels, frames)`, row 0 the lowest band.

    Raises
    ------
    AudioError
        If the track cannot be used.
    """
    samples = read_audio(path, spec.sample_rate)
    return to_levels(relative_to_peak(log_mel(samples, spec), spec.top_db), spec.top_db)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` did."""

    folder: Path
    made: int
    """Pictures made now."""
    kept: int
    """Pictures that were there already and still right."""
    removed: int
    """Pictures whose track is gone."""
    skipped: list[Skipped]


@dataclass(frozen=True, slots=True)
class _Job:
    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a picture was made from; stands in the picture as JSON."""

    size: int
    mtime_ns: int
    sha256: str
    spec: dict[str, int | float]

    def same_file(self, path: Path) -> bool:
        """Tell whether `path` is still the file it was, reading it only if its time changed."""
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns):
            return True
        return status.st_size == self.size and _sha256(path) == self.sha256


def prepare(
    data: Path,
    out: Path,
    spec: SpectrogramSpec,
    *,
    workers: int | None = None,
    quiet: bool = False,
) -> Prepared:
    """Make the pictures of a folder of audio; what is already made and still right is kept.

    `spectrogram.json` is written last, so that only a complete folder is taken for pictures. An
    interrupted run goes on where it stopped when it is started again.

    Parameters
    ----------
    data : Path
        One folder a genre with audio.
    out : Path
        Picture folder (contract 4.4), made if need be.
    spec : SpectrogramSpec
        The grid.
    workers : int, optional
        Processes; by default one for each core that this process may use.
    quiet : bool
        Show no progress bar.

    Raises
    ------
    DatasetError
        If `data` cannot be used or `out` holds pictures from elsewhere.
    OSError
        If `out` cannot be written.
    """
    if is_picture_folder(data):
        raise DatasetError(f"{data} holds pictures already; give a folder of audio")
    tracks, skipped = find_tracks(data)
    jobs = [_Job(track.path, out / track.genre / f"{track.path.stem}.png") for track in tracks]
    return _prepare(data, out, spec, jobs, skipped, workers, quiet)


def prepare_background(
    data: Path,
    out: Path,
    spec: SpectrogramSpec,
    *,
    workers: int | None = None,
    quiet: bool = False,
) -> Prepared:
    """Make pictures of sounds that are not music, wherever they lie under `data`.

    The same as `prepare`, except that folders may be nested in any way, see `find_background`.
    """
    if is_picture_folder(data):
        raise DatasetError(f"{data} holds pictures already; give a folder of audio")
    clips, skipped = find_background(data)
    jobs = [_Job(clip.path, out / f"{clip.name}.png") for clip in clips]
    return _prepare(data, out, spec, jobs, skipped, workers, quiet)


def cache_folder(data: Path, spec: SpectrogramSpec) -> Path:
    """Return where the pictures of a folder of audio are kept when the user names no folder."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    identity = json.dumps([str(data.resolve()), spec.to_dict()], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return root / "genre-stream" / "pictures" / f"{data.resolve().name}-{digest}"


def _prepare(
    data: Path,
    out: Path,
    spec: SpectrogramSpec,
    jobs: Sequence[_Job],
    skipped: list[Skipped],
    workers: int | None,
    quiet: bool,
) -> Prepared:
    if out.resolve() == data.resolve():
        raise DatasetError(f"--out {out} is the data folder itself; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    existing = {path: _origin(path) for path in out.glob("*/*.png")}
    foreign = [path for path, origin in existing.items() if origin is None]
    if foreign:
        raise DatasetError(f"{foreign[0]} was not made by prepare; give another --out folder")
    (out / SPEC_FILE).unlink(missing_ok=True)
    stale = set(existing) - {job.target for job in jobs}
    for path in stale:
        path.unlink()
    todo = [job for job in jobs if not _still_right(job, existing.get(job.target), spec)]
    failed = list(_make_pictures(todo, spec, workers, quiet))
    skipped = sorted([*skipped, *failed], key=lambda entry: entry.path)
    write_json(
        out / MANIFEST_FILE,
        {
            "source": str(data.resolve()),
            "skipped": [{"path": str(entry.path), "reason": entry.reason} for entry in skipped],
        },
    )
    write_json(out / SPEC_FILE, spec.to_dict())
    return Prepared(
        folder=out,
        made=len(todo) - len(failed),
        kept=len(jobs) - len(todo),
        removed=len(stale),
        skipped=skipped,
    )


def _origin(path: Path) -> _Origin | None:
    """Return what a picture says it was made from, or None if it does not say."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return _Origin(**json.loads(picture.info[ORIGIN_KEY]))
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return None


def _still_right(job: _Job, origin: _Origin | None, spec: SpectrogramSpec) -> bool:
    return (
        origin is not None
        and origin.spec == spec.to_dict()
        and origin.same_file(job.source)
        and _is_whole(job.target)
    )


def _is_whole(path: Path) -> bool:
    """Tell whether a picture can be read to its end: its origin stands before the cells."""
    try:
        read_picture(path)
    except DatasetError:
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_picture(job: _Job, spec: SpectrogramSpec) -> str:
    """Make one picture in a worker process; return why it could not be made, or nothing."""
    try:
        job.target.unlink(missing_ok=True)
        levels = picture_of(job.source, spec)
        status = job.source.stat()
        origin = _Origin(status.st_size, status.st_mtime_ns, _sha256(job.source), spec.to_dict())
        job.target.parent.mkdir(exist_ok=True)
        write_picture(job.target, levels, json.dumps(dataclasses.asdict(origin)))
    except AudioError as error:
        return str(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return f"its name is too long for a picture ({job.target.name[:40]}...): shorten it"
    return ""


def _make_pictures(
    jobs: Sequence[_Job], spec: SpectrogramSpec, workers: int | None, quiet: bool
) -> Iterator[Skipped]:
    """Make pictures in parallel; yield the tracks that could not be read."""
    if not jobs:
        return
    workers = min(workers or processors(), len(jobs))
    # Not forked: the parent may have TensorFlow's threads, which a fork does not survive.
    context = multiprocessing.get_context("forkserver")
    with (
        # Ctrl-C reaches all processes; only the parent is to answer it.
        ProcessPoolExecutor(
            workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
        ) as pool,
        progress_bar(quiet) as progress,
    ):
        bar = progress.add_task("pictures", total=len(jobs))
        running: dict[Future[str], _Job] = {
            pool.submit(_make_picture, job, spec): job for job in jobs
        }
        try:
            for done in as_completed(running):
                progress.advance(bar)
                if reason := done.result():
                    yield Skipped(running[done].source, reason)
        except BrokenProcessPool as error:
            raise DatasetError(
                "a process that reads tracks was killed, perhaps for want of memory; "
                "run prepare again with fewer --workers: what is made is kept"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def progress_bar(quiet: bool = False, *, transient: bool = False) -> Progress:
    """Return a progress bar on stderr with a count and the time left.

    A transient one is erased when it is done, so off a terminal it is not shown at all.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
        disable=quiet or (transient and not console.is_terminal),
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
