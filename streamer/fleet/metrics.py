"""Metrics of a fleet for Prometheus: of each engine, and of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from streamer.core.events import SourceState
from streamer.fleet.reports import FleetStatus, Report, count_states

STATES = (*(state.value for state in SourceState), "waiting")

_OF_ENGINES: tuple[tuple[str, str, Callable[[Report], float]], ...] = (
    ("capacity", "Sources that the engine can serve at the hop asked for.", lambda r: r.capacity),
    ("hop_seconds", "Longest time between two predictions.", lambda r: r.hop_seconds),
    ("real_time_factor", "Inference for a second of sound.", lambda r: r.real_time_factor),
    ("decisions", "Predictions of the sources it holds.", lambda r: r.decisions),
    ("audio_seconds", "Sound taken in from the sources it holds.", lambda r: r.audio_seconds),
    ("cpu_seconds", "Processor time since the engine started.", lambda r: r.cpu_seconds),
    ("output_reachable", "Whether the broker is reached.", lambda r: r.output.reachable),
    ("output_sent", "Messages sent to the broker.", lambda r: r.output.sent),
    ("output_queue_depth", "Messages that wait.", lambda r: r.output.queue_depth),
    ("output_dropped", "Messages lost.", lambda r: r.output.dropped),
)
_SUMMED = ("capacity", "output_sent", "output_dropped", "output_queue_depth")


class FleetMetrics(Collector):
    """Exposes the status that `read` returns whenever Prometheus asks."""

    def __init__(self, read: Callable[[], FleetStatus]) -> None:
        self._read = read
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        status = self._read()
        running = [(each.name, each.report) for each in status.engines if each.report]
        up = _by_engine("up", "Whether the engine answers.")
        for engine in status.engines:
            up.add_metric([engine.name, _machine(engine.report)], float(engine.report is not None))
        yield up
        sources = GaugeMetricFamily(
            "genre_stream_engine_sources",
            "Sources of the engine in a state.",
            labels=["engine", "machine", "state"],
        )
        for name, report in running:
            for state, count in count_states(report.states).items():
                sources.add_metric([name, report.machine, state], count)
        yield sources
        for metric, text, value in _OF_ENGINES:
            family = _by_engine(metric, text)
            for name, report in running:
                family.add_metric([name, report.machine], float(value(report)))
            yield family
        yield from _summed(status)


def _summed(status: FleetStatus) -> Iterator[Metric]:
    by_state = GaugeMetricFamily(
        "genre_stream_fleet_sources", "Sources in a state.", labels=["state"]
    )
    for state in STATES:
        by_state.add_metric([state], status.states.get(state, 0))
    yield by_state
    yield GaugeMetricFamily(
        "genre_stream_fleet_engines", "Engines that answer.", len(status.running)
    )
    for name, text, value in _OF_ENGINES:
        if name in _SUMMED:
            total = float(sum(value(report) for report in status.running))
            yield GaugeMetricFamily(f"genre_stream_fleet_{name}", f"{text} All engines.", total)
    yield CounterMetricFamily(
        "genre_stream_fleet_handovers", "Sources given to an engine.", status.handovers
    )


def _by_engine(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"genre_stream_engine_{name}", text, labels=["engine", "machine"])


def _machine(report: Report | None) -> str:
    return report.machine if report else ""
