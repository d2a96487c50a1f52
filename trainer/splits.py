"""Divide tracks into train, valid and test sets; all crops of a track are in one set."""

from __future__ import annotations

import csv
import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from trainer.discovery import check_genres, find_background
from trainer.tracks import AUDIO_SUFFIXES, DatasetError, Track, is_picture_folder

SETS = ("train", "valid", "test")

FAULT_FILTERED_LISTS = Path(__file__).parent / "fault_filtered"

Shares = tuple[float, float, float]

SHARES: Shares = (80.0, 10.0, 10.0)
"""Shares of train, valid and test in a stratified or grouped split, up to a common factor."""

HELD_BACK_SHARE = 0.2
"""Share of the background clips that no training uses."""

FAULT_FILTERED = (
    "fault-filtered (Kereliuk, Sturm and Larsen 2015): known faults removed, "
    "no artist in two of the lists"
)
ARTISTS_LEAK = (
    "GTZAN's artists leak: about three test tracks in four have their artist in training, so this "
    "accuracy is far above what new artists get; --split fault-filtered does not have this fault"
)


@dataclass(frozen=True, slots=True)
class Split:
    """Tracks divided into three disjoint sets."""

    train: list[Track]
    valid: list[Track]
    test: list[Track]
    name: str
    """`fault-filtered`, `stratified`, `grouped` or `lists`."""
    protocol: str
    """One sentence about the division, to be stated beside every accuracy."""
    missing: list[str]
    """Names that the lists contain and the folder lacks."""
    notes: list[str]
    """Warnings to be stated beside every accuracy."""

    def sets(self) -> dict[str, list[Track]]:
        """Return the three sets by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


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
    how : sequence of str
        `["fault-filtered"]`, `["stratified"]`, `[CSV]` (a file with the columns `track,artist`) or
        `[TRAIN, VALID, TEST]` (files with a track name per line). Empty: fault-filtered for GTZAN,
        if what there is of it can be divided so, else stratified. The last one, or the only one,
        may be the shares of a stratified split or one by artist, such as `70/15/15`.
    seed : int
        Of a stratified or grouped split.
    exclude_faults : bool
        Drop GTZAN's known faulty tracks first.
    """
    check_genres(tracks)
    if exclude_faults:
        tracks = without_faults(tracks)
        check_genres(tracks)
    rest, shares = _shares(how)
    notes: list[str] = []
    if not rest:
        rest, notes = (["stratified"], []) if how else _default_split(tracks)
    match rest:
        case ["fault-filtered"] if shares == SHARES:
            return _split_by_lists(tracks, fault_filtered_names(), "fault-filtered", FAULT_FILTERED)
        case ["stratified"]:
            return _split_stratified(tracks, seed, shares, notes)
        case [table] if table != "fault-filtered":
            return _split_by_artist(tracks, Path(table), seed, shares)
        case [_, _, _] if shares == SHARES:
            names = {name: _read_list(Path(path)) for name, path in zip(SETS, rest, strict=True)}
            protocol = "lists given by the user: " + ", ".join(Path(path).name for path in rest)
            return _split_by_lists(tracks, names, "lists", protocol)
        case _:
            raise DatasetError(
                f"--split {' '.join(how)}: give fault-filtered, stratified, one CSV of "
                "track,artist, three lists (train, valid, test), or shares such as 70/15/15 (after "
                "stratified or the CSV, if you like)"
            )


def _shares(how: Sequence[str]) -> tuple[list[str], Shares]:
    """Return a division without its shares, and those."""
    if not how or not re.fullmatch(r"[\d.]+(/[\d.]+)+", how[-1]):
        return list(how), SHARES
    try:
        train, valid, test = (float(part) for part in how[-1].split("/"))
    except ValueError:
        train = valid = test = 0
    if not (train > 0 and valid > 0):
        raise DatasetError(
            f"--split {' '.join(how)}: give three shares, for train, valid and test, such as "
            "70/15/15; only the last one may be 0"
        )
    return list(how[:-1]), (train, valid, test)


def _default_split(tracks: Sequence[Track]) -> tuple[list[str], list[str]]:
    """Return the division of tracks for which none was asked, and notes on it."""
    if not is_gtzan(tracks):
        return ["stratified"], []
    lists = fault_filtered_names()
    owners = {name: part for part, names in lists.items() for name in names}
    parts = Counter(owners.get(track.name, "no") for track in tracks)
    trained = {track.genre for track in tracks if owners.get(track.name) == "train"}
    untrained = sorted({track.genre for track in tracks} - trained)
    if parts["valid"] and not untrained:
        return ["fault-filtered"], []
    if len(parts) == 1:
        reason = (
            f"all {len(tracks)} tracks are in the {min(parts)} list of the fault-filtered split"
        )
    elif untrained:
        reason = f"the fault-filtered split leaves no {', '.join(untrained)} to train on"
    else:
        reason = "the fault-filtered split leaves no track to validate on"
    return ["stratified"], [f"{reason}, so they were divided by genre alone (stratified)"]


