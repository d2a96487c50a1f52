"""Choose the tracks on which a run or a model is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from streamer.core.model import Classifier
from trainer.discovery import find_background, find_tracks
from trainer.loading import RunClassifier
from trainer.pictures import check_grid
from trainer.run import Run, TrackLists
from trainer.splits import divide_background, split_tracks
from trainer.tracks import DatasetError, Skipped, Track, is_picture_folder


@dataclass(frozen=True, slots=True)
class EvaluationSets:
    """Tracks by set, and what has to be stated beside every accuracy on them."""

    music: dict[str, list[Track]]
    background: dict[str, list[Track]]
    """Clips whose genre is the model's `not_music` label; empty for a model without one."""
    protocol: str
    """One sentence about the split."""
    notes: list[str]
    """Warnings."""
    skipped: list[Skipped]
    trained_on: frozenset[str] = frozenset()
    """Names of the sets that the model was trained on."""


def find_evaluation_sets(
    classifier: Classifier,
    *,
    data: Path | None = None,
    background: Path | None = None,
    split: Sequence[str] = (),
    seed: int = 0,
) -> EvaluationSets:
    """Find the tracks on which a classifier is evaluated.

    For a run these are the lists in its `run.json`, for a model file those of the given split.

    Parameters
    ----------
    data : Path, optional
        Folder of audio or pictures; by default the one that a run was trained on.
    background : Path, optional
        Folder of clips that are not music. By default a run's own, of which the clips it was
        validated on are used. Of a folder that is given, a run uses all clips that it was not
        trained on, in every set.
    split, seed
        For a model file, see `split_tracks`; `["all"]` puts everything into one set.
    """
    run = classifier.run if isinstance(classifier, RunClassifier) else None
    own_background = background is None
    if run:
        data = data or run.settings.data
        background = background or run.settings.background
    if data is None:
        raise DatasetError("--data is missing: give the folder of audio or pictures to judge on")
    tracks, skipped = find_tracks(data)
    if is_picture_folder(data):
        check_grid(data, classifier.contract.spectrogram)
    if run:
        music, notes = _run_sets(tracks, run.split, data)
        protocol = run.split.protocol
    elif list(split) == ["all"]:
        music, notes, protocol = {"all": tracks}, [], f"all tracks of {data}"
    else:
        chosen = split_tracks(tracks, split, seed=seed)
        music = {"valid": chosen.valid, "test": chosen.test}
        notes, protocol = list(chosen.notes), chosen.protocol
    if not any(music.values()):
        raise DatasetError(f"none of the tracks of the valid and test lists is in {data}")
    clips: dict[str, list[Track]] = {}
    unused = f"no sound of {background} is used: "
    if background is not None and classifier.contract.not_music is None:
        notes.append(unused + "the model has no label for what is not music")
    elif background is not None:
        clips, skipped_clips = _background_sets(classifier, background, run, own_background)
        skipped = skipped + skipped_clips
        if not any(clips.values()):
            notes.append(unused + "none of them was held back from training")
    trained_on = frozenset({"valid"} if run and set(run.split.valid) & set(run.split.train) else ())
    return EvaluationSets(music, clips, protocol, notes, skipped, trained_on)


def _run_sets(
    tracks: Sequence[Track], split: TrackLists, data: Path
) -> tuple[dict[str, list[Track]], list[str]]:
    """Return the held-out sets of a run, and a note for each set of which tracks are missing."""
    by_name = {track.name: track for track in tracks}
    notes = list(split.notes)
    sets = {}
    for name, listed in (("valid", split.valid), ("test", split.test)):
        sets[name] = [by_name[track] for track in listed if track in by_name]
        if lost := len(listed) - len(sets[name]):
            notes.append(f"{lost} of the run's {len(listed)} {name} tracks are not in {data}")
    return sets, notes


def _background_sets(
    classifier: Classifier, folder: Path, run: Run | None, own: bool
) -> tuple[dict[str, list[Track]], list[Skipped]]:
    """Return the background clips by set, labelled `not_music`; `own` is a run's own folder."""
    if is_picture_folder(folder):
        check_grid(folder, classifier.contract.spectrogram)
    clips, skipped = find_background(folder)
    if run and own:
        names = set(run.background.valid)
        sets = {"valid": [clip for clip in clips if clip.name in names]}
    elif run:
        # By name: the folder may hold the audio of which the run was trained on the pictures.
        trained_on = set(run.background.train)
        unused = [clip for clip in clips if clip.name not in trained_on]
        sets = {"valid": unused, "test": unused}
    else:
        _, held_back = divide_background(clips)
        sets = {"all": clips, "valid": held_back, "test": held_back}
    label = classifier.contract.not_music or ""
    for name, members in sets.items():
        sets[name] = [replace(clip, genre=label) for clip in members]
    return sets, skipped
