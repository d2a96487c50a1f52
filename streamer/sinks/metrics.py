"""What Prometheus reads at `/metrics`, in a registry of its own.

What passes through the hub is counted as it passes; what the sources, the history and the clients
count themselves is read when Prometheus asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

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

from streamer.core.events import SourceState
from streamer.core.health import HealthReader, SourceHealth
from streamer.core.segments import State

if TYPE_CHECKING:
    from streamer.sinks.history.writer import History
    from streamer.sinks.websocket.hub import Hub

LATENCY_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the prediction latency's buckets, in seconds."""

_COUNTED_BY_SOURCES: tuple[tuple[str, str, Callable[[SourceHealth], float]], ...] = (
    ("audio_seconds", "Seconds of sound taken in.", lambda v: v.audio_seconds),
    ("overruns", "Times that sound came faster than it was taken.", lambda v: v.overruns),
    ("dropped_frames", "Samples a channel lost to overruns.", lambda v: v.dropped_samples),
    ("nan_samples", "Samples that were not numbers.", lambda v: v.nan_samples),
    ("clipped_samples", "Samples at or beyond full scale.", lambda v: v.clipped_samples),
    ("reconnects", "Times that the source was opened again.", lambda v: v.reconnects),
    ("crashes", "Times that the source's thread was started again.", lambda v: v.crashes),
)
_TOLD_BY_SOURCES: tuple[tuple[str, str, Callable[[SourceHealth], float]], ...] = (
    ("queue_depth", "Blocks of sound that wait for the pipeline.", lambda v: v.queue_depth),
    ("hop_seconds", "Seconds of sound between two predictions.", lambda v: v.hop_seconds),
    ("quiet_seconds", "Seconds since the last decision.", lambda v: v.quiet_seconds),
    (
        "real_time_factor",
        "Seconds of inference for a second of sound, since the start.",
        lambda v: v.inference_seconds / v.audio_seconds if v.audio_seconds else 0.0,
    ),
)


