"""The table of a benchmark on screen, and the same rows as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Report:
    """Prints rows as they are added; `write` writes all of them to a file, if there is one."""

    def __init__(self, name: str, path: Path | None = None) -> None:
        self._name = name
        self._path = path
        self.rows: list[dict[str, Any]] = []
        self._columns: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Print a row, after its heading if its columns are others than before."""
        if list(row) != self._columns:
            self._columns = list(row)
            print("  ".join(f"{column:>{self._width(column)}}" for column in row), flush=True)
        cells = (f"{_text(value):>{self._width(column)}}" for column, value in row.items())
        print("  ".join(cells), flush=True)
        self.rows.append(dict(row))

    def write(self) -> None:
        """Write what was measured, and on what."""
        if self._path is None:
            return
        content = {
            "benchmark": self._name,
            "machine": platform.machine(),
            "processors": len(os.sched_getaffinity(0)),
            "rows": self.rows,
        }
        self._path.write_text(json.dumps(content, indent=1) + "\n")

    @staticmethod
    def _width(column: str) -> int:
        return max(12, len(column))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
    return str(value)
