"""A station that is off three times: what history, CSV, minutes, timeline and metrics say of it."""

from __future__ import annotations

import csv
import itertools
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.history import FOREVER_DAYS
from support.published import MODEL, hello
from support.waiting import LONGEST_WAIT_SECONDS

from streamer.commands import run as cli
from streamer.core.health import SourceHealth
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline
from streamer.engine import listener as listener_module
from streamer.engine.listener import Listener
from streamer.engine.publisher import Clock, Publisher
from streamer.engine.watchdog import Progress
from streamer.sinks.history.database import open_query
from streamer.sinks.history.writer import History
from streamer.sinks.metrics import Metrics
from streamer.sinks.websocket.hub import Hub
from streamer.sources import AudioBlock, Source, SourceError
from streamer.system.backoff import Backoff

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
RATE = 8000
BLOCK_SECONDS = 0.4
PATIENCE_SECONDS = 10.0
OFF = [(60, 100), (150, 190), (240, 280)]
"""When there is no sound, in seconds since noon; it does not begin or end with a hop."""
END = 300
FIRST_SECONDS = 3.0
"""Sound before the first decision, of which it counts only one hop."""


class SetClock(Clock):
    """A clock that the station advances."""

    seconds = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return 5000.0 + self.seconds

    def offset(self) -> float:
        return 0.0


class Station(Source):
    """A radio that is off at times; reading it advances the clock."""

    name = "radio"
    kind = "media"
    live = True

    def __init__(self, clock: SetClock) -> None:
        self.clock = clock
        self._opened = 0.0
        self._noise = np.random.default_rng(0)
        self.scrape = lambda: None

    def open(self) -> None:
        self._opened = self.clock.seconds
        self._last = self.clock.seconds

    def read(self, timeout: float, enough_seconds: float = 0.0) -> AudioBlock | None:
        self.scrape()
        clock = self.clock
        clock.seconds = round(clock.seconds + BLOCK_SECONDS, 3)
        if clock.seconds > END:
            raise SourceError("the test is over", permanent=True)
        if any(start < clock.seconds <= end for start, end in OFF):
            if clock.seconds - self._last > PATIENCE_SECONDS:
                raise SourceError("no data for 10 s")
            return None
        self._last = clock.seconds
        samples = self._noise.normal(0, 0.1, (round(BLOCK_SECONDS * RATE), 1))
        return AudioBlock(samples.astype(np.float32), RATE, clock.monotonic())

    def close(self) -> None:
        pass


@dataclass
class Run:
    """What the sinks said during and after the five minutes."""

    path: Path
    state: dict[str, Any]
    scrapes: list[tuple[float, dict[str, float | None]]] = field(default_factory=list)


@pytest.fixture
def run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    clock = SetClock()
    times = types.SimpleNamespace(monotonic=clock.monotonic, thread_time=clock.monotonic)
    monkeypatch.setattr(listener_module, "time", times)
    station = Station(clock)
    classifier = Classifier.load(model)
    path = tmp_path / "h.db"
    history = History(path, FOREVER_DAYS, now=clock.now)
    hub = Hub(hello("radio"))
    health: list[SourceHealth] = []
    metrics = Metrics(
        version="1",
        model=MODEL,
        health=lambda: health,
        clients=hub,
        now=lambda: clock.now().timestamp(),
    )
    publisher = Publisher([hub, metrics, history], clock)
    listener = Listener(
        station,
        lambda: Pipeline(classifier),
        publisher.publish,
        paced=False,
        backoff=Backoff(0.001, 0.002),
    )
    progress = Progress(listener, FIRST_SECONDS, clock.monotonic)
    result = Run(path, {})

    def scrape() -> None:
        health[:] = [progress.health()]
        names = ("offline_seconds_total", "source_state_start_time_seconds", "level_dbfs")
        result.scrapes.append(
            (
                clock.seconds,
                {
                    name: metrics.registry.get_sample_value(
                        f"genre_stream_{name}", {"source": "radio"}
                    )
                    for name in names
                },
            )
        )

    station.scrape = scrape
    listener.start()
    assert listener.join(LONGEST_WAIT_SECONDS)
    scrape()
    history.close()
    result.state = hub.state()
    return result


