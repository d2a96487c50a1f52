from streamer.core.decision import Decision, State
from trainer.change_hints import measure_hints
from trainer.synthetic_stream import TrueSegment

MUSIC, SILENCE, NOT_MUSIC = State.MUSIC, State.SILENCE, State.NOT_MUSIC


def decided(seconds, *hinted):
    """Return a decision a second, with hints at these positions."""
    return [
        Decision(float(at), 1.0, MUSIC, "jazz", 0.9, {}, {}, -20.0, change=at in hinted)
        for at in range(3, seconds + 1)
    ]


def stream(*parts):
    """Return segments of these states and lengths."""
    segments, start = [], 0.0
    for state, seconds in parts:
        genre = "jazz" if state is MUSIC else None
        segments.append(TrueSegment(state, genre, "x", start, start + seconds))
        start += seconds
    return segments


def test_cuts_are_noticed_within_two_seconds_and_other_hints_are_false():
    segments = stream((MUSIC, 35.5), (MUSIC, 29.5), (SILENCE, 4), (MUSIC, 35), (NOT_MUSIC, 10))
    # In time; false, twice; late for the cut to what is not music.
    result = measure_hints(segments, decided(114, 36, 37, 38, 50, 51, 90, 107))
    assert (result.cuts, result.noticed) == (2, 0.5)
    assert result.false_per_minute == 2 / ((30.5 + 24.5 + 30) / 60)
    assert str(result) == (
        "change hinted at within 2 s of 50% of 2 cuts, 1.41 false hints a minute inside songs"
    )


def test_a_hint_soon_after_a_start_is_late_and_not_false():
    segments = stream((MUSIC, 30), (MUSIC, 30))
    result = measure_hints(segments, decided(60, 35))
    assert (result.noticed, result.false_per_minute) == (0, 0)


def test_a_stream_without_cuts_has_no_share():
    result = measure_hints(stream((MUSIC, 4)), decided(4, 4))
    assert (result.cuts, result.noticed, result.false_per_minute) == (0, None, 0)
