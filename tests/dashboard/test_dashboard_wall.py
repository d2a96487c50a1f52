"""The wall that the page begins with when there are many sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from support.browser import Broadcast, Page, wait_for
from support.published import LABELS, prediction, segment, source_state

Serve = Callable[..., Broadcast]

NAMES = tuple(f"station {number:03d}" for number in range(100))


def fill(running: Broadcast, names: tuple[str, ...] = NAMES) -> None:
    """Publish three segments for each source, which end half an hour later: now."""
    now = datetime.now(UTC)
    for index, name in enumerate(names):
        for number in range(1, 4):
            time = now - timedelta(minutes=10 * (3 - number))
            genre = LABELS[(index + number) % len(LABELS)]
            running.publish(
                prediction(600 * number, name, time=time, genre=genre),
                segment(
                    number,
                    name,
                    start=600.0 * (number - 1),
                    end=600.0 * number if number < 3 else None,
                    genre=genre,
                    title=f"Song {number} of {name}",
                    final=number < 3,
                ),
            )


def rules_about(active: str, earlier: str) -> list[dict[str, Any]]:
    """Return alert rules: one holds for a source, one never fired, one did about another source."""
    fired = "2026-05-01T12:00:00.000Z"
    return [
        {"name": "dead air", "fired": fired, "source": active, "active": [active]},
        {"name": "wrong programme", "fired": None, "source": None, "active": []},
        {"name": "off air", "fired": fired, "source": earlier, "active": []},
    ]


@pytest.fixture
def wall_page(page: Page) -> Iterator[Page]:
    """Return the page; tiles that move to where they are needed may shift others."""
    yield page
    errors = page.console_errors()
    page.driver.get("about:blank")
    assert errors == []


def tiles(page: Page, part: str) -> list[str]:
    """Return the names of the tiles of a part of the wall that are shown."""
    return page.texts(f"#wall-{part} .tile:not([hidden]) .tile-name")


def strip_pixel(page: Page, place: float) -> list[int]:
    """Return red, green and blue of the first strip, `place` as a share of its width."""
    colour: list[int] = page.run(
        """const strip = document.querySelector(".tile-strip");
        const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        copy.drawImage(strip, Math.floor(arguments[0] * strip.width), 1, 1, 1, 0, 0, 1, 1);
        return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);""",
        place,
    )
    return colour


def open_wall(page: Page, running: Broadcast, count: int = len(NAMES)) -> None:
    """Open the page and wait for the tiles."""
    page.open(running.url)
    page.until("document.querySelectorAll('.tile').length === arguments[0]", count)


def test_more_than_eight_sources_begin_as_a_wall(wall_page: Page, serve: Serve) -> None:
    names = NAMES[:9]
    running = serve(*names)
    fill(running, names)
    open_wall(wall_page, running, 9)
    assert tiles(wall_page, "others") == list(names)
    assert wall_page.texts(".tile-heading") == [
        LABELS[(index + 3) % len(LABELS)].capitalize() for index in range(9)
    ]
    assert wall_page.texts(".tile-note") == [f"Song 3 of {name}" for name in names]
    assert all(text.startswith("since ") for text in wall_page.texts(".tile-since"))
    assert not wall_page.driver.find_element(By.ID, "now").is_displayed()
    assert wall_page.run("return document.title") == "9 sources · genre-stream"


def test_eight_sources_have_cards(wall_page: Page, serve: Serve) -> None:
    wall_page.open(serve(*NAMES[:8]).url)
    wall_page.until("document.querySelectorAll('.source').length === 8")
    wall_page.until_text("now-source", NAMES[0])
    assert not wall_page.driver.find_element(By.ID, "wall").is_displayed()


def test_a_strip_shows_the_last_hour(wall_page: Page, serve: Serve) -> None:
    running = serve(*NAMES[:9])
    fill(running, NAMES[:9])
    open_wall(wall_page, running, 9)
    empty, *shown = [strip_pixel(wall_page, share) for share in (0.4, 0.6, 0.75, 0.95)]
    colours = wall_page.run(
        """return arguments[0].map((label) => [...document.querySelectorAll(".genre")].find((row) =>
          row.textContent.toLowerCase().startsWith(label)).querySelector(".chip")
          .style.backgroundColor.match(/\\d+/g).map(Number));""",
        list(LABELS[1:4]),
    )
    assert empty == [0, 0, 0]
    assert shown == colours


def test_sources_that_need_attention_come_first(wall_page: Page, serve: Serve) -> None:
    running = serve(*NAMES)
    fill(running)
    open_wall(wall_page, running)
    assert tiles(wall_page, "urgent") == []
    running.publish(
        source_state("reconnecting", NAMES[70], "connection refused"),
        source_state("failed", NAMES[80], "https://r.example:8000/a.mp3?b=1: 404 not found"),
        # For three minutes, as position 1800 is now.
        segment(3, NAMES[60], start=1200.0, end=1620.0, final=True),
        segment(4, NAMES[60], start=1620.0, state="silence", genre=None, title=None),
        prediction(1801, NAMES[60], state="silence", genre=None),
    )
    urgent = [NAMES[80], NAMES[70], NAMES[60]]
    wait_for(lambda: tiles(wall_page, "urgent") == urgent, "the tiles move to the front")
    assert wall_page.texts("#wall-urgent .tile-heading") == ["Failed", "Reconnecting", "Silence"]
    assert wall_page.texts("#wall-urgent .tile-note") == ["404 not found", "connection refused", ""]
    assert wall_page.text("wall-count") == "100 sources, 3 need attention"
    wall_page.until_text("announcement", "3 of 100 sources need attention")
    running.publish(source_state("live", NAMES[70]), prediction(1802, NAMES[70]))
    wait_for(lambda: tiles(wall_page, "urgent") == [NAMES[80], NAMES[60]], "one goes back")
    assert tiles(wall_page, "others") == [
        name for name in NAMES if name not in (NAMES[80], NAMES[60])
    ]


def test_alert_rules_are_listed_and_their_sources_come_first(
    wall_page: Page, serve: Serve, axe: str
) -> None:
    names = NAMES[:9]
    rules = rules_about(names[4], names[2])
    running = serve(*names, alerts=lambda: rules)
    fill(running, names)
    open_wall(wall_page, running, 9)
    wait_for(lambda: tiles(wall_page, "urgent") == [names[4]], "the source is in front")
    assert wall_page.texts("#wall-urgent .tile-note") == ["Alert: dead air"]
    assert wall_page.texts(".alert-name") == ["dead air", "wrong programme", "off air"]
    holding, never, last = wall_page.texts(".alert-state")
    assert holding.startswith(f"Holds for {names[4]}. Fired last at ")
    assert never == "Has never fired"
    assert last.startswith("Fired last at ")
    assert last.endswith(f" about {names[2]}")
    assert violations(wall_page, axe) == []
    wall_page.driver.find_element(By.CSS_SELECTOR, ".tile a").click()
    wall_page.until_text("now-source", names[4])
    assert wall_page.driver.find_element(By.ID, "alerts").is_displayed()


def test_a_search_finds_names_labels_and_titles(wall_page: Page, serve: Serve) -> None:
    running = serve(*NAMES)
    fill(running)
    open_wall(wall_page, running)
    field = wall_page.driver.find_element(By.ID, "wall-search")
    for words, found in (
        ("Station 04", list(NAMES[40:50])),
        ("song 3 of station 007", [NAMES[7]]),
        ("reggae", [name for index, name in enumerate(NAMES) if (index + 3) % 10 == 8]),
        ("polka", []),
    ):
        field.clear()
        field.send_keys(words)
        wait_for(lambda found=found: tiles(wall_page, "others") == found, "others are shown")
        assert wall_page.text("wall-count") == f"{len(found)} of 100 sources"
    assert wall_page.driver.find_element(By.ID, "wall-none").is_displayed()


def choose(page: Page, filter_id: str, value: str) -> None:
    """Choose an option of a filter of the wall."""
    page.run(
        """const field = document.getElementById(arguments[0]);
        field.value = arguments[1];
        field.dispatchEvent(new Event("input"));""",
        filter_id,
        value,
    )


def test_of_a_thousand_sources_those_wanted_are_shown(wall_page: Page, serve: Serve) -> None:
    names = [f"station {number:04d}" for number in range(1000)]
    running = serve(*names)
    for index, name in enumerate(names):
        running.publish(prediction(600, name, genre=LABELS[index % len(LABELS)]))
    running.publish(source_state("failed", names[990], "404 not found"))
    open_wall(wall_page, running, 120)
    wait_for(lambda: tiles(wall_page, "urgent") == [names[990]], "what needs attention is first")
    assert tiles(wall_page, "others") == names[:119]
    assert wall_page.text("wall-more") == "Show 120 more of 880"
    wall_page.driver.find_element(By.ID, "wall-more").click()
    wait_for(lambda: tiles(wall_page, "others") == names[:239], "more tiles are shown")
    choose(wall_page, "wall-genre", LABELS[3])
    of_genre = names[3::10]
    wait_for(lambda: tiles(wall_page, "others") == of_genre, "the genre is shown")
    assert wall_page.text("wall-count") == "100 of 1000 sources"
    assert not wall_page.driver.find_element(By.ID, "wall-more").is_displayed()
    choose(wall_page, "wall-genre", "")
    choose(wall_page, "wall-state", "offline")
    wait_for(lambda: tiles(wall_page, "others") == [], "only what is not live is shown")
    assert tiles(wall_page, "urgent") == [names[990]]


def followed_exactly(page: Page, running: Broadcast) -> bool:
    """Return whether predictions are sent of the sources whose tiles can be seen, and no others."""
    seen = page.run(
        """return [...document.querySelectorAll(".tile")].filter((tile) => {
          const { top, bottom } = tile.getBoundingClientRect();
          return bottom > 0 && top < innerHeight;
        }).map((tile) => tile.querySelector(".tile-name").textContent);"""
    )
    return running.followed() == set(seen)


def test_predictions_are_sent_only_of_sources_that_are_shown(wall_page: Page, serve: Serve) -> None:
    names = [f"station {number:04d}" for number in range(300)]
    running = serve(*names)
    running.publish(*(prediction(600, name) for name in names))
    open_wall(wall_page, running, 120)
    wait_for(lambda: followed_exactly(wall_page, running), "the first tiles are followed")
    assert names[0] in (first := running.followed() or set())
    wall_page.run("scrollTo(0, document.body.scrollHeight)")
    wait_for(lambda: followed_exactly(wall_page, running), "the last tiles are followed")
    assert not first & (running.followed() or set())
    wall_page.driver.find_element(By.ID, "wall-search").send_keys("station 0250")
    wait_for(lambda: running.followed() == {names[250]}, "what is found is followed")
    wall_page.driver.find_element(By.CSS_SELECTOR, ".tile a").click()
    wall_page.until_text("now-source", names[250])
    # The connection for its spectrogram is another client.
    wait_for(lambda: running.spectrogram_sources() == [names[250]], "its spectrogram is wanted")
    running.publish(prediction(601, names[250], genre="polka", probabilities={"polka": 1.0}))
    wall_page.until_text("now-genre", "Polka")


def test_sources_that_are_not_shown_are_kept_up_to_date_by_their_segments(
    wall_page: Page, serve: Serve
) -> None:
    names = [f"station {number:04d}" for number in range(200)]
    running = serve(*names)
    ago = datetime.now(UTC) - timedelta(minutes=5)
    for name in names:
        running.publish(prediction(600, name, time=ago, genre="rock"))
        running.publish(segment(1, name, start=0.0, genre="rock"))
    open_wall(wall_page, running, 120)
    wait_for(lambda: followed_exactly(wall_page, running), "the first tiles are followed")
    jazz, silent, again = names[180], names[190], names[199]
    running.publish(
        segment(1, jazz, start=0.0, end=700.0, genre="rock", final=True),
        segment(2, jazz, start=700.0, genre="jazz"),
        segment(1, silent, start=0.0, end=700.0, genre="rock", final=True),
        segment(2, silent, start=700.0, state="silence", genre=None, title=None),
    )
    wait_for(lambda: tiles(wall_page, "urgent") == [silent], "silence comes to the front")
    choose(wall_page, "wall-genre", "jazz")
    wait_for(lambda: tiles(wall_page, "others") == [jazz], "the genre is found")
    choose(wall_page, "wall-genre", "")
    # It begins at position 0 again, and that is now: only a prediction tells.
    running.publish(source_state("reconnecting", again), source_state("live", again))
    running.publish(segment(1, again, start=0.0, state="silence", genre=None, title=None))
    wait_for(lambda: again in (running.followed() or ()), "a prediction is asked for")
    running.publish(prediction(3, again, state="silence", genre=None, silence_seconds=3.0))
    choose(wall_page, "wall-state", "silence")
    wait_for(lambda: tiles(wall_page, "others") == [again], "it is silent, but not for long")
    assert tiles(wall_page, "urgent") == [silent]


def violations(page: Page, axe: str) -> list[Any]:
    """Return what axe-core finds in the page, of WCAG's levels A and AA."""
    page.run(axe)
    found: dict[str, Any] = page.driver.execute_async_script(
        """const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa"];
        axe.run({ runOnly: tags }).then(arguments[0]);"""
    )
    assert len(found["passes"]) > 10
    return [
        (fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found["violations"]
    ]


def test_one_click_leads_to_the_full_view_and_back(wall_page: Page, serve: Serve, axe: str) -> None:
    running = serve(*NAMES)
    fill(running)
    open_wall(wall_page, running)
    assert running.spectrogram_sources() == []
    wall_page.driver.find_elements(By.CSS_SELECTOR, ".tile a")[3].click()
    wall_page.until_text("now-source", NAMES[3])
    wall_page.until_text("now-genre", LABELS[6].capitalize())
    assert wall_page.driver.current_url.endswith("#station%20003")
    wait_for(lambda: running.spectrogram_sources() == [NAMES[3]], "its spectrogram is wanted")
    assert not wall_page.driver.find_element(By.ID, "wall").is_displayed()
    assert violations(wall_page, axe) == []
    wall_page.driver.find_element(By.CSS_SELECTOR, ".back a").click()
    wall_page.until("!document.getElementById('wall').hidden")
    wait_for(lambda: running.spectrogram_sources() == [], "no spectrogram is wanted")
    wall_page.driver.back()
    wall_page.until_text("now-source", NAMES[3])
    wall_page.driver.refresh()
    wall_page.until_text("now-source", NAMES[3])


def test_the_last_hour_of_the_history_fills_the_strips(
    wall_page: Page, serve: Serve, tmp_path: Path
) -> None:
    names = NAMES[:9]
    before = serve(*names, history=tmp_path / "heard.db")
    fill(before, names)
    before.close()
    open_wall(wall_page, serve(*names, history=tmp_path / "heard.db"), 9)
    wait_for(lambda: strip_pixel(wall_page, 0.75) != [0, 0, 0], "the strip shows what was heard")


@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "light"), (1280, "dark"), (1280, "light"), (1920, "dark")]
)
def test_a_wall_of_a_hundred_sources_is_accessible_and_fits(
    wall_page: Page, serve: Serve, axe: str, width: int, scheme: str
) -> None:
    running = serve(*NAMES, alerts=lambda: rules_about(NAMES[40], NAMES[2]))
    fill(running)
    ago = datetime.now(UTC) - timedelta(minutes=5)
    running.publish(
        source_state("failed", NAMES[80], "404 not found " * 20),
        source_state("reconnecting", NAMES[70], "connection refused", time=ago),
        source_state("reconnecting", NAMES[20], "no data for 10 s", time=ago),
        source_state("live", NAMES[20]),
    )
    wall_page.view(width, 900, dark=scheme == "dark")
    open_wall(wall_page, running)
    urgent = [NAMES[80], NAMES[70], NAMES[40]]
    wait_for(
        lambda: sorted(tiles(wall_page, "urgent")) == sorted(urgent), "trouble comes to the front"
    )
    assert len(wall_page.texts(".alert-state")) == 3
    assert wall_page.run("return document.documentElement.scrollWidth") <= width
    assert violations(wall_page, axe) == []
