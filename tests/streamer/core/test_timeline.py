import time
from datetime import UTC, datetime, timedelta

import pytest
from support.published import prediction, segment

from streamer.core.timeline import Timeline

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def at(seconds, position=None):
    moment = NOON + timedelta(seconds=seconds)
    return prediction(1) | {
        "time": moment.isoformat(timespec="milliseconds"),
        "position": float(seconds if position is None else position),
    }


def seconds(stretch):
    return (stretch.start - NOON).total_seconds(), (stretch.end - NOON).total_seconds()


def after_a_pause():
    """Return a timeline whose source paused for an hour, ten seconds into an open segment."""
    timeline = Timeline()
    timeline.hear(at(9))
    timeline.place(segment(1))
    timeline.hear(at(10))
    timeline.hear(at(3610, position=11))
    return timeline


def test_an_open_segment_grows_with_every_prediction():
    timeline = Timeline()
    timeline.hear(at(1))
    timeline.place(segment(1))
    (stretch,) = timeline.hear(at(5))
    assert (seconds(stretch), stretch.is_open) == ((0, 5), True)


def test_while_a_boundary_may_still_move_there_are_two_segments_that_may_change():
    timeline = Timeline()
    timeline.hear(at(1))
    timeline.place(segment(1))
    timeline.hear(at(10))
    timeline.place(segment(1, end=9.0))
    timeline.place(segment(2, start=9.0))
    assert [(seconds(each), each.is_open) for each in timeline.live("radio")] == [
        ((0, 9), False),
        ((9, 10), True),
    ]
    assert [stretch.number for stretch in timeline.hear(at(11))] == [2]
    timeline.place(segment(1, end=8.0))
    timeline.place(segment(2, start=8.0))
    assert [seconds(each) for each in timeline.live("radio")] == [(0, 8), (8, 11)]
    assert timeline.place(segment(1, end=8.0, final=True)).final
    assert [each.number for each in timeline.live("radio")] == [2]


def test_a_pause_lies_between_the_segment_before_it_and_the_one_after_it():
    timeline = after_a_pause()
    ended = timeline.place(segment(1, end=10.0, final=True))
    begun = timeline.place(segment(2, start=10.0))
    assert seconds(ended) == (0, 10)
    assert seconds(begun) == (3609, 3610)


def test_a_boundary_that_is_found_before_a_pause_lies_before_it():
    timeline = after_a_pause()
    assert seconds(timeline.place(segment(1, end=8.0))) == (0, 8)
    assert seconds(timeline.place(segment(2, start=8.0))) == (8, 3610)


def test_a_segment_that_began_before_a_pause_keeps_its_begin_however_late_it_ends():
    timeline = Timeline()
    timeline.hear(at(9))
    timeline.place(segment(1))
    timeline.hear(at(10))
    for number in range(11, 20):
        timeline.hear(at(3600 + number, position=number))
    assert seconds(timeline.place(segment(1, end=19.0, final=True))) == (0, 3619)


@pytest.mark.parametrize("step", [3 * 86_400.0, -3600.0])
def test_when_the_clock_is_set_an_open_segment_moves_with_it_and_keeps_its_length(step):
    timeline = Timeline()
    timeline.hear(at(1), offset=100.0)
    timeline.place(segment(1))
    timeline.hear(at(10), offset=100.0)
    (stretch,) = timeline.hear(at(11 + step, position=11), offset=100.0 + step)
    assert seconds(stretch) == (step, step + 11)
    ended = timeline.place(segment(1, end=9.0, final=True))
    begun = timeline.place(segment(2, start=9.0))
    assert seconds(ended) == (step, step + 9)
    assert seconds(begun) == (step + 9, step + 11)


def test_when_the_clock_is_set_and_set_back_segments_of_all_sources_are_as_if_it_never_was():
    timeline = Timeline()
    timeline.hear(at(1), offset=0.0)
    timeline.place(segment(1))
    timeline.hear(at(2) | {"source": "hall"}, offset=0.0)
    timeline.place(segment(1, "hall"))
    timeline.hear(at(3 + 86_400, position=3), offset=86_400.0)
    timeline.hear(at(4), offset=0.0)
    assert seconds(timeline.place(segment(1, end=4.0, final=True))) == (0, 4)
    assert seconds(timeline.place(segment(1, "hall", end=2.0, final=True))) == (0, 2)


