"""How much of each genre was heard, by day and by hour of the day, as a table or a picture."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.core.colours import colours
from streamer.sinks.history.database import HistoryError, open_query

if TYPE_CHECKING:
    import pandas as pd

ROW_LIMIT = 100_000_000
STATE_COLOURS = {"not_music": "#c9c9c9", "uncertain": "#e3e3e3", "silence": "#f5f5f5"}
"""Colours of the states without a genre, from dark to light."""
MIN_BARS = 7
"""The picture has room for at least this many bars, so that a single day does not fill it."""
MAX_TICKS = 24


def seconds_by_hour(
    file: Path, from_: datetime | None, to: datetime | None, source: str | None
) -> pd.DataFrame:
    """Return seconds heard, with a row for each hour and a column for each genre or state.

    Parameters
    ----------
    file, source
        The history, and the name of a source, None for all.
    from_, to
        Times with a time zone; by default everything until now.

    Returns
    -------
    DataFrame
        Indexed by the hour in local time, without a time zone; genres come before other states.

    Raises
    ------
    HistoryError
        If the history cannot be read, or holds nothing of that time and source.
    ModuleNotFoundError
        If pandas is not installed.
    """
    import pandas as pd

    since = from_ or datetime.min.replace(tzinfo=UTC)
    with open_query(file, since, to, source, limit=ROW_LIMIT) as query:
        rows = pd.DataFrame(
            ((_local_hour(minute), *cells) for minute, *cells in query.seconds_by_minute()),
            columns=["hour", "label", "seconds"],
        )
    if rows.empty:
        raise HistoryError(f"{file} holds nothing of the time and source asked for")
    table = rows.pivot_table(
        index="hour", columns="label", values="seconds", aggfunc="sum", fill_value=0.0
    )
    genres = sorted(set(table.columns) - set(STATE_COLOURS))
    states = [state for state in STATE_COLOURS if state in table.columns]
    return table[genres + states]


def _local_hour(time: datetime) -> datetime:
    return time.astimezone().replace(minute=0, second=0, microsecond=0, tzinfo=None)


def plot(heard: pd.DataFrame, picture: Path) -> None:
    """Draw the shares by day and by hour of the day of what `seconds_by_hour` returns.

    Raises
    ------
    OSError, ValueError
        If the file cannot be written, or matplotlib does not know the format of its suffix.
    ModuleNotFoundError
        If matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (by_day, by_hour) = plt.subplots(2, 1, figsize=(11, 8), layout="constrained")
    hours: Any = heard.index
    days = heard.groupby(hours.strftime("%Y-%m-%d")).sum()
    _draw_shares(by_day, days, "Share of what was heard, by day")
    day_hours = heard.groupby(hours.hour).sum().reindex(range(24), fill_value=0.0)
    _draw_shares(by_hour, day_hours, "By hour of the day")
    by_hour.set_xlabel("hour, local time")
    by_day.tick_params(axis="x", rotation=30)
    figure.legend(*by_day.get_legend_handles_labels(), loc="outside right upper", reverse=True)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def _draw_shares(axes: Any, seconds: pd.DataFrame, title: str) -> None:
    """Draw a stacked bar for each row, of its shares in per cent."""
    shares = seconds.div(seconds.sum(axis=1).where(lambda total: total > 0, 1.0), axis=0) * 100
    genres = [name for name in shares.columns if name not in STATE_COLOURS]
    colour_of = colours(genres) | STATE_COLOURS
    positions = range(len(shares))
    bottom = 0.0 * shares.sum(axis=1)
    for name in shares.columns:
        label = name.replace("_", " ")
        axes.bar(
            positions, shares[name], bottom=bottom, color=colour_of[name], label=label, width=0.9
        )
        bottom = bottom + shares[name]
    axes.set_title(title, loc="left")
    axes.set_ylabel("%")
    axes.set_ylim(0, 100)
    axes.set_xlim(-0.6, max(len(shares), MIN_BARS) - 0.4)
    ticks = positions[:: -(-len(shares) // MAX_TICKS)]
    axes.set_xticks(ticks, [str(shares.index[tick]) for tick in ticks])
