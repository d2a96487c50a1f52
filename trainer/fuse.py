"""Give a trained run its second network: a head on the tags, and the fusion of the two networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.audio import AudioError, read_audio
from trainer.discovery import find_background, find_tracks
from trainer.evaluate import predict
from trainer.loading import RunClassifier
from trainer.musicnn import TAGS, last_layer
from trainer.pictures import check_grid
from trainer.run import (
    FusedTagger,
    Run,
    RunError,
    TagHead,
    read_run,
    update_run,
    write_head,
)
from trainer.second_network import PIECE_SECONDS, SECONDS, from_head
from trainer.tag_head import Fusion, TagHeadError, fit_fusion, fit_tag_head, named_tags
from trainer.tagger import SAMPLE_RATE, load_tagger
from trainer.tags import Tags, degraded_file, read_tags, tags_file
from trainer.tracks import DatasetError, Track, is_picture_folder


@dataclass(frozen=True, slots=True)
class Fused:
    """Result of `fuse`."""

    fusion: FusedTagger
    temperature: float
    """Of the logits of both networks."""
    tracks: int
    """Tracks whose tags the head was trained on."""
    degraded: int
    """Tracks of whose degraded copies it was."""
    sounds: int
    """Sounds that are not music of which it was."""
    windows: int
    """Windows of the valid list from which weights and temperature were found; 0 if they are those
    of another run."""


def fuse(
    folder: Path,
    *,
    data: Path | None = None,
    background: Path | None = None,
    like: Path | None = None,
    seconds: float | None = None,
) -> Fused:
    """Fit the head of a run on the tags of its train list, and the fusion on its valid list.

    The run's own network stays as it is.

    Parameters
    ----------
    folder : Path
        The run.
    data, background : Path, optional
        Pictures with tags, or audio; by default those that the run was trained on.
    like : Path, optional
        A run whose weights, temperature and decision settings to take, for a run that was trained
        on its valid list.

    Raises
    ------
    DatasetError
        If too few tracks have tags.
    NetworkError, RunError
        If a run cannot be read, or has no list to find the fusion on.
    """
    run = read_run(folder)
    if like is None and set(run.split.valid) & set(run.split.train):
        raise RunError(
            f"{folder} was trained on its valid list, so the weights of the networks cannot be "
            "found on it: name the run of the same recipe that held it back with --like"
        )
    example = read_run(like) if like else None
    if example and (example.fusion is None or example.labels != run.labels):
        raise RunError(f"--like {like}: has no second network, or other labels than {folder}")
    data, background = data or run.settings.data, background or run.settings.background
    tracks = {track.name: track for track in _checked(data, run, find_tracks(data)[0])}
    head, counts = _fit_head(run, tracks, background)
    windows = 0
    if seconds is None:
        seconds = max(PIECE_SECONDS, min(SECONDS, run.window_frames * run.spec.hop_seconds))
    if example and example.fusion:
        fusion, temperature = example.fusion, example.temperature
        decision = example.decision
    else:
        found, windows = _fit_fusion(folder, head, run, tracks, data, seconds)
        temperature, decision = found.temperature, run.decision
        fusion = FusedTagger("musicnn", found.spectrogram_weight, found.audio_weight, seconds)
    write_head(folder, head)
    fused = Fused(fusion, temperature, *counts, windows)
    about = {**dataclasses.asdict(fused), "like": str(like.name) if like else None}
    update_run(
        folder, {"fuse": about}, fusion=fusion, temperature=temperature, decision=dict(decision)
    )
    return fused


def has_tags(run: Run) -> bool:
    """Tell whether pictures of a run's train list have tags beside them."""
    names = set(run.split.train)
    tracks = find_tracks(run.settings.data)[0]
    return any(track.name in names and tags_file(track.path).is_file() for track in tracks)


def _checked(folder: Path, run: Run, tracks: Sequence[Track]) -> Sequence[Track]:
    if is_picture_folder(folder):
        check_grid(folder, run.spec)
    return tracks


def _fit_head(
    run: Run, tracks: dict[str, Track], background: Path | None
) -> tuple[TagHead, tuple[int, int, int]]:
    """Fit the head; return it with the numbers of tracks, degraded tracks and sounds."""
    index = {label: number for number, label in enumerate(run.labels)}
    learnt = [tracks[name] for name in run.split.train if name in tracks]
    tagged = [(tags, index[t.genre]) for t in learnt if (tags := _tags_of(t)) is not None]
    degraded = [(tags, index[t.genre]) for t in learnt if (tags := _degraded_of(t)) is not None]
    genres = {label for label in run.labels if label != run.not_music}
    if without := sorted(genres - {run.labels[label] for _, label in tagged}):
        raise DatasetError(
            f"no train track of {', '.join(without)} has tags: make them with genre-train prepare, "
            "or for pictures with genre-train tags"
        )
    sounds: list[Tags] = []
    if run.not_music and background:
        names = set(run.background.train)
        clips = _checked(background, run, find_background(background)[0])
        found = (_tags_of(clip) for clip in clips if clip.name in names)
        sounds = [tags for tags in found if tags is not None]
    if run.not_music and not sounds:
        raise DatasetError(
            f"no sound of the background {background} has tags, from which {run.not_music} is "
            "learnt: make them with genre-train prepare --sounds"
        )
    try:
        head = fit_tag_head(
            [tags for tags, _ in tagged],
            [label for _, label in tagged],
            len(run.labels),
            degraded=degraded,
            background=sounds,
            not_music=index[run.not_music] if run.not_music else None,
            named=named_tags(run.labels, TAGS),
            last_layer=last_layer(),
        )
    except TagHeadError as error:
        raise DatasetError(f"the head on the tags cannot be trained: {error}") from None
    return head, (len(tagged), len(degraded), len(sounds))


def _tags_of(track: Track) -> Tags | None:
    """Return a track's tags, None if it has none or cannot be decoded."""
    if track.is_picture:
        file = tags_file(track.path)
        return read_tags(file) if file.is_file() else None
    try:
        return load_tagger().tags_of_track(read_audio(track.path, SAMPLE_RATE))
    except AudioError:
        return None


def _degraded_of(track: Track) -> Tags | None:
    file = degraded_file(track.path)
    return read_tags(file) if track.is_picture and file.is_file() else None


def _fit_fusion(
    folder: Path, head: TagHead, run: Run, tracks: dict[str, Track], data: Path, seconds: float
) -> tuple[Fusion, int]:
    """Find weights and temperature on the valid tracks with tags; return them and the windows."""
    valid = [tracks[name] for name in run.split.valid if name in tracks]
    heard = [t for t in valid if not t.is_picture or tags_file(t.path).is_file()]
    if not heard:
        raise DatasetError(
            f"no valid track in {data} has tags, on which the weights of the networks are found: "
            "make them with genre-train prepare or genre-train tags, or name a run with --like"
        )
    second = from_head(head, FusedTagger("musicnn", 0.5, 0.5, seconds))
    own, _ = predict(RunClassifier(folder), heard, title="valid", second=second)
    assert own.audio_logits is not None
    truth = np.asarray(own.truth[own.owner])
    return fit_fusion(own.logits, own.audio_logits, truth), len(truth)
