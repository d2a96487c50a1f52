"""How much processor time the dashboard needs to draw."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.browser import Page, broadcast, chromium, missing_browser
from support.published import prediction, segment, spectrogram

MEASURED_SECONDS = 10


def busy_seconds(page: Page) -> tuple[float, float]:
    """Return the processor time that the page's thread has used, and the time now."""
    metrics = page.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return {metric["name"]: metric["value"] for metric in metrics}["TaskDuration"], time.monotonic()


@pytest.mark.benchmark
@pytest.mark.skipif(missing_browser() is not None, reason=str(missing_browser()))
def test_the_page_draws_with_less_than_a_tenth_of_a_processor(
    tmp_path: Path, measured: Callable[[str], None]
) -> None:
    radio = broadcast("radio")
    try:
        with chromium(tmp_path) as page:
            page.view(reduced_motion=False)
            page.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
            page.open(radio.url)
            page.until("document.getElementById('connection').textContent === 'Connected'")
            for seq in range(1, MEASURED_SECONDS + 4):
                if seq == 4:
                    before, began = busy_seconds(page)
                radio.publish(prediction(seq), segment(1 + seq // 5), spectrogram(seq))
                time.sleep(1)
            after, ended = busy_seconds(page)
    finally:
        radio.close()
    share = (after - before) / (ended - began)
    measured(f"the page draws with {share:.1%} of a processor")
    assert share < 0.1