def test_when_the_clock_is_set_the_segments_of_other_sources_move_before_they_are_heard_again():
    timeline = Timeline()
    for number in (1, 2, 3, 4):
        timeline.hear(at(number) | {"source": "hall"}, offset=0.0)
        timeline.place(segment(1, "hall"))
    timeline.place(segment(1, "hall", end=2.0))
    timeline.place(segment(2, "hall", start=2.0))
    timeline.hear(at(5 + 86_400, position=5), offset=86_400.0)
    assert [seconds(each) for each in timeline.live("hall")] == [
        (86_400, 86_402),
        (86_402, 86_404),
    ]
    assert seconds(timeline.place(segment(1, "hall", end=3.0))) == (86_400, 86_403)
    assert seconds(timeline.place(segment(2, "hall", start=3.0))) == (86_403, 86_404)


def test_when_the_clock_is_set_a_source_that_was_only_asked_for_is_none_the_worse():
    timeline = Timeline()
    assert timeline.live("hall") == []
    timeline.hear(at(1), offset=0.0)
    timeline.hear(at(2 + 3600, position=2), offset=3600.0)
    assert timeline.live("hall") == []


def test_the_clock_is_set_when_it_goes_ahead_of_one_that_goes_on_while_the_machine_sleeps(
    monkeypatch,
):
    wall, clocks = [1e9], {time.CLOCK_BOOTTIME: 500.0}
    monkeypatch.setattr(time, "time", lambda: wall[0])
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    timeline = Timeline()
    timeline.hear(at(1))
    timeline.place(segment(1))
    wall[0] += 3600
    clocks[time.CLOCK_BOOTTIME] += 3600
    (stretch,) = timeline.hear(at(3602, position=2))
    assert seconds(stretch) == (0, 3602)
    wall[0] += 86_400
    (stretch,) = timeline.hear(at(3603 + 86_400, position=3))
    assert seconds(stretch) == (86_400, 86_400 + 3603)


def test_a_pause_remains_one_although_the_clock_is_set_in_it():
    timeline = Timeline()
    timeline.hear(at(9), offset=0.0)
    timeline.place(segment(1))
    timeline.hear(at(10), offset=0.0)
    timeline.hear(at(3610 + 500, position=11), offset=500.0)
    ended = timeline.place(segment(1, end=10.0, final=True))
    begun = timeline.place(segment(2, start=10.0))
    assert seconds(ended) == (500, 510)
    assert seconds(begun) == (500 + 3609, 500 + 3610)


def test_clocks_that_are_not_read_at_one_moment_move_nothing():
    timeline = Timeline()
    timeline.hear(at(1), offset=0.0)
    timeline.place(segment(1))
    for number in range(2, 100):
        (stretch,) = timeline.hear(at(number), offset=0.4 * (-1) ** number)
    assert seconds(stretch) == (0, 99)


def test_a_source_that_begins_again_cuts_off_what_was_open_and_numbers_stay_unique():
    timeline = Timeline()
    timeline.hear(at(1))
    timeline.place(segment(1))
    timeline.place(segment(1, end=5.0, final=True))
    timeline.place(segment(2, start=5.0))
    timeline.hear(at(7))
    (cut,) = timeline.hear(at(100, position=1))
    assert (cut.number, seconds(cut), cut.is_open, cut.final) == (2, (5, 7), False, True)
    again = timeline.place(segment(1))
    assert (again.number, seconds(again)) == (3, (99, 100))
    timeline.cut_off("radio")
    timeline.cut_off("radio")
    timeline.hear(at(200, position=1))
    assert timeline.place(segment(1)).number == 4


def test_a_segment_before_any_prediction_begins_now():
    before = datetime.now(UTC)
    stretch = Timeline().place(segment(1, start=3.0))
    assert before <= stretch.start <= datetime.now(UTC)


def test_sources_do_not_disturb_each_other():
    timeline = Timeline()
    timeline.hear(at(50) | {"source": "hall"})
    timeline.place(segment(1, "hall"))
    timeline.hear(at(1))
    timeline.place(segment(1, "radio"))
    timeline.cut_off("radio")
    assert [each.number for each in timeline.live("hall")] == [1]
    assert timeline.live("radio") == []
