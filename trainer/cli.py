"""genre-train: the command line of the trainer."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

from streamer.core.contract import ModelError
from streamer.core.decision_settings import DecisionSettingsError
from streamer.core.spectrogram import SpecError
from streamer.system.commandline import ArgumentParser, UserError, run_program
from trainer.commands import evaluation, preparation, training

PROGRAM = "genre-train"

COMMANDS = {
    "all": training.COMMANDS["all"],
    **preparation.COMMANDS,
    **training.COMMANDS,
    **evaluation.COMMANDS,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 done, 1 failed while running, 2 wrong usage or data."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_program(
        PROGRAM,
        lambda: _run(arguments),
        user_errors=(DecisionSettingsError, ModelError, SpecError),
        interrupted=UserError("interrupted; what is done is kept", exit_status=1),
    )


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in {*COMMANDS, "-h", "--help", "--version"}:
        arguments = ["all", *arguments]
    given, unknown = _parser().parse_known_args(arguments)
    if unknown:  # argparse would refer to the help of the main parser, which lists no options
        raise UserError(
            f"unrecognized arguments: {' '.join(unknown)}; see {PROGRAM} {arguments[0]} --help"
        )
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A track's name that cannot be encoded must not stop the program.
        sys.stdout.reconfigure(errors="backslashreplace")
    # TensorFlow reads this when it is imported, before it logs about its build.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command: Callable[[argparse.Namespace], int] = given.command
    try:
        return command(given)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise UserError(f"{error.strerror or error}{where}", exit_status=1) from error
    except MemoryError as error:
        raise UserError(f"not enough memory ({error or 'none left'})", exit_status=1) from error
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; pip install 'genre-stream[train]'"
        ) from error


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Train, evaluate and report on a genre classifier. Without a command it does "
        "everything: prepare, fit, evaluate and report.",
        epilog="Exit status: 0 done, 1 failed while running, 2 wrong usage or data.",
    )
    version = f"{PROGRAM} {metadata.version('genre-stream')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (run, add_options, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        add_options(command)
        command.set_defaults(command=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
