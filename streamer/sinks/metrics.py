"""Metrics for Prometheus, in a registry of their own.

Events are counted as they are published. The counters that sources, history and clients keep
themselves are read when Prometheus scrapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
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
from streamer.core.events import Published, Sink, SourceState
from streamer.core.health import HealthReader, SourceHealth
from streamer.core.segments import State

LATENCY_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the prediction latency's buckets, in seconds."""

_SOURCE_COUNTERS: tuple[tuple[str, str, Callable[[SourceHealth], float]], ...] = (
    ("audio_seconds", "Seconds of sound taken in.", lambda h: h.audio_seconds),
    ("overruns", "Times that sound came faster than it was taken.", lambda h: h.overruns),
    ("dropped_frames", "Samples a channel lost to overruns.", lambda h: h.dropped_samples),
    ("nan_samples", "Samples that were not numbers.", lambda h: h.nan_samples),
    ("clipped_samples", "Samples at or beyond full scale.", lambda h: h.clipped_samples),
    ("reconnects", "Times that the source was opened again.", lambda h: h.reconnects),
    ("crashes", "Times that the source's thread was started again.", lambda h: h.crashes),
)
_SOURCE_GAUGES: tuple[tuple[str, str, Callable[[SourceHealth], float]], ...] = (
    ("queue_depth", "Blocks of sound that wait for the pipeline.", lambda h: h.queue_depth),
    ("hop_seconds", "Seconds of sound between two predictions.", lambda h: h.hop_seconds),
    ("quiet_seconds", "Seconds since the last decision.", lambda h: h.quiet_seconds),
    (
        "real_time_factor",
        "Seconds of inference for a second of sound, since the start.",
        lambda h: h.inference_seconds / h.audio_seconds if h.audio_seconds else 0.0,
    ),
)


class ClientQueues(Protocol):
    """The frames that wait for clients, as the WebSocket hub exposes them."""

    @property
    def outboxes(self) -> Iterable[Sized]:
        """The queue of each client."""

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


class Metrics(Sink):
    """Counts events and clients, and exposes the counters of the other parts.

    Parameters
    ----------
    version
        Version of this program.
    model
        `name` and `version` of the model.
    health
        Reads the counters of every source.

    Attributes
    ----------
    registry : CollectorRegistry
        All of the metrics.
    """

    def __init__(
        self, *, version: str, model: Mapping[str, str], health: HealthReader = tuple
    ) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("genre_stream_build", "This program.", registry=registry).info({"version": version})
        Info("genre_stream_model", "The model in use.", registry=registry).info(
            {"name": model["name"], "version": model["version"]}
        )
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
        self._clients = Gauge(
            "genre_stream_clients", "WebSocket clients connected.", registry=registry
        )
        self._slow_clients = Counter(
            "genre_stream_slow_clients_closed",
            "Clients closed because they stayed behind.",
            registry=registry,
        )
        self._decisions: dict[str, Decision] = {}
        registry.register(_Scraped(lambda: _source_metrics(list(health()), self._decisions)))

    def publish(self, published: Published) -> None:
        """Count an event."""
        self._messages.labels(published.type).inc()
        if isinstance(published.event, Decision):
            self._latency.labels(published.source).observe(published.latency)
            self._decisions[published.source] = published.event

    def client(self) -> AbstractContextManager[object]:
        """Return a context manager that counts a client while it is entered."""
        return self._clients.track_inprogress()

    def slow_client_closed(self) -> None:
        """Count a client that was closed because it stayed behind."""
        self._slow_clients.inc()

    def watch_clients(self, queues: ClientQueues) -> None:
        """Also expose how many frames wait for clients."""
        self.registry.register(_Scraped(lambda: _client_metrics(queues)))

    def watch_history(self, history: WriterCounters) -> None:
        """Also expose the counters of the history."""
        self.registry.register(_Scraped(lambda: _history_metrics(history)))


class _Scraped(Collector):
    """Metrics that a function reads at the time of a scrape."""

    def __init__(self, read: Callable[[], Iterator[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        return self._read()


def _source_metrics(
    health: list[SourceHealth], decisions: Mapping[str, Decision]
) -> Iterator[Metric]:
    """Yield the counters and the last decision of the sources that exist."""
    for name, text, read in _SOURCE_COUNTERS:
        counter = CounterMetricFamily(f"genre_stream_{name}", text, labels=["source"])
        for one in health:
            counter.add_metric([one.source], read(one))
        yield counter
    for name, text, read in _SOURCE_GAUGES:
        yield _gauge(name, text, {one.source: read(one) for one in health})
    summary = SummaryMetricFamily(
        "genre_stream_inference_seconds", "Time to classify one window.", labels=["source"]
    )
    for one in health:
        summary.add_metric([one.source], one.inferences, one.inference_seconds)
    yield summary
    states = {one.source: one.state for one in health}
    yield _states("source_state", "State of the source.", SourceState, states)
    last = {source: decisions[source] for source in sorted(states) if source in decisions}
    levels = {source: decision.level_dbfs for source, decision in last.items()}
    yield _gauge("level_dbfs", "Level of the last hop, in dB relative to full scale.", levels)
    confidences = {source: decision.confidence for source, decision in last.items()}
    yield _gauge("confidence_ratio", "Confidence of the last prediction, 0 to 1.", confidences)
    heard = {source: decision.state for source, decision in last.items()}
    yield _states("state", "What the last prediction says is heard.", State, heard)
    genre = InfoMetricFamily(
        "genre_stream_heard",
        "Genre of the last prediction, empty unless it is music.",
        labels=["source"],
    )
    for source, decision in last.items():
        genre.add_metric([source], {"genre": decision.genre or ""})
    yield genre


def _client_metrics(queues: ClientQueues) -> Iterator[Metric]:
    depths = [len(outbox) for outbox in queues.outboxes]
    yield GaugeMetricFamily(
        "genre_stream_client_queue_depth",
        "Frames that wait for the client that is furthest behind.",
        max(depths, default=0),
    )
    yield CounterMetricFamily(
        "genre_stream_client_frames_skipped",
        "Predictions and spectrograms that clients missed because they were behind.",
        queues.skipped,
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


def _gauge(name: str, text: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """Return a gauge with a value for each source."""
    family = GaugeMetricFamily(f"genre_stream_{name}", text, labels=["source"])
    for source, value in values.items():
        family.add_metric([source], value)
    return family


def _states(
    name: str, text: str, known: Iterable[str], states: Mapping[str, str]
) -> StateSetMetricFamily:
    """Return a state set that is 1 for the state of each source and 0 for the others."""
    family = StateSetMetricFamily(f"genre_stream_{name}", text, labels=["source"])
    for source, state in states.items():
        family.add_metric([source], {one: one == state for one in known})
    return family
