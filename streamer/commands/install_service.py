"""`genre-stream install-service`: the systemd units, written for the installation at hand."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from streamer.commands.run import Parser
from streamer.system.console import print_error

PROGRAM = "/opt/genre-stream/bin/genre-stream"
"""The program as the shipped units name it."""

SYSTEM_FILES = {
    "genre-stream.service": "etc/systemd/system/genre-stream.service",
    "genre-stream@.service": "etc/systemd/system/genre-stream@.service",
    "genre-stream.socket": "etc/systemd/system/genre-stream.socket",
    "sysusers.conf": "etc/sysusers.d/genre-stream.conf",
}
USER_FILES = {"user/genre-stream.service": ".config/systemd/user/genre-stream.service"}
"""Shipped file -> where it belongs, below the root folder or below the home folder."""

SYSTEM_CONFIG = "etc/genre-stream/config.toml"
USER_CONFIG = ".config/genre-stream/config.toml"
"""Where the settings belong, below the same folders."""

GROWING_DELAY = """\
# systemd 254 and later can wait longer after each failure.
[Service]
RestartSteps=6
RestartMaxDelaySec=5min
"""
GROWING_DELAY_SINCE = 254

HOMES = ("/home", "/root", "/run/user")
"""What a unit with ProtectHome= cannot see."""


class InstallError(Exception):
    """The units cannot be installed; one sentence that says why and what to do."""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of this sub-command."""
    parser = Parser(
        prog="genre-stream install-service",
        description="Install the systemd units of this installation.",
    )
    parser.add_argument(
        "--user", action="store_true", help="for this user only, where PipeWire is the user's"
    )
    parser.add_argument("--print", action="store_true", help="print the files, install nothing")
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="install below this folder, and leave systemd alone",
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Install or print the units; return the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        program = this_program()
        if not arguments.user and program.is_relative_to("/") and str(program).startswith(HOMES):
            raise InstallError(
                f"{program} is in a home folder, which the service must not see; "
                "install into /opt/genre-stream, or use --user"
            )
        files = unit_files(program, user=arguments.user, systemd_version=systemd_version())
        if arguments.print:
            for where, text in files.items():
                print(f"# {where}\n{text}")
            return 0
        below = arguments.root or (Path.home() if arguments.user else Path("/"))
        _write(files, below)
        _write_config(USER_CONFIG if arguments.user else SYSTEM_CONFIG, below)
        _finish(arguments.user, staged=arguments.root is not None)
    except InstallError as error:
        print_error(str(error))
        return 1
    return 0


def this_program() -> Path:
    """Return the path of the command that this installation has.

    Raises
    ------
    InstallError
        If there is none.
    """
    beside_python = Path(sys.executable).parent / "genre-stream"
    found = beside_python if beside_python.is_file() else shutil.which("genre-stream")
    if found is None:
        raise InstallError("the command genre-stream is not installed; install it with pip or pipx")
    return Path(found).absolute()


def systemd_version() -> int:
    """Return the version of systemd, 0 where there is none."""
    try:
        text = subprocess.run(["systemctl", "--version"], capture_output=True, text=True).stdout
    except OSError:
        return 0
    match = re.match(r"systemd (\d+)", text)
    return int(match[1]) if match else 0


def shipped(name: str) -> str:
    """Return the text of a file that ships with the package."""
    return resources.files("streamer.systemd").joinpath(name).read_text(encoding="utf-8")


def unit_files(program: Path, *, user: bool, systemd_version: int) -> dict[str, str]:
    """Return the files to install: where each belongs, and its text."""
    names = USER_FILES if user else SYSTEM_FILES
    command = as_command(program)
    files = {where: shipped(name).replace(PROGRAM, command) for name, where in names.items()}
    if systemd_version >= GROWING_DELAY_SINCE:
        for where in list(files):
            if where.endswith(".service"):
                files[f"{where}.d/growing-delay.conf"] = GROWING_DELAY
    return files


def as_command(program: Path) -> str:
    """Write a path as the first word of ExecStart= in systemd.service(5).

    Raises
    ------
    InstallError
        If a unit cannot name it.
    """
    path = str(program)
    if not path.isprintable() or set(path) & set("\"'\\"):
        raise InstallError(
            f"{path!a} has characters that a unit cannot name; install into /opt/genre-stream"
        )
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if " " in path else escaped


def _write(files: Mapping[str, str], below: Path) -> None:
    for where, text in files.items():
        path = below / where
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InstallError(
                f"cannot write {path}: {error.strerror}; run it with sudo, or use --user"
            ) from None
        print(f"wrote {path}")


def _write_config(where: str, below: Path) -> None:
    """Write the sample settings, unless there are settings already."""
    path = below / where
    if path.exists():
        print(f"kept {path}")
    else:
        _write({where: shipped("config.toml")}, below)


def _finish(user: bool, *, staged: bool) -> None:
    """Make systemd know the new files, and say what is left to do."""
    systemctl = ["systemctl", "--user"] if user else ["systemctl"]
    if not staged:
        commands = [[*systemctl, "daemon-reload"]]
        if not user:
            commands.insert(0, ["systemd-sysusers"])
        for command in commands:
            if shutil.which(command[0]) is None or subprocess.run(command).returncode:
                print(f"failed: {' '.join(command)}", file=sys.stderr)
        if not user:
            _guard_config()
    config = f"~/{USER_CONFIG}" if user else f"/{SYSTEM_CONFIG}"
    print(
        f"now say in {config} what to hear, then: {' '.join(systemctl)} enable --now genre-stream"
    )


def _guard_config() -> None:
    """Let only the service read the settings: an address may hold a password."""
    config = Path("/", SYSTEM_CONFIG)
    try:
        shutil.chown(config, group="genre-stream")
        config.chmod(0o640)
    except (LookupError, OSError) as error:
        print(f"cannot restrict {config} to the group genre-stream: {error}", file=sys.stderr)
