"""genre-stream history: what was heard of each source, as a table, CSV or a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamer.sinks.history.database import HistoryError
from streamer.sinks.history.report import as_csv, as_table, plot, read_report
from streamer.system.commandline import ArgumentParser, UserError
from streamer.system.timestamps import parse_timestamp


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-command's options."""
    parser = ArgumentParser(
        prog="genre-stream history",
        description="Print how long each source was heard, silent and offline, the share of each "
        "genre and the last changes, in local time.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what --history has written")
    form = parser.add_mutually_exclusive_group()
    plot_help = "draw it by day and by hour of the day, as .png, .svg or .pdf"
    form.add_argument("--plot", type=Path, metavar="PICTURE", help=plot_help)
    csv_help = "write the seconds of each hour, source and genre on standard output"
    form.add_argument("--csv", action="store_true", help=csv_help)
    parser.add_argument("--source", metavar="NAME", help="only this source")
    time_help = "ISO 8601, in UTC unless it has an offset"
    parser.add_argument("--from", dest="from_", metavar="MOMENT", help=time_help)
    parser.add_argument("--to", metavar="MOMENT", help=time_help)
    return parser


def main(argv: Sequence[str]) -> int:
    """Print or draw the report; return the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        from_ = parse_timestamp("--from", arguments.from_) if arguments.from_ else None
        to = parse_timestamp("--to", arguments.to) if arguments.to else None
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        report = read_report(arguments.file, from_, to, arguments.source)
        if arguments.plot:
            plot(report, arguments.plot)
        else:
            text = as_csv(report) if arguments.csv else as_table(report)
            print(text, end="", flush=True)
    except ModuleNotFoundError as error:
        raise UserError(
            f"this needs {error.name}; install it with: pip install 'genre-stream[history]'"
        ) from None
    except HistoryError as error:
        raise UserError(str(error), exit_status=1) from None
    except BrokenPipeError:  # handled by `run_program`
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        place = arguments.plot or "the table"
        raise UserError(f"cannot write {place}: {reason}", exit_status=1) from None
    return 0