class Metrics:
    """Counts what the daemon does.

    Parameters
    ----------
    version
        Of this program.
    model
        `name` and `version` of the model.
    health
        Reads the sources' own counters.
    """

    def __init__(
        self, *, version: str, model: Mapping[str, str], health: HealthReader = tuple
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Info("genre_stream_build", "This program.", registry=self.registry).info(
            {"version": version}
        )
        Info("genre_stream_model", "The model in use.", registry=self.registry).info(
            {"name": model["name"], "version": model["version"]}
        )
        self._latency = Histogram(
            "genre_stream_prediction_latency_seconds",
            "From the last sample heard to the prediction sent.",
            ("source",),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._messages = Counter(
            "genre_stream_messages", "Messages published.", ("type",), registry=self.registry
        )
        self._clients = Gauge(
            "genre_stream_clients", "WebSocket clients connected.", registry=self.registry
        )
        self._slow_clients = Counter(
            "genre_stream_slow_clients_closed",
            "Clients closed because they stayed behind.",
            registry=self.registry,
        )
        self._sources = _SourceCollector(health)
        self.registry.register(self._sources)

    def record(self, message: Mapping[str, Any]) -> None:
        """Count a published message."""
        self._messages.labels(message["type"]).inc()
        if message["type"] != "prediction":
            return
        self._latency.labels(message["source"]).observe(message["latency_ms"] / 1000)
        self._sources.note(message)

    def client(self) -> AbstractContextManager[object]:
        """Return a context for as long as a client is connected."""
        return self._clients.track_inprogress()

    def slow_client_closed(self) -> None:
        """Count a client that was closed because it stayed behind."""
        self._slow_clients.inc()

    def watch_hub(self, hub: Hub) -> None:
        """Tell how many frames wait for clients, too."""
        self.registry.register(_HubCollector(hub))

    def watch_history(self, history: History) -> None:
        """Tell how the history does, too."""
        self.registry.register(_HistoryCollector(history))


class _SourceCollector(Collector):
    """Reads the sources when Prometheus asks; tells nothing of those that are gone."""

    def __init__(self, health: HealthReader) -> None:
        self._health = health
        self._predictions: dict[str, Mapping[str, Any]] = {}

    def note(self, prediction: Mapping[str, Any]) -> None:
        self._predictions[prediction["source"]] = prediction

    def collect(self) -> Iterator[Metric]:
        health = list(self._health())
        for name, text, read in _COUNTED_BY_SOURCES:
            counter = CounterMetricFamily(f"genre_stream_{name}", text, labels=["source"])
            for one in health:
                counter.add_metric([one.source], read(one))
            yield counter
        for name, text, read in _TOLD_BY_SOURCES:
            values = {one.source: read(one) for one in health}
            yield _gauge(f"genre_stream_{name}", text, values)
        yield _inference(health)
        yield _states(
            "genre_stream_source_state",
            "State of the source.",
            SourceState,
            {one.source: one.state for one in health},
        )
        present = {one.source for one in health} & set(self._predictions)
        yield from _heard({source: self._predictions[source] for source in sorted(present)})


def _heard(predictions: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """Tell what the last prediction of each source says."""
    for name, text, field in (
        ("level_dbfs", "Level of the last hop, in dB relative to full scale.", "level_dbfs"),
        ("confidence_ratio", "Confidence of the last prediction, 0 to 1.", "confidence"),
    ):
        values = {source: message[field] for source, message in predictions.items()}
        yield _gauge(f"genre_stream_{name}", text, values)
    yield _states(
        "genre_stream_state",
        "What the last prediction says is heard.",
        State,
        {source: message["state"] for source, message in predictions.items()},
    )
    genre = InfoMetricFamily(
        "genre_stream_heard",
        "Genre of the last prediction, empty unless it is music.",
        labels=["source"],
    )
    for source, message in predictions.items():
        genre.add_metric([source], {"genre": message["genre"] or ""})
    yield genre


def _inference(health: Iterable[SourceHealth]) -> Metric:
    summary = SummaryMetricFamily(
        "genre_stream_inference_seconds", "Time to classify one window.", labels=["source"]
    )
    for one in health:
        summary.add_metric([one.source], one.inferences, one.inference_seconds)
    return summary


class _HubCollector(Collector):
    """Reads the outboxes when Prometheus asks."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        depths = [len(outbox) for outbox in self._hub.outboxes]
        yield GaugeMetricFamily(
            "genre_stream_client_queue_depth",
            "Frames that wait for the client that is furthest behind.",
            max(depths, default=0),
        )
        yield CounterMetricFamily(
            "genre_stream_client_frames_skipped",
            "Predictions and spectrograms that clients missed because they were behind.",
            self._hub.skipped,
        )
        yield GaugeMetricFamily(
            "genre_stream_clients_behind",
            "Clients for which frames wait.",
            sum(depth > 0 for depth in depths),
        )


class _HistoryCollector(Collector):
    """Reads the history's counters when Prometheus asks."""

    def __init__(self, history: History) -> None:
        self._history = history

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "genre_stream_history_queue_depth",
            "Messages that wait to be written.",
            self._history.queue_depth,
        )
        yield CounterMetricFamily(
            "genre_stream_history_dropped",
            "Messages and rows lost because the writer or the disk did not keep up.",
            self._history.dropped,
        )
        yield CounterMetricFamily(
            "genre_stream_history_write_errors",
            "Writes to the history that failed.",
            self._history.write_errors,
        )


def _gauge(name: str, text: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """Return a value for each source."""
    family = GaugeMetricFamily(name, text, labels=["source"])
    for source, value in values.items():
        family.add_metric([source], value)
    return family


def _states(
    name: str, text: str, known: Iterable[str], states: Mapping[str, str]
) -> StateSetMetricFamily:
    """Return 1 for the state that each source is in and 0 for the others."""
    family = StateSetMetricFamily(name, text, labels=["source"])
    for source, state in states.items():
        family.add_metric([source], {one: one == state for one in known})
    return family
