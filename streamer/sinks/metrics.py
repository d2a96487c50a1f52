"""Metrics for Prometheus, in a registry of their own.

Events are counted as they are published. The counters that sources, history and clients keep
themselves are read when Prometheus scrapes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from datetime import datetime
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from streamer.core.decision import Decision
from streamer.core.events import PlacedState, Published, Sink, SourceState
from streamer.core.health import HealthReader, OutputHealth, OutputReader, SourceHealth
from streamer.core.segments import State

LATENCY_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the prediction latency's buckets, in seconds."""

_SOURCE_COUNTERS: tuple[tuple[str, str, Callable[[SourceHealth], float]], ...] = (
    ("audio_seconds", "Seconds of sound taken in.", lambda h: h.audio_seconds),
    ("overruns", "Times that sound came faster than it was taken.", lambda h: h.overruns),
    ("dropped_frames", "Samples a channel lost to overruns.", lambda h: h.dropped_samples),
    (
        "mix_fallbacks",
        "Times that one channel was heard because the mix of all lost its sound.",
        lambda h: h.mix_fallbacks,
    ),
    ("nan_samples", "Samples that were not numbers.", lambda h: h.nan_samples),
    ("clipped_samples", "Samples at or beyond full scale.", lambda h: h.clipped_samples),
    ("reconnects", "Times that sound came again after an interruption.", lambda h: h.reconnects),
    (
        "reconnect_attempts",
        "Times that the source was opened again, whether or not sound came.",
        lambda h: h.reconnect_attempts,
    ),
    ("crashes", "Times that the source's thread was started again.", lambda h: h.crashes),
)
_SOURCE_GAUGES: tuple[tuple[str, str, Callable[[SourceHealth], float]], ...] = (
    ("queue_depth", "Blocks of sound that wait for the pipeline.", lambda h: h.queue_depth),
    ("hop_seconds", "Seconds of sound between two predictions.", lambda h: h.hop_seconds),
    (
        "quiet_seconds",
        "Seconds since the last decision, which silence does not prevent.",
        lambda h: h.quiet_seconds,
    ),
    (
        "silence_seconds",
        "Seconds of silence up to now, 0 while there is sound or the source is not live.",
        lambda h: h.silence_seconds,
    ),
    (
        "real_time_factor",
        "Seconds of inference for a second of sound, since the start.",
        lambda h: h.inference_seconds / h.audio_seconds if h.audio_seconds else 0.0,
    ),
)
_DECISION_GAUGES: tuple[tuple[str, str, Callable[[Decision], float]], ...] = (
    ("level_dbfs", "Level of the last hop, in dB relative to full scale.", lambda d: d.level_dbfs),
    ("confidence_ratio", "Confidence of the last prediction, 0 to 1.", lambda d: d.confidence),
)


class Clients(Protocol):
    """The WebSocket clients, as the hub exposes them."""

    slow_clients_closed: int

    @property
    def outboxes(self) -> Iterable[Sized]:
        """The queued frames of each client."""

    @property
    def skipped(self) -> int:
        """Frames that clients missed because they were behind, since the start."""


class WriterCounters(Protocol):
    """The counters of a background writer, as the history exposes them."""

    write_errors: int

    @property
    def queue_depth(self) -> int:
        """Events that wait to be written."""

    @property
    def dropped(self) -> int:
        """Events and rows lost since the start."""


class _OfflineTime:
    """How long each source has not been live, and since when it is in its state."""

    def __init__(self) -> None:
        self.current: dict[str, PlacedState] = {}
        """The state that each source is in."""
        self._ended: defaultdict[str, float] = defaultdict(float)
        """Seconds of the stretches that have ended."""

    def update(self, states: Iterable[PlacedState]) -> None:
        for placed in states:
            if placed.is_open:
                self.current[placed.source] = placed
                continue
            self.current.pop(placed.source, None)
            if placed.state is not SourceState.LIVE:
                self._ended[placed.source] += (placed.end - placed.start).total_seconds()

    def seconds(self, source: str, now: float) -> float:
        """Return the seconds up to `now`, a Unix time."""
        current = self.current.get(source)
        lasting = 0.0
        if current and current.state is not SourceState.LIVE:
            lasting = max(0.0, now - current.start.timestamp())
        return self._ended[source] + lasting


