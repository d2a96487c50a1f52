"""Requests of every shape: each is answered or cut off, and none is our fault."""

import logging
import re
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.browser import Broadcast
from support.published import hello, prediction

PATIENCE = 60.0
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]+\r\n((?:[^\r\n]+\r\n)*)\r\n")

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
    blunders: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = blunders.append
    logging.getLogger().addHandler(handler)
    station = Broadcast(hello("radio"), history, port=0, token="sesame")
    station.publish(prediction(1))
    yield station
    station.close()
    logging.getLogger().removeHandler(handler)
    assert blunders == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests() | st.binary(max_size=200))
def test_every_request_is_answered_or_cut_off_and_none_is_our_fault(broadcast, request_):
    with socket.create_connection(("127.0.0.1", broadcast.port), timeout=PATIENCE) as client:
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while received := client.recv(65536):
                answer += received
        except ConnectionResetError:
            return
    if not answer:
        return
    match = ANSWER.match(answer)
    assert match, answer[:200]
    status, fields = int(match[1]), match[2].lower()
    assert status in {101, 200, 304, 400, 401, 403, 404, 405, 414, 426, 431, 503, 505}
    length = re.search(rb"content-length: (\d+)", fields)
    body = answer[match.end() :]
    if status != 101 and length and not request_.startswith(b"HEAD"):
        assert len(body) == int(length[1])
