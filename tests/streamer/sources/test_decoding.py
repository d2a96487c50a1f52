from __future__ import annotations

import pytest

from streamer.sources import SourceError
from streamer.sources.decoding import InactivityTimeout


def test_an_inactivity_timeout_is_exceeded_when_there_is_no_audio() -> None:
    now = 1000.0
    timeout = InactivityTimeout("http://host/live", 10.0, clock=lambda: now)
    now += 10.0
    timeout.check()
    timeout.reset()
    now += 10.0
    timeout.check()
    now += 0.1
    with pytest.raises(SourceError) as caught:
        timeout.check()
    assert str(caught.value) == "http://host/live: no audio that can be decoded for 10 s"
    assert not caught.value.permanent
