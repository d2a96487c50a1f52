"""How much of each genre was heard, by hour and source, as a table, CSV or a picture."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from streamer.core.colours import colours
from streamer.sinks.history.database import HistoryError, HistoryQuery, open_query

ROW_LIMIT = 100_000_000
OFFLINE, NOT_RUNNING = "offline", "not_running"
STATES: Mapping[str, Mapping[str, str]] = {
    "not_music": {"color": "#8c8c8c"},
    "uncertain": {"color": "#d0d0d0", "hatch": "///", "edgecolor": "#606060"},
    "silence": {"color": "#ffffff", "hatch": "...", "edgecolor": "#808080"},
    OFFLINE: {"color": "#2b2b2b", "hatch": "xxx", "edgecolor": "#ff6b6b"},
    NOT_RUNNING: {"color": "#ffffff", "hatch": "xxx", "edgecolor": "#b0b0b0"},
}
"""What is shown beside genres, and how it is drawn."""
MIN_BARS = 7
"""The picture has room for at least this many bars, so that a single day does not fill it."""
MAX_TICKS = 24
MAX_PICTURE_SOURCES = 50
LAST_CHANGES = 10
"""Changes that the table lists."""
MIN_SHARE = 0.005
"""Smallest share of what was heard that the table names."""

Sums = defaultdict[str, float]
Seconds = Mapping[str, float]
"""Seconds of each genre and state; `offline` is the time in which the source was not live, and
`not_running` that between two runs of the daemon."""


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour of one source."""

    start: datetime
    """In local time, with its offset."""
    source: str
    seconds: Seconds
    """They add up to 3,600 at most; of the rest nothing is known."""


@dataclass(frozen=True, slots=True)
class Change:
    """A segment began, or a source ceased to be live."""

    time: datetime
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a history holds of a time."""

    hours: list[Hour]
    """By time, then by source."""
    last_changes: list[Change]
    """Oldest first."""

    @property
    def columns(self) -> list[str]:
        """Genres, then states."""
        found = {label for hour in self.hours for label in hour.seconds}
        return sorted(found - set(STATES)) + list(STATES)


def read_report(
    file: Path, from_: datetime | None, to: datetime | None, source: str | None
) -> Report:
    """Read a history.

    Parameters
    ----------
    file, source
        The history, and the name of a source, None for all.
    from_, to
        Times with a time zone; by default everything until now.

    Raises
    ------
    HistoryError
        If the history cannot be read, or holds nothing of that time and source.
    """
    since = from_ or datetime.min.replace(tzinfo=UTC)
    with open_query(file, since, to, source, limit=ROW_LIMIT) as query:
        report = Report(_read_hours(query), _last_changes(query))
    if not report.hours:
        raise HistoryError(f"{file} holds nothing of the time and source asked for")
    return report


def _read_hours(query: HistoryQuery) -> list[Hour]:
    seconds: defaultdict[tuple[float, str], Sums] = defaultdict(_no_seconds)
    for source, minute, label, length in query.seconds_by_minute():
        hour, _ = _hour_of(minute)
        seconds[hour, source][label] += length
    first, last = query.from_.timestamp(), query.to.timestamp()
    for source, state, start, end in query.not_live():
        label = NOT_RUNNING if state == NOT_RUNNING else OFFLINE
        begin = max(start, first)
        while begin < min(end, last):
            hour, next_hour = _hour_of(begin)
            seconds[hour, source][label] += min(end, last, next_hour) - begin
            begin = next_hour
    return [
        Hour(_local(hour), source, _fitted(counted))
        for (hour, source), counted in sorted(seconds.items())
    ]


def _hour_of(time: float) -> tuple[float, float]:
    """Return where the hour of local time begins and ends in which `time` lies, in Unix seconds."""
    start = _local(time).replace(minute=0, second=0, microsecond=0).timestamp()
    return start, start + 3600


def _local(time: float) -> datetime:
    return datetime.fromtimestamp(time, UTC).astimezone()


def _no_seconds() -> Sums:
    return defaultdict(float)


def _fitted(seconds: Sums) -> Seconds:
    """Return the seconds of an hour such that they are 3,600 at most.

    Older versions counted more where a station sent some seconds of sound at once.
    """
    off = (OFFLINE, NOT_RUNNING)
    heard = sum(seconds.values()) - sum(seconds[label] for label in off)
    scale = min(1.0, 3600 / heard) if heard else 1.0
    fitted = {label: length * scale for label, length in seconds.items() if label not in off}
    for label in off:
        fitted[label] = max(0.0, min(seconds[label], 3600 - sum(fitted.values())))
    return fitted


def _last_changes(query: HistoryQuery) -> list[Change]:
    segments = ((row, row["genre"] or row["state"], row["title"]) for row in query.segments())
    states = (
        (row, row["state"], row["reason"]) for row in query.states() if row["state"] != "live"
    )
    rows = sorted(chain(segments, states), key=lambda each: str(each[0]["start"]))
    return [
        Change(
            datetime.fromisoformat(row["start"]).astimezone(),
            row["source"],
            ": ".join(filter(None, (label.replace("_", " "), more))),
        )
        for row, label, more in rows[-LAST_CHANGES:]
    ]


def as_csv(report: Report) -> str:
    """Return a line for each hour and source, with a column for each genre and state."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = report.columns
    writer.writerow(["hour", "source", *columns])
    for hour in report.hours:
        # In milliseconds, as the history keeps them, without the error of adding floats.
        cells = (round(hour.seconds.get(label, 0.0), 3) for label in columns)
        start = hour.start.isoformat(sep=" ", timespec="minutes")
        writer.writerow([start, hour.source, *cells])
    return text.getvalue()


