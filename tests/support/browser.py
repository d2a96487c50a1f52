"""A headless Chromium, and a server that publishes what a test wants."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from streamer.core.colours import colours
from streamer.core.events import Published
from streamer.sinks.history.writer import History
from streamer.sinks.websocket.server import Server
from support.published import LABELS, PlacingHub, hello
from support.waiting import LONGEST_WAIT_SECONDS

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
OBSERVERS = """
window.shifts = [];
window.violations = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push({
    value: entry.value,
    moved: entry.sources.map((source) => source.node?.className ?? source.node?.nodeName),
  });
}).observe({ type: "layout-shift", buffered: true });
addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(event.violatedDirective);
});
"""
"""Runs in every page before its own scripts; records layout shifts and policy violations."""

REFUSED = ("401", "Authentication")
"""Parts of the console's errors about requests without the right token."""
CONNECTION_LOST = ("ERR_CONNECTION_REFUSED",)
"""Parts of its errors while the server is gone."""
Value = TypeVar("Value")


def wait_for(condition: Callable[[], Value], what: str) -> Value:
    """Call `condition` until its result is true; return the result."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)
    return found


class Page:
    """The only page of a browser."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self.expected_errors: tuple[str, ...] = ()
        """Parts of the messages that `console_errors` leaves out. A page that is refused goes on
        trying, so its errors come at any time."""

    def view(
        self,
        width: int = 1280,
        height: int = 900,
        *,
        scale: float = 1,
        dark: bool = False,
        reduced_motion: bool = True,
    ) -> None:
        """Set the screen (`scale`: pixels per CSS pixel) and the user's preferences."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {
                "width": width,
                "height": height,
                "deviceScaleFactor": scale,
                "mobile": width < 600,
            },
        )
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if reduced_motion else "no-preference",
        }
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": name, "value": value} for name, value in features.items()]},
        )

    def open(self, url: str) -> None:
        """Load a page without state of an earlier one."""
        self.driver.get("about:blank")
        self.driver.get(url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function in the page."""
        return self.driver.execute_script(script, *arguments)

    def until(self, expression: str, *arguments: Any) -> Any:
        """Wait until an expression is true in the page; return its value."""
        return wait_for(
            lambda: self.run(f"return {expression}", *arguments),
            f"{expression}; the page says {self.run('return document.body.innerText')!r}",
        )

    def until_text(self, identifier: str, text: str) -> None:
        """Wait until the element with this id has this text."""
        self.until(
            "document.getElementById(arguments[0]).textContent === arguments[1]", identifier, text
        )

    def text(self, identifier: str) -> str:
        """Return the text of the element with this id."""
        return str(self.run("return document.getElementById(arguments[0]).textContent", identifier))

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that a CSS selector finds."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)",
            selector,
        )
        return found

    def pixel(self, identifier: str, from_right: float, y: float) -> list[int]:
        """Return red, green and blue of a canvas' pixel, `y` as a share of its height."""
        colour: list[int] = self.run(
            """const canvas = document.getElementById(arguments[0]);
            const [x, y] = [canvas.width - arguments[1], Math.floor(canvas.height * arguments[2])];
            const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
            copy.drawImage(canvas, x, y, 1, 1, 0, 0, 1, 1);
            return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);""",
            identifier,
            from_right,
            y,
        )
        return colour

    def console_errors(self) -> list[str]:
        """Return the warnings and errors that the console got since the last call."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")  # type: ignore[no-untyped-call]
            if entry["level"] in ("WARNING", "SEVERE")
            and not any(part in entry["message"] for part in self.expected_errors)
        ]

    def shifts(self) -> list[dict[str, Any]]:
        """Return the layout shifts since the page was opened."""
        shifts: list[dict[str, Any]] = self.run("return window.shifts ?? []")
        return shifts

    def violations(self) -> list[str]:
        """Return what was blocked by the security policy since the page was opened."""
        violations: list[str] = self.run("return window.violations ?? []")
        return violations


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Run a browser with a fresh profile for as long as the context lasts."""
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(str(DRIVER)))
    try:
        driver.set_script_timeout(LONGEST_WAIT_SECONDS)
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": OBSERVERS})
        yield Page(driver)
    finally:
        driver.quit()


def missing_browser() -> str | None:
    """Return what is missing for `chromium`, None when nothing is."""
    missing = [str(program) for program in (CHROMIUM, DRIVER) if not program.exists()]
    return f"needs {' and '.join(missing)}" if missing else None


def missing_npm() -> str | None:
    """Return what is missing to install packages of npm, None when nothing is."""
    return None if shutil.which("npm") else "needs npm"


class Broadcast:
    """A hub and server in a thread, which publish what a test passes in."""

    def __init__(self, greeting: Mapping[str, Any], history: Path | None, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._history = None if history is None else History(history)
        self.hub = PlacingHub(greeting, [] if self._history is None else [self._history])
        self._server = Server(self.hub, history=self._history and self._history.read, **settings)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._on_loop(self._server.start())
        self.url = self._server.url
        """Address of the dashboard."""
        self.port = self._server.addresses[0][1]
        """Port of the server."""

    def publish(self, *events: Published) -> None:
        """Publish events to every client that is connected."""

        async def tell() -> None:
            for event in events:
                self.hub.publish(event)

        self._on_loop(tell())

    def spectrogram_sources(self) -> list[str]:
        """Return the sources whose spectrogram clients subscribe to, once per client."""

        async def read() -> list[str]:
            return [
                name
                for outbox in self.hub.outboxes
                if "spectrogram" in outbox.subscription.messages
                for name in sorted(outbox.subscription.sources or ["*"])
            ]

        names: list[str] = self._on_loop(read())
        return names

    def followed(self) -> set[str] | None:
        """Return the sources of which the only client is sent predictions, None for all."""

        async def read() -> frozenset[str] | None:
            (outbox,) = self.hub.outboxes
            return outbox.subscription.predictions_of

        names: frozenset[str] | None = self._on_loop(read())
        return None if names is None else set(names)

    def close(self) -> None:
        """Stop as the daemon does; a second call does nothing."""
        if self._loop.is_closed():
            return
        self._on_loop(self._server.close())
        if self._history is not None:
            self._history.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONGEST_WAIT_SECONDS)
        self._loop.close()

    def _on_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LONGEST_WAIT_SECONDS)


def broadcast(
    *sources: str,
    labels: tuple[str, ...] = LABELS,
    port: int = 0,
    history: Path | None = None,
    **settings: Any,
) -> Broadcast:
    """Start a server for a model with these labels; the caller closes it."""
    greeting = hello(*(sources or ("radio",)))
    greeting |= {"labels": list(labels), "colours": colours(labels)}
    return Broadcast(greeting, history, port=port, **settings)
