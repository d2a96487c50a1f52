"""What the page shows for the messages of a server, in a real browser."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from support.browser import CONNECTION_LOST, REFUSED, Broadcast, Page, wait_for
from support.published import LABELS, prediction, segment, source_state

from streamer.core.colours import colours
from streamer.sinks.history.database import open_history
from streamer.sinks.messages import message, timestamp

Serve = Callable[..., Broadcast]

DASH = "\N{EN DASH}"
"""Shown in place of unknown numbers."""
DASHBOARD = Path(__file__).parents[2] / "streamer" / "sinks" / "websocket" / "dashboard"


def bars(page: Page) -> list[float]:
    """Return the length of each label's bar, 0 to 1."""
    lengths: list[float] = page.run(
        """return [...document.querySelectorAll(".genre-fill")]
        .map((fill) => new DOMMatrix(getComputedStyle(fill).transform).a)"""
    )
    return lengths


def decibels(level: float) -> str:
    """Format a level like the page."""
    return f"{level:.1f} dBFS".replace("-", "\N{MINUS SIGN}")


def note_announcements(page: Page) -> None:
    """Record announcements to screen readers in `window.announced` of the page."""
    page.run(
        """window.announced = [];
        const place = document.getElementById("announcement");
        new MutationObserver(() => window.announced.push(place.textContent)).observe(
          place, { childList: true, characterData: true, subtree: true });"""
    )


START = datetime.now(UTC)


def ago(seconds: float) -> str:
    """Return a time before the start of these tests, in the format of the protocol."""
    return timestamp(START - timedelta(seconds=seconds))


def test_the_genre_is_shown_with_its_colour_confidence_and_title(
    page: Page, radio: Broadcast
) -> None:
    page.open(radio.url)
    radio.publish(prediction(1), segment(1, title="Nina Simone: Sinnerman"))
    page.until_text("now-genre", "Blues")
    confidence = message(prediction(1))["confidence"]
    assert page.text("now-confidence") == f"{confidence:.0%}"
    page.until_text("now-title", "Nina Simone: Sinnerman")
    field = page.run("return getComputedStyle(document.getElementById('now')).backgroundColor")
    assert field == "rgb(63, 144, 218)"
    assert page.run("return document.title") == "Blues · genre-stream"


