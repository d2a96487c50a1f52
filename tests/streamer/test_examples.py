"""Run the examples in the docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import streamer

MODULES = [
    "streamer",
    *(module.name for module in pkgutil.walk_packages(streamer.__path__, "streamer.")),
]
WITH_MODEL = {"streamer", "streamer.core.pipeline", "streamer.engine.replay"}
"""Their examples use the embedded model."""


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, request: pytest.FixtureRequest) -> None:
    if name in WITH_MODEL:
        request.getfixturevalue("gtzan_model")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
