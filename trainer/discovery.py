"""Find the tracks of a data folder, and the clips of a background folder."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from trainer.pictures import picture_fault, read_spec
from trainer.tracks import AUDIO_SUFFIXES, DatasetError, Skipped, Track, is_picture_folder

MANIFEST_FILE = "prepared.json"
"""Written by `prepare` into a picture folder: the source folder and the files that were skipped."""

MIN_TRACKS = 5
"""Usable tracks that a genre must have."""


def find_tracks(folder: Path) -> tuple[list[Track], list[Skipped]]:
    """Find the tracks of a data folder, sorted by genre and name, and the files to be skipped.

    Pictures are decoded and checked. Audio files are not opened: `prepare` finds out whether they
    can be decoded and records what it skipped in the picture folder, where this function reads it.
    DatasetError is raised if the folder does not exist or holds nothing that looks like a track.
    """
    if not folder.is_dir():
        raise DatasetError(f"no such data folder: {folder}; it must hold one folder a genre")
    suffixes = _suffixes(folder)
    tracks, skipped = _check_tracks(
        (
            Track(_track_name(genre.name, path.stem), genre.name, path)
            for genre in sorted(folder.iterdir())
            if genre.is_dir() and not genre.name.startswith((".", "__"))
            for path in sorted(genre.iterdir())
            if path.suffix.lower() in suffixes and path.is_file()
        ),
        folder,
    )
    if not tracks and not skipped:
        files = f"{', '.join(sorted(suffixes))} files"
        raise DatasetError(f"no tracks in {folder}: it must hold one folder a genre with {files}")
    return sorted(tracks, key=lambda track: (track.genre, track.name)), skipped


def find_background(folder: Path) -> tuple[list[Track], list[Skipped]]:
    """Find clips that are not music, at any depth below a folder, and the files to be skipped.

    Clips are named `group/clip`: the group, which is also the genre, is the first folder level, or
    `background` for files directly in `folder`; deeper levels are joined to the clip's name by
    `__`. Pictures are decoded and checked, as by `find_tracks`. DatasetError is raised if the
    folder does not exist or holds no usable clip.
    """
    if not folder.is_dir():
        raise DatasetError(f"no such background folder: {folder}")
    suffixes = _suffixes(folder)
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and path.is_file():
            first, *rest = path.relative_to(folder).with_suffix("").parts
            group, stem = (first, "__".join(rest)) if rest else ("background", first)
            found.append(Track(f"{group}/{stem}", group, path))
    clips, skipped = _check_tracks(found, folder)
    if not clips:
        raise DatasetError(f"no sounds in the background folder {folder}")
    return clips, skipped


def check_genres(tracks: Iterable[Track], skipped: Iterable[Skipped] = ()) -> None:
    """Raise `DatasetError` for fewer than two genres or a genre with fewer than `MIN_TRACKS`."""
    counts = Counter(track.genre for track in tracks)
    lost = Counter(entry.path.parent.name for entry in skipped)
    for genre in sorted(set(counts) | set(lost)):
        if counts[genre] < MIN_TRACKS:
            unusable = f" ({lost[genre]} more were skipped)" if lost[genre] else ""
            raise DatasetError(
                f"genre {genre} has {counts[genre]} usable tracks{unusable}; "
                f"at least {MIN_TRACKS} are needed: add some or remove the folder"
            )
    if len(counts) < 2:
        raise DatasetError(
            f"only one genre found ({', '.join(counts) or 'none'}); at least 2 are needed: "
            "give the folder that holds one folder a genre"
        )


def _track_name(genre: str, stem: str) -> str:
    return stem if stem.startswith(f"{genre}.") else f"{genre}/{stem}"


def _suffixes(folder: Path) -> frozenset[str]:
    return frozenset({".png"}) if is_picture_folder(folder) else AUDIO_SUFFIXES


def _check_tracks(found: Iterable[Track], folder: Path) -> tuple[list[Track], list[Skipped]]:
    """Divide the tracks found in a folder into usable and skipped ones."""
    spec = read_spec(folder) if is_picture_folder(folder) else None
    usable: dict[str, Track] = {}
    skipped: list[Skipped] = []
    for track in found:
        reason = _file_fault(track.path)
        if not reason and track.name in usable:
            reason = f"has the same name as {usable[track.name].path.name}"
        if not reason and spec:
            reason = picture_fault(track.path, spec)
        if reason:
            skipped.append(Skipped(_printable(track.path), reason))
        else:
            usable[track.name] = track
    return list(usable.values()), skipped + _skipped_by_prepare(folder)


def _file_fault(path: Path) -> str:
    """Return why a file cannot be used, without opening it, or an empty string."""
    if str(path) != str(_printable(path)):
        return "its name or its folder's is not UTF-8, perhaps from an old archive: rename it"
    if path.name.startswith("._"):
        return "AppleDouble file of macOS, not audio"
    return "" if path.stat().st_size else "empty file"


def _printable(path: Path) -> Path:
    """Return a path with bytes that are not UTF-8 written as escapes."""
    return Path(os.fsencode(path).decode(errors="backslashreplace"))


def _skipped_by_prepare(folder: Path) -> list[Skipped]:
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file():
        return []
    try:
        entries = json.loads(manifest.read_text())["skipped"]
        return [Skipped(Path(entry["path"]), entry["reason"]) for entry in entries]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{manifest} is damaged ({error!r}); delete it and run prepare again"
        ) from error
