"""genre-stream: the command line of the daemon, which also starts the sub-commands.

Libraries are imported only when they are needed, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from streamer import settings as schema
from streamer.system.commandline import ArgumentParser, UserError, run_program

COMMANDS = {
    "watch": "streamer.commands.watch",
    "history": "streamer.commands.history",
    "scan": "streamer.commands.scan",
    "relay": "streamer.commands.relay",
    "alerts": "streamer.commands.alerts",
    "fleet": "streamer.commands.fleet",
    "install-service": "streamer.commands.install_service",
    "completion": "streamer.commands.completion",
}
"""Sub-command -> its module, which has `build_parser()` and `main(argv) -> int`."""

SERVICES = ("fleet", "relay")
"""Sub-commands that run until they are stopped, which is no failure, however early."""

REQUESTS = {
    "version": "show the version",
    "list_devices": "show the microphones there are",
    "check": "try settings, model, files and port, then stop",
    "print_config": "show every setting and where it was given",
}
"""What the program can do instead of listening, with its help."""

JSON_HELP = "serve nothing; write what clients would get as JSON lines on standard output"
USAGE = "genre-stream (--device DEVICE | --source LOCATION)... [options]"

EXAMPLES = """\
other commands:
  genre-stream watch [URL]       follow a running genre-stream in the terminal
  genre-stream history FILE      plot or export what was heard
  genre-stream scan FOLDER       write the genre of every file, as a table or into its tags
  genre-stream relay --mqtt URL  serve what other genre-streams tell an MQTT broker
  genre-stream alerts            try the rules of the settings by hand or on a history
  genre-stream fleet SOURCES     listen to thousands of streams on the machines of a Ray cluster
  genre-stream install-service   install the systemd unit of this installation
  genre-stream completion SHELL  print completions for bash, zsh or fish

examples:
  genre-stream --source demo
  genre-stream --device mic
  genre-stream --device loopback --history ~/heard.db
  genre-stream --source radio=https://radio.example/live --source hall=rtsp://camera.example/audio
  genre-stream --source song.flac --fast --json

Settings can also be given in /etc/genre-stream/config.toml, ~/.config/genre-stream/config.toml, the
file of --config and the environment (GENRE_STREAM_PORT and so on). Each of these overrides the ones
before it, and the command line overrides all. Where one names devices or sources, those that the
ones before it name are ignored.
Exit status: 0 done, 1 failed while running, 2 wrong usage or settings.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the daemon's options, made from the settings' schema."""
    parser = ArgumentParser(
        prog="genre-stream",
        usage=USAGE,
        description="Tell every WebSocket client which genre of music is playing.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    group = parser.add_argument_group("instead of listening")
    group.add_argument("-h", "--help", action="help", help="show this help")
    for request, help_text in REQUESTS.items():
        group.add_argument(schema.option(request), action="store_true", help=help_text)
    for heading, fields in schema.fields_by_group().items():
        group = parser.add_argument_group(heading)
        for name, field in fields:
            if name in schema.FILE_ONLY:
                continue
            add_option(group, name, field)
        if heading == schema.INPUTS:
            group.add_argument("--json", action="store_true", help=JSON_HELP)
    group = parser.add_argument_group("settings")
    group.add_argument("--config", type=Path, metavar="FILE", help="read this TOML file as well")
    return parser


def add_option(group: argparse._ArgumentGroup, name: str, field: FieldInfo) -> None:
    """Add the option of a setting."""
    text = str(field.description)
    if field.default not in (None, (), {}, False):
        text += f" (default: {field.default})"
    if words := schema.choices(field):
        text += f": {', '.join(words)}"
    options: dict[str, Any] = {"dest": name, "help": text.replace("%", "%%")}
    if field.annotation is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["metavar"] = schema.extra(field, "metavar")
        options["action"] = "append" if schema.is_list(field) else "store"
    group.add_argument(schema.option(name), **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run genre-stream and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_program("genre-stream", lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        if arguments[0] not in SERVICES:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        module = importlib.import_module(COMMANDS[arguments[0]])
        return int(module.main(arguments[1:]))
    parser = build_parser()
    known, unknown = parser.parse_known_args(_with_joined_values(parser, arguments))
    if unknown:
        raise UserError(_unknown_argument(parser, unknown[0]))
    given = vars(known)
    requested = {name for name in (*REQUESTS, "json") if given.pop(name, False)}
    config = given.pop("config", None)
    if "version" in requested:
        from importlib.metadata import version

        print(f"genre-stream {version('genre-stream')}")
        return 0
    if "list_devices" in requested:
        return _list_devices()
    effective = schema.load(given, config=config)
    settings = effective.settings
    if "print_config" in requested:
        from streamer.commands.config_text import describe

        print(describe(effective), end="")
        return 0
    if not settings.device and not settings.source:
        unreadable = schema.unreadable_config()
        hint = f" (this user may not read {unreadable})" if unreadable else ""
        raise UserError(f"nothing to hear; usage: {USAGE}{hint}")
    if "check" in requested:
        from streamer.commands.check import check

        return check(settings)
    if "json" in requested:
        from streamer.commands.json_lines import write_json_lines

        return write_json_lines(settings)
    from streamer.system.notify import ignore_requests

    # From here on, SIGHUP and SIGUSR1 must not end the process.
    ignore_requests()
    from streamer.service import run

    return run(settings, reload=lambda: schema.load(given, config=config).settings)


def _with_joined_values(parser: argparse.ArgumentParser, arguments: list[str]) -> list[str]:
    """Return arguments in which `--source -dash.flac` is `--source=-dash.flac`.

    argparse takes every value that begins with a dash for an option.
    """
    options = parser._option_string_actions
    joined: list[str] = []
    for argument in arguments:
        before = options.get(joined[-1]) if joined else None
        is_option = argument.partition("=")[0] in options
        is_value = argument[:2] != "--" or Path(argument).exists()
        takes_value = before is not None and before.nargs is None
        if takes_value and len(argument) > 1 and argument[0] == "-" and is_value and not is_option:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _unknown_argument(parser: argparse.ArgumentParser, argument: str) -> str:
    if not argument.startswith("-"):
        hint = schema.suggestion(argument, COMMANDS) or f"; to hear it say --source {argument}"
        return f"unexpected argument '{argument}'{hint}"
    flag = argument.split("=", 1)[0]
    # Without the dashes, which make any two short options similar.
    known = [name[2:] for name in parser._option_string_actions if name.startswith("--")]
    hint = schema.suggestion(flag.lstrip("-"), known, "--")
    return f"unknown option {flag}{hint}; see genre-stream --help"


def _list_devices() -> int:
    from streamer.sources import SourceError, list_devices

    try:
        print(list_devices())
    except SourceError as error:
        raise UserError(str(error)) from None
    return 0
