"""Where a run comes from: command line, versions and commit."""

from __future__ import annotations

import contextlib
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """Return `command`, `versions` and `git` of a run that is made now, as `Run` takes them."""
    import keras

    versions = {"python": platform.python_version(), "backend": keras.backend.backend()}
    for package in ("genre-stream", "keras", "numpy", "tensorflow", "torch", "jax"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "versions": versions, "git": _git_commit()}


def _git_commit() -> str | None:
    """Return the commit of the code; None where it is no git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
