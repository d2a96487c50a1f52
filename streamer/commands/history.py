"""genre-stream history: the share of each genre by day and by hour, as a picture or a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamer.sinks.history.database import HistoryError
from streamer.sinks.history.report import plot, seconds_by_hour
from streamer.system.commandline import ArgumentParser, UserError
from streamer.system.timestamps import parse_timestamp


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-command's options."""
    parser = ArgumentParser(
        prog="genre-stream history",
        description="Show how much of each genre was heard, by day and by hour, in local time.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what --history has written")
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--plot", type=Path, metavar="PICTURE", help="draw it, as .png, .svg or .pdf")
    csv_help = "write seconds per hour and genre on standard output"
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
        seconds = seconds_by_hour(arguments.file, from_, to, arguments.source)
        if arguments.csv:
            # In milliseconds, as the history keeps them, without the error of adding floats.
            print(seconds.round(3).to_csv(date_format="%Y-%m-%d %H:%M"), end="", flush=True)
        else:
            plot(seconds, arguments.plot)
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
