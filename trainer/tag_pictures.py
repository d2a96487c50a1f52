"""Add tags to a folder of pictures that has none: from audio, or from published tags."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.audio import AudioError, read_audio
from trainer.degradation import degraded_copies
from trainer.discovery import MANIFEST_FILE, find_tracks
from trainer.musicnn import MIN_SAMPLES
from trainer.pictures import read_picture, read_spec
from trainer.progress import progress_bar
from trainer.tagger import SAMPLE_RATE, Tagger, load_tagger
from trainer.tags import COPIES, Tags, check_tags, degraded_file, tags_file, write_tags
from trainer.tracks import SPEC_FILE, DatasetError, Skipped, Track, is_picture_folder

TOLERATED_SECONDS = 1.0
"""How much shorter the audio of a track may be than its picture to be the same recording."""


@dataclass(frozen=True, slots=True)
class TagSources:
    """Where tags may come from. Audio goes before published tags."""

    audio: Sequence[Path] = ()
    """Folders of audio with one folder a genre. A recording that is shorter than its picture, as
    its position in it is unknown, teaches the head alone."""
    published: Path | None = None
    """`.npz` file with an array of shape (pieces, tags) by name of the track."""
    copies: int = COPIES
    """Degraded copies of each recording from which the head learns."""
    sounds: Sequence[Track] = ()
    """Recorded sounds that are not music, which some of the copies are heard with."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """Result of `tag_pictures`."""

    folder: Path
    from_audio: int
    """Tracks whose tags were made of their audio."""
    published: int
    """Tracks that got published tags."""
    degraded: int
    """Tracks with tags of degraded copies."""
    without: int
    """Tracks that have no tags."""
    skipped: list[Skipped]


def tag_pictures(data: Path, out: Path, sources: TagSources) -> Tagged:
    """Copy a folder of pictures to `out` with tags beside the pictures.

    `out` may be `data` itself, whose tags are replaced.

    Raises
    ------
    DatasetError
        If a folder or the file of published tags cannot be used, or no track gets tags.
    OSError
        If `out` cannot be written.
    """
    if not is_picture_folder(data):
        raise DatasetError(f"--data {data} holds no {SPEC_FILE}: give pictures; prepare tags audio")
    tracks, skipped = find_tracks(data)
    spec = read_spec(data)
    published = _read_published(sources.published) if sources.published else {}
    recordings = [(folder, {t.name: t for t in find_tracks(folder)[0]}) for folder in sources.audio]
    for folder, _ in recordings:
        if is_picture_folder(folder):
            raise DatasetError(f"--audio {folder} holds pictures; give a folder of audio")
    tagger = load_tagger()
    counts = {"from_audio": 0, "published": 0, "degraded": 0, "without": 0}
    out.mkdir(parents=True, exist_ok=True)
    with progress_bar() as progress:
        for track in progress.track(tracks, description="tags"):
            picture = out / track.genre / track.path.name
            if out.resolve() != data.resolve():
                picture.parent.mkdir(exist_ok=True)
                shutil.copyfile(track.path, picture)
            seconds = read_picture(track.path).shape[1] * spec.hop_seconds
            own = [each[track.name] for _, each in recordings if track.name in each]
            tags, copies, faults = _tags_of(tagger, own, seconds, sources)
            skipped += faults
            counts["from_audio"] += tags is not None
            if tags is None and track.name in published:
                tags = published[track.name]
                counts["published"] += 1
            counts["without"] += tags is None
            counts["degraded"] += copies is not None
            for path, content in ((tags_file(picture), tags), (degraded_file(picture), copies)):
                if content is None:
                    path.unlink(missing_ok=True)
                else:
                    write_tags(path, content)
    if counts["without"] == len(tracks):
        raise DatasetError(f"no track of {data} is in --audio or --published: check their names")
    for name in (MANIFEST_FILE, SPEC_FILE):
        if (data / name).is_file() and out.resolve() != data.resolve():
            shutil.copyfile(data / name, out / name)
    return Tagged(out, **counts, skipped=skipped)


def _tags_of(
    tagger: Tagger, recordings: Sequence[Track], seconds: float, sources: TagSources
) -> tuple[Tags | None, Tags | None, list[Skipped]]:
    """Return the tags of a track and of its degraded copies, and the recordings left out."""
    tags, degraded, skipped = None, None, []
    for recording in recordings:
        try:
            audio = read_audio(recording.path, SAMPLE_RATE, least_seconds=1.0)
        except AudioError as error:
            skipped.append(Skipped(recording.path, str(error)))
            continue
        if tags is None and len(audio) / SAMPLE_RATE > seconds - TOLERATED_SECONDS:
            tags = tagger.tags_of_track(audio)
        if degraded is None and sources.copies:
            if len(audio) < MIN_SAMPLES:
                audio = np.resize(audio, MIN_SAMPLES)
            seed = hashlib.sha256(recording.name.encode()).digest()
            copies = degraded_copies(audio, SAMPLE_RATE, [*seed], sources.copies, sources.sounds)
            degraded = tagger.tags_of_copies(copies)
    return tags, degraded, skipped


def _read_published(path: Path) -> dict[str, Tags]:
    try:
        with np.load(path, allow_pickle=False) as file:
            published = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "not an .npz file"
        raise DatasetError(f"--published {path}: {reason}") from None
    for name, tags in published.items():
        check_tags(tags, f"--published {path}: {name}")
    return {name: np.asarray(tags, np.float32) for name, tags in published.items()}
