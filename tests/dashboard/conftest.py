"""One browser for all tests of the page; every test must leave it without a complaint."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.browser import Broadcast, Page, broadcast, chromium, why_no_browser, why_no_npm


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if reason := why_no_browser():
        pytest.skip(reason)
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def serve() -> Iterator[Callable[..., Broadcast]]:
    """Return `broadcast`; what it starts is closed after the page has gone."""
    running: list[Broadcast] = []

    def start(*sources: str, **settings: Any) -> Broadcast:
        running.append(broadcast(*sources, **settings))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def page(browser: Page, serve: Callable[..., Broadcast]) -> Iterator[Page]:
    """Return the page; at the end it must have moved, forbidden and complained of nothing."""
    browser.view()
    browser.complaints()
    yield browser
    shifts, violations, complaints = browser.shifts(), browser.violations(), browser.complaints()
    browser.driver.get("about:blank")
    assert sum(shift["value"] for shift in shifts) < 0.001, shifts
    assert violations == []
    assert complaints == []


@pytest.fixture
def radio(serve: Callable[..., Broadcast]) -> Broadcast:
    """Return a daemon with one made-up source, `radio`."""
    return serve("radio")


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the source text of axe-core, the accessibility checker."""
    if reason := why_no_npm():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("axe")
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]
    done = subprocess.run(
        [*install, str(folder), "axe-core@4"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"npm cannot install axe-core: {done.stderr.strip().splitlines()[-1:]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
