from __future__ import annotations

import pytest
from websockets.datastructures import Headers

from streamer.sinks.websocket.access import Access, RefusedError, parameter
from streamer.system.urls import normalise_origin


@pytest.fixture(autouse=True)
def host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Kitchen.lan")


def refusal(access: Access, headers: Headers) -> tuple[int, str] | None:
    try:
        access.check_host_and_origin(headers)
    except RefusedError as refused:
        return refused.status, str(refused)
    return None


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8765",
        "kitchen",
        "kitchen.lan:8765",
        "KITCHEN.local",
        "192.168.1.5:8765",
        "[fe80::1]:8765",
        "radio.example:8443",
    ],
)
def test_own_host_names_and_all_addresses_are_accepted(host: str) -> None:
    access = Access(origins=["https://radio.example"])
    assert refusal(access, Headers(Host=host)) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "lan", "kitchen.evil.example", "1.2.3", "999.1.1.1"]
)
def test_another_host_name_is_refused_with_advice_unless_there_is_a_token(host: str) -> None:
    assert refusal(Access(), Headers(Host=host)) == (
        403,
        f"{host} is no name of this server; if it is, say --origin http://{host}",
    )
    assert refusal(Access("secret"), Headers(Host=host)) is None


@pytest.mark.parametrize(
    "headers",
    [Headers(), Headers(Host=""), Headers(Host="a b"), Headers(Host="localhost:port")],
)
def test_an_invalid_host_header_is_refused(headers: Headers) -> None:
    for access in (Access(), Access("secret")):
        assert refusal(access, headers) == (400, "the Host header is missing or malformed")


def test_a_repeated_header_is_refused() -> None:
    headers = Headers([("Host", "localhost"), ("Host", "localhost")])
    assert refusal(Access(), headers) == (400, "the Host header is there 2 times")


@pytest.mark.parametrize(
    ("origin", "allowed", "listed"),
    [
        (None, True, False),
        ("http://localhost:8765", True, False),
        ("https://LOCALHOST:8765", True, False),
        ("http://localhost", False, False),
        ("http://evil.example", False, False),
        ("https://Radio.example", True, True),
        ("http://radio.example", False, False),
        ("null", False, False),
    ],
)
def test_own_pages_and_those_of_listed_origins_may_connect(
    origin: str | None, allowed: bool, listed: bool
) -> None:
    access = Access("secret", origins=["https://radio.example"])
    headers = (
        Headers(Host="localhost:8765")
        if origin is None
        else Headers(Host="localhost:8765", Origin=origin)
    )
    assert refusal(access, headers) == (
        None if allowed else (403, "pages of this origin may not connect; let them with --origin")
    )
    assert access.allowed_origin(headers) == (origin if listed else None)


def test_host_and_origin_are_compared_without_case() -> None:
    headers = Headers(Host="LocalHost:8765", Origin="http://localhost:8765")
    assert refusal(Access(), headers) is None


def test_a_page_from_the_disk_may_connect_if_null_is_listed() -> None:
    headers = Headers(Host="localhost", Origin="null")
    assert refusal(Access(origins=["null"]), headers) is None


@pytest.mark.parametrize(
    ("authorization", "query", "authorised"),
    [
        (None, "", False),
        (None, "token=secret", True),
        (None, "token=guess", False),
        (None, "token=\udcff", False),
        (None, "token=guess&token=%20secret%20", True),
        ("Bearer secret", "", True),
        ("bearer  secret ", "", True),
        ("Bearer", "", False),
        ("Bearer guess", "token=secret", False),
        ("Basic c2VjcmV0", "token=secret", True),
        ("Basic secret", "", False),
    ],
)
def test_the_token_is_read_from_the_header_or_the_query(
    authorization: str | None, query: str, authorised: bool
) -> None:
    headers = Headers() if authorization is None else Headers(Authorization=authorization)
    assert Access("secret").is_authorised(headers, query) is authorised
    assert Access().is_authorised(headers, query)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("https://radio.example/", "https://radio.example"),
        ("HTTP://Radio.Example:80", "http://radio.example"),
        ("https://radio.example:443", "https://radio.example"),
        ("https://radio.example:80", "https://radio.example:80"),
        ("http://radio.example:8080", "http://radio.example:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("null", "null"),
    ],
)
def test_an_origin_is_spelled_as_browsers_send_it(text: str, sent: str) -> None:
    assert normalise_origin(text) == sent


@pytest.mark.parametrize(
    "text",
    [
        "",
        "radio.example",
        "http://",
        "://radio.example",
        "http://radio.example/page",
        "http://a..b",
    ],
)
def test_an_invalid_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not the origin of a page: that is its scheme, host"):
        normalise_origin(text)


def test_the_last_of_repeated_parameters_counts_and_too_many_are_refused() -> None:
    assert parameter("a=1&b=2&a=3", "a") == "3"
    assert parameter("a=1", "b") is None
    assert parameter("&".join(f"a={n}" for n in range(16)), "a") == "15"
    with pytest.raises(RefusedError, match="the query has too many parameters") as refused:
        parameter("&".join(f"a={n}" for n in range(17)), "a")
    assert refused.value.status == 400
