"""The rules of the code that a program can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"

LONGEST_MODULE = 500
"""Lines."""

MOST_METHODS = 15
"""Methods of a class, unless its docstring says why it has many."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

CHECKS = {
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "ruff check": ["-m", "ruff", "check", "."],
    "mypy": ["-m", "mypy", "--strict", "streamer", "trainer", "export"],
    "lint-imports": ["-c", LINT_IMPORTS, "--no-cache"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_code_passes(check: str) -> None:
    done = subprocess.run(
        [sys.executable, *CHECKS[check]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_is_longer_than_500_lines() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for package in ("streamer", "trainer", "export")
        for path in ROOT.glob(f"{package}/**/*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_MODULE} == {}


def test_no_class_has_more_than_15_methods_unless_it_says_why() -> None:
    large = {
        f"{path.relative_to(ROOT)}: {each.name}": len(methods)
        for package in ("streamer", "trainer", "export")
        for path in ROOT.glob(f"{package}/**/*.py")
        for each in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(each, ast.ClassDef)
        # A property and its setter are one.
        and len(methods := {f.name for f in each.body if isinstance(f, FUNCTIONS)}) > MOST_METHODS
        and "many methods" not in (ast.get_docstring(each) or "")
    }
    assert large == {}


def test_no_two_test_modules_have_the_same_name() -> None:
    # pytest imports each by its name alone and cannot collect the second one.
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_relative_link_of_the_documents_exists() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    documents = [ROOT / line for line in listed.stdout.splitlines()] or [ROOT / "README.md"]
    links = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text("utf-8"))
        if "://" not in link
    ]
    assert links
    assert [(d.name, link) for d, link in links if not (d.parent / link).exists()] == []


def test_the_readme_tells_of_each_response_what_the_model_card_does() -> None:
    rows: dict[str, list[str]] = {}
    for name in ("README.md", "streamer/models/README.md"):
        for line in (ROOT / name).read_text("utf-8").splitlines():
            title, *cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
            rows.setdefault(title, cells)
    rounding = {
        "music for which a genre is claimed": 0.51,
        "claims that are right": 0.51,
        "right label after a change, median and 95th percentile": 0.01,
        "label changes a minute inside tracks": 0.051,
    }
    for column, response in enumerate(("calm", "normal", "fast")):
        for cell, (title, most) in zip(rows[response][1:], rounding.items(), strict=True):
            told, measured = (
                float(re.findall(r"[\d.]+", text)[0]) for text in (cell, rows[title][column])
            )
            assert abs(told - measured) <= most, (response, title)