class Metrics(Sink, Collector):
    """Counts events, and exposes the counters of sources, clients and history.

    `health` reads the counters of every source; `now` is the clock, in Unix seconds.
    """

    def __init__(
        self,
        *,
        version: str,
        model: Mapping[str, str],
        health: HealthReader,
        clients: Clients,
        history: WriterCounters | None = None,
        outputs: OutputReader = tuple,
        alerts: Callable[[], list[dict[str, Any]]] = list,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.registry = registry = CollectorRegistry()
        """All of the metrics."""
        ProcessCollector(registry=registry)
        Info("genre_stream_build", "This program.", registry=registry).info({"version": version})
        Info("genre_stream_model", "The model in use.", registry=registry).info(dict(model))
        self._latency = Histogram(
            "genre_stream_prediction_latency_seconds",
            "From the last sample heard to the prediction sent.",
            ("source",),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._messages = Counter(
            "genre_stream_messages", "Messages published.", ("type",), registry=registry
        )
        self._decisions: dict[str, Decision] = {}
        self._offline = _OfflineTime()
        self._now = now
        self._read_health = health
        self._read_outputs = outputs
        self._read_alerts = alerts
        self._clients = clients
        self._started = now()
        self._history = history
        registry.register(self)

    def publish(self, published: Published) -> None:
        """Count an event."""
        self._messages.labels(published.type).inc()
        self._offline.update(published.states)
        if isinstance(published.event, Decision):
            self._latency.labels(published.source).observe(published.latency)
            self._decisions[published.source] = published.event

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that are read when Prometheus scrapes."""
        health = list(self._read_health())
        yield from _source_metrics(health, self._decisions)
        yield from _offline_metrics(health, self._offline, self._now())
        yield from _client_metrics(self._clients, self._started)
        if self._history:
            yield from _history_metrics(self._history)
        yield from _output_metrics(list(self._read_outputs()))
        yield from _alert_metrics(self._read_alerts())


def _source_metrics(
    health: list[SourceHealth], decisions: Mapping[str, Decision]
) -> Iterator[Metric]:
    """Yield the counters of the sources that exist, and the last decision of those that are live.

    A decision from before an outage says nothing about what is heard now.
    """
    for name, text, read in _SOURCE_COUNTERS:
        values = {one.source: read(one) for one in health}
        yield _by_source(CounterMetricFamily, name, text, values)
    for name, text, read in _SOURCE_GAUGES:
        yield _by_source(GaugeMetricFamily, name, text, {one.source: read(one) for one in health})
    summary = SummaryMetricFamily(
        "genre_stream_inference_seconds", "Time to classify one window.", labels=["source"]
    )
    for one in health:
        summary.add_metric([one.source], one.inferences, one.inference_seconds)
    yield summary
    states = {one.source: _state_set(one.state, SourceState) for one in health}
    yield _by_source(StateSetMetricFamily, "source_state", "State of the source.", states)
    live = sorted(one.source for one in health if one.state == SourceState.LIVE)
    last = {source: decisions[source] for source in live if source in decisions}
    for name, text, read_decision in _DECISION_GAUGES:
        values = {source: read_decision(decision) for source, decision in last.items()}
        yield _by_source(GaugeMetricFamily, name, text, values)
    heard = {source: _state_set(decision.state, State) for source, decision in last.items()}
    yield _by_source(
        StateSetMetricFamily, "state", "What the last prediction says is heard.", heard
    )
    text = "Genre of the last prediction, empty unless it is music."
    genres = {source: {"genre": decision.genre or ""} for source, decision in last.items()}
    yield _by_source(InfoMetricFamily, "heard", text, genres)


def _offline_metrics(
    health: Iterable[SourceHealth], offline: _OfflineTime, now: float
) -> Iterator[Metric]:
    sources = [one.source for one in health]
    yield _by_source(
        CounterMetricFamily,
        "offline_seconds",
        "Seconds in which the source was not live, counted from its last sound.",
        {source: offline.seconds(source, now) for source in sources},
    )
    yield _by_source(
        GaugeMetricFamily,
        "source_state_start_time_seconds",
        "When the state of the source began, in Unix seconds; that it is live with its first "
        "sound, that it is not with its last.",
        {
            source: offline.current[source].start.timestamp()
            for source in sources
            if source in offline.current
        },
    )


def _client_metrics(clients: Clients, started: float) -> Iterator[Metric]:
    depths = [len(outbox) for outbox in clients.outboxes]
    yield GaugeMetricFamily("genre_stream_clients", "WebSocket clients connected.", len(depths))
    yield CounterMetricFamily(
        "genre_stream_slow_clients_closed",
        "Clients closed because they stayed behind.",
        clients.slow_clients_closed,
        created=started,
    )
    yield GaugeMetricFamily(
        "genre_stream_client_queue_depth",
        "Frames that wait for the client that is furthest behind.",
        max(depths, default=0),
    )
    yield CounterMetricFamily(
        "genre_stream_client_frames_skipped",
        "Predictions and spectrograms that clients missed because they were behind.",
        clients.skipped,
    )
    yield GaugeMetricFamily(
        "genre_stream_clients_behind",
        "Clients for which frames wait.",
        sum(depth > 0 for depth in depths),
    )


def _history_metrics(history: WriterCounters) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "genre_stream_history_queue_depth", "Messages that wait to be written.", history.queue_depth
    )
    yield CounterMetricFamily(
        "genre_stream_history_dropped",
        "Messages and rows lost because the writer or the disk did not keep up.",
        history.dropped,
    )
    yield CounterMetricFamily(
        "genre_stream_history_write_errors",
        "Writes to the history that failed.",
        history.write_errors,
    )


def _output_metrics(health: Sequence[OutputHealth]) -> Iterator[Metric]:
    kinds: tuple[tuple[Any, str, str, Callable[[OutputHealth], float]], ...] = (
        (GaugeMetricFamily, "reachable", "Whether messages arrive.", lambda h: h.reachable),
        (GaugeMetricFamily, "queue_depth", "Messages that wait.", lambda h: h.queue_depth),
        (CounterMetricFamily, "sent", "Messages sent.", lambda h: h.sent),
        (CounterMetricFamily, "dropped", "Messages lost, or not sent.", lambda h: h.dropped),
    )
    for kind, name, text, read in kinds if health else ():
        family = kind(f"genre_stream_output_{name}", text, labels=["output"])
        for one in health:
            family.add_metric([one.output], read(one))
        yield family


def _alert_metrics(alerts: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Yield when each rule fired last and for how many sources it holds."""
    fired = GaugeMetricFamily(
        "genre_stream_alert_fired_timestamp_seconds", "When the rule fired last.", labels=["rule"]
    )
    active = GaugeMetricFamily(
        "genre_stream_alert_active", "Sources for which what fired lasts.", labels=["rule"]
    )
    for each in alerts:
        if each["fired"]:
            fired.add_metric([each["name"]], datetime.fromisoformat(each["fired"]).timestamp())
        active.add_metric([each["name"]], len(each["active"]))
    yield from (fired, active) if alerts else ()


def _by_source(kind: Callable[..., Any], name: str, text: str, values: Mapping[str, object]) -> Any:
    """Return a metric family with a value for each source."""
    family = kind(f"genre_stream_{name}", text, labels=["source"])
    for source, value in values.items():
        family.add_metric([source], value)
    return family


def _state_set(state: str, known: Iterable[str]) -> dict[str, bool]:
    return {one: one == state for one in known}
