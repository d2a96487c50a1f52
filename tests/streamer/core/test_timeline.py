from datetime import UTC, datetime, timedelta

import pytest
from support.published import prediction, segment

from streamer.core.timeline import Timeline

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


class Sink:
    """Feeds a timeline and keeps the segments that may still change, as a sink would."""

    def __init__(self):
        self.timeline = Timeline()
        self.segments = {}

    def decide(self, seconds, position=None, source="radio", offset=0.0):
        """Decide so many seconds after noon; return the segments that this changes."""
        position = float(seconds if position is None else position)
        event = prediction(1, position=position).event
        time = NOON + timedelta(seconds=seconds)
        return self._keep(self.timeline.update(source, event, time, offset))

    def interrupt(self, seconds, source="radio"):
        """End the sound so many seconds after noon; return the segments that this ends."""
        return self._keep(self.timeline.interrupt(source, NOON + timedelta(seconds=seconds)))

    def place(self, number, source="radio", offset=0.0, **fields):
        """Place a segment; return it in clock time."""
        event = segment(number, **fields).event
        return self._keep(self.timeline.update(source, event, NOON, offset))[-1]

    def live(self, source="radio"):
        return [placed for (name, _), placed in sorted(self.segments.items()) if name == source]

    def _keep(self, changed):
        for placed in changed:
            key = placed.source, placed.number
            if placed.final:
                self.segments.pop(key, None)
            else:
                self.segments[key] = placed
        return changed


def span(placed):
    return (placed.start - NOON).total_seconds(), (placed.end - NOON).total_seconds()


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def paused(sink):
    """A source that paused for an hour, ten seconds into an open segment."""
    sink.decide(9)
    sink.place(1)
    sink.decide(10)
    sink.decide(3610, position=11)
    return sink


def test_an_open_segment_grows_with_every_decision(sink):
    sink.decide(1)
    sink.place(1)
    (placed,) = sink.decide(5)
    assert (span(placed), placed.is_open) == ((0, 5), True)


def test_two_segments_may_change_while_the_boundary_between_them_may_move(sink):
    sink.decide(1)
    sink.place(1)
    sink.decide(10)
    sink.place(1, end=9.0)
    sink.place(2, start=9.0)
    assert [(span(each), each.is_open) for each in sink.live()] == [
        ((0, 9), False),
        ((9, 10), True),
    ]
    assert [placed.number for placed in sink.decide(11)] == [2]
    sink.place(1, end=8.0)
    sink.place(2, start=8.0)
    assert [span(each) for each in sink.live()] == [(0, 8), (8, 11)]
    assert sink.place(1, end=8.0, final=True).final
    assert [placed.number for placed in sink.decide(12)] == [2]


def test_a_pause_lies_between_the_segments_before_and_after_it(paused):
    assert span(paused.place(1, end=10.0, final=True)) == (0, 10)
    assert span(paused.place(2, start=10.0)) == (3609, 3610)


def test_a_boundary_before_a_pause_is_placed_before_it(paused):
    assert span(paused.place(1, end=8.0)) == (0, 8)
    assert span(paused.place(2, start=8.0)) == (8, 3610)


def test_a_boundary_at_a_pause_is_found_despite_rounding_errors(paused):
    assert span(paused.place(1, end=10.0 - 1e-9, final=True)) == (0, 10)
    assert span(paused.place(2, start=10.0 - 1e-9)) == (3609, 3610)


def test_a_segment_ends_where_sound_ends_and_the_next_begins_where_it_returns(sink):
    sink.decide(9)
    sink.place(1)
    sink.decide(10)
    (cut,) = sink.interrupt(10.6)
    assert (span(cut), cut.is_open, cut.final) == ((0, 10.6), False, False)
    assert sink.decide(51, position=11) == ()
    assert span(sink.place(1, end=10.6, final=True)) == (0, 10.6)
    assert span(sink.place(2, start=10.6)) == (50.6, 51)


def test_sound_that_is_lost_again_at_once_does_not_lengthen_the_segment_before(sink):
    sink.decide(9)
    sink.place(1)
    sink.decide(10)
    sink.interrupt(10.6)
    sink.interrupt(50.0)
    sink.decide(91, position=11)
    assert span(sink.place(1, end=10.9, final=True)) == (0, 10.6)
    assert span(sink.place(2, start=10.9)) == (90.9, 91)


