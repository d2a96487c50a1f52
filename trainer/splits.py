"""Finding tracks in a folder, and dividing them into train, valid and test lists.

A data folder holds one folder a genre: `DIR/<genre>/<track>`, either audio or spectrogram pictures
with a `spectrogram.json` beside the genres. Any names and any number of genres from two up.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

AUDIO_SUFFIXES = frozenset({".au", ".wav", ".flac", ".mp3", ".ogg", ".m4a"})
"""Endings, in lower case, of the files that are taken for audio."""

SPEC_FILE = "spectrogram.json"
"""What makes a folder a picture folder: the grid of its pictures."""

MANIFEST_FILE = "prepared.json"
"""Written by `prepare` into a picture folder: where each picture came from, what was skipped."""

MIN_SECONDS = 3.0
"""A shorter track is skipped: it does not fill the smallest window."""

MIN_TRACKS = 5
"""Usable tracks a genre must have."""

FAULT_FILTERED_LISTS = Path(__file__).parent / "fault_filtered"
SETS = ("train", "valid", "test")
VALID_SHARE = 0.1
"""Share of the tracks to validate on; as many are to test on."""
HELD_BACK_SHARE = 0.2
"""Share of the sounds that are not music on which nothing is trained."""

FAULT_FILTERED = (
    "fault-filtered (Kereliuk, Sturm and Larsen 2015): known faults removed, "
    "no artist in two of the lists"
)
ARTISTS_LEAK = (
    "GTZAN's artists leak: about three test tracks in four have their artist in training, so this "
    "accuracy is far above what new artists get; --split fault-filtered does not have this fault"
)


class DatasetError(ValueError):
    """A folder, list or picture that cannot be trained on; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Track:
    """One track of a data folder."""

    name: str
    """Unique in its folder: the file's stem if it starts with its genre (`blues.00012`), else
    `genre/stem`."""
    genre: str
    """Name of the folder it lies in."""
    path: Path
    """Its audio file or picture."""

    @property
    def is_picture(self) -> bool:
        """Tell a picture from audio."""
        return self.path.suffix.lower() == ".png"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not used."""

    path: Path
    """Where it lies; fit to be printed, so bytes of a name that are no UTF-8 stand as `\\xe7`."""
    reason: str
    """Why, as a phrase: `empty file`."""


@dataclass(frozen=True, slots=True)
class Split:
    """Tracks divided so that all crops of one track are in one set."""

    train: list[Track]
    valid: list[Track]
    test: list[Track]
    name: str
    """`fault-filtered`, `stratified`, `grouped` or `lists`."""
    protocol: str
    """What the reader of an accuracy must know about the division, as one sentence."""
    missing: list[str]
    """Names that the lists have and the folder lacks."""
    notes: list[str]
    """Warnings to repeat wherever an accuracy is stated."""

    def sets(self) -> dict[str, list[Track]]:
        """Return the three lists by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


def is_picture_folder(folder: Path) -> bool:
    """Tell a folder of spectrogram pictures from one of audio."""
    return (Path(folder) / SPEC_FILE).is_file()


def track_name(genre: str, stem: str) -> str:
    """Return a track's unique name: `blues.00012` as it is, anything else as `genre/stem`."""
    return stem if stem.startswith(f"{genre}.") else f"{genre}/{stem}"


def find_tracks(folder: Path) -> tuple[list[Track], list[Skipped]]:
    """Find the tracks of a data folder.

    Pictures are decoded and checked here. Audio is only looked at from outside: whether it can be
    decoded shows when `trainer.pictures.prepare` reads it, which leaves what it skipped in the
    picture folder, from where this function reports it again.

    Parameters
    ----------
    folder : Path
        Holds one folder a genre; with a `spectrogram.json` the tracks are pictures.

    Returns
    -------
    tracks : list of Track
        Sorted by genre and name.
    skipped : list of Skipped
        Files that look like tracks and cannot be used.

    Raises
    ------
    DatasetError
        If the folder does not exist or holds nothing that looks like a track.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"no such data folder: {folder}; it must hold one folder a genre")
    suffixes = _suffixes(folder)
    found = (
        Track(track_name(path.parent.name, path.stem), path.parent.name, path)
        for path in _candidates(folder, suffixes)
    )
    tracks, skipped = _sort_out(found, folder)
    if not tracks and not skipped:
        kinds = ", ".join(sorted(suffixes))
        raise DatasetError(
            f"no tracks in {folder}: it must hold one folder a genre with {kinds} files"
        )
    return sorted(tracks, key=lambda track: (track.genre, track.name)), skipped


def find_background(folder: Path) -> tuple[list[Track], list[Skipped]]:
    """Find sounds that are not music, wherever they lie under a folder of audio or pictures.

    Pictures are decoded and checked, as `find_tracks` does.

    Returns
    -------
    clips : list of Track
        Named `group/clip`, where the group (also the genre) is the first level below `folder`, or
        `background`, and deeper levels are joined to the clip's name by `__`.
    skipped : list of Skipped
        Files that look like clips and cannot be used.

    Raises
    ------
    DatasetError
        If the folder does not exist or holds no audio and no pictures.
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
    clips, skipped = _sort_out(found, folder)
    if not clips:
        raise DatasetError(f"no sounds in the background folder {folder}")
    return clips, skipped


