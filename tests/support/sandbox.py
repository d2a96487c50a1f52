"""The restrictions of the service unit, applied with bubblewrap and seccomp instead of systemd."""

from __future__ import annotations

import ctypes
import errno
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
UNIT = REPOSITORY / "systemd" / "genre-stream.service"

ALLOW = 0x7FFF0000
DENY = 0x00050000 | errno.EPERM
NO_SUCH_CALL = 0x00050000 | errno.ENOSYS
"""Actions of libseccomp: SCMP_ACT_ALLOW and SCMP_ACT_ERRNO."""
EQUAL, MASKED_EQUAL = 4, 7
"""Comparisons of libseccomp: SCMP_CMP_EQ and SCMP_CMP_MASKED_EQ."""
NEW_NAMESPACES = 0x7E020000
"""All CLONE_NEW* flags of clone(2)."""

RESTRICTED = {"socket", "clone", "clone3", "unshare", "setns"}
"""System calls that are allowed with some arguments only."""


def settings(name: str, unit: Path = UNIT) -> list[str]:
    """Return all values of a setting of a unit, in order."""
    lines = unit.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def write_seccomp_filter(path: Path) -> None:
    """Write the unit's system call filter as a BPF program for bubblewrap."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(DENY)))

    def rule(call: str, action: int, *comparisons: _Comparison) -> None:
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        conditions = (_Comparison * len(comparisons))(*comparisons)
        failed = library.seccomp_rule_add_array(
            context, ctypes.c_uint32(action), number, len(comparisons), conditions
        )
        assert failed == 0, (call, failed)

    for call in sorted(allowed_calls() - RESTRICTED):
        rule(call, ALLOW)
    for family in settings("RestrictAddressFamilies")[0].split():
        rule("socket", ALLOW, _Comparison(0, EQUAL, getattr(socket, family), 0))
    assert settings("RestrictNamespaces") == ["yes"]
    for call in ("clone", "unshare"):
        rule(call, ALLOW, _Comparison(0, MASKED_EQUAL, NEW_NAMESPACES, 0))
    rule("clone3", NO_SUCH_CALL)
    with path.open("wb") as file:
        assert library.seccomp_export_bpf(context, file.fileno()) == 0
    library.seccomp_release(context)


def allowed_calls() -> set[str]:
    """Return the system calls that the unit allows."""
    calls: set[str] = set()
    for line in settings("SystemCallFilter"):
        groups = line.removeprefix("~").split()
        named = set().union(*(_members(group) for group in groups))
        calls = calls - named if line.startswith("~") else calls | named
    return calls


def _members(group: str) -> set[str]:
    """Return the system calls of a group of systemd, including nested groups, or the one named."""
    if not group.startswith("@"):
        return {group}
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
    ).stdout
    members: set[str] = set()
    for word in (line.strip() for line in text.splitlines()[1:]):
        if word.startswith("@"):
            members |= _members(word)
        elif word and not word.startswith("#"):
            members.add(word)
    return members


def sandboxed(folder: Path, command: Iterable[str], *, seccomp: int) -> list[str]:
    """Return a command line that runs a command with the unit's restrictions.

    Parameters
    ----------
    folder
        The only folder of files that the command sees; it can write to its subfolder ``state``.
    command
        What to run.
    seccomp
        File descriptor of the filter written by `write_seccomp_filter`.
    """
    hidden = ("/root", "/home", "/run/user", "/tmp", "/var/tmp")
    hidden_mounts = [part for path in hidden if Path(path).is_dir() for part in ("--tmpfs", path)]
    visible = {Path(sys.base_prefix), Path(sys.prefix), REPOSITORY, folder}
    visible_mounts = [
        part
        for path in sorted(visible)
        if str(path).startswith(hidden)
        for part in ("--ro-bind", str(path), str(path))
    ]
    state = str(folder / "state")
    return [
        "bwrap",
        *("--ro-bind", "/", "/"),
        *("--dev", "/dev"),
        *("--proc", "/proc"),
        *hidden_mounts,
        *visible_mounts,
        *("--bind", state, state),
        *("--unshare-user", "--uid", "12345", "--gid", "12345"),
        *("--unshare-ipc", "--unshare-uts", "--unshare-cgroup"),
        *("--cap-drop", "ALL", "--new-session", "--die-with-parent"),
        *("--seccomp", str(seccomp)),
        *command,
    ]
