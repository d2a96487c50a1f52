"""What a listener gets: a programme played through the daemon's pipeline, second by second."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from streamer.core.contract import ModelContract
from streamer.core.decision import Decider, Decision, DecisionSettings, Observation, State
from streamer.core.model import Classifier
from trainer.evaluation_sets import JudgedSets
from trainer.metrics import calibration_error
from trainer.progress import progress_bar
from trainer.synthetic_stream import Item, Programme, make_programme, play
from trainer.tracks import DatasetError
from trainer.writing import write_json, write_table

HEARD_SECONDS = (1, 3, 5, 10, 30)
"""After how many seconds of a song its label is looked at."""

WRONG_COST = 0.75
"""What a second of a wrong genre costs in seconds of a right one; `uncertain` costs nothing. So a
claim pays from a probability of 0.75 / 1.75 on (C. Chow, "On optimum recognition error and reject
tradeoff", IEEE Trans. Information Theory 16, 1970)."""

CHANGE_SECONDS = 1.2
"""What a label change inside a song costs, in seconds of a right genre."""

TOLERATED_ECE = 0.05
"""Calibration error up to which a confidence can be told to a listener; more is deducted."""

SMOOTHINGS: tuple[dict[str, Any], ...] = (
    *(
        {"smoothing": "hmm", "dwell_seconds": dwell, "evidence_weight": weight}
        for dwell in (2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0)
        for weight in (0.3, 0.6, 1.0, 1.3, 1.6, 2.0)
    ),
    *({"smoothing": "ema", "ema_seconds": seconds} for seconds in (2.0, 4.0, 8.0, 16.0)),
    {"smoothing": "none"},
)
"""Ways to gather evidence among which `tune` chooses."""

THRESHOLDS: tuple[dict[str, Any], ...] = tuple(
    {
        "min_confidence": confidence,
        "min_margin": margin,
        "confidence_hysteresis": hysteresis,
    }
    for confidence in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    for margin in (0.0, 0.2)
    for hysteresis in (0.1, 0.2, 0.3)
)
"""Thresholds among which `tune` chooses for each of the best ways."""

FINALISTS = 4


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What a listener would have got."""

    seconds: float
    """Length of the programme that was decided on."""
    songs: int
    right: float
    """Share of all seconds labelled right; on what is not music `silence` is right, too."""
    claimed_in_music: float
    """Share of the seconds of music that get a genre, right or wrong."""
    right_in_music: float
    """Share of the seconds of music that get their genre."""
    right_of_claimed: float
    """Share of the seconds with a genre, wherever it is claimed, that have the right one."""
    not_music_in_music: float
    """Share of the seconds of music called not music."""
    uncertain: float
    """Share of all seconds labelled `uncertain`."""
    delay_median: float | None
    """Seconds from a change to the right label, among songs that ever get it; None if none does."""
    delay_p95: float | None
    never_right: int
    """Songs that never got the right label."""
    changes_per_minute: float
    """Label changes inside songs, the one that follows the song's begin not counted."""
    claimed_on_silence: float
    """Seconds of genre claimed in silence."""
    silence: float
    """Seconds of silence played."""
    claimed_on_not_music: float
    """Seconds of genre claimed on sounds that are not music and come after a song or silence."""
    not_music: float
    """Seconds of such sounds played."""
    claimed_without_music: float
    """Seconds of genre claimed where such a sound follows another: a room without music."""
    without_music: float
    """Seconds of such sounds played."""
    ece: float
    """Expected calibration error, 15 bins, of the smoothed probabilities in music."""
    accuracy_after: dict[str, float]
    """Share of songs with the right label after so many seconds."""

    @property
    def restlessness(self) -> float:
        """What label changes inside songs cost, as a share of the time."""
        return CHANGE_SECONDS / 60 * self.changes_per_minute

    @property
    def worth(self) -> float:
        """What `tune` makes as great as it can: the share right, less what annoys a listener."""
        music = self.seconds - self.silence - self.not_music - self.without_music
        wrongly = (self.claimed_in_music - self.right_in_music) * music
        wrongly += self.claimed_on_silence + self.claimed_on_not_music + self.claimed_without_music
        return (
            self.right
            - WRONG_COST * wrongly / self.seconds
            - self.restlessness
            - max(0.0, self.ece - TOLERATED_ECE)
        )


def is_right(item: Item, decision: Decision, has_not_music: bool) -> bool:
    """Tell whether a decision is what should be said of an item.

    Sounds that are not music have pauses, so `silence` is right on them, too, and `uncertain` if
    the model has no label for them.
    """
    if item.state is State.MUSIC:
        return decision.state is State.MUSIC and decision.genre == item.genre
    if item.state is State.SILENCE:
        return decision.state is State.SILENCE
    allowed = {State.NOT_MUSIC, State.SILENCE}
    return decision.state in (allowed if has_not_music else allowed | {State.UNCERTAIN})


def by_item(
    items: Sequence[Item], decisions: Sequence[Decision]
) -> Iterator[tuple[Item, list[Decision]]]:
    """Yield each item with the decisions that fall into it."""
    index = 0
    for item in items:
        own = []
        while index < len(decisions) and decisions[index].position <= item.end + 1e-6:
            own.append(decisions[index])
            index += 1
        yield item, own


def measure(
    items: Sequence[Item], decisions: Sequence[Decision], contract: ModelContract
) -> StreamResult:
    """Compare decisions with the truth.

    Raises
    ------
    DatasetError
        If there are no decisions: the programme is shorter than the model's window.
    """
    if not decisions:
        raise DatasetError("the programme is shorter than the model's window; play more tracks")
    has_not_music = contract.not_music is not None
    told = [(item, decision) for item, own in by_item(items, decisions) for decision in own]

    def seconds(chosen: Callable[[Item, Decision], bool], where: State | None = None) -> float:
        """Return the seconds of some decisions, where something was played or anywhere."""
        return sum(
            decision.hop_seconds
            for item, decision in told
            if where in (None, item.state) and chosen(item, decision)
        )

    def right(item: Item, decision: Decision) -> bool:
        return is_right(item, decision, has_not_music)

    def says(state: State) -> Callable[[Item, Decision], bool]:
        return lambda _, decision: decision.state is state

    def anything(_item: Item, _decision: Decision) -> bool:
        return True

    total, music = seconds(anything), max(seconds(anything, State.MUSIC), 1e-9)
    songs = [(item, own) for item, own in by_item(items, decisions) if item.state is State.MUSIC]
    firsts = _first_right(songs)
    unchanged = _follows_its_like(items)
    lasting = _lasting_sounds(items)
    delays = [
        first
        for (item, _), first in zip(songs, firsts, strict=True)
        if first is not None and item.start not in unchanged
    ]
    return StreamResult(
        seconds=total,
        songs=len(songs),
        right=seconds(right) / total,
        claimed_in_music=seconds(says(State.MUSIC), State.MUSIC) / music,
        right_in_music=seconds(right, State.MUSIC) / music,
        right_of_claimed=seconds(right, State.MUSIC) / max(seconds(says(State.MUSIC)), 1e-9),
        not_music_in_music=seconds(says(State.NOT_MUSIC), State.MUSIC) / music,
        uncertain=seconds(says(State.UNCERTAIN)) / total,
        delay_median=float(np.median(delays)) if delays else None,
        delay_p95=float(np.quantile(delays, 0.95)) if delays else None,
        never_right=firsts.count(None),
        changes_per_minute=60 * sum(_needless_changes(own) for _, own in songs) / music,
        claimed_on_silence=seconds(says(State.MUSIC), State.SILENCE),
        silence=seconds(anything, State.SILENCE),
        claimed_on_not_music=seconds(
            lambda item, decision: item.start not in lasting and decision.state is State.MUSIC,
            State.NOT_MUSIC,
        ),
        not_music=seconds(lambda item, _: item.start not in lasting, State.NOT_MUSIC),
        claimed_without_music=seconds(
            lambda item, decision: item.start in lasting and decision.state is State.MUSIC
        ),
        without_music=seconds(lambda item, _: item.start in lasting),
        ece=_calibration_error(told, contract.labels),
        accuracy_after=_accuracy_after(items, decisions, has_not_music),
    )


def _first_right(songs: Sequence[tuple[Item, list[Decision]]]) -> list[float | None]:
    """Return for each song the seconds from its begin to its right label; None: it never came."""
    firsts = [
        next((d.position for d in own if is_right(item, d, has_not_music=True)), None)
        for item, own in songs
    ]
    return [
        None if first is None else first - item.start
        for (item, _), first in zip(songs, firsts, strict=True)
    ]


def _follows_its_like(items: Sequence[Item]) -> set[float]:
    """Return where songs begin that follow one of their genre at once: there is no change."""
    return {
        after.start
        for before, after in itertools.pairwise(items)
        if after.genre is not None and before.genre == after.genre
    }


def _lasting_sounds(items: Sequence[Item]) -> set[float]:
    """Return where sounds that are not music begin that follow another one."""
    return {
        after.start
        for before, after in itertools.pairwise(items)
        if before.state is after.state is State.NOT_MUSIC
    }


def _calibration_error(told: Sequence[tuple[Item, Decision]], labels: Sequence[str]) -> float:
    heard = [
        (labels.index(item.genre), [decision.probabilities[label] for label in labels])
        for item, decision in told
        if item.genre is not None and decision.state is not State.SILENCE
    ]
    if not heard:
        return 0.0
    truth, probabilities = zip(*heard, strict=True)
    return calibration_error(np.array(probabilities), np.array(truth))


def _needless_changes(decisions: Sequence[Decision]) -> int:
    """Count label changes in a song, but for the first, which its begin calls for."""
    labels = [(decision.state, decision.genre) for decision in decisions]
    return max(0, sum(before != after for before, after in itertools.pairwise(labels)) - 1)


def _accuracy_after(
    items: Sequence[Item], decisions: Sequence[Decision], has_not_music: bool
) -> dict[str, float]:
    positions = np.array([decision.position for decision in decisions])
    shares = {}
    for heard in HEARD_SECONDS:
        songs = [item for item in items if item.state is State.MUSIC and item.seconds > heard - 0.5]
        last = [
            int(np.searchsorted(positions, min(item.start + heard, item.end) + 1e-6)) - 1
            for item in songs
        ]
        told = [
            index >= 0 and is_right(item, decisions[index], has_not_music)
            for item, index in zip(songs, last, strict=True)
        ]
        if told:
            shares[str(heard)] = float(np.mean(told))
    return shares


def observations_of(decisions: Sequence[Decision], contract: ModelContract) -> list[Observation]:
    """Return what the pipeline observed when it made decisions, to decide again without a network.

    Equal window probabilities mean that no window was classified.
    """
    observed = []
    for decision in decisions:
        own = np.array([decision.window_probabilities[label] for label in contract.labels])
        observed.append(
            Observation(
                position=decision.position,
                hop_seconds=decision.hop_seconds,
                level_dbfs=decision.level_dbfs,
                window_probabilities=None if np.ptp(own) == 0 else own,
            )
        )
    return observed


def decide_again(
    observations: Sequence[Observation], contract: ModelContract, settings: DecisionSettings
) -> list[Decision]:
    """Replay observations through the decision alone."""
    decider = Decider(contract.labels, contract.not_music, settings, contract.window_seconds)
    return [decider.update(observation)[0] for observation in observations]


def tune(
    items: Sequence[Item],
    decisions: Sequence[Decision],
    contract: ModelContract,
    right_of_claimed: float | None = None,
) -> dict[str, Any]:
    """Search smoothing and thresholds; return the settings of most worth to a listener.

    First the ways to gather evidence are compared at the present thresholds, then thresholds for
    the best of them. The network is not asked again.

    Parameters
    ----------
    items : sequence of Item
        What was played.
    decisions : sequence of Decision
        What was said.
    contract : ModelContract
        Of the model that was asked.
    right_of_claimed : float, optional
        Take the thresholds that claim a genre for most of the music among those with which claims
        are right for this share of the time; if there are none, those that are right most often.
    """
    observations = observations_of(decisions, contract)

    def found(changes: Mapping[str, Any]) -> StreamResult:
        settings = DecisionSettings.from_mapping(contract.decision, changes)
        return measure(items, decide_again(observations, contract, settings), contract)

    def wanted(result: StreamResult) -> tuple[float, ...]:
        if right_of_claimed is None:
            return (result.worth,)
        missing = max(0.0, right_of_claimed - result.right_of_claimed)
        return (-missing, result.claimed_in_music - result.restlessness)

    ways = [(way, found(way)) for way in SMOOTHINGS]
    finalists = sorted(ways, key=lambda tried: tried[1].worth, reverse=True)[:FINALISTS]
    candidates = [way | thresholds for way, _ in finalists for thresholds in THRESHOLDS]
    tried = [*finalists, *((changes, found(changes)) for changes in candidates)]
    return max(tried, key=lambda one: wanted(one[1]))[0]


@dataclass(frozen=True, slots=True)
class StreamTest:
    """A programme, what was said about it, and how good that was."""

    programme: Programme
    decisions: list[Decision]
    result: StreamResult
    settings: dict[str, Any]
    """Decision settings that differ from the defaults."""


def stream_test(
    candidate: Classifier,
    sets: JudgedSets,
    name: str,
    *,
    limit: int | None = None,
    gap_seconds: float = 4.0,
    hop_seconds: float = 1.0,
    seed: int = 0,
    quiet: bool = False,
) -> StreamTest:
    """Play a set to a candidate.

    Parameters
    ----------
    candidate : Classifier
        What is tested.
    sets : JudgedSets
        From `trainer.evaluation_sets.judged_sets`.
    name : str
        The set to play.
    limit : int, optional
        Play only so many tracks, a seeded choice.
    gap_seconds, hop_seconds, seed
        See `make_programme` and `streamer.core.pipeline.Pipeline`.
    quiet : bool
        Show no progress bar.

    Raises
    ------
    DatasetError
        If there is nothing to play.
    """
    contract = candidate.contract
    tracks = sets.music.get(name, [])
    if not tracks:
        raise DatasetError(f"the {name} list has no tracks in the data folder")
    if limit is not None and limit < len(tracks):
        tracks = random.Random(seed).sample(tracks, max(1, limit))
    programme = make_programme(
        tracks,
        sets.background.get(name, []),
        contract.spectrogram,
        seed=seed,
        gap_seconds=gap_seconds,
    )
    decisions: list[Decision] = []
    with progress_bar(quiet) as progress:
        played = play(candidate, programme, hop_seconds=hop_seconds)
        for own in progress.track(
            played, total=len(programme.blocks) + 1, description=f"playing {name}"
        ):
            decisions += own
    result = measure(programme.items, decisions, contract)
    return StreamTest(programme, decisions, result, dict(contract.decision))


def tuned(
    test: StreamTest, contract: ModelContract, right_of_claimed: float | None = None
) -> StreamTest:
    """Return the same programme decided with the settings that `tune` finds."""
    items = test.programme.items
    found = tune(items, test.decisions, contract, right_of_claimed)
    settings = {**contract.decision, **found}
    decisions = decide_again(
        observations_of(test.decisions, contract), contract, DecisionSettings.from_mapping(settings)
    )
    return StreamTest(test.programme, decisions, measure(items, decisions, contract), settings)


def as_text(result: StreamResult, name: str, protocol: str) -> str:
    """Return the result as a few lines for the terminal."""
    heard = ", ".join(f"{share:.0%} after {at} s" for at, share in result.accuracy_after.items())
    return (
        f"{name} as a stream ({protocol}): {result.songs} songs, {result.seconds / 60:.1f} min\n"
        f"  {result.right:.1%} of seconds right, {result.uncertain:.1%} uncertain; "
        f"{result.claimed_in_music:.1%} of music gets a genre, "
        f"{result.right_of_claimed:.1%} of claimed genres are right\n"
        f"  right label {_delays(result)}never in {result.never_right} songs\n"
        f"  {result.changes_per_minute:.2f} label changes a minute inside songs; "
        f"ECE of the smoothed probabilities {result.ece:.3f}\n"
        f"  genre claimed on {result.claimed_on_silence:.0f} of {result.silence:.0f} s of silence "
        f"and on {result.claimed_on_not_music:.0f} of {result.not_music:.0f} s of other sounds "
        f"between songs\n"
        f"  without music: genre claimed on {result.claimed_without_music:.0f} of "
        f"{result.without_music:.0f} s of other sounds; "
        f"{result.not_music_in_music:.1%} of music called not music\n"
        f"  songs right: {heard}"
    )


def _delays(result: StreamResult) -> str:
    if result.delay_median is None or result.delay_p95 is None:
        return ""
    return (
        f"after {result.delay_median:.1f} s (median), {result.delay_p95:.1f} s (95th percentile); "
    )


def write_stream_test(test: StreamTest, folder: Path, name: str, sets: JudgedSets) -> None:
    """Write `stream_NAME.json` and, as CSV, the programme and every decision."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "set": name,
        "protocol": sets.protocol,
        "notes": sets.notes,
        "settings": test.settings,
        "result": dataclasses.asdict(test.result),
    }
    write_json(folder / f"stream_{name}.json", content)
    items = [dataclasses.asdict(item) for item in test.programme.items]
    write_table(folder / f"stream_{name}_programme.csv", pd.DataFrame(items))
    decisions = [
        {
            "position": decision.position,
            "hop_seconds": decision.hop_seconds,
            "state": decision.state,
            "genre": decision.genre,
            "confidence": decision.confidence,
        }
        for decision in test.decisions
    ]
    write_table(folder / f"stream_{name}_decisions.csv", pd.DataFrame(decisions))
