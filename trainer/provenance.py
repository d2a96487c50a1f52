"""Where a run comes from: command line, versions and commit."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """Return `command`, `versions` and `git` of a run that is made now, as `Run` takes them."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": _versions(),
        "git": _git_commit(),
    }


def _versions() -> dict[str, str]:
    import keras

    versions = {"python": platform.python_version(), "backend": keras.backend.backend()}
    for package in ("genre-stream", "keras", "numpy", "tensorflow", "torch", "jax"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_commit() -> str | None:
    """Return the commit of the code, None where it is no git checkout."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
