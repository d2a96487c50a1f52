"""`genre-stream completion`: what a shell needs to complete our options."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from streamer import settings as schema
from streamer.commands.run import COMMANDS, Parser
from streamer.commands.run import build_parser as build_daemon_parser

SHELLS = ("bash", "zsh", "fish")

FILES = ("source", "model", "token_file", "tls_cert", "tls_key", "history")
"""Settings whose value may be a file."""

WHERE = """\
where the output belongs:
  bash   ~/.local/share/bash-completion/completions/genre-stream
  zsh    a file named _genre-stream in a folder of $fpath
  fish   ~/.config/fish/completions/genre-stream.fish
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of this sub-command."""
    parser = Parser(
        prog="genre-stream completion",
        description="Print completions for a shell.",
        epilog=WHERE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the completions; return the exit status."""
    import shtab

    shell = build_parser().parse_args(argv).shell
    print(shtab.complete(_whole_parser(), shell))
    return 0


def _whole_parser() -> argparse.ArgumentParser:
    """Return one parser of the daemon's options and every sub-command's."""
    parser = build_daemon_parser()
    commands = parser.add_subparsers()
    for name, module in COMMANDS.items():
        own = importlib.import_module(module).build_parser()
        commands.add_parser(
            name, parents=[own], add_help=False, conflict_handler="resolve", help=own.description
        )
    for one in (parser, *commands.choices.values()):
        for action in one._actions:
            _tell_values(action)
    return parser


def _tell_values(action: argparse.Action) -> None:
    """Add the words or files that may follow an option, which the parser need not know."""
    import shtab

    field = schema.Settings.model_fields.get(action.dest)
    if field is not None and schema.choices(field):
        action.choices = schema.choices(field)
    if action.dest in FILES or action.type is Path:
        action.complete = shtab.FILE  # type: ignore[attr-defined]