def divide_background(clips: Sequence[Track]) -> tuple[list[Track], list[Track]]:
    """Divide what `find_background` found into clips to train on and clips that are held back.

    Whole recordings are kept apart, in every group by the same share. Chance decides which, but the
    same ones in every run and from audio as from its pictures: a model that starts from another's
    network, or a file that forgot what it was trained on, is not to be judged on what it knows.
    """
    generator = np.random.default_rng([0, 0xBAC])
    groups: dict[str, list[Track]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: (clip.genre, clip.name)):
        groups[clip.genre].append(clip)
    train: list[Track] = []
    valid: list[Track] = []
    for group in groups.values():
        held_back = max(1, round(HELD_BACK_SHARE * len(group))) if len(group) > 1 else 0
        for place, number in enumerate(generator.permutation(len(group))):
            (valid if place < held_back else train).append(group[number])
    return train, valid


def _suffixes(folder: Path) -> frozenset[str]:
    """Return the endings, in lower case, of the files in a folder that are taken for tracks."""
    return frozenset({".png"}) if is_picture_folder(folder) else AUDIO_SUFFIXES


def _sort_out(found: Iterable[Track], folder: Path) -> tuple[list[Track], list[Skipped]]:
    """Divide what was found in a folder into what can be used and what cannot."""
    usable: dict[str, Track] = {}
    skipped: list[Skipped] = []
    for track in found:
        reason = _fault_outside(track.path)
        if not reason and track.name in usable:
            reason = f"has the same name as {usable[track.name].path.name}"
        if not reason and track.is_picture:
            reason = _picture_fault(track.path, folder)
        if reason:
            skipped.append(Skipped(_printable(track.path), reason))
        else:
            usable[track.name] = track
    return list(usable.values()), skipped + _skipped_by_prepare(folder)


