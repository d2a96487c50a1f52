"""Prepare a folder of audio: a spectrogram picture and the tags of each track, decoded once.

Every picture stores its origin in a text chunk: size, time and hash of the audio file, and the
grid. Tags are written after the picture and removed before it, so they are of the same audio. An
interrupted preparation continues, and only what has changed is made again.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from streamer.core.spectrogram import (
    Samples,
    SpectrogramSpec,
    log_mel,
    relative_to_peak,
    to_levels,
)
from streamer.system.cluster import join
from streamer.system.ending import end_with_parent
from streamer.system.files import write_json
from streamer.system.interrupts import blocked_for_children
from streamer.system.processors import processors
from trainer.audio import AudioError, read_audio, read_audio_at
from trainer.degradation import degraded_copies
from trainer.discovery import MANIFEST_FILE, find_background, find_tracks
from trainer.pictures import Levels, read_origin, read_picture, write_picture
from trainer.progress import progress_bar
from trainer.tagger import SAMPLE_RATE, Tagger, load_tagger
from trainer.tags import degraded_file, read_tags, tag_files, tags_file, write_tags
from trainer.tracks import SPEC_FILE, DatasetError, Skipped, Track, is_picture_folder


@dataclass(frozen=True, slots=True)
class Prepared:
    """Result of `prepare`."""

    folder: Path
    made: int
    """Pictures made now."""
    kept: int
    """Pictures that were there already and up to date."""
    tagged: int
    """Tracks whose tags were made now."""
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


@dataclass(frozen=True, slots=True)
class _Job:
    """What to make of one track."""

    target: Path
    """The picture."""
    source: Path
    """The audio."""
    spec: SpectrogramSpec
    picture: bool
    """Whether to make the picture."""
    tags: bool
    """Whether to make its tags."""
    degraded: bool
    """Whether to make the tags of degraded copies along with them."""
    sounds: Sequence[Track]
    """Recorded sounds which some of these are heard with."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What a worker process made of one track."""

    reason: str
    """Why it failed; empty if it did not."""
    audio: Samples | None = None
    """The track, if its tags are to be made."""
    copies: tuple[Samples, ...] = ()
    """Its degraded copies."""


def prepare(
    data: Path,
    out: Path,
    spec: SpectrogramSpec,
    *,
    background: bool = False,
    tags: bool = True,
    sounds: Sequence[Track] = (),
    workers: int | None = None,
    address: str | None = None,
) -> Prepared:
    """Make pictures and tags of a folder of audio; those that are up to date are kept.

    `spectrogram.json` is written last, so that an incomplete folder is not taken for pictures.

    Parameters
    ----------
    data : Path
        Audio as `find_tracks` takes it; with `background`, as `find_background` does. Copies of
        tracks of a background are not degraded.
    out : Path
        Picture folder, created if missing.
    tags : bool
        Whether to make tags, too. Without, tags of pictures that are made again are removed.
    sounds : sequence of Track, optional
        Recorded sounds that are not music, which some of the degraded copies are heard with. Tags
        that are up to date are kept, with whatever sounds they were made.
    workers : int, optional
        Processes; by default one for each core that this process may use, or that the cluster has.
    address : str, optional
        A Ray cluster whose machines decode the tracks and write the pictures; they need all
        folders at the same paths. Tags are made here.

    Raises
    ------
    DatasetError
        If `data` cannot be used or `out` contains pictures from elsewhere.
    OSError
        If `out` cannot be written.
    UserError
        If the cluster cannot be reached.
    """
    data, out = data.absolute(), out.absolute()
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
    for path in out.glob("*/*.npy"):
        if path not in {file for target in sources for file in tag_files(target)}:
            path.unlink()
    jobs = []
    for target, source in sources.items():
        current = _is_current(target, source, existing.get(target), spec)
        wanted = tags and not (current and _has_tags(target, degraded=not background))
        if not current or wanted:
            jobs.append(_Job(target, source, spec, not current, wanted, not background, sounds))
    failed = list(_make(jobs, workers, address))
    lost = {entry.path for entry in failed}
    skipped = sorted([*skipped, *failed], key=lambda entry: entry.path)
    write_json(
        out / MANIFEST_FILE,
        {
            "source": str(data.resolve()),
            "skipped": [
                {"path": str(entry.path), "reason": entry.reason, "genre": entry.genre}
                for entry in skipped
            ],
        },
    )
    write_json(out / SPEC_FILE, spec.to_dict())
    done = [job for job in jobs if job.source not in lost]
    made, tagged = sum(job.picture for job in done), sum(job.tags for job in done)
    kept = len(sources) - sum(job.picture for job in jobs)
    return Prepared(out, made, kept, tagged, removed=len(stale), skipped=skipped)


