"""The table of `genre-stream fleet status`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamer.fleet.reports import EngineStatus, FleetStatus, count_states
from streamer.system.console import aligned

HEADINGS = ("ENGINE", "MACHINE", "SOURCES", "ROOM", "HOP", "REAL-TIME FACTOR", "STATES")
SHOWN_FAILURES = 10


def table(status: FleetStatus) -> str:
    """Return the engines, the sums and the sources that have failed, as lines of text."""
    rows = [HEADINGS, *map(_row, status.engines), _sums(status)]
    return "\n".join((*aligned(rows), *_notes(status)))


def _row(engine: EngineStatus) -> tuple[str, ...]:
    report = engine.report
    if report is None:
        return (engine.name, "-", "0", "0", "-", "-", engine.reason)
    return (
        engine.name,
        report.machine,
        str(len(report.owners)),
        str(report.capacity),
        f"{report.hop_seconds:.1f} s",
        f"{report.real_time_factor:.4f}",
        words(count_states(report.states)),
    )


def _sums(status: FleetStatus) -> tuple[str, ...]:
    running = status.running
    audio = sum(report.audio_seconds for report in running)
    work = sum(report.inference_seconds for report in running)
    return (
        f"{len(running)} of {len(status.engines)}",
        str(len({report.machine for report in running})),
        str(status.sources),
        str(status.capacity),
        f"{max((report.hop_seconds for report in running), default=0.0):.1f} s",
        f"{work / audio if audio else 0.0:.4f}",
        words(status.states),
    )


def words(states: Mapping[str, int]) -> str:
    """Return numbers of sources by state as words.

    Examples
    --------
    >>> words({"live": 58, "reconnecting": 2})
    '58 live, 2 reconnecting'
    """
    return ", ".join(f"{count} {state}" for state, count in states.items()) or "no sources"


def _notes(status: FleetStatus) -> Iterator[str]:
    if not status.list_version:
        yield "The supervisor has no list; genre-stream fleet sends it when it runs."
    if 0 < status.capacity < status.sources:
        yield (
            f"{status.sources} sources are more than the {status.capacity} that these engines can "
            "serve at the hop asked for: the hop grows. Add machines, or ask for a longer hop."
        )
    for report in status.running:
        if not report.output.reachable:
            yield f"{report.machine}: the broker is not reached: {report.output.reason}"
    for name, reason in list(status.failures.items())[:SHOWN_FAILURES]:
        yield f"{name}: {reason}"
    if len(status.failures) > SHOWN_FAILURES:
        yield f"and {len(status.failures) - SHOWN_FAILURES} more that have failed"