def _candidates(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    genres = [
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith((".", "__"))
    ]
    return sorted(
        path
        for genre in genres
        for path in genre.iterdir()
        if path.suffix.lower() in suffixes and path.is_file()
    )


def _fault_outside(path: Path) -> str:
    """Return what is wrong with a file without opening it, or an empty string."""
    if str(path) != str(_printable(path)):
        return "its name or its folder's is not UTF-8, perhaps from an old archive: rename it"
    if path.name.startswith("._"):
        return "AppleDouble file of macOS, not audio"
    if not path.stat().st_size:
        return "empty file"
    return ""


def _printable(path: Path) -> Path:
    """Return a path whose bytes that are no UTF-8 are written out."""
    return Path(os.fsencode(path).decode(errors="backslashreplace"))


def _picture_fault(path: Path, folder: Path) -> str:
    """Return what is wrong with a picture, or an empty string."""
    from trainer.pictures import min_columns, read_picture, read_spec

    spec = read_spec(folder)
    try:
        mels, columns = read_picture(path).shape
    except DatasetError as error:
        return str(error)
    if mels != spec.n_mels:
        return f"{mels} rows instead of the {spec.n_mels} bands of {SPEC_FILE}"
    if columns < min_columns(spec):
        return f"too short: {columns * spec.hop_seconds:.1f} s, at least {MIN_SECONDS:g} s needed"
    return ""


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


def check_genres(tracks: Iterable[Track], skipped: Iterable[Skipped] = ()) -> None:
    """Refuse a data folder that nothing can be learnt from.

    Raises
    ------
    DatasetError
        If there are fewer than two genres, or a genre has fewer than five usable tracks.
    """
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


def fault_filtered_names() -> dict[str, list[str]]:
    """Return the track names of the fault-filtered train, valid and test lists."""
    return {name: (FAULT_FILTERED_LISTS / f"{name}.txt").read_text().split() for name in SETS}


def is_gtzan(tracks: Sequence[Track]) -> bool:
    """Tell whether most of the tracks are named as GTZAN's are."""
    known = set(itertools.chain.from_iterable(fault_filtered_names().values()))
    return sum(track.name in known for track in tracks) * 2 > len(tracks)


def without_faults(tracks: Sequence[Track]) -> list[Track]:
    """Drop GTZAN's known repetitions, mislabelled and distorted tracks.

    These are the tracks named as GTZAN names them, `<genre>.00000` to `<genre>.00099` of its ten
    genres, that are in none of the fault-filtered lists.
    """
    listed = set(itertools.chain.from_iterable(fault_filtered_names().values()))
    genres = {name.partition(".")[0] for name in listed}
    everything = {f"{genre}.{number:05}" for genre in genres for number in range(100)}
    faults = everything - listed
    return [track for track in tracks if track.name not in faults]


def split_tracks(
    tracks: Sequence[Track],
    how: Sequence[str] = (),
    *,
    seed: int = 0,
    exclude_faults: bool = False,
) -> Split:
    """Divide tracks into train, valid and test.

    Parameters
    ----------
    tracks : sequence of Track
        What `find_tracks` found.
    how : sequence of str
        `["fault-filtered"]`, `["stratified"]`, `[CSV]` (a file with the columns `track,artist`) or
        `[TRAIN, VALID, TEST]` (files with a track name a line). Empty: fault-filtered for GTZAN,
        else stratified.
    seed : int
        Decides a stratified or grouped division.
    exclude_faults : bool
        Drop GTZAN's known faulty tracks first.

    Returns
    -------
    Split
        No track is in two of its lists.

    Raises
    ------
    DatasetError
        If a genre has too few tracks, or a list cannot be used.
    """
    check_genres(tracks)
    if exclude_faults:
        tracks = without_faults(tracks)
        check_genres(tracks)
    if not how:
        how = ["fault-filtered" if is_gtzan(tracks) else "stratified"]
    match list(how):
        case ["fault-filtered"]:
            names = fault_filtered_names()
            return _by_lists(tracks, names, "fault-filtered", FAULT_FILTERED)
        case ["stratified"]:
            return _stratified(tracks, seed)
        case [table]:
            return _grouped(tracks, _read_artists(Path(table)), Path(table), seed)
        case [_, _, _]:
            names = {name: _read_list(Path(path)) for name, path in zip(SETS, how, strict=True)}
            protocol = "lists given by the user: " + ", ".join(Path(path).name for path in how)
            return _by_lists(tracks, names, "lists", protocol)
        case _:
            raise DatasetError(
                f"--split {' '.join(how)}: give fault-filtered, stratified, one CSV of "
                "track,artist, or three lists (train, valid, test)"
            )


def _by_lists(
    tracks: Sequence[Track], names: Mapping[str, Sequence[str]], name: str, protocol: str
) -> Split:
    by_name = _lookup(tracks)
    sets: dict[str, list[Track]] = {}
    missing: list[str] = []
    notes: list[str] = []
    owner: dict[str, str] = {}
    for part in SETS:
        # By name: a list may write one track in two ways.
        found: dict[str, Track] = {}
        lost = []
        for entry in dict.fromkeys(names[part]):
            track = by_name.get(_bare(entry))
            if track is None:
                lost.append(entry)
            elif owner.setdefault(track.name, part) != part:
                raise DatasetError(
                    f"track {entry} is in both the {owner[track.name]} and the {part} list; "
                    "a track belongs in one"
                )
            else:
                found[track.name] = track
        if lost:
            listed = len(found) + len(lost)
            notes.append(f"{len(lost)} of {listed} listed {part} tracks were not found")
        missing += lost
        sets[part] = list(found.values())
    for part in ("train", "valid"):
        if not sets[part]:
            raise DatasetError(
                f"none of the {len(names[part])} tracks in the {part} list is in the data folder; "
                "give another --split"
            )
    if unlisted := len(tracks) - len(owner):
        notes.append(f"{unlisted} tracks of the folder are in none of the lists and are not used")
    return Split(**sets, name=name, protocol=protocol, missing=missing, notes=notes)


def _bare(entry: str) -> str:
    """Strip a known ending, so that `blues/blues.00012.wav` finds its track."""
    path = PurePosixPath(entry)
    known = path.suffix.lower() in AUDIO_SUFFIXES | {".png"}
    return str(path.with_suffix("")) if known else entry


def _lookup(tracks: Sequence[Track]) -> dict[str, Track]:
    """Map each way to write a track to it: its name, `genre/stem`, and its stem if no other's."""
    stems = Counter(track.path.stem for track in tracks)
    lookup = {track.path.stem: track for track in tracks if stems[track.path.stem] == 1}
    lookup |= {f"{track.genre}/{track.path.stem}": track for track in tracks}
    return lookup | {track.name: track for track in tracks}


def _read_list(path: Path) -> list[str]:
    try:
        # With a byte order mark or without: Windows' editors write one.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"cannot read the split list {path} ({_why(error)}); "
            "--split takes fault-filtered, stratified, a CSV or three lists"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DatasetError(f"the split list {path} is empty; write one track name a line")
    return names


def _read_artists(path: Path) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"cannot read the artists in {path} ({_why(error)}); "
            "--split takes fault-filtered, stratified, a CSV or three lists"
        ) from error
    if not rows or not {"track", "artist"} <= set(rows[0]):
        raise DatasetError(f"{path} must be a CSV with the columns track,artist and a row a track")
    artists = {}
    for row in rows:
        track, artist = ((row[column] or "").strip() for column in ("track", "artist"))
        if track:
            artists[_bare(track)] = artist
        elif artist:
            raise DatasetError(f"{path}: a row has the artist {artist} and no track; complete it")
    return artists