def test_label_and_bars_follow_every_prediction(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    seen = []
    for seq, genre in ((1, "Blues"), (11, "Classical"), (21, "Country")):
        published = prediction(seq)
        radio.publish(published)
        page.until_text("now-genre", genre)
        assert bars(page) == pytest.approx(
            list(message(published)["probabilities"].values()), abs=1e-3
        )
        seen.append(bars(page))
    assert seen[0] != seen[1] != seen[2]
    assert page.texts(".chosen .genre-name") == ["Country"]


@pytest.mark.parametrize("count", [2, 10, 23])
def test_the_labels_are_those_of_the_model(page: Page, serve: Serve, count: int) -> None:
    labels = tuple(f"style {number}" for number in range(count))
    event = prediction(
        1,
        genre=labels[-1],
        confidence=0.9,
        probabilities=dict.fromkeys(labels, 1 / count),
        window_probabilities=dict.fromkeys(labels, 1 / count),
    )
    running = serve("radio", labels=labels)
    page.open(running.url)
    running.publish(event)
    page.until_text("now-genre", f"Style {count - 1}")
    assert page.texts(".genre-name") == [label.capitalize() for label in labels]
    striped = page.run("return document.querySelectorAll('.genre .chip.striped').length")
    assert striped == max(0, count - 10)


def test_the_not_music_label_is_styled_like_that_state(page: Page, serve: Serve) -> None:
    labels = (*LABELS, "not_music")
    running = serve("radio", labels=labels)
    page.open(running.url)
    running.publish(prediction(1, probabilities=dict.fromkeys(labels, 1 / 11)))
    page.until_text("now-genre", "Blues")
    assert page.texts(".genre-name")[-1] == "Not music"
    looks = page.run(
        "return [...document.querySelectorAll('.genre .chip')].map((c) => c.dataset.look)"
    )
    assert looks == ["music"] * 10 + ["not_music"]
    fits = "list.scrollHeight <= list.clientHeight"
    assert page.run(f"const list = document.querySelector('.genre-scroll'); return {fits}")


@pytest.mark.parametrize(
    ("state", "heading", "remark"),
    [
        ("silence", "Silence", "Nothing louder than \N{MINUS SIGN}71.2 dBFS"),
        ("not_music", "Not music", ""),
        ("uncertain", "Uncertain", "Perhaps rock or jazz"),
    ],
)
def test_states_other_than_music_are_named_and_not_coloured(
    page: Page, radio: Broadcast, state: str, heading: str, remark: str
) -> None:
    shares = dict.fromkeys(LABELS, 0.0) | {"rock": 0.6, "jazz": 0.4}
    event = prediction(
        1, state=state, genre=None, confidence=0.6, probabilities=shares, level_dbfs=-71.2
    )
    page.open(radio.url)
    radio.publish(event)
    page.until_text("now-genre", heading)
    assert page.run("return document.getElementById('now').dataset.look") == state
    assert page.text("now-remark") == remark
    assert page.text("now-confidence") == ""
    assert page.texts(".source-genre") == [heading]
    assert page.texts(".chosen") == []


def test_an_uncertain_source_whose_window_is_refilled_has_no_guesses(
    page: Page, radio: Broadcast
) -> None:
    equal = dict.fromkeys(LABELS, 0.1)
    page.open(radio.url)
    radio.publish(prediction(1, state="uncertain", genre=None, probabilities=equal))
    page.until_text("now-genre", "Uncertain")
    assert page.text("now-remark") == "Listening to more of it"


def test_a_label_that_may_be_outdated_is_marked(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    radio.publish(prediction(1, carried=True))
    page.until_text("now-since", "sure, carried over from before the new title")
    radio.publish(prediction(2, change=True))
    page.until_text("now-since", "sure, but something has changed")


def test_silence_says_how_long_it_lasts(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    radio.publish(
        prediction(1, state="silence", genre=None, level_dbfs=-71.2, silence_seconds=200.0)
    )
    quiet = "Nothing louder than \N{MINUS SIGN}71.2 dBFS for 3 min 20 s"
    page.until_text("now-remark", quiet)


def test_the_card_of_a_source_that_is_not_live_shows_the_reason(page: Page, serve: Serve) -> None:
    running = serve("radio", "hall")
    page.open(running.url)
    page.until_text("connection", "Connected")
    running.publish(source_state("failed", "hall", "404 not found"))
    page.until("document.querySelectorAll('.source-genre')[1].textContent === '404 not found'")
    assert page.texts(".source-state") == ["Live", "Failed"]


def test_the_countdown_to_the_next_attempt_counts(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    radio.publish(prediction(1))
    page.until_text("now-genre", "Blues")
    radio.publish(source_state("reconnecting", detail="connection refused", retry_seconds=3.0))
    remark = "document.getElementById('now-remark').textContent"
    page.until(f"/^connection refused; next attempt in \\d s$/.test({remark})")
    page.until(f"{remark} !== arguments[0]", page.text("now-remark"))
    page.until_text("now-remark", "connection refused; trying again")


def test_a_page_whose_sources_have_all_ended_says_so(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    radio.publish(prediction(1), segment(1), segment(1, end=1.0, final=True))
    page.until_text("now-genre", "Blues")
    page.expected_errors = (*CONNECTION_LOST, "ERR_EMPTY_RESPONSE")
    radio.publish(source_state("ended"))
    radio.close()
    page.until_text("connection", "Stopped: all sources have ended")
    assert page.text("now-genre") == "Ended"
    assert page.text("now-remark").startswith("Last heard: Blues, ")
    page.until("document.querySelectorAll('#heard tr').length === 1")


def test_a_source_that_is_not_live_shows_its_state_and_no_stale_genre(
    page: Page, radio: Broadcast
) -> None:
    page.open(radio.url)
    radio.publish(prediction(1), segment(1))
    page.until_text("now-genre", "Blues")
    radio.publish(source_state("reconnecting", detail="connection refused"))
    page.until_text("now-genre", "Reconnecting")
    assert page.text("now-remark") == "connection refused"
    assert page.texts(".source-state") == ["Reconnecting"]
    assert set(page.texts(".genre-value")) == {DASH}
    assert page.text("level-value") == DASH
    radio.publish(source_state("live"), prediction(2))
    page.until_text("now-genre", "Blues")


def test_a_prediction_from_before_a_failure_is_not_shown_as_current(
    page: Page, radio: Broadcast
) -> None:
    radio.publish(prediction(20, time=ago(3600)), segment(1), segment(1, end=20.0, final=True))
    radio.publish(source_state("reconnecting"))
    page.open(radio.url)
    page.until("document.querySelectorAll('#heard tr').length === 2")
    assert page.texts(".heard-name") == ["Reconnecting", "Blues"]
    page.until("document.getElementById('timeline').dataset.range === '21600'")
    radio.publish(source_state("live"))
    page.until_text("now-genre", "Listening")
    radio.publish(prediction(11))
    page.until_text("now-genre", "Classical")


def test_the_level_is_a_meter_in_decibels(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    radio.publish(prediction(1, level_dbfs=-30.0))
    page.until_text("level-value", decibels(-30.0))
    meter = page.driver.find_element(By.ID, "level")
    assert meter.get_attribute("aria-valuenow") == "-30.0"
    shown = page.run(
        "return new DOMMatrix(document.getElementById('level-fill').style.transform).a"
    )
    assert shown == pytest.approx(0.5)


def test_a_source_is_selected_by_keyboard_and_kept_in_the_url(page: Page, serve: Serve) -> None:
    running = serve("radio", "hall")
    page.open(running.url)
    running.publish(prediction(1, "radio"), prediction(61, "hall"))
    page.until_text("now-genre", "Blues")
    assert page.texts(".source-name") == ["radio", "hall"]
    chosen = page.driver.find_element(By.CSS_SELECTOR, ".source input:checked")
    chosen.send_keys(Keys.ARROW_RIGHT)
    page.until_text("now-genre", "Metal")
    assert page.driver.current_url.endswith("#hall")
    running.publish(prediction(2, "radio"))
    assert page.text("now-source") == "hall"
    page.driver.refresh()
    page.until_text("now-genre", "Metal")


def test_the_sources_are_in_the_order_of_the_latest_hello(page: Page, serve: Serve) -> None:
    first = serve("radio", "hall", "cellar")
    page.open(first.url)
    page.until("document.querySelectorAll('.source').length === 3")
    page.expected_errors = CONNECTION_LOST
    first.close()
    page.until_text("now-genre", "No connection")
    serve("bar", "hall", "attic", "radio", port=first.port)
    page.until_text("connection", "Connected")
    assert page.texts(".source-name") == ["bar", "hall", "attic", "radio"]
    assert page.text("now-source") == "radio"
    page.driver.get("about:blank")  # other sources may shift the layout once


def test_the_card_of_the_source_in_the_url_is_visible_without_a_page_scroll(
    page: Page, serve: Serve
) -> None:
    names = [f"the loudspeaker in room number {number}" for number in range(8)]
    running = serve(*names)
    page.view(390)
    page.open(f"{running.url}#{quote(names[-1])}")
    page.until_text("now-source", names[-1])
    is_visible = """const [card, list] = [".source:has(:checked)", ".source-list"].map((found) =>
      document.querySelector(found).getBoundingClientRect());
    return card.left >= list.left - 1 && card.right <= list.right + 1;"""
    assert page.run(is_visible)
    page.run("document.querySelector('.heard').scrollIntoView()")
    place = page.until("scrollY")
    page.run("document.querySelector('.source input').click()")
    page.until_text("now-source", names[0])
    assert page.run(is_visible)
    assert page.run("return scrollY") == place


def test_the_timeline_shows_coloured_segments_and_titles(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    radio.publish(
        prediction(300),
        segment(1, start=0.0, end=200.0, genre="rock", title="Song 1", final=True),
        segment(2, start=200.0, end=250.0, state="silence", genre=None, title=None, final=True),
        segment(3, start=250.0, genre="pop", title="Song 3"),
    )
    page.until("document.querySelectorAll('#heard tr').length === 3")
    assert page.texts(".heard-name") == ["Pop", "Silence", "Rock"]
    assert page.texts(".heard-title") == ["Song 3", "", "Song 1"]
    assert page.texts(".heard-length") == ["50 s", "50 s", "3 min 20 s"]
    width = page.run("return document.getElementById('timeline').width")
    assert page.pixel("timeline", 0.05 * width, 0.1) == [255, 169, 14]
    assert page.pixel("timeline", 0.3 * width, 0.1) == [189, 31, 1]
    assert page.run("return document.getElementById('timeline').dataset.range") == "600"
    page.driver.find_element(By.CSS_SELECTOR, "[name=range][value='600']").send_keys(
        Keys.ARROW_RIGHT
    )
    page.until("document.getElementById('timeline').dataset.range === '3600'")
    assert page.pixel("timeline", 0.05 * width, 0.1) == [189, 31, 1]


def test_a_long_title_is_truncated_between_characters(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    page.until_text("connection", "Connected")
    page.run(
        """window.measured = 0;
        window.written = new Set();
        const { measureText, fillText } = CanvasRenderingContext2D.prototype;
        Object.assign(CanvasRenderingContext2D.prototype, {
          measureText(text) { window.measured++; return measureText.call(this, text); },
          fillText(text, ...place) {
            if (text.includes("…")) window.written.add(text);
            fillText.call(this, text, ...place);
          },
        });"""
    )
    for begin in range(4):
        title = "x" * begin + "\N{GUITAR}" * 2000
        radio.publish(prediction(590), segment(1, title=title))
        page.until("window.written.size > arguments[0]", begin)
    assert page.run("return [...window.written].every((text) => text.isWellFormed())")
    assert page.run("return window.measured / 2000") < 1


def test_a_revised_segment_replaces_the_earlier_one(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    radio.publish(prediction(30), segment(1, genre="rock"))
    page.until("document.querySelectorAll('#heard tr').length === 1")
    radio.publish(segment(1, genre="metal"))
    page.until("document.querySelector('.heard-name').textContent === 'Metal'")
    assert page.texts(".heard-name") == ["Metal"]


def test_a_page_opened_later_shows_earlier_segments(page: Page, radio: Broadcast) -> None:
    radio.publish(prediction(1, time=ago(19)), segment(1))
    radio.publish(prediction(20, time=ago(0)), segment(1, end=10.0, final=True), segment(2))
    page.open(radio.url)
    page.until("document.querySelectorAll('#heard tr').length === 2")
    assert page.texts(".heard-name") == ["Classical", "Blues"]
    page.until_text("now-title", "Song 2")


def test_an_older_browser_shows_earlier_segments(page: Page, radio: Broadcast) -> None:
    radio.publish(prediction(1, time=ago(19)), segment(1))
    radio.publish(prediction(20, time=ago(0)), segment(1, end=10.0, final=True))
    # Safari 16 is the last version for many phones.
    missing = "delete Map.groupBy; delete Object.groupBy; delete Promise.withResolvers;"
    without = page.driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": missing}
    )
    try:
        page.open(radio.url)
        page.until("document.querySelectorAll('#heard tr').length === 1")
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", without)


def test_a_page_opened_later_has_the_true_start_of_a_segment(page: Page, radio: Broadcast) -> None:
    radio.publish(prediction(1, time=ago(90)), segment(1, state="silence", genre=None, title=None))
    radio.publish(
        prediction(3, time=ago(88)),
        segment(1, state="silence", genre=None, title=None, end=2.0, final=True),
        segment(2, start=2.0),
    )
    radio.publish(prediction(20, time=ago(0)))  # 71 seconds of the stream were lost
    page.open(radio.url)
    page.until("document.querySelectorAll('#heard tr').length === 2")
    assert page.texts(".heard-name") == ["Classical", "Silence"]
    assert page.texts(".heard-length") == ["1 min 29 s", "2 s"]


def test_an_outage_is_a_gap_between_segments(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    page.until_text("connection", "Connected")
    radio.publish(prediction(9, time=ago(61)), segment(1), prediction(10, time=ago(60)))
    radio.publish(
        source_state("stalled", detail="no audio for 3 s", time=ago(60)),
        source_state("reconnecting", detail="refused", time=ago(50)),
        source_state("live", time=ago(10)),
        prediction(11, time=ago(9)),  # 50 seconds were lost after position 10
        segment(1, end=10.0, final=True),
        segment(2, start=10.0),
        prediction(20, time=ago(0)),
    )
    page.until("document.querySelectorAll('#heard tr').length === 3")
    assert page.texts(".heard-name") == ["Classical", "Reconnecting", "Blues"]
    assert page.texts(".heard-title") == ["Song 2", "refused", "Song 1"]
    assert page.texts(".heard-length") == ["10 s", "50 s", "10 s"]


def test_the_list_shows_seconds_and_cuts_no_row(page: Page, radio: Broadcast) -> None:
    for size in ((1280, 900), (1000, 700), (390, 844), (1920, 1080)):
        page.view(*size)
        page.open(radio.url)
        page.until_text("connection", "Connected")
        # At one time, so that they replace those of the size before.
        radio.publish(prediction(200, time=START))
        radio.publish(*(segment(n, end=10.0 * n, final=True) for n in range(1, 21)))
        page.until("document.querySelectorAll('#heard tr').length === 20")
        page.run("document.querySelector('.heard-scroll').scrollTop = 333")
        cut = """(() => {
          const list = document.querySelector(".heard-scroll");
          const { top, bottom } = list.getBoundingClientRect();
          return [...document.querySelectorAll("#heard tr")].filter((row) => {
            const place = row.getBoundingClientRect();
            const [inside, over] = [place.bottom > top + 1 && place.top < bottom - 1,
              place.top < top - 1 || place.bottom > bottom + 1];
            return inside && over;
          }).length;
        })()"""
        page.until(f"{cut} === 0")
        assert re.fullmatch(r"\d+:\d\d:\d\d.*", page.texts(".heard-time")[0])


@pytest.mark.parametrize("size", [(320, 640), (390, 844), (1280, 720), (1920, 1080), (3840, 2160)])
def test_no_letter_of_a_label_leaves_its_place(
    page: Page, radio: Broadcast, size: tuple[int, int]
) -> None:
    page.view(*size)
    page.open(radio.url)
    for genre in ("reggae", "jazz", "pop"):
        radio.publish(prediction(1, genre=genre))
        page.until_text("now-genre", genre.capitalize())
        left, bottom, foot, hinting, edge = page.run(
            """const [genre, foot] = [".now-genre", ".now-foot"].map((found) =>
              document.querySelector(found));
            const text = document.createRange();
            text.selectNodeContents(genre);
            const { fontWeight, fontSize, fontFamily } = getComputedStyle(genre);
            const ruler = document.createElement("canvas").getContext("2d");
            ruler.font = `${fontWeight} ${fontSize} ${fontFamily}`;
            const ink = ruler.measureText(genre.textContent);
            const box = text.getBoundingClientRect();
            const bottom = box.bottom - ink.fontBoundingBoxDescent + ink.actualBoundingBoxDescent;
            const left = box.left - ink.actualBoundingBoxLeft;
            return [left, bottom, foot.getBoundingClientRect().top, parseFloat(fontSize) / 50,
              document.getElementById("now-source").getBoundingClientRect().left];"""
        )
        assert bottom <= foot
        # Hinting makes letters a little wider or narrower than in the size that is measured.
        assert left >= edge - hinting


def test_a_restarted_source_keeps_its_earlier_segments(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    page.until_text("connection", "Connected")
    radio.publish(
        prediction(30, time=ago(60)),
        segment(1, end=10.0, genre="jazz", final=True),
        segment(2, end=20.0, genre="pop", final=True),
        segment(3, genre="rock"),
    )
    page.until("document.querySelectorAll('#heard tr').length === 3")
    radio.publish(source_state("connecting"), source_state("live"))
    radio.publish(prediction(5, time=ago(0)), segment(1, genre="metal"))
    page.until("document.querySelectorAll('#heard tr').length === 4")
    assert page.texts(".heard-name") == ["Metal", "Rock", "Pop", "Jazz"]
    assert page.texts("#heard .open .heard-name") == ["Metal"]
    assert page.texts(".heard-length")[0] == "5 s"


def test_segments_older_than_a_day_are_removed(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    page.until_text("connection", "Connected")
    radio.publish(
        prediction(20, time=ago(26 * 3600)),
        segment(1, end=10.0, genre="jazz", final=True),
        segment(2, end=20.0, genre="pop", final=True),
        prediction(24 * 3600, time=ago(2 * 3600)),
        segment(3, start=20.0, end=86000.0, genre="rock", final=True),
        segment(4, start=86000.0, genre="metal"),
    )
    page.until_text("announcement", "Blues")
    page.until("document.querySelector('.heard-name').textContent === 'Metal'")
    assert page.texts(".heard-name") == ["Metal", "Rock"]


def test_a_url_without_a_known_source_selects_the_first(page: Page, radio: Broadcast) -> None:
    for unknown in ("#%", "#cellar"):
        page.open(f"{radio.url}{unknown}")
        page.until_text("now-source", "radio")
        assert page.driver.current_url.endswith("#radio")


def test_the_history_fills_the_timeline_after_a_restart(
    page: Page, serve: Serve, tmp_path: Path
) -> None:
    before = serve("radio", history=tmp_path / "heard.db")
    before.publish(prediction(1, time=ago(39)), segment(1, genre="jazz"))
    before.publish(prediction(20, time=ago(20)), segment(1, genre="jazz", end=10.0, final=True))
    before.close()
    with contextlib.closing(open_history(tmp_path / "heard.db")) as history:
        begin, end = (datetime.fromisoformat(ago(seconds)).timestamp() for seconds in (20, 5))
        row = (1, "radio", 0, begin, end, 0, "not_running", "")
        history.execute("INSERT INTO states VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    running = serve("radio", history=tmp_path / "heard.db")
    page.open(running.url)
    page.until("document.querySelectorAll('#heard tr').length === 2")
    assert page.texts(".heard-name") == ["Not running", "Jazz"]


def test_the_history_of_the_selected_source_alone_is_requested(
    page: Page, serve: Serve, tmp_path: Path
) -> None:
    names = ("radio", "hall & foyer")
    before = serve(*names, history=tmp_path / "heard.db")
    for name, genre in zip(names, ("jazz", "pop"), strict=True):
        before.publish(prediction(1, name, time=ago(19)), segment(1, name, genre=genre))
        ended = segment(1, name, genre=genre, end=10.0, final=True)
        before.publish(prediction(20, name, time=ago(0)), ended)
    before.close()
    running = serve(*names, history=tmp_path / "heard.db")
    page.open(running.url)
    page.until("document.querySelectorAll('#heard tr').length === 1")
    assert page.texts(".heard-name") == ["Jazz"]
    page.run("document.querySelector('.source:last-child input').click()")
    page.until("document.querySelector('.heard-name')?.textContent === 'Pop'")
    page.run("document.querySelector('.source:first-child input').click()")
    page.until("document.querySelector('.heard-name').textContent === 'Jazz'")
    asked = page.run(
        """return performance.getEntriesByType("resource").map((entry) => new URL(entry.name))
          .filter((address) => address.pathname === "/api/history")
          .map((address) => address.searchParams.get("source"));"""
    )
    assert asked == list(names)


def test_a_page_reconnects_after_the_daemon_was_killed_and_restarted(
    page: Page, serve: Serve
) -> None:
    first = serve("radio")
    page.open(first.url)
    first.publish(prediction(25), segment(1, genre="jazz", end=20.0, final=True))
    page.until_text("now-genre", "Country")
    page.until("document.querySelectorAll('#heard tr').length === 1")
    page.expected_errors = CONNECTION_LOST
    first.close()
    page.until_text("now-genre", "No connection")
    page.until_text("connection", "No connection, trying again")
    assert set(page.texts(".genre-value")) == {DASH}
    second = serve("radio", port=first.port)
    page.until_text("connection", "Connected")
    second.publish(prediction(1, state="silence", genre=None), segment(1, genre="rock"))
    page.until_text("now-genre", "Silence")
    page.until("document.querySelectorAll('#heard tr').length === 2")
    assert page.texts(".heard-name") == ["Rock", "Jazz"]


def test_a_page_reconnects_after_a_suspend(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    radio.publish(prediction(1))
    page.until_text("now-genre", "Blues")
    wait_for(lambda: len(list(radio.hub.outboxes)) == 2, "both connections are there")
    before = set(radio.hub.outboxes)
    page.run("const now = Date.now; Date.now = () => now() + 3600 * 1000;")
    wait_for(
        lambda: len(now := set(radio.hub.outboxes)) == 2 and not now & before,
        "both connections are new ones",
    )
    page.until_text("now-genre", "Blues")


def test_the_token_in_the_url_is_sent(page: Page, serve: Serve, tmp_path: Path) -> None:
    running = serve("radio", token="open sesame", history=tmp_path / "heard.db")
    running.publish(prediction(1), segment(1), segment(1, end=1.0, final=True))
    page.open(f"{running.url}?token=open%20sesame")
    page.until_text("now-genre", "Blues")
    page.until("document.querySelectorAll('#heard tr').length === 1")
    assert page.console_errors() == []
    page.expected_errors = REFUSED
    page.open(f"{running.url}?token=wrong")
    page.until_text("connection", "Not allowed: token needed")
    page.until_text("now-genre", "Not allowed")


@pytest.mark.parametrize("token", ["schlüssel", "合言葉 100 %"])
def test_a_token_with_any_characters_is_sent(page: Page, serve: Serve, token: str) -> None:
    running = serve("radio", token=token)
    running.publish(prediction(1, time=ago(19)), segment(1))
    running.publish(prediction(20, time=ago(0)), segment(1, end=10.0, final=True))
    page.open(f"{running.url}?token={quote(token)}")
    page.until("document.querySelectorAll('#heard tr').length === 1")
    assert page.console_errors() == []
    page.expected_errors = REFUSED
    page.open(f"{running.url}?token={quote('鍵')}")
    page.until_text("connection", "Not allowed: token needed")


def test_the_page_requests_nothing_from_other_hosts(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    page.until_text("connection", "Connected")
    page.until("performance.getEntriesByName(new URL('api/state', location)).length")
    loaded = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded
    assert all(address.startswith(radio.url) for address in loaded)


def test_a_page_whose_script_is_blocked_explains_the_remedy(page: Page, radio: Broadcast) -> None:
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/dashboard.js"]})
    try:
        page.open(radio.url)
        page.until(
            "getComputedStyle(document.getElementById('unanswered')).visibility === 'visible'"
        )
        assert "--origin" in page.text("unanswered")
    finally:
        page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
        page.console_errors()
    page.open(radio.url)
    page.until_text("connection", "Connected")
    assert page.run("return document.getElementById('unanswered')") is None


def test_the_page_works_with_a_policy_of_self_only() -> None:
    text = (DASHBOARD / "index.html").read_text(encoding="utf-8")
    assert "style=" not in text
    assert "<style" not in text
    assert " on" not in text.replace(" one", "").replace(" only", "")
    assert text.count("<script") == text.count('<script type="module" src=')
    for file in DASHBOARD.glob("*.js"):
        code = file.read_text(encoding="utf-8")
        assert "innerHTML" not in code
        assert "eval(" not in code


def test_titles_and_names_are_never_interpreted_as_markup(page: Page, serve: Serve) -> None:
    evil = "<img src=x onerror=alert(1)>"
    running = serve(evil, labels=(evil, "rock"))
    page.open(running.url)
    shares = {evil: 0.7, "rock": 0.3}
    running.publish(
        prediction(
            1, evil, genre=evil, probabilities=shares, window_probabilities=shares, confidence=0.7
        ),
        segment(1, evil, genre=evil, title=evil),
    )
    page.until_text("now-title", evil)
    assert page.text("now-source") == evil
    assert page.run("return document.images.length") == 0


@pytest.mark.parametrize(
    "labels", [LABELS, ("jazz", "rock", "polka"), tuple(f"style {number}" for number in range(23))]
)
def test_page_and_terminal_use_the_same_colour_for_a_label(
    page: Page, serve: Serve, labels: tuple[str, ...]
) -> None:
    page.open(serve("radio", labels=labels).url)
    page.until("document.querySelectorAll('.genre').length === arguments[0]", len(labels))
    shown = page.run(
        """return [...document.querySelectorAll(".genre .chip")].map((chip) =>
          chip.style.backgroundColor.match(/\\d+/g).map(Number));"""
    )
    assert [bytes(rgb).hex() for rgb in shown] == [
        colour.removeprefix("#") for colour in colours(labels).values()
    ]


def test_screen_readers_are_told_changes_only(page: Page, radio: Broadcast) -> None:
    page.open(radio.url)
    radio.publish(prediction(1))
    page.until_text("announcement", "Blues")
    note_announcements(page)
    for seq in range(2, 35):
        radio.publish(prediction(seq))
        page.until_text("level-value", decibels(message(prediction(seq))["level_dbfs"]))
    assert page.run("return window.announced") == ["Classical", "Country", "Disco"]


def test_screen_readers_are_told_once_that_the_token_is_wrong(page: Page, serve: Serve) -> None:
    page.expected_errors = REFUSED
    page.open(f"{serve('radio', token='sesame').url}?token=wrong")
    page.until_text("announcement", "Not allowed")
    note_announcements(page)
    page.run(
        """window.refusals = 0;
        const ask = window.fetch;
        window.fetch = async (...request) => {
          const answer = await ask(...request);
          setTimeout(() => window.refusals++, 100);
          return answer;
        };"""
    )
    page.until("window.refusals >= 4")
    assert page.run("return window.announced") == []