def test_a_source_that_ends_while_it_is_off_ends_where_its_sound_did(sink):
    sink.decide(9)
    sink.place(1)
    sink.decide(10)
    sink.interrupt(10.6)
    assert span(sink.place(1, end=10.6, final=True)) == (0, 10.6)


def test_the_end_of_sound_moves_with_the_system_clock(sink):
    sink.decide(9)
    sink.place(1)
    sink.decide(10)
    sink.interrupt(10.5)
    sink.decide(51 + 3600, position=11, offset=3600.0)
    assert span(sink.place(1, end=10.5, final=True, offset=3600.0)) == (3600, 3610.5)


def test_a_segment_that_began_before_a_pause_keeps_its_start(sink):
    sink.decide(9)
    sink.place(1)
    sink.decide(10)
    for number in range(11, 20):
        sink.decide(3600 + number, position=number)
    assert span(sink.place(1, end=19.0, final=True)) == (0, 3619)


@pytest.mark.parametrize("step", [3 * 86_400.0, -3600.0])
def test_an_open_segment_moves_with_the_system_clock_and_keeps_its_length(sink, step):
    sink.decide(1, offset=100.0)
    sink.place(1, offset=100.0)
    sink.decide(10, offset=100.0)
    (placed,) = sink.decide(11 + step, position=11, offset=100.0 + step)
    assert span(placed) == (step, step + 11)
    assert span(sink.place(1, end=9.0, final=True, offset=100.0 + step)) == (step, step + 9)
    assert span(sink.place(2, start=9.0, offset=100.0 + step)) == (step + 9, step + 11)


def test_a_clock_that_is_set_and_set_back_changes_nothing(sink):
    sink.decide(1)
    sink.place(1)
    sink.decide(2, source="hall")
    sink.place(1, "hall")
    sink.decide(3 + 86_400, position=3, offset=86_400.0)
    sink.decide(4)
    assert span(sink.place(1, end=4.0, final=True)) == (0, 4)
    assert span(sink.place(1, "hall", end=2.0, final=True)) == (0, 2)


def test_a_clock_step_moves_the_segments_of_all_sources_at_once(sink):
    for number in (1, 2, 3, 4):
        sink.decide(number, source="hall")
        sink.place(1, "hall")
    sink.place(1, "hall", end=2.0)
    sink.place(2, "hall", start=2.0)
    sink.decide(5 + 86_400, position=5, offset=86_400.0)
    assert [span(each) for each in sink.live("hall")] == [(86_400, 86_402), (86_402, 86_404)]
    assert span(sink.place(1, "hall", end=3.0, offset=86_400.0)) == (86_400, 86_403)
    assert span(sink.place(2, "hall", start=3.0, offset=86_400.0)) == (86_403, 86_404)


def test_a_pause_remains_one_if_the_clock_is_set_during_it(sink):
    sink.decide(9)
    sink.place(1)
    sink.decide(10)
    sink.decide(3610 + 500, position=11, offset=500.0)
    assert span(sink.place(1, end=10.0, final=True, offset=500.0)) == (500, 510)
    assert span(sink.place(2, start=10.0, offset=500.0)) == (500 + 3609, 500 + 3610)


def test_clocks_that_are_read_one_after_the_other_move_nothing(sink):
    sink.decide(1)
    sink.place(1)
    for number in range(2, 100):
        (placed,) = sink.decide(number, offset=0.4 * (-1) ** number)
    assert span(placed) == (0, 99)


def test_a_restarted_source_ends_its_segments_and_numbers_stay_unique(sink):
    sink.decide(1)
    sink.place(1)
    sink.place(1, end=5.0, final=True)
    sink.place(2, start=5.0)
    sink.decide(7)
    (cut,) = sink.decide(100, position=1)
    assert (cut.number, span(cut), cut.is_open, cut.final) == (2, (5, 7), False, True)
    again = sink.place(1)
    assert (again.number, span(again)) == (3, (99, 100))
    assert [placed.number for placed in sink.timeline.cut_off("radio")] == [3]
    assert sink.timeline.cut_off("radio") == ()
    sink.decide(200, position=1)
    assert sink.place(1).number == 4


def test_a_segment_before_any_decision_starts_at_its_own_time(sink):
    assert span(sink.place(1, start=3.0)) == (0, 0)


def test_sources_do_not_affect_each_other(sink):
    sink.decide(50, source="hall")
    sink.place(1, "hall")
    sink.decide(1)
    sink.place(1)
    sink.timeline.cut_off("radio")
    assert [placed.number for placed in sink.decide(51, source="hall")] == [1]
    assert sink.decide(2) == ()