def divide_background(clips: Sequence[Track]) -> tuple[list[Track], list[Track]]:
    """Divide background clips into those to train on and those that are held back.

    Every group is divided by the same share. The division is random but fixed: every training
    holds back the same clips, from audio as from pictures, so that a model which started from
    another run's network, or an exported file, is never evaluated on a clip it was trained on.
    """
    generator = np.random.default_rng([0, 0xBAC])
    train: list[Track] = []
    held_back: list[Track] = []
    for group in _by_genre(clips).values():
        count = max(1, round(HELD_BACK_SHARE * len(group))) if len(group) > 1 else 0
        shuffled = [group[index] for index in generator.permutation(len(group))]
        held_back += shuffled[:count]
        train += shuffled[count:]
    return train, held_back


def sounds_to_learn_from(folder: Path) -> list[Track]:
    """Return the recordings of sounds that are not music that are not held back.

    DatasetError is raised if the folder does not exist or holds no audio.
    """
    if is_picture_folder(folder):
        raise DatasetError(f"--background {folder} holds pictures; give a folder of audio")
    return divide_background(find_background(folder)[0])[0]


def fault_filtered_names() -> dict[str, list[str]]:
    """Return the track names of the fault-filtered train, valid and test lists."""
    return {name: (FAULT_FILTERED_LISTS / f"{name}.txt").read_text().split() for name in SETS}


def is_gtzan(tracks: Sequence[Track]) -> bool:
    """Tell whether most of the tracks have names of GTZAN's fault-filtered lists."""
    known = set(itertools.chain.from_iterable(fault_filtered_names().values()))
    return sum(track.name in known for track in tracks) * 2 > len(tracks)


def without_faults(tracks: Sequence[Track]) -> list[Track]:
    """Drop GTZAN's known repetitions, mislabelled and distorted tracks.

    These are the tracks named as GTZAN's are, `<genre>.00000` to `<genre>.00099` of its ten
    genres, that are in none of the fault-filtered lists.
    """
    listed = set(itertools.chain.from_iterable(fault_filtered_names().values()))
    genres = {name.partition(".")[0] for name in listed}
    faults = {f"{genre}.{number:05}" for genre in genres for number in range(100)} - listed
    return [track for track in tracks if track.name not in faults]


def _split_by_lists(
    tracks: Sequence[Track], names: Mapping[str, Sequence[str]], name: str, protocol: str
) -> Split:
    by_name = _tracks_by_spelling(tracks)
    sets: dict[str, list[Track]] = {}
    missing: list[str] = []
    notes: list[str] = []
    owner: dict[str, str] = {}
    for part in SETS:
        # Keyed by name: a list may spell one track in two ways.
        found: dict[str, Track] = {}
        lost = []
        for entry in dict.fromkeys(names[part]):
            track = by_name.get(_without_suffix(entry))
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


def _split_stratified(
    tracks: Sequence[Track], seed: int, shares: Shares, notes: Sequence[str]
) -> Split:
    sets: dict[str, list[Track]] = {name: [] for name in SETS}
    for genre, own in _by_genre(tracks).items():
        shuffled = random.Random(f"{seed} {genre}").sample(own, len(own))
        for name, count in _set_sizes(len(own), shares).items():
            sets[name] += sorted(shuffled[:count], key=lambda track: track.name)
            shuffled = shuffled[count:]
    return Split(
        **sets,
        name="stratified",
        protocol=f"stratified by genre, {_share_text(shares)}, seed {seed}: "
        "artists may be in several sets",
        missing=[],
        notes=[*notes, *([ARTISTS_LEAK] if is_gtzan(tracks) else [])],
    )


def _split_by_artist(tracks: Sequence[Track], table: Path, seed: int, shares: Shares) -> Split:
    artists = _read_artists(table)
    by_name = _tracks_by_spelling(tracks)
    artist_of = {
        by_name[name].name: artist for name, artist in artists.items() if artist and name in by_name
    }
    groups: dict[str, list[Track]] = defaultdict(list)
    for track in tracks:
        groups[artist_of.get(track.name, f"\0{track.name}")].append(track)
    sets = _fill_sets(list(groups.values()), seed, shares)
    notes = []
    if unknown := len(tracks) - len(artist_of):
        notes.append(
            f"{unknown} tracks have no artist in {table.name}; each was taken for an artist's only"
            " one, so artists may leak through them"
        )
    for name in ("valid", "test") if shares[2] else ("valid",):
        lacking = {track.genre for track in tracks} - {track.genre for track in sets[name]}
        if lacking:
            notes.append(f"the {name} set has no {', '.join(sorted(lacking))}: too few artists")
    return Split(
        **sets,
        name="grouped",
        protocol=f"grouped by the artists in {table.name}, about {_share_text(shares)}, "
        f"seed {seed}: no artist in two sets",
        missing=sorted(name for name in artists if name not in by_name),
        notes=notes,
    )


