"""genre-stream install-service: write the systemd units for this installation."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from streamer.system.commandline import ArgumentParser, UserError

PROGRAM = "/opt/genre-stream/bin/genre-stream"
"""Path of the program in the shipped units, which is replaced by the path of this installation."""

SYSTEM_FILES = {
    "genre-stream.service": "etc/systemd/system/genre-stream.service",
    "genre-stream@.service": "etc/systemd/system/genre-stream@.service",
    "genre-stream.socket": "etc/systemd/system/genre-stream.socket",
    "sysusers.conf": "etc/sysusers.d/genre-stream.conf",
}
USER_FILES = {"user/genre-stream.service": ".config/systemd/user/genre-stream.service"}
"""Shipped file -> its path below the root folder, or below the home folder."""

SYSTEM_CONFIG = "etc/genre-stream/config.toml"
USER_CONFIG = ".config/genre-stream/config.toml"
"""Path of the settings file below the same folders."""

GROWING_DELAY = """\
# systemd 254 and later can wait longer after each failure.
[Service]
RestartSteps=6
RestartMaxDelaySec=5min
"""
GROWING_DELAY_SINCE = 254

HOME_FOLDERS = ("/home", "/root")
"""Hidden from the system's units by ProtectHome=."""
TEMPORARY_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run/user")
"""Emptied when the system starts, and hidden from the system's units by PrivateTmp= and others."""


class InstallError(UserError):
    """The units cannot be installed."""

    exit_status = 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-command's options."""
    parser = ArgumentParser(
        prog="genre-stream install-service",
        description="Install the systemd units of this installation.",
    )
    user_help = "for this user only, where PipeWire is the user's"
    parser.add_argument("--user", action="store_true", help=user_help)
    parser.add_argument("--print", action="store_true", help="print the files, install nothing")
    root_help = "install below this folder, and leave systemd alone"
    parser.add_argument("--root", type=Path, metavar="DIR", help=root_help)
    return parser


def main(argv: Sequence[str]) -> int:
    """Install or print the units; return the exit status."""
    arguments = build_parser().parse_args(argv)
    program = this_program()
    if arguments.root is None:
        _check_can_run(program, user=arguments.user)
    files = unit_files(program, user=arguments.user, systemd_version=systemd_version())
    if arguments.print:
        for path, text in files.items():
            print(f"# {path}\n{text}")
        return 0
    folder = arguments.root or (Path.home() if arguments.user else Path("/"))
    _write(files, folder)
    config = USER_CONFIG if arguments.user else SYSTEM_CONFIG
    if (folder / config).exists():
        print(f"kept {folder / config}")
    else:
        _write({config: shipped("config.toml")}, folder)
    systemctl = "systemctl --user" if arguments.user else "systemctl"
    if arguments.root is None:
        if not arguments.user:
            _run("systemd-sysusers")
        _run(f"{systemctl} daemon-reload")
        if not arguments.user:
            _restrict_config()
    home = "~" if arguments.user else ""
    print(f"now say in {home}/{config} what to hear, then: {systemctl} enable --now genre-stream")
    return 0


def this_program() -> Path:
    """Return the path of this installation's genre-stream command, or raise `InstallError`."""
    beside_python = Path(sys.executable).parent / "genre-stream"
    found = beside_python if beside_python.is_file() else shutil.which("genre-stream")
    if found is None:
        raise InstallError("the command genre-stream is not installed; install it with pip or pipx")
    return Path(found).absolute()


def _check_can_run(program: Path, *, user: bool) -> None:
    """Raise `InstallError` if a service cannot run the program, or its Python."""
    real = program.resolve()
    for path in (program, real, (real.parent / "python").resolve()):
        if any(path.is_relative_to(folder) for folder in TEMPORARY_FOLDERS):
            raise InstallError(
                f"{path} is in a temporary folder, which is emptied when the system starts; "
                "install into /opt/genre-stream"
            )
        if not any(path.is_relative_to(folder) for folder in HOME_FOLDERS):
            continue
        if not user:
            raise InstallError(
                f"{path} is in a home folder, which the service must not see; "
                "install into /opt/genre-stream, or use --user"
            )
        if not path.is_relative_to(Path.home()):
            raise InstallError(
                f"{path} is in the home folder of another user, who may hide or remove it; "
                "install with a Python of the system or of this user"
            )


def systemd_version() -> int:
    """Return the major version of systemd, or 0 if it is not installed."""
    try:
        text = subprocess.run(["systemctl", "--version"], capture_output=True, text=True).stdout
    except OSError:
        return 0
    match = re.match(r"systemd (\d+)", text)
    return int(match[1]) if match else 0


def shipped(name: str) -> str:
    """Return the text of a file in this repository's systemd folder, which ships in the package."""
    return resources.files("streamer.systemd").joinpath(name).read_text(encoding="utf-8")


def unit_files(program: Path, *, user: bool, systemd_version: int) -> dict[str, str]:
    """Return the path below the target folder and the text of each file to install."""
    names = USER_FILES if user else SYSTEM_FILES
    command = as_command(program)
    files = {path: shipped(name).replace(PROGRAM, command) for name, path in names.items()}
    if systemd_version >= GROWING_DELAY_SINCE:
        services = [path for path in files if path.endswith(".service")]
        files |= {f"{path}.d/growing-delay.conf": GROWING_DELAY for path in services}
    return files


def as_command(program: Path) -> str:
    """Quote a path for ExecStart=, as systemd.service(5) requires, or raise `InstallError`."""
    path = str(program)
    if not path.isprintable() or set(path) & set("\"'\\"):
        raise InstallError(
            f"{path!a} has characters that a unit cannot name; install into /opt/genre-stream"
        )
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if " " in path else escaped


def _write(files: Mapping[str, str], folder: Path) -> None:
    for name, text in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InstallError(
                f"cannot write {path}: {error.strerror}; run it with sudo, or use --user"
            ) from None
        print(f"wrote {path}")


def _run(command: str) -> None:
    words = command.split()
    if shutil.which(words[0]) is None or subprocess.run(words).returncode:
        print(f"failed: {command}", file=sys.stderr)


def _restrict_config() -> None:
    """Let only the service read its settings, since an address may contain a password."""
    config = Path("/", SYSTEM_CONFIG)
    try:
        shutil.chown(config, group="genre-stream")
        config.chmod(0o640)
    except (LookupError, OSError) as error:
        print(f"cannot restrict {config} to the group genre-stream: {error}", file=sys.stderr)
