"""Generated requests: each gets a response or is aborted, and none causes an error of ours."""

import logging
import re
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.browser import Broadcast
from support.published import hello, prediction
from support.waiting import LONGEST_WAIT_SECONDS

RESPONSE = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]+\r\n((?:[^\r\n]+\r\n)*)\r\n")

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
methods = st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "get", ""]) | words
paths = st.sampled_from(
    ["/", "/healthz", "/metrics", "/api/state", "/api/history", "/dashboard.js", "*", "//x", ""]
) | words.map(lambda word: f"/{word}")
queries = st.sampled_from(
    ["", "?", "?from=1&to=2", "?format=csv", "?table=minutes", "?token=%ff", "?from=2026-05-01T00"]
) | words.map(lambda word: f"?{word}")
header_names = st.sampled_from(
    ["Host", "Origin", "Authorization", "Upgrade", "Connection", "Accept", "If-None-Match"]
) | st.sampled_from(
    ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Content-Length", "Transfer-Encoding"]
)
header_values = (
    st.sampled_from(["localhost", "websocket", "Upgrade", "13", "dGhlIHNhbXBsZSBub25jZQ==", "0"])
    | st.sampled_from(["null", "http://localhost", "Bearer x", "text/csv", "", "chunked", "*/*"])
    | words
)
headers = st.lists(st.tuples(header_names, header_values), max_size=8)
protocols = st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "X"])


@st.composite
def requests(draw):
    first = f"{draw(methods)} {draw(paths)}{draw(queries)} {draw(protocols)}"
    lines = [first, *(f"{name}: {value}" for name, value in draw(headers))]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.fixture(scope="module")
def broadcast(tmp_path_factory):
    history = tmp_path_factory.mktemp("history") / "h.db"
    errors: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = errors.append
    logging.getLogger().addHandler(handler)
    station = Broadcast(hello("radio"), history, port=0, token="sesame")
    station.publish(prediction(1))
    yield station
    station.close()
    logging.getLogger().removeHandler(handler)
    assert errors == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests() | st.binary(max_size=200))
def test_every_request_gets_a_response_or_is_aborted_without_an_error(broadcast, request_):
    with socket.create_connection(
        ("127.0.0.1", broadcast.port), timeout=LONGEST_WAIT_SECONDS
    ) as client:
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        response = b""
        try:
            while received := client.recv(65536):
                response += received
        except ConnectionResetError:
            return
    if not response:
        return
    match = RESPONSE.match(response)
    assert match, response[:200]
    status, header_lines = int(match[1]), match[2].lower()
    assert status in {101, 200, 304, 400, 401, 403, 404, 405, 414, 426, 431, 503, 505}
    length = re.search(rb"content-length: (\d+)", header_lines)
    body = response[match.end() :]
    if status != 101 and length and not request_.startswith(b"HEAD"):
        assert len(body) == int(length[1])
