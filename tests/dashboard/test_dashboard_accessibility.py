"""Accessibility, checked by axe-core, by contrast ratios and with the keyboard."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from selenium.webdriver.common.keys import Keys
from support.browser import REFUSED, Broadcast, Page
from support.published import LABELS, prediction, segment, source_state, spectrogram

from streamer.core.colours import colours

DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Perceived colours in linear RGB (G. M. Machado, M. M. Oliveira, L. Fernandes, 2009)."""


def linear(colour: str) -> NDArray[np.float64]:
    """Return `#rrggbb` as linear RGB, 0 to 1."""
    values = np.frombuffer(bytes.fromhex(colour.removeprefix("#")), np.uint8) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert linear RGB to Oklab (B. Ottosson, 2020), which is perceptually uniform."""
    cones = np.cbrt(
        np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        )
        @ np.clip(rgb, 0, 1)
    )
    lab: NDArray[np.float64] = (
        np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        )
        @ cones
    )
    return lab


def busy(page: Page, running: Broadcast) -> None:
    """Fill every section of the page."""
    page.open(running.url)
    page.until("document.getElementById('connection').textContent === 'Connected'")
    running.publish(
        prediction(25),
        segment(1, end=10.0, final=True),
        segment(2, end=20.0, state="not_music", genre=None, final=True),
        segment(3),
        prediction(1, "hall", state="uncertain", genre=None),
        source_state("failed", "cellar", "404 Not Found"),
        spectrogram(1),
        spectrogram(2),
    )
    page.until("document.querySelectorAll('#heard tr').length === 3")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_violation_of_level_a_or_aa(
    page: Page, serve: Callable[..., Broadcast], axe: str, width: int, scheme: str
) -> None:
    page.view(width, dark=scheme == "dark")
    busy(page, serve("radio", "hall", "cellar"))
    page.run(axe)
    for chosen in ("radio", "hall", "cellar"):
        page.run("document.querySelector(`.source input[value=${arguments[0]}]`).click()", chosen)
        page.until_text("now-source", chosen)
        found: dict[str, Any] = page.driver.execute_async_script(
            """const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa"];
            axe.run({ runOnly: tags }).then(arguments[0]);"""
        )
        assert len(found["passes"]) > 10
        assert [
            (fault["id"], [node["html"] for node in fault["nodes"]])
            for fault in found["violations"]
        ] == []


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_label_colours_are_distinct_for_colour_blind_users(deficiency: str) -> None:
    seen = {
        label: oklab(np.array(DEFICIENCIES[deficiency]) @ linear(colour))
        for label, colour in colours(LABELS).items()
    }
    distances = {
        (one, other): float(np.linalg.norm(seen[one] - seen[other]))
        for one, other in combinations(seen, 2)
    }
    closest = min(distances, key=distances.__getitem__)
    # Three times the just noticeable difference in Oklab, about 0.02.
    assert distances[closest] >= 0.06, closest


def test_at_most_one_label_is_grey() -> None:
    chroma = {
        label: float(np.hypot(*oklab(linear(colour))[1:]))
        for label, colour in colours(LABELS).items()
    }
    assert [label for label, value in chroma.items() if value < 0.03] == ["metal"]


def test_text_on_the_colour_of_any_label_is_readable(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    page.run(
        """import(new URL("palette.js", location)).then(({ paintsOf, contrast }) => {
          window.ratios = [...paintsOf(arguments[0]).values()]
            .map(({ colour, ink }) => contrast(colour, ink));
        });""",
        colours(LABELS),
    )
    assert min(page.until("window.ratios")) >= 4.5


def test_the_tab_key_reaches_everything_in_page_order(
    page: Page, serve: Callable[..., Broadcast]
) -> None:
    busy(page, serve("radio", "hall"))
    reached = []
    for _ in range(4):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(
            page.run(
                """const { name, className } = document.activeElement;
                return name || className;"""
            )
        )
    assert reached == ["source", "genre-scroll", "range", "heard-scroll"]
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") not in (
        "none",
        "",
    )


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920, 3840])
def test_the_page_fits_screens_from_a_phone_to_a_wall_display(
    page: Page, serve: Callable[..., Broadcast], width: int
) -> None:
    page.view(width, 900 if width == 1280 else width * 9 // 16 if width > 1280 else 844)
    busy(page, serve("radio", "hall", "cellar"))
    assert page.run("return document.documentElement.scrollWidth") <= width
    name = "document.getElementById('now-genre')"
    assert page.run(f"return {name}.scrollWidth <= {name}.clientWidth")
    if width >= 1280:
        assert page.run("return document.documentElement.scrollHeight <= innerHeight")


def test_all_text_is_readable_on_the_smallest_phone(
    page: Page, serve: Callable[..., Broadcast]
) -> None:
    page.view(320, 640)
    busy(page, serve("radio", "hall"))
    page.until("document.getElementById('spectrogram-hint').textContent")
    assert (
        page.run(
            """const found = [...document.querySelectorAll(".wordmark, .hint")];
        return found.filter((words) => {
          const { lineHeight } = getComputedStyle(words);
          const lines = words.clientHeight / parseFloat(lineHeight);
          return words.scrollWidth > words.clientWidth || lines > 1.5;
        }).map((words) => words.textContent);"""
        )
        == []
    )


def test_the_reason_of_a_failed_source_is_readable_on_the_smallest_phone(
    page: Page, serve: Callable[..., Broadcast]
) -> None:
    detail = "cannot read https://radio.example/live: 503 Service Unavailable; next attempt in 44 s"
    running = serve("radio", token="sesame")
    page.view(320, 640)
    page.open(f"{running.url}?token=sesame")
    page.until_text("connection", "Connected")
    whole = """const { scrollHeight, clientHeight, scrollWidth, clientWidth } =
      document.getElementById("now-remark");
    return scrollHeight <= clientHeight && scrollWidth <= clientWidth;"""
    running.publish(source_state("reconnecting", "radio", detail))
    page.until_text("now-remark", detail)
    assert page.run(whole)
    page.expected_errors = REFUSED
    page.open(f"{running.url}")
    page.until_text("now-genre", "Not allowed")
    assert page.run(whole)


@pytest.mark.parametrize("name", [30 * "الموسيقى العربية ", 30 * "Hörfunk "])
def test_a_long_name_of_either_direction_shows_its_beginning(
    page: Page, serve: Callable[..., Broadcast], name: str
) -> None:
    running = serve(name, "hall", labels=(name, "rock"))
    shares = {name: 0.9, "rock": 0.1}
    event = prediction(1, name, genre=name, probabilities=shares, window_probabilities=shares)
    page.view(390)
    page.open(running.url)
    running.publish(event, segment(1, name, genre=name, title=name))
    page.until_text("now-title", name)
    page.until("document.querySelector('.heard-title')")
    hidden = page.run(
        """return [".source-name", ".now-name", ".now-title", ".genre-name", ".heard-name",
          ".heard-title"].filter((words) => {
          const box = document.querySelector(words);
          const first = document.createRange();
          first.setStart(box.firstChild, 0);
          first.setEnd(box.firstChild, 1);
          const [letter, frame] = [first, box].map((found) => found.getBoundingClientRect());
          return letter.left < frame.left - 1 || letter.right > frame.right + 1;
        });"""
    )
    assert hidden == []


def test_a_print_has_colours_and_the_complete_list(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    page.until_text("connection", "Connected")
    events = [segment(n, start=3.0 * n, end=3.0 * n + 3, final=True) for n in range(1, 31)]
    radio.publish(prediction(95), *events)
    page.until("document.querySelectorAll('#heard tr').length === 30")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        kept = page.run(
            """return [".now", ".chip", ".genre-fill", ".now-gauge-fill", ".hint-bar"].map((one) =>
              getComputedStyle(document.querySelector(one)).printColorAdjust);"""
        )
        assert set(kept) == {"exact"}
        page.until(
            """(() => {
              const { scrollHeight, clientHeight } = document.querySelector(".heard-scroll");
              return clientHeight > 0 && scrollHeight <= clientHeight;
            })()"""
        )
    finally:
        page.driver.get("about:blank")  # in print the list shifts what follows it
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("width", [320, 1280])
def test_a_scrollbar_is_below_the_source_cards(
    page: Page, serve: Callable[..., Broadcast], width: int
) -> None:
    names = ["x" * 200, *(f"the loudspeaker in room number {number}" for number in range(7))]
    page.view(width)
    page.open(serve(*names).url)
    page.until("document.querySelectorAll('.source').length === 8")
    fits = page.run(
        """const list = document.querySelector(".source-list");
        const [card, now] = [".source-face", ".now"].map((found) =>
          document.querySelector(found).getBoundingClientRect());
        const { left, top } = list.getBoundingClientRect();
        const [right, bottom] = [left + list.clientWidth, top + list.clientHeight];
        return [card.right <= right, card.bottom <= bottom, list.scrollHeight <= list.clientHeight,
          list.getBoundingClientRect().bottom <= now.top];"""
    )
    assert fits == [True, True, True, True]


@pytest.mark.parametrize("width", [390, 1280])
def test_eight_sources_and_long_names_shift_and_hide_nothing(
    page: Page, serve: Callable[..., Broadcast], width: int
) -> None:
    label = "contemporary electroacoustic improvisation"
    names = [f"the loudspeaker in room number {number} on the left" for number in range(8)]
    running = serve(*names, labels=(label, "rock"))
    shares = {label: 0.9, "rock": 0.1}
    page.view(width)
    page.open(running.url)
    event = prediction(1, names[-1], genre=label, probabilities=shares, window_probabilities=shares)
    running.publish(event, segment(1, names[-1], genre=label, title=20 * "A very long title "))
    page.until("document.querySelectorAll('.source').length === 8")
    page.run("document.querySelector('.source:last-child input').click()")
    page.until_text("now-genre", label.capitalize())
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(
        """const [card, list] = [".source:last-child", ".source-list"].map((found) =>
          document.querySelector(found).getBoundingClientRect());
        return card.left >= list.left && card.right <= list.right + 1;"""
    )
    assert page.run(
        """const [card, genre] = [".source-face", ".source-genre"].map((found) =>
          document.querySelector(`.source:last-child ${found}`).getBoundingClientRect());
        return genre.width > 0 && genre.right < card.right;"""
    )
    name = "document.getElementById('now-genre')"
    assert page.run(f"return {name}.scrollWidth <= {name}.clientWidth")
