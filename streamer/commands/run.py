"""genre-stream: read the command line and start what it asks for, importing nothing else."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pydantic.fields import FieldInfo

from streamer import settings as schema
from streamer.system.console import discard_standard_output, open_closed_streams, print_error

COMMANDS = {
    "watch": "streamer.commands.watch",
    "history": "streamer.commands.history",
    "install-service": "streamer.commands.install_service",
    "completion": "streamer.commands.completion",
}
"""Sub-commands and the module of each; it has `build_parser()` and `main(argv) -> int`."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a file may say to whoever writes into it."""

USAGE = "usage: genre-stream (--device DEVICE | --source LOCATION)... [options]"

EXAMPLES = """\
other commands:
  genre-stream watch [URL]       follow a running genre-stream in the terminal
  genre-stream history FILE      plot or export what was heard
  genre-stream install-service   install the systemd unit of this installation
  genre-stream completion SHELL  print completions for bash, zsh or fish

examples:
  genre-stream --source demo
  genre-stream --device mic
  genre-stream --device loopback --history ~/heard.db
  genre-stream --source radio=https://radio.example/live --source hall=rtsp://camera.example/audio
  genre-stream --source song.flac --fast --json

Settings also come from /etc/genre-stream/config.toml, ~/.config/genre-stream/config.toml, the
file of --config and the environment (GENRE_STREAM_PORT and so on). Of these the later wins, and
the command line over all. The last that names devices or sources names all that are heard.
Exit status: 0 done, 1 failed while running, 2 wrong usage or settings.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with 2."""
        print_error(f"{message}; see {self.prog} --help")
        sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the daemon's options from the settings' schema."""
    parser = Parser(
        prog="genre-stream",
        usage=USAGE.removeprefix("usage: "),
        description="Tell every WebSocket client which genre of music is playing.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    ask = parser.add_argument_group("asking instead of listening")
    ask.add_argument("-h", "--help", action="help", help="show this help")
    ask.add_argument("--version", action="store_true", help="show the version")
    ask.add_argument("--list-devices", action="store_true", help="show the microphones there are")
    ask.add_argument(
        "--check", action="store_true", help="try settings, model, files and port, then stop"
    )
    ask.add_argument(
        "--print-config", action="store_true", help="show every setting and where it was given"
    )
    for heading, fields in schema.fields_by_group().items():
        group = parser.add_argument_group(heading)
        for name, field in fields:
            _add_option(group, name, field)
        if heading == schema.HEAR:
            group.add_argument(
                "--json",
                action="store_true",
                help="serve nothing; write what clients would get as JSON lines on standard output",
            )
    last = parser.add_argument_group("settings")
    last.add_argument("--config", type=Path, metavar="FILE", help="read this TOML file as well")
    return parser


def _add_option(group: argparse._ArgumentGroup, name: str, field: FieldInfo) -> None:
    default = "" if field.default in (None, (), False) else f" (default: {field.default})"
    flag, text = schema.option(name), f"{field.description}{default}".replace("%", "%%")
    if field.annotation is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
    elif field.annotation == tuple[str, ...]:
        group.add_argument(
            flag, action="append", metavar=schema.extra(field, "metavar"), dest=name, help=text
        )
    else:
        words = schema.choices(field)
        group.add_argument(
            flag,
            metavar=schema.extra(field, "metavar"),
            help=f"{text}: {', '.join(words)}" if words else text,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run genre-stream and return its exit status."""
    open_closed_streams()
    try:
        try:
            return _command(list(sys.argv[1:] if argv is None else argv))
        finally:
            # Else it would be written when nobody can complain any more.
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        discard_standard_output()
        return 0
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        discard_standard_output()
        print_error(f"cannot write the output: {error.strerror}")
        return 1


def _command(arguments: list[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        module = importlib.import_module(COMMANDS[arguments[0]])
        return int(module.main(arguments[1:]))
    return _daemon(arguments)


def _daemon(arguments: list[str]) -> int:
    parser = build_parser()
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        print_error(_unknown(parser, unknown[0]))
        return 2
    given = vars(known)
    asked = {
        name: given.pop(name, False)
        for name in ("version", "list_devices", "check", "print_config", "json")
    }
    config = given.pop("config", None)
    if asked["version"]:
        return _print_version()
    if asked["list_devices"]:
        return _list_devices()
    try:
        effective = schema.load(given, config=config)
    except schema.SettingsError as error:
        print_error(str(error))
        return 2
    if asked["print_config"]:
        print(schema.describe(effective), end="")
        return 0
    if not effective.settings.device and not effective.settings.source:
        print_error(f"nothing to hear; {USAGE}{_unread()}")
        return 2
    if asked["check"]:
        from streamer.commands.check import check

        return check(effective.settings)
    if asked["json"]:
        from streamer.commands.json_lines import write_json_lines

        return write_json_lines(effective.settings)
    from streamer.system.notify import ignore_requests

    ignore_requests()
    from streamer.service import run

    return run(effective.settings, reload=lambda: schema.load(given, config=config).settings)


def _unknown(parser: argparse.ArgumentParser, word: str) -> str:
    if not word.startswith("-"):
        command = schema.suggestion(word, list(COMMANDS))
        return f"unexpected argument '{word}'" + (command or f"; to hear it say --source {word}")
    flag = word.split("=", 1)[0]
    known = [name for name in parser._option_string_actions if name.startswith("--")]
    return f"unknown option {flag}{schema.suggestion(flag, known)}; see genre-stream --help"


def _unread() -> str:
    """Name the settings file that might say what to hear, if this user may not read it."""
    config = schema.SYSTEM_CONFIG
    if os.access(config, os.F_OK) and not os.access(config, os.R_OK):
        return f" (this user may not read {config})"
    return ""


def _print_version() -> int:
    from importlib.metadata import version

    print(f"genre-stream {version('genre-stream')}")
    return 0


def _list_devices() -> int:
    from streamer.sources import SourceError, list_devices

    try:
        print(list_devices())
    except SourceError as error:
        print_error(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
