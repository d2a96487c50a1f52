"""One browser for all tests of the dashboard; no test may cause console errors in it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.browser import Broadcast, Page, broadcast, chromium, missing_browser, missing_npm
from support.patience import be_patient

be_patient()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if reason := missing_browser():
        pytest.skip(reason)
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def serve() -> Iterator[Callable[..., Broadcast]]:
    """Return `broadcast`; its servers are closed after the test."""
    running: list[Broadcast] = []

    def start(*sources: str, **settings: Any) -> Broadcast:
        running.append(broadcast(*sources, **settings))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def page(browser: Page, serve: Callable[..., Broadcast]) -> Iterator[Page]:
    """Return the page; fail after the test on layout shifts, policy violations and errors."""
    browser.view()
    browser.expected_errors = ()
    browser.console_errors()
    yield browser
    shifts, violations, errors = browser.shifts(), browser.violations(), browser.console_errors()
    browser.driver.get("about:blank")
    assert sum(shift["value"] for shift in shifts) < 0.001, shifts
    assert violations == []
    assert errors == []


@pytest.fixture
def radio(serve: Callable[..., Broadcast]) -> Broadcast:
    """Return a server with one source, `radio`."""
    return serve("radio")


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the source text of axe-core, the accessibility checker."""
    if reason := missing_npm():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("axe")
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]
    done = subprocess.run(
        [*install, str(folder), "axe-core@4"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"npm cannot install axe-core: {done.stderr.strip().splitlines()[-1:]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