def as_table(report: Report) -> str:
    """Return the time heard, silent, offline and not running, and the shares of each source."""
    totals = _sums(report.hours, lambda hour: hour.source)
    width = max(len("source"), *map(len, totals))
    names = "  ".join(f"{name:>11}" for name in ("heard", "silent", "offline", "not running"))
    lines = [f"{'source':<{width}}  {names}  of what was heard"]
    for source, seconds in sorted(totals.items()):
        heard = {
            label: length
            for label, length in seconds.items()
            if label not in ("silence", OFFLINE, NOT_RUNNING)
        }
        total = sum(heard.values())
        ranked = sorted(heard.items(), key=itemgetter(1), reverse=True)
        shares = ", ".join(
            f"{label.replace('_', ' ')} {length / total:.0%}"
            for label, length in ranked
            if length >= MIN_SHARE * total > 0
        )
        states = (seconds.get(name, 0.0) for name in ("silence", OFFLINE, NOT_RUNNING))
        durations = "  ".join(f"{_duration(cell):>11}" for cell in (total, *states))
        lines.append(f"{source:<{width}}  {durations}  {shares}".rstrip())
    lines += ["", "last changes"]
    lines += [
        f"{change.time:%Y-%m-%d %H:%M:%S}  {change.source:<{width}}  {change.text}"
        for change in report.last_changes
    ]
    return "\n".join(lines) + "\n"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _sums(hours: Iterable[Hour], key: Callable[[Hour], str]) -> dict[str, Sums]:
    sums: defaultdict[str, Sums] = defaultdict(_no_seconds)
    for hour in hours:
        for label, seconds in hour.seconds.items():
            sums[key(hour)][label] += seconds
    return dict(sums)


def plot(report: Report, picture: Path) -> None:
    """Draw the hours of each day and the minutes of each hour of the day, a row for each source.

    Raises
    ------
    HistoryError
        If there are more than `MAX_PICTURE_SOURCES` sources.
    OSError, ValueError
        If the file cannot be written, or matplotlib does not know the format of its suffix.
    ModuleNotFoundError
        If matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sources = sorted({hour.source for hour in report.hours})
    if len(sources) > MAX_PICTURE_SOURCES:
        raise HistoryError(f"a picture of {len(sources)} sources is too large; choose --source")
    genres = [name for name in report.columns if name not in STATES]
    styles = {name: {"color": colour} for name, colour in colours(genres).items()} | dict(STATES)
    figure, rows = plt.subplots(
        len(sources), 2, figsize=(13, 1 + 3.2 * len(sources)), layout="constrained", squeeze=False
    )
    for source, (by_day, by_hour) in zip(sources, rows, strict=True):
        own = [hour for hour in report.hours if hour.source == source]
        days = _sums(own, lambda hour: f"{hour.start:%Y-%m-%d}")
        _draw(by_day, days, styles, 3600, f"{source}: hours of each day")
        of_day = _sums(own, lambda hour: f"{hour.start:%H}")
        count = Counter(f"{hour.start:%H}" for hour in own)
        means = {
            name: {label: seconds / count[name] for label, seconds in of_day[name].items()}
            if name in of_day
            else {}
            for name in (f"{hour:02d}" for hour in range(24))
        }
        _draw(by_hour, means, styles, 60, "minutes of each hour of the day, on average")
        by_day.set_ylim(0, 24)
        by_hour.set_ylim(0, 60)
        by_day.tick_params(axis="x", rotation=30)
    legend: dict[str, Any] = {}
    for axes in rows.flat:
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    shown = [name.replace("_", " ") for name in styles if name.replace("_", " ") in legend]
    figure.legend([legend[name] for name in shown], shown, loc="outside right upper", reverse=True)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def _draw(
    axes: Any,
    bars: Mapping[str, Seconds],
    styles: Mapping[str, Mapping[str, str]],
    unit_seconds: float,
    title: str,
) -> None:
    """Draw a stacked bar for each key, in units of so many seconds."""
    positions = range(len(bars))
    bottom = [0.0] * len(bars)
    for name, style in styles.items():
        heights = [seconds.get(name, 0.0) / unit_seconds for seconds in bars.values()]
        if any(heights):
            label = name.replace("_", " ")
            axes.bar(positions, heights, bottom=bottom, label=label, width=0.9, **style)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_title(title, loc="left")
    axes.set_xlim(-0.6, max(len(bars), MIN_BARS) - 0.4)
    ticks = positions[:: -(-len(bars) // MAX_TICKS)]
    names = list(bars)
    axes.set_xticks(ticks, [names[tick] for tick in ticks])
