"""Which tracks a run or a model is to be judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from streamer.core.model import Classifier
from trainer.discovery import find_background, find_tracks
from trainer.loading import RunClassifier
from trainer.pictures import check_grid
from trainer.splits import divide_background, split_tracks
from trainer.tracks import DatasetError, Skipped, Track, is_picture_folder

JUDGED = ("valid", "test")
"""Sets that a model was not trained on."""


@dataclass(frozen=True, slots=True)
class JudgedSets:
    """Tracks by set, and what must be said about them beside every accuracy."""

    music: dict[str, list[Track]]
    background: dict[str, list[Track]]
    """Clips whose genre is the model's `not_music` label; empty for a model without one."""
    protocol: str
    notes: list[str]
    skipped: list[Skipped]

    def together(self) -> dict[str, list[Track]]:
        """Return music and background of each set in one list; empty sets are left out."""
        sets = {name: self.music[name] + self.background.get(name, []) for name in self.music}
        return {name: tracks for name, tracks in sets.items() if self.music[name]}


def judged_sets(
    candidate: Classifier,
    *,
    data: Path | None = None,
    background: Path | None = None,
    split: Sequence[str] = (),
    seed: int = 0,
) -> JudgedSets:
    """Find the tracks on which a candidate is to be judged.

    A run is judged on the lists in its `run.json`, a model file on the split that is asked for.

    Parameters
    ----------
    candidate : Classifier
        From `trainer.loading.load_candidate`.
    data : Path, optional
        Folder of audio or pictures; by default the one that a run was trained on.
    background : Path, optional
        The same with sounds that are not music. Of a folder that is named here, a run hears all
        that it was not trained on, with every list.
    split, seed
        For a model file, as `split_tracks` takes them; `["all"]` is one set of everything.

    Raises
    ------
    DatasetError
        If a folder is missing or cannot be used.
    """
    own_background = background is None
    facts = candidate.facts if isinstance(candidate, RunClassifier) else None
    if facts:
        settings = facts["settings"]
        data = data or Path(settings["data"])
        if background is None and settings.get("background"):
            background = Path(settings["background"])
    if data is None:
        raise DatasetError("--data is missing: give the folder of audio or pictures to judge on")
    tracks, skipped = find_tracks(data)
    if is_picture_folder(data):
        check_grid(data, candidate.contract.spectrogram)
    if facts:
        music, notes = _sets_of_run(tracks, facts["split"], data)
        protocol = facts["split"]["protocol"]
    elif list(split) == ["all"]:
        music, notes, protocol = {"all": tracks}, [], f"all tracks of {data}"
    else:
        chosen = split_tracks(tracks, split, seed=seed)
        music = {name: chosen.sets()[name] for name in JUDGED}
        notes, protocol = list(chosen.notes), chosen.protocol
    if not any(music.values()):
        raise DatasetError(f"none of the tracks of the valid and test lists is in {data}")
    clips, lost = _background_sets(candidate, background, facts, own_background)
    if background is not None and not any(clips.values()):
        notes.append(_why_unheard(candidate, background))
    return JudgedSets(music, clips, protocol, notes, [*skipped, *lost])


def _sets_of_run(
    tracks: Sequence[Track], split: Mapping[str, Any], data: Path
) -> tuple[dict[str, list[Track]], list[str]]:
    by_name = {track.name: track for track in tracks}
    notes = list(split["notes"])
    sets = {}
    for name in JUDGED:
        sets[name] = [by_name[track] for track in split[name] if track in by_name]
        if lost := len(split[name]) - len(sets[name]):
            notes.append(f"{lost} of the run's {len(split[name])} {name} tracks are not in {data}")
    return sets, notes


def _background_sets(
    candidate: Classifier, folder: Path | None, facts: Mapping[str, Any] | None, own: bool
) -> tuple[dict[str, list[Track]], list[Skipped]]:
    """Return the clips to judge on: those held back from training, and all as the set `all`.

    From its `own` folder a run hears what it was validated on; from one that is named, all that it
    was not trained on.
    """
    label = candidate.contract.not_music
    if folder is None or label is None:
        return {}, []
    if is_picture_folder(folder):
        check_grid(folder, candidate.contract.spectrogram)
    clips, skipped = find_background(folder)
    if facts and own:
        names = set(facts["background"]["valid"])
        sets = {"valid": [clip for clip in clips if clip.name in names]}
    elif facts:
        # It may be the audio of the run's own pictures, with clips of the same names.
        heard = set(facts["background"]["train"])
        unheard = [clip for clip in clips if clip.name not in heard]
        sets = dict.fromkeys(JUDGED, unheard)
    else:
        _, held_back = divide_background(clips)
        sets = {"all": clips, **dict.fromkeys(JUDGED, held_back)}
    return {
        name: [replace(clip, genre=label) for clip in own] for name, own in sets.items()
    }, skipped


def _why_unheard(candidate: Classifier, folder: Path) -> str:
    if candidate.contract.not_music is None:
        return f"no sound of {folder} is used: the model has no label for what is not music"
    return f"no sound of {folder} is used: none of them was held back from training"