def _why(error: Exception) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else "not text"


def _targets(count: int) -> dict[str, int]:
    """Return how many of `count` tracks each set gets; valid and test at least one."""
    tenth = max(1, round(count * VALID_SHARE))
    return {"train": count - 2 * tenth, "valid": tenth, "test": tenth}


def _by_genre(tracks: Iterable[Track]) -> dict[str, list[Track]]:
    genres: dict[str, list[Track]] = defaultdict(list)
    for track in sorted(tracks, key=lambda track: (track.genre, track.name)):
        genres[track.genre].append(track)
    return dict(genres)


def _stratified(tracks: Sequence[Track], seed: int) -> Split:
    sets: dict[str, list[Track]] = {name: [] for name in SETS}
    for genre, own in _by_genre(tracks).items():
        shuffled = random.Random(f"{seed} {genre}").sample(own, len(own))
        for name, count in _targets(len(own)).items():
            sets[name] += sorted(shuffled[:count], key=lambda track: track.name)
            shuffled = shuffled[count:]
    return Split(
        **sets,
        name="stratified",
        protocol=f"stratified by genre, 80/10/10, seed {seed}: artists may be in several sets",
        missing=[],
        notes=[ARTISTS_LEAK] if is_gtzan(tracks) else [],
    )


def _grouped(tracks: Sequence[Track], artists: Mapping[str, str], table: Path, seed: int) -> Split:
    by_name = _lookup(tracks)
    artist_of = {
        by_name[name].name: artist for name, artist in artists.items() if artist and name in by_name
    }
    groups: dict[str, list[Track]] = defaultdict(list)
    for track in tracks:
        groups[artist_of.get(track.name, f"\0{track.name}")].append(track)
    sets = _fill_sets(list(groups.values()), seed)
    notes = []
    if unknown := len(tracks) - len(artist_of):
        notes.append(
            f"{unknown} tracks have no artist in {table.name}; each was taken for an artist's only"
            " one, so artists may leak through them"
        )
    for name in ("valid", "test"):
        lacking = {track.genre for track in tracks} - {track.genre for track in sets[name]}
        if lacking:
            notes.append(f"the {name} set has no {', '.join(sorted(lacking))}: too few artists")
    missing = sorted(name for name in artists if name not in by_name)
    return Split(
        **sets,
        name="grouped",
        protocol=f"grouped by the artists in {table.name}, about 80/10/10, seed {seed}: "
        "no artist in two sets",
        missing=missing,
        notes=notes,
    )


def _fill_sets(groups: list[list[Track]], seed: int) -> dict[str, list[Track]]:
    """Put each group whole into the set that lacks most of its genres; large groups first."""
    totals = Counter(track.genre for group in groups for track in group)
    room = {name: Counter[str]() for name in SETS}
    for genre, count in totals.items():
        for name, target in _targets(count).items():
            room[name][genre] = target
    sets: dict[str, list[Track]] = {name: [] for name in SETS}
    shuffled = random.Random(seed).sample(groups, len(groups))
    for group in sorted(shuffled, key=len, reverse=True):
        need = Counter(track.genre for track in group)

        def overflow(name: str, need: Counter[str] = need) -> float:
            """Return how far the set would be over its target, in shares of the target."""
            return sum(
                count * (count - room[name][genre]) / max(1, _targets(totals[genre])[name])
                for genre, count in need.items()
            )

        chosen = min(SETS, key=overflow)
        sets[chosen] += group
        room[chosen].subtract(need)
    return {
        name: sorted(own, key=lambda track: (track.genre, track.name)) for name, own in sets.items()
    }