def _fill_sets(groups: list[list[Track]], seed: int, shares: Shares) -> dict[str, list[Track]]:
    """Assign each group, large ones first, to the set whose genre targets it exceeds least."""
    totals = Counter(track.genre for group in groups for track in group)
    targets = {genre: _set_sizes(count, shares) for genre, count in totals.items()}
    room = {name: Counter({genre: own[name] for genre, own in targets.items()}) for name in SETS}
    sets: dict[str, list[Track]] = {name: [] for name in SETS}
    shuffled = random.Random(seed).sample(groups, len(groups))
    for group in sorted(shuffled, key=len, reverse=True):
        need = Counter(track.genre for track in group)

        def excess(name: str, need: Counter[str] = need) -> float:
            """Return by how much the set would exceed its targets, relative to the targets."""
            return sum(
                count * (count - room[name][genre]) / max(1, targets[genre][name])
                for genre, count in need.items()
            )

        chosen = min(SETS, key=excess)
        sets[chosen] += group
        room[chosen].subtract(need)
    return {name: _sorted(own) for name, own in sets.items()}


def _set_sizes(count: int, shares: Shares) -> dict[str, int]:
    """Return how many of `count` tracks each set gets; at least one if its share is not 0."""
    _, valid, test = (
        max(1, round(count * share / sum(shares))) if share else 0 for share in shares
    )
    return {"train": count - valid - test, "valid": valid, "test": test}


def _share_text(shares: Shares) -> str:
    return "/".join(f"{share:g}" for share in shares)


def _sorted(tracks: Sequence[Track]) -> list[Track]:
    return sorted(tracks, key=lambda track: (track.genre, track.name))


def _by_genre(tracks: Sequence[Track]) -> dict[str, list[Track]]:
    genres = itertools.groupby(_sorted(tracks), key=lambda track: track.genre)
    return {genre: list(own) for genre, own in genres}


def _tracks_by_spelling(tracks: Sequence[Track]) -> dict[str, Track]:
    """Map each spelling of a track to it: its name, `genre/stem`, and its stem if unique."""
    stems = Counter(track.path.stem for track in tracks)
    spellings = {track.path.stem: track for track in tracks if stems[track.path.stem] == 1}
    spellings |= {f"{track.genre}/{track.path.stem}": track for track in tracks}
    return spellings | {track.name: track for track in tracks}


def _without_suffix(entry: str) -> str:
    """Strip a known suffix, so that `blues/blues.00012.wav` finds its track."""
    path = PurePosixPath(entry)
    known = path.suffix.lower() in AUDIO_SUFFIXES | {".png"}
    return str(path.with_suffix("")) if known else entry


def _read_list(path: Path) -> list[str]:
    names = [line.strip() for line in _read_lines(path, "split list") if line.strip()]
    if not names:
        raise DatasetError(f"the split list {path} is empty; write one track name a line")
    return names


def _read_artists(path: Path) -> dict[str, str]:
    try:
        rows = list(csv.DictReader(_read_lines(path, "artists in")))
    except csv.Error as error:
        raise DatasetError(f"cannot read the artists in {path} ({error})") from error
    if not rows or not {"track", "artist"} <= set(rows[0]):
        raise DatasetError(f"{path} must be a CSV with the columns track,artist and a row a track")
    artists = {}
    for row in rows:
        track, artist = ((row[column] or "").strip() for column in ("track", "artist"))
        if track:
            artists[_without_suffix(track)] = artist
        elif artist:
            raise DatasetError(f"{path}: a row has the artist {artist} and no track; complete it")
    return artists


def _read_lines(path: Path, what: str) -> list[str]:
    """Read the lines of a text file, line ends included."""
    try:
        # The encoding drops a byte order mark, which editors on Windows write.
        with path.open(newline="", encoding="utf-8-sig") as lines:
            return list(lines)
    except (OSError, UnicodeDecodeError) as error:
        strerror = error.strerror if isinstance(error, OSError) else "not text"
        raise DatasetError(
            f"cannot read the {what} {path} ({strerror or 'unreadable'}); "
            "--split takes fault-filtered, stratified, a CSV or three lists"
        ) from error