def cache_folder(data: Path, spec: SpectrogramSpec) -> Path:
    """Return the default picture folder for a folder of audio, in the user's cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    identity = json.dumps([str(data.resolve()), spec.to_dict()], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return root / "genre-stream" / "pictures" / f"{data.resolve().name}-{digest}"


def levels_of(path: Path, spec: SpectrogramSpec) -> Levels:
    """Return the picture levels of audio, shape (n_mels, frames); raise AudioError if unusable."""
    return _levels(read_audio(path, spec.sample_rate), spec)


def _levels(samples: Samples, spec: SpectrogramSpec) -> Levels:
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


def _has_tags(target: Path, *, degraded: bool) -> bool:
    try:
        read_tags(tags_file(target))
        if degraded:
            read_tags(degraded_file(target))
    except DatasetError:
        return False
    return True


def _make_picture(job: _Job) -> _Made:
    """Make the picture of one track in a worker process; return its audio for the tags."""
    rates = [*([job.spec.sample_rate] if job.picture else []), *([SAMPLE_RATE] if job.tags else [])]
    try:
        job.target.parent.mkdir(exist_ok=True)
        for path in (*tag_files(job.target), *([job.target] if job.picture else [])):
            path.unlink(missing_ok=True)
        decoded = read_audio_at(job.source, rates)
        if job.picture:
            _write_picture(job, _levels(decoded[0], job.spec))
    except AudioError as error:
        return _Made(str(error))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        name = job.target.name
        return _Made(f"its name is too long for a picture ({name[:40]}...): shorten it")
    if not job.tags:
        return _Made("")
    audio = decoded[-1]
    seed = hashlib.sha256(job.target.stem.encode()).digest()
    if not job.degraded:
        return _Made("", audio)
    copies = degraded_copies(audio, SAMPLE_RATE, [*seed], clips=job.sounds)
    return _Made("", audio, tuple(copies))


def _write_picture(job: _Job, levels: Levels) -> None:
    status = job.source.stat()
    origin = _Origin(status.st_size, status.st_mtime_ns, _sha256(job.source), job.spec.to_dict())
    write_picture(job.target, levels, json.dumps(dataclasses.asdict(origin)))


def _make(jobs: Sequence[_Job], workers: int | None, address: str | None) -> Iterator[Skipped]:
    """Make pictures in parallel, and their tags in this process; yield the tracks that failed.

    TensorFlow computes tags on all cores. One in each worker process would need half a gigabyte
    each and seconds to start.
    """
    if not jobs:
        return
    tagger = load_tagger() if any(job.tags for job in jobs) else None
    pool = _cluster(address, workers) if address else _processes(workers, len(jobs))
    with pool as (submit, count), progress_bar() as progress:
        task = progress.add_task("tracks", total=len(jobs))
        waiting, running = iter(jobs), dict[Future[_Made], _Job]()
        while True:
            # No more than these at once: decoded tracks wait in memory for their tags.
            for job in islice(waiting, 2 * count - len(running)):
                running[submit(job)] = job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, made = running.pop(future), future.result()
                if made.reason:
                    yield Skipped(job.source, made.reason, job.target.parent.name)
                elif tagger and made.audio is not None:
                    _write_tags(tagger, job, made.audio, made.copies)
                progress.advance(task)


Workers = tuple[Callable[[_Job], Future[_Made]], int]
"""A function that starts a job on a worker, and the number of workers."""


@contextmanager
def _processes(workers: int | None, jobs: int) -> Iterator[Workers]:
    """Make pictures in processes of this machine."""
    workers = min(workers or processors(), jobs)
    # Not forked: TensorFlow's threads in the parent process would not survive a fork.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:

        def submit(job: _Job) -> Future[_Made]:
            with blocked_for_children():  # a job may start a process
                return pool.submit(_make_picture, job)

        try:
            yield submit, workers
        except BrokenProcessPool as error:
            raise DatasetError(
                "a process that reads tracks was killed, perhaps for want of memory; "
                "run prepare again with fewer --workers: what is made is kept"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _cluster(address: str, workers: int | None) -> Iterator[Workers]:
    """Make pictures on the machines of a Ray cluster, which starts lost tasks again elsewhere."""
    ray = join(address, user="--address")
    try:
        remote = ray.remote(num_cpus=1)(_make_picture)
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        yield lambda job: remote.remote(job).future(), count
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise DatasetError(
            f"--address {address}: the cluster lost a task ({type(error).__name__}); run prepare "
            "again: what is made is kept"
        ) from error
    finally:
        ray.shutdown()


def _write_tags(tagger: Tagger, job: _Job, audio: Samples, copies: Sequence[Samples]) -> None:
    if copies:
        write_tags(degraded_file(job.target), tagger.tags_of_copies(copies))
    write_tags(tags_file(job.target), tagger.tags_of_track(audio))
