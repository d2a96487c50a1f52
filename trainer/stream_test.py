"""Evaluate a classifier as the daemon: play a synthetic stream and compare its decisions."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from streamer.core.contract import ModelContract
from streamer.core.decision import Decision, DecisionSettings, State
from streamer.core.decision_settings import Effort, Response
from streamer.core.model import Classifier
from streamer.system.files import write_file, write_json
from trainer.change_hints import HintResult, measure_hints
from trainer.evaluation_sets import EvaluationSets
from trainer.loading import second_network
from trainer.metrics import calibration_error
from trainer.progress import progress_bar
from trainer.synthetic_stream import (
    Recorder,
    SyntheticStream,
    TagReader,
    TrueSegment,
    make_stream,
    play,
)
from trainer.tags import tagged
from trainer.tracks import DatasetError

ACCURACY_SECONDS = (1, 3, 5, 10, 30)
"""Seconds since the start of a song at which `accuracy_after` is computed."""

WRONG_COST = 0.75
"""Cost of a second with a wrong genre, in seconds with the right one; `uncertain` costs nothing. A
claim therefore pays above a probability of 0.75 / 1.75 (C. Chow, "On optimum recognition error and
reject tradeoff", IEEE Trans. Information Theory 16, 1970)."""

CHANGE_SECONDS = 1.2
"""Cost of a label change inside a song, in seconds with the right genre."""

TOLERATED_ECE = 0.05
"""Expected calibration error up to which the objective is not reduced."""


@dataclass(frozen=True, slots=True)
class StreamResult:
    """Metrics of the decisions on a stream."""

    seconds: float
    """Length of the stream from the first decision on."""
    songs: int
    right: float
    """Share of all seconds with a correct decision, see `is_correct`."""
    claimed_in_music: float
    """Share of the seconds of music with a genre, right or wrong."""
    right_in_music: float
    """Share of the seconds of music with the right genre."""
    right_of_claimed: float
    """Share of all seconds with a genre in which it is the right one."""
    not_music_in_music: float
    """Share of the seconds of music decided as not music."""
    uncertain: float
    """Share of all seconds that are uncertain."""
    delay_median: float | None
    """Seconds from a change of genre to the right label, over the songs that get it; None if none
    does."""
    delay_p95: float | None
    never_right: int
    """Songs that never get the right label."""
    changes_per_minute: float
    """Label changes inside songs, not counting the one that follows the start of each."""
    claimed_on_silence: float
    """Seconds of silence with a genre."""
    silence: float
    """Seconds of silence played."""
    claimed_on_not_music: float
    """Seconds of background clips with a genre, of the clips after a song or silence."""
    not_music: float
    """Seconds of such clips played."""
    claimed_without_music: float
    """Seconds of background clips with a genre, of the clips after another clip."""
    without_music: float
    """Seconds of such clips played."""
    ece: float
    """Expected calibration error, 15 bins, of the smoothed probabilities in music."""
    accuracy_after: dict[str, float]
    """Share of songs with the right label, by seconds since their start."""
    inferences: float
    """Share of the windows that the network classified; 1 with the effort "full"."""

    @property
    def change_cost(self) -> float:
        """Cost of the label changes inside songs, as a share of the time."""
        return CHANGE_SECONDS / 60 * self.changes_per_minute

    @property
    def objective(self) -> float:
        """The value that `tune` maximises: the share right, less the costs of errors."""
        music = self.seconds - self.silence - self.not_music - self.without_music
        wrong = (self.claimed_in_music - self.right_in_music) * music
        wrong += self.claimed_on_silence + self.claimed_on_not_music + self.claimed_without_music
        return (
            self.right
            - WRONG_COST * wrong / self.seconds
            - self.change_cost
            - max(0.0, self.ece - TOLERATED_ECE)
        )


def is_correct(segment: TrueSegment, decision: Decision, has_not_music: bool) -> bool:
    """Tell whether a decision agrees with the ground truth.

    Background clips contain pauses, so `silence` is correct on them as well; so is `uncertain` if
    the model has no label for what is not music.
    """
    if segment.state is State.MUSIC:
        return decision.state is State.MUSIC and decision.genre == segment.genre
    if segment.state is State.SILENCE:
        return decision.state is State.SILENCE
    allowed = {State.NOT_MUSIC, State.SILENCE}
    return decision.state in (allowed if has_not_music else allowed | {State.UNCERTAIN})


def measure(
    segments: Sequence[TrueSegment], decisions: Sequence[Decision], contract: ModelContract
) -> StreamResult:
    """Compare decisions with the ground truth; raise DatasetError if there are none."""
    if not decisions:
        raise DatasetError("the stream is shorter than the model's window; play more tracks")
    has_not_music = contract.not_music is not None
    positions = [decision.position for decision in decisions]
    ends = np.searchsorted(positions, [segment.end + 1e-6 for segment in segments], side="right")
    by_segment = [
        (segment, decisions[start:end])
        for segment, (start, end) in zip(segments, itertools.pairwise([0, *ends]), strict=True)
    ]
    pairs = [(segment, decision) for segment, own in by_segment for decision in own]
    songs = [(segment, own) for segment, own in by_segment if segment.state is State.MUSIC]
    starts_after_clip, unchanged_starts = set(), set()
    for before, segment in itertools.pairwise(segments):
        if before.state is segment.state is State.NOT_MUSIC:
            starts_after_clip.add(segment.start)
        elif segment.genre is not None and before.genre == segment.genre:
            unchanged_starts.add(segment.start)
    hops = np.array([decision.hop_seconds for _, decision in pairs])
    # Shape (decisions,) each.
    played = {state: np.array([segment.state is state for segment, _ in pairs]) for state in State}
    decided = {state: np.array([d.state is state for _, d in pairs]) for state in State}
    correct = np.array([is_correct(segment, d, has_not_music) for segment, d in pairs])
    after_clip = np.array([segment.start in starts_after_clip for segment, _ in pairs])

    def seconds(chosen: NDArray[np.bool_]) -> float:
        hop_seconds: list[float] = hops[chosen].tolist()
        return sum(hop_seconds)

    total = sum(hops.tolist())
    music, claimed = played[State.MUSIC], decided[State.MUSIC]
    single_clip = played[State.NOT_MUSIC] & ~after_clip
    music_seconds = max(seconds(music), 1e-9)
    delays = [_delay(song, own) for song, own in songs]
    after_change = [
        delay
        for (song, _), delay in zip(songs, delays, strict=True)
        if delay is not None and song.start not in unchanged_starts
    ]
    return StreamResult(
        seconds=total,
        songs=len(songs),
        right=seconds(correct) / total,
        claimed_in_music=seconds(claimed & music) / music_seconds,
        right_in_music=seconds(correct & music) / music_seconds,
        right_of_claimed=seconds(correct & music) / max(seconds(claimed), 1e-9),
        not_music_in_music=seconds(decided[State.NOT_MUSIC] & music) / music_seconds,
        uncertain=seconds(decided[State.UNCERTAIN]) / total,
        delay_median=float(np.median(after_change)) if after_change else None,
        delay_p95=float(np.quantile(after_change, 0.95)) if after_change else None,
        never_right=delays.count(None),
        changes_per_minute=60 * sum(_needless_changes(own) for _, own in songs) / music_seconds,
        claimed_on_silence=seconds(claimed & played[State.SILENCE]),
        silence=seconds(played[State.SILENCE]),
        claimed_on_not_music=seconds(claimed & single_clip),
        not_music=seconds(single_clip),
        claimed_without_music=seconds(claimed & after_clip),
        without_music=seconds(after_clip),
        ece=_calibration_error(pairs, contract.labels),
        accuracy_after=_accuracy_after(segments, decisions, has_not_music),
        inferences=_inferences(decisions),
    )


def _inferences(decisions: Sequence[Decision]) -> float:
    """Return the share of the windows that the network classified."""
    # All probabilities are equal where there was no window.
    windows = [d for d in decisions if len(set(d.window_probabilities.values())) > 1]
    return sum(not d.repeated for d in windows) / max(1, len(windows))


def _delay(song: TrueSegment, decisions: Sequence[Decision]) -> float | None:
    """Return the seconds from the start of a song to its right label, None if it never comes."""
    delays = (d.position - song.start for d in decisions if is_correct(song, d, True))
    return next(delays, None)


def _calibration_error(
    pairs: Sequence[tuple[TrueSegment, Decision]], labels: Sequence[str]
) -> float:
    in_music = [
        (labels.index(segment.genre), [decision.probabilities[label] for label in labels])
        for segment, decision in pairs
        if segment.genre is not None and decision.state is not State.SILENCE
    ]
    if not in_music:
        return 0.0
    truth, probabilities = zip(*in_music, strict=True)
    return calibration_error(np.array(probabilities), np.array(truth))


def _needless_changes(decisions: Sequence[Decision]) -> int:
    """Count the label changes in a song except the first, which follows the start of the song."""
    labels = [(decision.state, decision.genre) for decision in decisions]
    return max(0, sum(before != after for before, after in itertools.pairwise(labels)) - 1)


def _accuracy_after(
    segments: Sequence[TrueSegment], decisions: Sequence[Decision], has_not_music: bool
) -> dict[str, float]:
    positions = np.array([decision.position for decision in decisions])
    accuracies = {}
    for seconds in ACCURACY_SECONDS:
        correct = []
        for song in segments:
            if song.state is State.MUSIC and song.seconds > seconds - 0.5:
                position = min(song.start + seconds, song.end) + 1e-6
                last = int(np.searchsorted(positions, position)) - 1
                correct.append(last >= 0 and is_correct(song, decisions[last], has_not_music))
        if correct:
            accuracies[str(seconds)] = float(np.mean(correct))
    return accuracies


@dataclass(frozen=True, slots=True)
class StreamTest:
    """A stream, the decisions on it and their metrics."""

    stream: SyntheticStream
    decisions: list[Decision]
    result: StreamResult
    settings: dict[str, Any]
    """Decision settings; what is missing has its default."""
    said: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = dataclasses.field(
        default_factory=list
    )
    """What each of two networks said of every classified window; empty for one network."""
    alone: dict[str, StreamResult] = dataclasses.field(default_factory=dict)
    """Metrics of the decisions that each of two networks would lead to; see `judge_alone`."""
    named: dict[str, StreamResult] = dataclasses.field(default_factory=dict)
    """Metrics with names of one's own for labels; see `trainer.label_names.judge_names`."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """Warnings."""
    hints: HintResult | None = None
    """Metrics of the hints at changes; they do not depend on decision settings."""


def stream_test(
    classifier: Classifier,
    sets: EvaluationSets,
    name: str,
    *,
    limit: int | None = None,
    gap_seconds: float = 4.0,
    hop_seconds: float = 1.0,
    effort: Effort = "full",
    response: Response = "normal",
    seed: int = 0,
) -> StreamTest:
    """Play the set called `name` as a stream and measure the decisions.

    Of more than `limit` tracks as many are chosen by the seed. Decisions are made with the model's
    own settings and a response, as the daemon takes it. For the other parameters see `make_stream`
    and `streamer.core.pipeline.Pipeline`.
    """
    contract = classifier.contract
    tracks = sets.music.get(name, [])
    if not tracks:
        raise DatasetError(f"the {name} list has no tracks in the data folder")
    if limit is not None and limit < len(tracks):
        tracks = random.Random(seed).sample(tracks, max(1, limit))
    clips = sets.background.get(name, [])
    second, notes = second_network(classifier), []
    if second and tracks[0].is_picture:
        with_tags = tagged(tracks)
        if with_tags:
            lost = len(tracks) + len(clips) - len(with_tags) - len(tagged(clips))
            tracks, clips = with_tags, tagged(clips)
            notes += [f"{lost} recordings have no tags and are not played"] if lost else []
        else:
            second = None
            notes.append("no track has tags: these are decisions of the network of spectrograms")
    stream = make_stream(tracks, clips, contract.spectrogram, seed=seed, gap_seconds=gap_seconds)
    player = classifier
    if second:
        pictures = stream.blocks[0].ndim == 2
        player = TagReader(classifier, second, stream) if pictures else Recorder(classifier)
    settings = DecisionSettings.from_mapping(contract.decision, response=response)
    played = play(player, stream, hop_seconds=hop_seconds, effort=effort, settings=settings)
    count = len(stream.blocks) + 1
    with progress_bar() as progress:
        by_block = progress.track(played, total=count, description=f"playing {name}")
        decisions = list(itertools.chain.from_iterable(by_block))
    result = measure(stream.segments, decisions, contract)
    said = player.said if isinstance(player, Recorder) else []
    hints = measure_hints(stream.segments, decisions)
    chosen = dataclasses.asdict(settings)
    return StreamTest(stream, decisions, result, chosen, said, notes=notes, hints=hints)


def as_text(result: StreamResult, name: str, protocol: str) -> str:
    """Return the result as a few lines for the terminal."""
    accuracies = ", ".join(
        f"{share:.0%} after {at} s" for at, share in result.accuracy_after.items()
    )
    delays = ""
    if result.delay_median is not None and result.delay_p95 is not None:
        delays = (
            f"after {result.delay_median:.1f} s (median), "
            f"{result.delay_p95:.1f} s (95th percentile); "
        )
    return (
        f"{name} as a stream ({protocol}): {result.songs} songs, {result.seconds / 60:.1f} min\n"
        f"  {result.right:.1%} of seconds right, {result.uncertain:.1%} uncertain; "
        f"{result.claimed_in_music:.1%} of music gets a genre, "
        f"{result.right_of_claimed:.1%} of claimed genres are right\n"
        f"  right label {delays}never in {result.never_right} songs\n"
        f"  {result.changes_per_minute:.2f} label changes a minute inside songs; "
        f"ECE of the smoothed probabilities {result.ece:.3f}\n"
        f"  genre claimed on {result.claimed_on_silence:.0f} of {result.silence:.0f} s of silence "
        f"and on {result.claimed_on_not_music:.0f} of {result.not_music:.0f} s of other sounds "
        f"between songs\n"
        f"  without music: genre claimed on {result.claimed_without_music:.0f} of "
        f"{result.without_music:.0f} s of other sounds; "
        f"{result.not_music_in_music:.1%} of music called not music\n"
        f"  songs right: {accuracies}\n"
        f"  the network ran for {result.inferences:.1%} of the windows"
    )


def alone_as_text(alone: Mapping[str, StreamResult]) -> str:
    """Return a line for each of two networks for the terminal."""
    return "\n".join(
        f"  network of {name} alone: {result.right:.1%} of seconds right, "
        f"{result.claimed_in_music:.1%} of music gets a genre, "
        f"{result.right_of_claimed:.1%} of claimed genres are right, ECE {result.ece:.3f}"
        for name, result in alone.items()
    )


def write_stream_test(test: StreamTest, folder: Path, name: str, sets: EvaluationSets) -> None:
    """Write `stream_NAME.json` and, as CSV, the ground truth and the decisions."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "set": name,
        "protocol": sets.protocol,
        "notes": [*sets.notes, *test.notes],
        "settings": test.settings,
        "result": dataclasses.asdict(test.result),
        "alone": {name: dataclasses.asdict(each) for name, each in test.alone.items()},
        "named": {name: dataclasses.asdict(each) for name, each in test.named.items()},
        "change_hints": test.hints and dataclasses.asdict(test.hints),
    }
    write_json(folder / f"stream_{name}.json", content)
    columns = ["position", "hop_seconds", "state", "genre", "confidence"]
    tables = {
        "programme": pd.DataFrame(test.stream.segments),
        "decisions": pd.DataFrame(test.decisions)[columns],
    }
    for table, rows in tables.items():
        write_file(folder / f"stream_{name}_{table}.csv", rows.to_csv(index=False))
