from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.system.urls import redact


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("http://host/live", "http://host/live"),
        ("http://me:secret@host:8000/live", "http://host:8000/live"),
        ("http://me:sec/ret@host:8000/live", "http://host:8000/live"),
        ("http://me:sec?ret@host/live", "http://host/live"),
        ("http://me:s@cret@host/live", "http://host/live"),
        ("no http://me:sec ret@host/live: refused", "no http://host/live: refused"),
        ("http://me:sec<ret>@host/live", "http://host/live"),
        ('["a=http://host:80", "b=http://me:secret@c/"]', '["a=http://host:80", "b=http://c/"]'),
        ("https://host/a?token=secret", "https://host/a?…"),
        ("https://host/a#secret", "https://host/a#…"),
        ("https://host/@user/stream", "https://host/@user/stream"),
        ("http://host:8000/@user/stream", "http://host:8000/@user/stream"),
        ("https://host/user@name/stream", "https://host/user@name/stream"),
        ("http://me:secret@host:8000/user@name", "http://host:8000/user@name"),
        ("https://proxy/http://me:secret@host/live", "https://proxy/http://host/live"),
        ("https://proxy/http://me:secret@host/a?b: no", "https://proxy/http://host/a?…: no"),
        ("rtsp://cam:secret@10.0.0.1:554/1?k=secret: refused", "rtsp://10.0.0.1:554/1?…: refused"),
        ("a http://u:secret@b/ and https://c/?secret", "a http://b/ and https://c/?…"),
    ],
)
def test_credentials_and_queries_are_not_shown(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@settings(deadline=None)
@given(st.text(st.characters(categories=["L", "N"]), min_size=8), st.sampled_from("/?#:@!$&= <>"))
def test_a_password_of_any_characters_is_not_shown(letters: str, mark: str) -> None:
    password = f"{letters}{mark}{letters}"
    assert letters not in redact(f"cannot open http://me:{password}@host.example:8000/live: no")


def test_redacting_takes_no_quadratic_time() -> None:
    def processor_seconds(length: int) -> float:
        started = time.process_time()
        for text in ("a." * length, "http://host/?" + "." * length + "x", "a://a:" * length):
            redact(text)
        return time.process_time() - started

    # Quadratic time would be 256 times as long.
    assert processor_seconds(32_000) < 64 * processor_seconds(2_000)
