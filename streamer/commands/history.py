"""genre-stream history: the share of each genre by day and by hour, as a picture or a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamer.core.colours import colours
from streamer.sinks.history.database import HistoryError, open_query
from streamer.system.commandline import ArgumentParser
from streamer.system.console import print_error
from streamer.system.timestamps import parse_timestamp

if TYPE_CHECKING:
    import pandas as pd

ALL_ROWS = 100_000_000
OTHER_COLOURS = {"not_music": "#c9c9c9", "uncertain": "#e3e3e3", "silence": "#f5f5f5"}
"""What is heard when it is not a genre, from dark to light."""
HOURS_OF_DAY = range(24)
FEWEST_BARS = 7
"""Bars that there is room for at least, so that a single day does not fill the picture."""
MOST_TICKS = 24


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-command's options."""
    parser = ArgumentParser(
        prog="genre-stream history",
        description="Show how much of each genre was heard, by day and by hour, in local time.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what --history has written")
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--plot", type=Path, metavar="PICTURE", help="draw it, as .png, .svg or .pdf")
    form.add_argument(
        "--csv", action="store_true", help="write seconds per hour and genre on standard output"
    )
    parser.add_argument("--source", metavar="NAME", help="only this source")
    parser.add_argument("--from", dest="from_", metavar="MOMENT", help="ISO 8601, UTC unless told")
    parser.add_argument("--to", metavar="MOMENT", help="ISO 8601, UTC unless told")
    return parser


def main(argv: Sequence[str]) -> int:
    """Read a history and report it; return the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        from_ = parse_timestamp("--from", arguments.from_) if arguments.from_ else None
        to = parse_timestamp("--to", arguments.to) if arguments.to else None
    except ValueError as error:
        print_error(str(error))
        return 2
    try:
        heard = _heard(arguments.file, from_, to, arguments.source)
        if arguments.csv:
            # To the millisecond, as seconds are kept: sums of them have other digits by chance.
            print(heard.round(3).to_csv(date_format="%Y-%m-%d %H:%M"), end="", flush=True)
        else:
            _plot(heard, arguments.plot)
    except ModuleNotFoundError as error:
        print_error(
            f"this needs {error.name}; install it with: pip install 'genre-stream[history]'"
        )
        return 2
    except HistoryError as error:
        print_error(str(error))
        return 1
    except BrokenPipeError:  # nobody reads the rest
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        print_error(f"cannot write {arguments.plot or 'the table'}: {reason}")
        return 1
    return 0


def _heard(
    file: Path, from_: datetime | None, to: datetime | None, source: str | None
) -> pd.DataFrame:
    """Return seconds heard: a row for each hour (local time), a column for each genre or state."""
    import pandas as pd

    since = from_ or datetime.min.replace(tzinfo=UTC)
    with open_query(file, since, to, source, limit=ALL_ROWS) as query:
        rows = pd.DataFrame(query.minutes())
    if rows.empty:
        raise HistoryError(f"{file} holds nothing of the time and source asked for")
    rows["hour"] = pd.to_datetime([_local_hour(text) for text in rows["minute"]])
    rows["heard"] = rows["genre"].where(rows["state"] == "music", rows["state"])
    table = rows.pivot_table(
        index="hour", columns="heard", values="seconds", aggfunc="sum", fill_value=0.0
    )
    genres = sorted(set(table.columns) - set(OTHER_COLOURS))
    others = [state for state in OTHER_COLOURS if state in table.columns]
    return table[genres + others]


def _local_hour(text: str) -> datetime:
    """Return the hour of a moment in local time, without a time zone."""
    local = datetime.fromisoformat(text).astimezone()
    return local.replace(minute=0, second=0, microsecond=0, tzinfo=None)


def _plot(heard: pd.DataFrame, picture: Path) -> None:
    """Draw the shares by day and by hour of the day."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (by_day, by_hour) = plt.subplots(2, 1, figsize=(11, 8), layout="constrained")
    hours: Any = heard.index
    days = heard.groupby(hours.strftime("%Y-%m-%d")).sum()
    _draw_shares(by_day, days, "Share of what was heard, by day")
    day_hours = heard.groupby(hours.hour).sum().reindex(HOURS_OF_DAY, fill_value=0.0)
    _draw_shares(by_hour, day_hours, "By hour of the day")
    by_hour.set_xlabel("hour, local time")
    by_day.tick_params(axis="x", rotation=30)
    figure.legend(*by_day.get_legend_handles_labels(), loc="outside right upper", reverse=True)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def _draw_shares(axes: Any, seconds: pd.DataFrame, title: str) -> None:
    """Draw a stacked bar for each row, of its shares in per cent."""
    shares = seconds.div(seconds.sum(axis=1).where(lambda total: total > 0, 1.0), axis=0) * 100
    genres = [name for name in shares.columns if name not in OTHER_COLOURS]
    paint = colours(genres) | OTHER_COLOURS
    bars = len(shares)
    positions = range(bars)
    bottom = 0.0 * shares.sum(axis=1)
    for name in shares.columns:
        label = name.replace("_", " ")
        axes.bar(positions, shares[name], bottom=bottom, color=paint[name], label=label, width=0.9)
        bottom = bottom + shares[name]
    axes.set_title(title, loc="left")
    axes.set_ylabel("%")
    axes.set_ylim(0, 100)
    axes.set_xlim(-0.6, max(bars, FEWEST_BARS) - 0.4)
    ticks = positions[:: -(-bars // MOST_TICKS)]
    axes.set_xticks(ticks, [str(shares.index[tick]) for tick in ticks])