def since_noon(time: str) -> float:
    return (datetime.fromisoformat(time) - NOON).total_seconds()


def gaps(rows: Iterable[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return the times between consecutive rows with a start and an end, and after the last."""
    spans = sorted((since_noon(row["start"]), since_noon(row["end"])) for row in rows)
    found = []
    for (_, before), (after, _) in itertools.pairwise(spans):
        assert after >= before, "two stretches overlap"
        if after > before:
            found.append((before, after))
    return found


def assert_close(found: list[tuple[float, float]]) -> None:
    """Assert that outages are those of the station, to a second."""
    assert len(found) == len(OFF), found
    for (start, end), (true_start, true_end) in zip(found, OFF, strict=True):
        assert start == pytest.approx(true_start, abs=1.0)
        assert end == pytest.approx(true_end, abs=1.0)


def overlap(start: float, end: float) -> float:
    """Return the seconds between two times in which the station was off."""
    return sum(max(0.0, min(end, stop) - max(start, begin)) for begin, stop in OFF)


def test_everything_agrees_to_a_second_on_when_a_station_was_off(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_query(run.path, NOON, NOON + timedelta(hours=1)) as query:
        segments, minutes, states = (
            list(query.segments()),
            list(query.minutes()),
            list(query.states()),
        )
    # History and timeline: no segment reaches into an outage, nor leaves out any sound.
    assert_close(gaps(segments))
    assert since_noon(segments[-1]["end"]) == pytest.approx(END, abs=1.0)
    assert_close(gaps(run.state["segments"]))
    assert run.state["states"] == [*states[:-1], states[-1] | {"end": None}]
    # States: the outages, from the last sound to the next, with what was known of them.
    live = [row for row in states if row["state"] == "live"]
    assert_close(gaps(live))
    assert gaps(states) == []
    reasons = [(row["state"], row["reason"]) for row in states if row["state"] != "live"]
    off = [("stalled", "no audio for 3 s"), ("reconnecting", "no data for 10 s")]
    assert reasons == [("connecting", ""), *off * 3, ("failed", "the test is over")]
    # Minutes: what was heard.
    for minute in range(END // 60):
        heard = sum(row["seconds"] for row in minutes if since_noon(row["minute"]) == 60 * minute)
        expected = 60 - overlap(60 * minute, 60 * minute + 60)
        expected -= FIRST_SECONDS - 1 if minute == 0 else 0
        assert heard == pytest.approx(expected, abs=1.0)
    # CSV: hours heard and offline.
    assert cli.main(["history", str(run.path), "--csv"]) == 0
    (hour,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert float(hour["offline"]) == pytest.approx(120, abs=1.0)
    labels = hour.keys() - {"hour", "source", "offline"}
    assert sum(float(hour[label]) for label in labels) == pytest.approx(178, abs=1.0)


def test_metrics_tell_no_level_while_a_station_is_off_and_since_when_it_is(run: Run) -> None:
    noticed = listener_module.STALL_SECONDS + 2 * BLOCK_SECONDS
    for seconds, values in run.scrapes:
        for start, end in OFF:
            if start + noticed < seconds < end:
                assert values["level_dbfs"] is None
                assert values["source_state_start_time_seconds"] is not None
                began = values["source_state_start_time_seconds"] - NOON.timestamp()
                assert start - 1 <= began <= start + PATIENCE_SECONDS + 1
                assert values["offline_seconds_total"] == pytest.approx(
                    overlap(0, seconds), abs=1.0
                )
            elif end + 4 < seconds < min(end + 40, END):
                assert values["level_dbfs"] == pytest.approx(-20, abs=1)
                assert values["source_state_start_time_seconds"] == pytest.approx(
                    NOON.timestamp() + end, abs=1.0
                )
    assert run.scrapes[-1][1]["offline_seconds_total"] == pytest.approx(120, abs=1.0)
