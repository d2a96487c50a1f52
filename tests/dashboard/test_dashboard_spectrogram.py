"""The scrolling spectrogram: its columns, its animation and its subscription."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from support.browser import Broadcast, Page, wait_for
from support.published import MELS, prediction, source_state, spectrogram

from streamer.core.events import Published
from streamer.core.spectrogram import SpectrogramSpec, hz_to_mel, mel_to_hz

COLUMN_PIXELS = 2
"""Width of a column on a screen with one pixel per CSS pixel."""


def columns(position: float, levels: bytes, count: int = 13) -> Published:
    """Return a `spectrogram` event with the same column `count` times."""
    return spectrogram(position, columns=count, column=levels)


def mel_frequencies(spec: SpectrogramSpec) -> NDArray[np.float64]:
    """Return the centre of each band in Hz."""
    low, high = hz_to_mel(np.array([spec.fmin, spec.fmax]))
    return mel_to_hz(np.linspace(low, high, spec.n_mels + 2))[1:-1]


def loud(level: int) -> bytes:
    """Return a column with one level in all bands."""
    return bytes([level]) * MELS


def watching(page: Page, radio: Broadcast) -> None:
    """Open the page and wait until it subscribes to the spectrogram."""
    page.open(radio.url)
    wait_for(lambda: radio.spectrogram_sources() == ["radio"], "a client wants the spectrogram")


def show(page: Page, radio: Broadcast, message: Published) -> None:
    """Publish a `spectrogram` message and wait until it is drawn."""
    page.run(
        """const draw = CanvasRenderingContext2D.prototype.drawImage;
        window.drawn = 0;
        CanvasRenderingContext2D.prototype.drawImage = function (...values) {
          draw.apply(this, values);
          if (this.canvas.id === "spectrogram" && values.length === 9) window.drawn++;
          };"""
    )
    radio.publish(message)
    page.until("window.drawn > 0")


def test_new_columns_are_drawn_at_the_right_and_old_ones_move_left(
    page: Page, radio: Broadcast
) -> None:
    watching(page, radio)
    show(page, radio, columns(1, loud(255)))
    newest = page.pixel("spectrogram", 5, 0.5)
    empty = page.pixel("spectrogram", 13 * COLUMN_PIXELS + 5, 0.5)
    show(page, radio, columns(2, loud(100)))
    assert page.pixel("spectrogram", 5, 0.5) not in (newest, empty)
    assert page.pixel("spectrogram", 13 * COLUMN_PIXELS + 5, 0.5) == newest
    assert page.pixel("spectrogram", 26 * COLUMN_PIXELS + 5, 0.5) == empty
    assert page.run("return document.getElementById('spectrogram-empty').hidden")


def test_low_bands_are_at_the_bottom_and_loud_cells_contrast(page: Page, radio: Broadcast) -> None:
    watching(page, radio)
    show(page, radio, columns(1, bytes([255] * (MELS // 4) + [0] * (MELS - MELS // 4))))
    assert sum(page.pixel("spectrogram", 5, 0.9)) < 100
    assert sum(page.pixel("spectrogram", 5, 0.1)) > 600


def test_a_new_size_or_colour_scheme_redraws_the_spectrogram(page: Page, radio: Broadcast) -> None:
    watching(page, radio)
    show(page, radio, columns(1, loud(255)))
    show(page, radio, columns(2, loud(0)))
    in_light = page.pixel("spectrogram", 13 * COLUMN_PIXELS + 5, 0.5)
    page.view(700, dark=True)
    page.until("document.getElementById('spectrogram').width < 900")
    wait_for(
        lambda: page.pixel("spectrogram", 13 * COLUMN_PIXELS + 5, 0.5) not in (in_light, [0, 0, 0]),
        "the picture is drawn in dark",
    )
    assert sum(page.pixel("spectrogram", 13 * COLUMN_PIXELS + 5, 0.5)) > 600
    assert sum(page.pixel("spectrogram", 5, 0.5)) < 100


def test_the_canvases_have_the_resolution_of_the_screen(page: Page, radio: Broadcast) -> None:
    for scale in (1, 2):
        page.view(scale=scale)
        watching(page, radio)
        show(page, radio, columns(1, loud(255)))
        for canvas in ("spectrogram", "timeline"):
            assert page.run(
                """const canvas = document.getElementById(arguments[0]);
                return canvas.width === canvas.clientWidth * arguments[1];""",
                canvas,
                scale,
            )


@pytest.mark.parametrize(("scale", "pixels"), [(1, 2), (1.25, 3), (2.625, 5), (3, 6)])
def test_the_frame_marks_the_window_of_the_model(
    page: Page, radio: Broadcast, scale: float, pixels: int
) -> None:
    page.view(scale=scale)
    watching(page, radio)
    radio.publish(prediction(1), columns(1, loud(9)), columns(2, loud(9)))
    width = page.until("document.getElementById('spectrogram-window').offsetWidth")
    assert abs(width * scale - 5 * 13 * pixels) <= scale
    assert "5 s" in page.text("spectrogram-hint")


def test_the_axes_are_marked_in_hertz_and_seconds(page: Page, radio: Broadcast) -> None:
    watching(page, radio)
    show(page, radio, columns(1, loud(255)))
    page.until("document.querySelectorAll('#spectrogram-seconds span').length > 1")
    hertz = page.texts("#spectrogram-hertz span")
    assert hertz == ["500 Hz", "1 kHz", "2 kHz", "5 kHz", "10 kHz"]
    places = page.run(
        """const frame = document.querySelector(".spectrogram-frame");
        const { top, height } = frame.getBoundingClientRect();
        return [...document.querySelectorAll("#spectrogram-hertz span")].map((mark) => {
          const place = mark.getBoundingClientRect();
          return 1 - (place.top + place.height / 2 - top) / height;
        });"""
    )
    spec = SpectrogramSpec()
    edges = mel_frequencies(spec)
    for text, place in zip(hertz, places, strict=True):
        number, unit = text.split()
        band = np.interp(float(number) * (1000 if unit == "kHz" else 1), edges, range(spec.n_mels))
        assert place == pytest.approx((band + 0.5) / spec.n_mels, abs=0.01)
    seconds = page.texts("#spectrogram-seconds span")
    assert seconds[:3] == ["0 s", "\N{MINUS SIGN}5 s", "\N{MINUS SIGN}10 s"]
    offset = page.run(
        """const [now, mark] = document.querySelectorAll("#spectrogram-seconds span");
        const { left, width } = mark.getBoundingClientRect();
        return now.getBoundingClientRect().right - left - width / 2;"""
    )
    assert offset == pytest.approx(5 * 13 * COLUMN_PIXELS, abs=1)


def test_a_page_opened_later_shows_the_last_half_minute_at_once(
    page: Page, radio: Broadcast
) -> None:
    for second in range(1, 41):
        radio.publish(columns(second, loud(255 if second == 20 else 0)))
    page.open(radio.url)
    page.until("document.getElementById('spectrogram-empty').hidden")
    second = 13 * COLUMN_PIXELS
    assert sum(page.pixel("spectrogram", 20.5 * second, 0.5)) < 100
    assert sum(page.pixel("spectrogram", 5, 0.5)) > 600
    assert sum(page.pixel("spectrogram", 29.5 * second, 0.5)) > 600


def test_an_empty_spectrogram_says_what_is_awaited(page: Page, radio: Broadcast) -> None:
    watching(page, radio)
    page.until_text("spectrogram-empty", "Waiting for the next second")
    radio.publish(source_state("reconnecting"))
    page.until_text("spectrogram-empty", "No sound yet")
    radio.publish(source_state("live"), prediction(1), source_state("stalled"))
    page.until(
        "/^No sound since .*:/.test(document.getElementById('spectrogram-empty').textContent)"
    )


def test_the_spectrogram_of_the_selected_source_alone_is_subscribed_to(
    page: Page, serve: Callable[..., Broadcast]
) -> None:
    running = serve("radio", "hall")
    watching(page, running)
    page.run("document.querySelector('.source input[value=hall]').click()")
    wait_for(lambda: running.spectrogram_sources() == ["hall"], "the other source is asked for")


def test_a_hidden_page_unsubscribes_and_a_visible_one_subscribes_again(
    page: Page, radio: Broadcast
) -> None:
    watching(page, radio)
    shown = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    try:
        wait_for(lambda: radio.spectrogram_sources() == [], "the hidden page wants no pictures")
    finally:
        page.driver.close()
        page.driver.switch_to.window(shown)
    wait_for(lambda: radio.spectrogram_sources() == ["radio"], "it wants them again")


def test_columns_appear_one_by_one_unless_motion_is_reduced(page: Page, radio: Broadcast) -> None:
    gliding = "document.getElementById('spectrogram').getAnimations().length"
    for reduced_motion, animations in ((False, 1), (True, 0)):
        page.view(reduced_motion=reduced_motion)
        watching(page, radio)
        show(page, radio, columns(1, loud(255)))
        show(page, radio, columns(4, loud(0)))
        assert page.run(f"return {gliding}") == animations
