"""Find the tracks of a data folder, and the clips of a background folder."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from trainer.pictures import picture_fault, read_spec
from trainer.tracks import (
    AUDIO_SUFFIXES,
    SPEC_FILE,
    DatasetError,
    Skipped,
    Track,
    is_picture_folder,
)

MANIFEST_FILE = "prepared.json"
"""Written by `prepare` into a picture folder: the source folder and the files that were skipped."""

NOT_AUDIO = f"not audio ({' '.join(sorted(AUDIO_SUFFIXES))})"
"""Why a file of another suffix is not taken."""

MIN_TRACKS = 5
"""Usable tracks that a genre must have."""


def find_data_folder(folder: Path) -> Path:
    """Return the folder of genres at `folder` or inside it, as GTZAN's archive has one.

    Of `Data/genres_original/blues/...` beside other things it is `Data/genres_original`. A folder
    whose subfolders hold audio themselves is one already, and so is one of genres with albums.

    Raises
    ------
    DatasetError
        If there are several inside it.
    """
    while folder.is_dir() and not is_picture_folder(folder):
        holding = [sub for sub in _subfolders(folder) if is_picture_folder(sub) or _audio_in(sub)]
        if not holding or any(_has_audio(sub) for sub in holding):
            break
        if len(holding) > 1:
            if _are_data_folders(holding):
                raise DatasetError(
                    f"{folder} holds several folders of genres: "
                    f"{', '.join(str(sub) for sub in holding)}; give one of them"
                )
            break
        folder = holding[0]
    return folder


def _are_data_folders(folders: Sequence[Path]) -> bool:
    """Tell folders of the same genres, such as train and test, from genres that hold albums."""
    names = [{sub.name for sub in _subfolders(folder)} for folder in folders]
    shared = set.intersection(*names)
    return len(shared) > 1 and 2 * len(shared) >= min(map(len, names))


def find_tracks(folder: Path) -> tuple[list[Track], list[Skipped]]:
    """Find the tracks of a data folder, sorted by genre and name, and the files to be skipped.

    Pictures are decoded and checked. Audio files are not opened: `prepare` finds out whether they
    can be decoded and records what it skipped in the picture folder, where this function reads it.
    DatasetError is raised if the folder does not exist or holds nothing that looks like a track.
    """
    if not folder.is_dir():
        raise DatasetError(f"no such data folder: {folder}; it must hold one folder a genre")
    suffixes = _suffixes(folder)
    found: list[Track] = []
    other = [
        Skipped(_printable(path), "lies in no genre's folder")
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in suffixes - {".png"} and path.is_file()
    ]
    for genre in _subfolders(folder):
        files = _files(genre)
        own = [path for path in files if path.suffix.lower() in suffixes]
        found += [Track(_track_name(genre, path), genre.name, path) for path in own]
        if not own:
            other.append(Skipped(_printable(genre), "no tracks in it"))
            continue
        other += _not_audio(files, suffixes)
    if not found:
        raise DatasetError(_why_no_tracks(folder, suffixes))
    tracks, skipped = _check_tracks(found, folder)
    return sorted(tracks, key=lambda track: (track.genre, track.name)), skipped + other


def _why_no_tracks(folder: Path, suffixes: frozenset[str]) -> str:
    picture = next((path for path in _files(folder) if path.suffix.lower() == ".png"), None)
    if picture and suffixes == AUDIO_SUFFIXES:
        try:
            with Image.open(picture) as image:
                size = f" of {image.width} x {image.height}"
        except OSError:
            size = ""
        return (
            f"{folder} holds pictures{size} without a {SPEC_FILE}, such as drawings with axes: "
            "give the folder of the audio, from which genre-train makes its own"
        )
    files = f"{', '.join(sorted(suffixes))} files"
    return f"no tracks in {folder}: it must hold one folder a genre with {files}"


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
    files = _files(folder)
    for path in files:
        if path.suffix.lower() in suffixes:
            first, *rest = path.relative_to(folder).with_suffix("").parts
            group, stem = (first, "__".join(rest)) if rest else ("background", first)
            found.append(Track(f"{group}/{stem}", group, path))
    clips, skipped = _check_tracks(found, folder)
    if not clips:
        raise DatasetError(f"no sounds in the background folder {folder}")
    return clips, skipped + _not_audio(files, suffixes)


def check_genres(tracks: Iterable[Track], skipped: Iterable[Skipped] = ()) -> None:
    """Raise `DatasetError` for fewer than two genres or a genre with fewer than `MIN_TRACKS`."""
    counts = Counter(track.genre for track in tracks)
    lost = Counter(entry.genre for entry in skipped if entry.genre)
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


def _track_name(genre: Path, path: Path) -> str:
    stem = "__".join(path.relative_to(genre).with_suffix("").parts)
    return stem if stem.startswith(f"{genre.name}.") else f"{genre.name}/{stem}"


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not _is_hidden(path)]


def _files(folder: Path) -> list[Path]:
    """Return the files at any depth below a folder but for those in hidden folders, sorted."""
    found = []
    seen = set()
    # Links are followed, which people use for albums in two genres; a circle of them ends.
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_hidden(Path(name))]
        found += [Path(parent, name) for name in names]
    return sorted(found)


def _not_audio(files: Sequence[Path], suffixes: frozenset[str]) -> list[Skipped]:
    """Return the other files of a folder of audio; pictures have files of their own beside them."""
    return [
        Skipped(_printable(path), NOT_AUDIO)
        for path in files
        if suffixes == AUDIO_SUFFIXES
        and path.suffix.lower() not in suffixes
        and not _is_hidden(path)
    ]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith((".", "__"))


def _has_audio(folder: Path) -> bool:
    return any(path.suffix.lower() in AUDIO_SUFFIXES for path in folder.iterdir() if path.is_file())


def _audio_in(folder: Path) -> bool:
    return any(path.suffix.lower() in AUDIO_SUFFIXES for path in _files(folder))


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
            skipped.append(Skipped(_printable(track.path), reason, track.genre))
        else:
            usable[track.name] = track
    return list(usable.values()), skipped + _skipped_by_prepare(folder)


def _file_fault(path: Path) -> str:
    """Return why a file cannot be used, without opening it, or an empty string."""
    if str(path) != str(_printable(path)):
        return "its name or its folder's is not UTF-8, perhaps from an old archive: rename it"
    if path.name.startswith("._"):
        return "AppleDouble file of macOS, not audio"
    if not path.is_file():
        return "a link to a file that is not there"
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
        return [
            Skipped(Path(entry["path"]), entry["reason"], entry.get("genre", ""))
            for entry in entries
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{manifest} is damaged ({error!r}); delete it and run prepare again"
        ) from error
