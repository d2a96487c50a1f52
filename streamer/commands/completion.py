"""genre-stream completion: print a shell script that completes options and sub-commands."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import shtab

from streamer import settings as schema
from streamer.commands import run
from streamer.setting_types import File
from streamer.system.commandline import ArgumentParser

SHELLS = ("bash", "zsh", "fish")

INSTALLATION = """\
where the output belongs:
  bash   ~/.local/share/bash-completion/completions/genre-stream
  zsh    a file named _genre-stream in a folder of $fpath
  fish   ~/.config/fish/completions/genre-stream.fish
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-command's options."""
    parser = ArgumentParser(
        prog="genre-stream completion",
        description="Print completions for a shell.",
        epilog=INSTALLATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the completions; return the exit status."""
    shell = build_parser().parse_args(argv).shell
    print(shtab.complete(_combined_parser(), shell))
    return 0


def _combined_parser() -> argparse.ArgumentParser:
    """Return one parser of the daemon's options and all sub-commands, for shtab."""
    parser = run.build_parser()
    commands = parser.add_subparsers()
    for name, module in run.COMMANDS.items():
        own = importlib.import_module(module).build_parser()
        commands.add_parser(
            name, parents=[own], add_help=False, conflict_handler="resolve", help=own.description
        )
    parsers = (parser, *commands.choices.values())
    for action in (action for each in parsers for action in each._actions):
        field = schema.Settings.model_fields.get(action.dest)
        if field is not None and schema.choices(field):
            action.choices = schema.choices(field)
        is_file = field is not None and File in get_args(field.annotation)
        if is_file or action.type is Path or action.dest == "source":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser
