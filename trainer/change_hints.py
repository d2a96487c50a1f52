"""How soon a change of the sound is noticed on a stream, and how often one that is none."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from streamer.core.decision import Decision, State
from trainer.synthetic_stream import TrueSegment

NOTICED_SECONDS = 2.0
"""How soon after a cut a hint is of use."""
LATE_SECONDS = 5.0
"""For this long after the start of a song a hint is late rather than false."""


@dataclass(frozen=True, slots=True)
class HintResult:
    """Metrics of the `change` hints on a stream."""

    cuts: int
    """Hard cuts between songs or other sound; after silence the new label comes at once."""
    noticed: float | None
    """Share of the cuts with a hint within `NOTICED_SECONDS`; None if there are none."""
    false_per_minute: float
    """Hints a minute inside songs."""

    def __str__(self) -> str:
        noticed = "no cuts" if self.noticed is None else f"{self.noticed:.0%} of {self.cuts} cuts"
        return (
            f"change hinted at within {NOTICED_SECONDS:g} s of {noticed}, "
            f"{self.false_per_minute:.2f} false hints a minute inside songs"
        )


def measure_hints(segments: Sequence[TrueSegment], decisions: Sequence[Decision]) -> HintResult:
    """Compare the hints of decisions with the ground truth."""
    onsets = [
        decision.position
        for before, decision in itertools.pairwise(decisions)
        if decision.change and not before.change
    ]
    hinted = [decision.position for decision in decisions if decision.change]
    cuts = [
        segment.start
        for before, segment in itertools.pairwise(segments)
        if State.SILENCE not in (before.state, segment.state)
    ]
    noticed = [any(0 < at - cut <= NOTICED_SECONDS for at in hinted) for cut in cuts]
    songs = [segment for segment in segments if segment.state is State.MUSIC]
    inside = [
        (song.start + LATE_SECONDS, song.end) for song in songs if song.seconds > LATE_SECONDS
    ]
    false = sum(start < at <= end for at in onsets for start, end in inside)
    minutes = sum(end - start for start, end in inside) / 60
    return HintResult(
        cuts=len(cuts),
        noticed=sum(noticed) / len(noticed) if noticed else None,
        false_per_minute=false / minutes if minutes else 0.0,
    )
