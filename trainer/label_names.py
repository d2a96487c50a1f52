"""What names of one's own for labels change on a stream: labels that are merged or dropped."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from streamer.core.contract import ModelContract
from streamer.core.decision import Decider, Decision, DecisionSettings, State
from streamer.core.labels import LabelError, LabelMap
from streamer.system.commandline import UserError
from trainer.stream_test import StreamResult, StreamTest, measure
from trainer.synthetic_stream import TrueSegment
from trainer.tuning import observations_of

AS_ONE, AFTERWARDS = "decided as one", "named after the decision"


def read_names(contract: ModelContract, names: Mapping[str, str | bool]) -> LabelMap:
    """Return the map of the model's labels; UserError if it cannot be used."""
    try:
        return LabelMap(contract.labels, contract.not_music, names)
    except LabelError as error:
        raise UserError(f"--labels: {error}") from None


def judge_names(
    test: StreamTest, contract: ModelContract, names: LabelMap
) -> dict[str, StreamResult]:
    """Return the metrics by `AS_ONE`, as the daemon decides, and by `AFTERWARDS`.

    The latter are the decisions about the model's labels, with the names in place of the labels, so
    the difference is what merging probabilities wins. Songs of a dropped label are never right.
    """
    renamed = dataclasses.replace(contract, labels=names.labels, not_music=names.not_music)
    name_of = dict(zip(contract.labels, names.renamed, strict=True))
    segments = [_rename_segment(segment, name_of, names) for segment in test.stream.segments]
    afterwards = [_rename(decision, contract, name_of, names) for decision in test.decisions]
    decider = Decider(
        contract.labels,
        contract.not_music,
        DecisionSettings.from_mapping(test.settings),
        contract.window_seconds,
        names,
    )
    as_one = [decider.update(each)[0] for each in observations_of(test.decisions, contract)]
    return {
        AS_ONE: measure(segments, as_one, renamed),
        AFTERWARDS: measure(segments, afterwards, renamed),
    }


def _state(genre: str, names: LabelMap) -> State:
    return State.NOT_MUSIC if genre == names.not_music else State.MUSIC


def _rename_segment(
    segment: TrueSegment, name_of: Mapping[str, str], names: LabelMap
) -> TrueSegment:
    if segment.genre is None:
        return segment
    genre = name_of[segment.genre]
    state = _state(genre, names)
    return dataclasses.replace(segment, state=state, genre=genre if state is State.MUSIC else None)


def _rename(
    decision: Decision, contract: ModelContract, name_of: Mapping[str, str], names: LabelMap
) -> Decision:
    state, genre = decision.state, None
    claimed = contract.not_music if state is State.NOT_MUSIC else decision.genre
    if claimed is not None:
        name = name_of[claimed]
        dropped = names.labels.index(name) in names.dropped
        state = State.UNCERTAIN if dropped else _state(name, names)
        genre = name if state is State.MUSIC else None
    belief = names.apply(np.array([decision.probabilities[label] for label in contract.labels]))
    probabilities = dict(zip(names.labels, belief.tolist(), strict=True))
    return dataclasses.replace(decision, state=state, genre=genre, probabilities=probabilities)


def named_as_text(named: Mapping[str, StreamResult], names: LabelMap) -> str:
    """Return the names and a line for each way of deciding for the terminal."""
    lines = [
        f"  {way}: {result.right:.1%} of seconds right, "
        f"{result.claimed_in_music:.1%} of music gets a genre, "
        f"{result.right_of_claimed:.1%} of claimed genres are right, "
        f"{result.changes_per_minute:.2f} label changes a minute"
        for way, result in named.items()
    ]
    return "\n".join([f"  labels {', '.join(names.labels)}:", *lines])
