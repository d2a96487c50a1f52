"""genre-stream history: the share of each genre by day and by hour, as a picture or a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamer.sinks.history.database import HistoryError
from streamer.sinks.history.report import plot, seconds_by_hour
from streamer.system.commandline import ArgumentParser
from streamer.system.console import print_error
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
    form.add_argument(
        "--csv", action="store_true", help="write seconds per hour and genre on standard output"
    )
    parser.add_argument("--source", metavar="NAME", help="only this source")
    parser.add_argument("--from", dest="from_", metavar="MOMENT", help="ISO 8601, UTC unless told")
    parser.add_argument("--to", metavar="MOMENT", help="ISO 8601, UTC unless told")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print or draw the report; return the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        from_ = parse_timestamp("--from", arguments.from_) if arguments.from_ else None
        to = parse_timestamp("--to", arguments.to) if arguments.to else None
    except ValueError as error:
        print_error(str(error))
        return 2
    try:
        heard = seconds_by_hour(arguments.file, from_, to, arguments.source)
        if arguments.csv:
            # In milliseconds, as the history keeps them, without the error of adding floats.
            print(heard.round(3).to_csv(date_format="%Y-%m-%d %H:%M"), end="", flush=True)
        else:
            plot(heard, arguments.plot)
    except ModuleNotFoundError as error:
        print_error(
            f"this needs {error.name}; install it with: pip install 'genre-stream[history]'"
        )
        return 2
    except HistoryError as error:
        print_error(str(error))
        return 1
    except BrokenPipeError:  # handled by the front door
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        print_error(f"cannot write {arguments.plot or 'the table'}: {reason}")
        return 1
    return 0
