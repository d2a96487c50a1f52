"""What clients of the port see.

Tests that ask for `running` are about the server of a daemon and that of a relay: their outcome
depends on what is served (greeting, latest frames, subscriptions, state, history) or on how a relay
makes, sets up and closes its server (token, origins, TLS, limits, shutdown). The others are about
one server, since both run the same code there with the same arguments (`server_options`): parsing
of requests, HTTP methods and paths, TLS handshakes, pending connections and sockets. The health of
a relay's sources, which it works out itself, is tested with a real daemon in ../relay.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import re
import socket
import ssl
import subprocess
from urllib.parse import urlsplit

import aiohttp
import pytest
from support.certificate import make_certificate
from support.published import (
    hello,
    prediction,
    running_server,
    segment,
    source_state,
    spectrogram,
)
from support.schema import check_frame
from support.waiting import LONGEST_WAIT_SECONDS
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from streamer.core.health import SourceHealth
from streamer.sinks.websocket import connections as connections_module
from streamer.sinks.websocket import server as server_module
from streamer.sinks.websocket.hub import Hub
from streamer.sinks.websocket.server import Server, ServerError

TOKEN = "open sesame+/=&"


def run(coroutine):
    async def limited():
        async with asyncio.timeout(LONGEST_WAIT_SECONDS) as limit:
            asyncio.get_running_loop().limit = limit
            return await coroutine

    return asyncio.run(limited())


def adjustable_clock():
    """Return a function that advances the clock of the running loop by some seconds."""
    loop = asyncio.get_running_loop()
    read_clock, skipped = loop.time, 0.0
    loop.time = lambda: read_clock() + skipped

    def advance(seconds):
        nonlocal skipped
        skipped += seconds
        loop.limit.reschedule(loop.limit.when() + seconds)

    return advance


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


async def receive(connection, count):
    return [check_frame(json.loads(await connection.recv())) for _ in range(count)]


def websocket_url(server, path="/"):
    return server.url.replace("http", "ws", 1).rstrip("/") + path


async def fetch(url, method="GET", **options):
    """Return status, headers and body."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, **options) as response,
    ):
        return response.status, response.headers, await response.text()


async def metric(server, name):
    _, _, text = await fetch(f"{server.url}metrics")
    return float(re.search(rf"^{name}(?:{{.*}})? (.*)$", text, re.MULTILINE)[1])


def test_a_client_on_any_path_gets_hello_and_the_latest_before_anything_new(running):
    async def scenario():
        async with running("radio", "hall") as (hub, server):
            hub.publish(prediction(3, "radio", latency_ms=0.0))
            hub.publish(segment(1, "radio"))
            await until(lambda: hub.state()["segments"])
            async with connect(websocket_url(server, "/any/path?at=all")) as connection:
                first, latest, open_segment = await receive(connection, 3)
                hub.publish(prediction(4, "hall"))
                (new,) = await receive(connection, 1)
        # A relay has a name of its own, and is told since when a source is live.
        for greeting in (expected := hello("radio", "hall"), first):
            greeting["server"] = ""
            for source in greeting["sources"]:
                source["since"] = None
        expected["sources"][0]["heard_until"] = latest["time"]
        assert first == expected
        assert (latest["seq"], open_segment["id"]) == (3, 1)
        assert (new["source"], new["seq"]) == ("hall", 4)

    run(scenario())


def test_a_subscription_selects_sources_and_message_types():
    async def scenario():
        async with (
            running_server("radio", "hall") as (hub, server),
            connect(websocket_url(server)) as connection,
        ):
            await receive(connection, 1)
            request = {"type": "subscribe", "sources": ["hall"], "messages": ["spectrogram"]}
            await connection.send(json.dumps(request))
            await until(lambda: any(outbox.subscription.sources for outbox in hub.outboxes))
            for source in ("radio", "hall"):
                hub.publish(prediction(1, source))
                hub.publish(spectrogram(1, source))
            hub.publish(spectrogram(2, "hall"))
            assert [
                (frame["type"], frame["source"], frame["position"])
                for frame in await receive(connection, 2)
            ] == [("spectrogram", "hall", 1.0), ("spectrogram", "hall", 2.0)]

    run(scenario())


def test_what_a_subscription_adds_follows_at_once(running):
    async def scenario():
        async with running("radio", "hall") as (hub, server):
            for source in ("radio", "hall"):
                hub.publish(prediction(1, source))
                hub.publish(segment(1, source))
            await until(lambda: len(hub.state()["segments"]) == 2)
            async with connect(websocket_url(server)) as connection:
                await receive(connection, 5)
                for request in (
                    {"sources": ["hall"], "messages": ["segment"]},
                    {"sources": ["hall"]},
                    {"messages": ["source", "segment"]},
                ):
                    await connection.send(json.dumps({"type": "subscribe"} | request))
                frames = await receive(connection, 2)
                hub.publish(prediction(2, "radio"))
                hub.publish(source_state("stalled", "hall"))
                frames += await receive(connection, 1)
                assert [(frame["type"], frame["source"]) for frame in frames] == [
                    ("prediction", "hall"),
                    ("segment", "radio"),
                    ("source", "hall"),
                ]

    run(scenario())


GARBAGE = [
    ("", "bad_json"),
    ("{", "bad_json"),
    ("[" * 4096, "bad_json"),
    ("9" * 4096, "bad_json"),
    ("[]", "bad_json"),
    ("null", "bad_json"),
    ("{}", "unknown_type"),
    ('{"type": "publish"}', "unknown_type"),
    ('{"type": {"type": []}}', "unknown_type"),
    ('{"type": "subscribe", "sources": {}}', "bad_subscribe"),
    ('{"type": "subscribe", "source": ["radio"]}', "bad_subscribe"),
    ('{"type": "subscribe", "sources": ["\\ud800"]}', "unknown_source"),
    (b"\x00\xff", "bad_frame"),
]


def test_invalid_requests_are_answered_with_errors_on_the_open_connection(running):
    async def scenario():
        async with running() as (hub, server), connect(websocket_url(server)) as connection:
            await receive(connection, 1)
            for garbage, code in GARBAGE:
                await connection.send(garbage)
                (error,) = await receive(connection, 1)
                assert (error["type"], error["code"]) == ("error", code), garbage
            hub.publish(prediction(1))
            assert (await receive(connection, 1))[0]["seq"] == 1

    run(scenario())


def test_a_frame_of_more_than_4_kib_closes_the_connection_with_1009(running):
    async def scenario():
        async with running() as (_, server), connect(websocket_url(server)) as connection:
            await receive(connection, 1)
            await connection.send(" " * 4096)
            assert (await receive(connection, 1))[0]["code"] == "bad_json"
            await connection.send(" " * 4097)
            with pytest.raises(ConnectionClosedError) as closed:
                await connection.recv()
            assert closed.value.rcvd.code == 1009

    run(scenario())


def test_a_stopping_server_closes_clients_with_1001_though_others_do_not_read(running):
    async def scenario():
        async with contextlib.AsyncExitStack() as stack:
            async with running() as (hub, server):
                await stack.enter_async_context(open_unread(server))
                await stack.enter_async_context(open_socket(server))
                connection = await stack.enter_async_context(connect(websocket_url(server)))
                await receive(connection, 1)
                await until(lambda: len(list(hub.outboxes)) == 2)
                flood(hub)
                receiving = asyncio.create_task(receive_all(connection))
                await asyncio.sleep(0)
            assert (await receiving).rcvd.code == 1001

    run(scenario())


def test_a_client_that_is_sent_nothing_else_gets_heartbeats(running, monkeypatch):
    monkeypatch.setattr(connections_module, "HEARTBEAT_SECONDS", 0.1)

    async def scenario():
        async with running() as (_, server), connect(websocket_url(server)) as connection:
            assert [frame["type"] for frame in await receive(connection, 3)] == [
                "hello",
                "heartbeat",
                "heartbeat",
            ]

    run(scenario())


def test_a_client_that_is_sent_predictions_gets_no_heartbeats(monkeypatch):
    monkeypatch.setattr(connections_module, "HEARTBEAT_SECONDS", LONGEST_WAIT_SECONDS)
    monkeypatch.setattr(connections_module, "PING_INTERVAL_SECONDS", 100 * LONGEST_WAIT_SECONDS)

    async def scenario():
        async with (
            running_server() as (hub, server),
            connect(websocket_url(server), ping_interval=None) as connection,
        ):
            await receive(connection, 1)
            advance = adjustable_clock()
            for seq in range(10):
                hub.publish(prediction(seq))
                (frame,) = await receive(connection, 1)
                assert frame["type"] == "prediction"
                advance(LONGEST_WAIT_SECONDS / 2)
            advance(LONGEST_WAIT_SECONDS)
            assert (await receive(connection, 1))[0]["type"] == "heartbeat"

    run(scenario())


def test_a_client_that_stays_behind_is_closed_with_1013_and_another_misses_nothing(monkeypatch):
    monkeypatch.setattr(connections_module, "PING_INTERVAL_SECONDS", 100 * LONGEST_WAIT_SECONDS)
    monkeypatch.setattr(connections_module, "CLIENT_CLOSE_SECONDS", 100 * LONGEST_WAIT_SECONDS)

    async def scenario():
        async with (
            running_server() as (hub, server),
            connect(websocket_url(server), max_queue=1, ping_interval=None) as behind,
            connect(websocket_url(server), ping_interval=None) as well_behaved,
        ):
            await receive(well_behaved, 1)
            closed = asyncio.Event()
            receiving = asyncio.create_task(receive_all(behind, after=closed))
            advance = adjustable_clock()
            seqs = itertools.count()
            while await metric(server, "genre_stream_slow_clients_closed_total") == 0:
                hub.publish(prediction(seq := next(seqs), probabilities={"x" * 400_000: 1.0}))
                assert (await receive(well_behaved, 1))[0]["seq"] == seq
                advance(connections_module.SLOW_CLIENT_SECONDS / 4)
            closed.set()
            close = (await receiving).rcvd
            assert (close.code, close.reason) == (1013, "behind for 10 s")

    run(scenario())


def test_a_client_that_answers_no_ping_is_closed_though_the_kernel_buffers_frames(
    running, monkeypatch
):
    monkeypatch.setattr(connections_module, "SLOW_CLIENT_SECONDS", 0.5)
    monkeypatch.setattr(connections_module, "PING_INTERVAL_SECONDS", 0.1)

    async def scenario():
        async with running() as (hub, server), open_unread(server):
            await until(lambda: list(hub.outboxes))
            await until(lambda: not list(hub.outboxes))
            assert await metric(server, "genre_stream_slow_clients_closed_total") == 1

    run(scenario())


def test_a_client_whose_control_frames_overflow_is_closed_though_it_reads_again():
    async def scenario():
        async with (
            running_server() as (hub, server),
            connect(websocket_url(server), max_queue=1) as behind,
        ):
            await until(lambda: list(hub.outboxes))
            flood(hub)
            for number in range(300):
                hub.publish(segment(number + 1))
            assert (await receive_all(behind)).rcvd.code == 1013

    run(scenario())


def test_frames_for_a_client_that_has_just_gone_leave_no_line_in_the_log(caplog):
    async def scenario():
        async with running_server() as (hub, server), connect(websocket_url(server)) as connection:
            await receive(connection, 1)
            (outbox,) = hub.outboxes
            outbox._write.__self__._connection.transport.abort()  # as when a write has failed
            for number in range(20):  # in one turn of its loop
                hub.publish(prediction(number + 1))

    run(scenario())
    assert "socket.send() raised exception" not in caplog.text


def test_there_is_no_compression_and_no_server_header():
    async def scenario():
        async with running_server() as (_, server), connect(websocket_url(server)) as connection:
            assert "Sec-WebSocket-Extensions" in connection.request.headers
            assert "Sec-WebSocket-Extensions" not in connection.response.headers
            assert "Server" not in connection.response.headers

    run(scenario())


def test_a_token_may_contain_non_ascii_letters():
    async def scenario():
        async with running_server(token="s\N{LATIN SMALL LETTER E WITH ACUTE}same") as (_, server):
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
            writer.write(
                b"GET /api/state HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                b"Authorization: Bearer s\xc3\xa9same\r\n\r\n"
            )
            assert (await reader.readline()).split()[1] == b"200"
            writer.close()

    run(scenario())


def test_clients_without_the_token_are_refused_and_it_is_never_logged(running, caplog):
    caplog.set_level(logging.DEBUG)
    right = {"Authorization": f"Bearer {TOKEN}"}
    wrong = {"Authorization": "Bearer guess"}
    query = "/?token=open%20sesame%2B%2F%3D%26"

    async def scenario():
        async with running(token=TOKEN) as (_, server):
            for path, headers in (("/", right), (query, {}), (f"{query}&x=1", {})):
                async with connect(
                    websocket_url(server, path), additional_headers=headers
                ) as client:
                    assert (await receive(client, 1))[0]["type"] == "hello"
            for path, headers in (("/", {}), ("/", wrong), ("/?token=guess", {}), (query, wrong)):
                with pytest.raises(InvalidStatus) as refused:
                    await connect(websocket_url(server, path), additional_headers=headers)
                assert refused.value.response.status_code == 401
            for page in ("metrics", "api/state", "api/history"):
                assert (await fetch(server.url + page))[0] == 401
                assert (await fetch(server.url + page, headers=wrong))[0] == 401
                assert (await fetch(server.url + page, headers=right))[0] != 401
            assert (await fetch(server.url))[0] == 200
            assert json.loads((await fetch(f"{server.url}healthz"))[2]) == {"status": "ok"}
            details = json.loads((await fetch(f"{server.url}healthz", headers=right))[2])
            assert details["sources"]["radio"]["healthy"]

    run(scenario())
    ours = [record for record in caplog.records if record.name.startswith("streamer")]
    assert not [record for record in ours if "sesame" in record.getMessage()]
    assert not [record for record in ours if "sesame" in str(record.exc_info)]


@pytest.mark.parametrize(
    ("headers", "settings", "allowed"),
    [
        ({}, {}, True),
        ({"Origin": "http://{host}"}, {}, True),
        ({"Origin": "https://{host}"}, {}, True),
        ({"Origin": "http://evil.example"}, {}, False),
        ({"Origin": "null"}, {}, False),
        ({"Origin": "http://127.0.0.1:1"}, {}, False),
        ({"Origin": "https://Radio.example"}, {"origins": ["https://radio.example/"]}, True),
        ({"Origin": "http://radio.example"}, {"origins": ["https://radio.example"]}, False),
        (
            {"Origin": "https://xn--radio-kln-67a.example"},
            {"origins": ["https://Radio-Köln.example:443/"]},
            True,
        ),
        ({"Origin": "http://evil.example", "Host": "evil.example"}, {}, False),
        ({"Host": "evil.example"}, {}, False),
        ({"Host": "localhost"}, {}, True),
        ({"Host": "[::1]:8765"}, {}, True),
        ({"Host": "radio.example"}, {"origins": ["https://radio.example"]}, True),
        ({"Host": "any.example"}, {"token": "t"}, True),
        ({"Host": "evil.example/<script>"}, {}, False),
    ],
)
def test_pages_of_other_sites_cannot_connect(headers, settings, allowed):
    async def scenario():
        async with running_server(**settings) as (_, server):
            host = server.url.split("/")[2]
            sent = {name: value.replace("{host}", host) for name, value in headers.items()}
            path = "/healthz?token=t"
            status, answer, _ = await fetch(server.url.rstrip("/") + path, headers=sent)
            assert (status == 200) is allowed
            listed = allowed and "adio" in sent.get("Origin", "")
            assert answer.get("Access-Control-Allow-Origin") == (sent["Origin"] if listed else None)
            with contextlib.ExitStack() as stack:
                if not allowed:
                    stack.enter_context(pytest.raises(InvalidStatus))
                await raw_connect(websocket_url(server, path), sent)

    run(scenario())


def test_pages_of_listed_origins_may_connect_and_no_others(running):
    async def scenario():
        async with running(origins=("https://radio.example",)) as (_, server):
            for origin, status in (
                ("https://radio.example", 200),
                (server.url.rstrip("/"), 200),
                ("https://other.example", 403),
            ):
                headers = {"Origin": origin}
                assert (await fetch(f"{server.url}api/state", headers=headers))[0] == status

    run(scenario())


@pytest.mark.parametrize(
    ("headers", "advice"),
    [
        (
            {"Origin": "https://Radio.example:443"},
            "refused a page of https://radio.example; if it may connect, "
            "say --origin https://radio.example",
        ),
        (
            {"Origin": "null"},
            "refused a file or sandboxed page; if it may connect, say --origin null",
        ),
        ({"Origin": "http://a/b"}, "refused a web page with the malformed origin 'http://a/b'"),
        (
            {"Host": "radio.example"},
            "refused a request: radio.example is no name of this server; if it is, "
            "say --origin http://radio.example",
        ),
    ],
)
def test_the_log_says_what_would_allow_a_page_that_was_refused(headers, advice, caplog):
    async def scenario():
        async with running_server() as (_, server):
            with pytest.raises(InvalidStatus):
                await raw_connect(websocket_url(server), headers)
            return server.url

    url = run(scenario())
    assert [record.getMessage() for record in caplog.records] == [f"{url}: {advice}"]


def test_the_unspecified_address_of_ipv6_answers_on_ipv4_as_well():
    async def scenario():
        async with running_server(host="::") as (_, server):
            port = server.addresses[0][1]
            for host in ("[::1]", "127.0.0.1"):
                assert (await fetch(f"http://{host}:{port}/healthz"))[0] == 200
            with pytest.raises(ServerError, match=rf"^cannot listen on :::{port}: "):
                await Server(Hub(hello()), host="::", port=port).start()

    run(scenario())


async def raw_connect(url, headers):
    """Connect with headers that the client library would not send."""
    host = url.split("/")[2]
    reader, writer = await asyncio.open_connection(host.split(":")[0], int(host.split(":")[1]))
    fields = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    } | headers
    lines = [f"GET /{url.split('/', 3)[3]} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    if status != 101:
        from websockets.http11 import Headers, Response

        raise InvalidStatus(Response(status, "", Headers()))


def test_the_dashboard_has_a_strict_policy_and_an_entity_tag():
    async def scenario():
        async with running_server() as (_, server):
            status, headers, page = await fetch(server.url)
            assert status == 200
            assert page.lower().startswith("<!doctype html>")
            assert headers["Content-Type"] == "text/html; charset=utf-8"
            assert headers["X-Content-Type-Options"] == "nosniff"
            host = server.url.split("/")[2]
            assert headers["Content-Security-Policy"] == (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                f"connect-src 'self' ws://{host} wss://{host}; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
            again = await fetch(server.url, headers={"If-None-Match": headers["ETag"]})
            assert (again[0], again[2]) == (304, "")

    run(scenario())


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/..%2fserver.py",
        "/dashboard/../../pyproject.toml",
        "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..\\server.py",
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "*",
        "/index.html/",
        "/.",
        "/" + "a" * 4000,
        "/[",
    ],
)
def test_no_path_leads_to_any_other_file(path):
    async def scenario():
        async with running_server() as (_, server):
            host, port = server.addresses[0]
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = (await reader.read()).decode()
            writer.close()
            assert answer.startswith("HTTP/1.1 404 ")
            assert answer.endswith(
                "there is no such page; see / /healthz /metrics /api/state /api/history\n"
            )

    run(scenario())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "X"])
def test_methods_other_than_get_and_head_are_refused(method):
    async def scenario():
        async with running_server() as (_, server):
            for page in ("", "api/state"):
                status, headers, _ = await fetch(server.url + page, method)
                assert (status, headers["Allow"]) == (405, "GET, HEAD")

    run(scenario())


@pytest.mark.parametrize("sent", ["", "GET / HT", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_a_request_that_takes_too_long_is_aborted(sent, monkeypatch):
    monkeypatch.setattr(server_module, "HANDSHAKE_SECONDS", 0.2)

    async def scenario():
        async with running_server() as (_, server):
            reader, writer = await asyncio.open_connection(*server.addresses[0])
            writer.write(sent.encode())
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    run(scenario())


def test_a_request_with_a_body_is_aborted():
    async def scenario():
        async with running_server() as (_, server):
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await fetch(f"{server.url}api/state", "POST", data=b"x" * 100)

    run(scenario())


def test_head_returns_the_headers_of_get_without_the_body(running):
    async def scenario():
        async with running() as (_, server):
            for page in ("", "healthz", "api/history", "nothing"):
                status, headers, body = await fetch(server.url + page)
                assert body
                head = await fetch(server.url + page, "HEAD")
                assert (head[0], head[2]) == (status, "")
                assert head[1]["Content-Length"] == headers["Content-Length"]

    run(scenario())


def test_healthz_reports_which_source_makes_no_progress_and_why():
    sources = [
        SourceHealth("radio", "live", quiet_seconds=2.0),
        SourceHealth("file", "ended", quiet_seconds=900.0),
    ]

    async def scenario():
        async with running_server("radio", "file", health=lambda: sources) as (_, server):
            status, _, body = await fetch(f"{server.url}healthz")
            assert (status, json.loads(body)["status"]) == (200, "ok")
            sources.append(SourceHealth("hall", "reconnecting", "refused", quiet_seconds=31.4))
            sources.append(SourceHealth("slow", "live", quiet_seconds=40.0, hop_seconds=20.0))
            sources.append(SourceHealth("gone", "failed", "404 Not Found"))
            quiet = {"silence_seconds": 300.0, "digital_silence_seconds": 75.2}
            sources.append(SourceHealth("station", "live", is_station=True, **quiet))
            sources.append(SourceHealth("microphone", "live", **quiet))
            status, headers, body = await fetch(f"{server.url}healthz")
            assert (status, headers["Content-Type"]) == (503, "application/json")
            health = json.loads(body)
            assert health["status"] == "failing"
            assert {name: source["reason"] for name, source in health["sources"].items()} == {
                "radio": None,
                "file": None,
                "hall": "no decision for 31 s: refused",
                "slow": None,
                "gone": "404 Not Found",
                "station": "digital silence for 75 s",
                "microphone": None,
            }
            silence = [each["seconds_of_silence"] for each in health["sources"].values()]
            assert silence == [0, 0, 0, 0, 0, 300, 300]
            assert health["sources"]["hall"]["detail"] == "refused"

    run(scenario())


def test_api_state_has_the_state_and_latest_prediction_of_each_source(running):
    async def scenario():
        async with running() as (hub, server):
            hub.publish(prediction(1))
            hub.publish(source_state("stalled", detail="no sound"))
            await until(lambda: hub.state()["sources"][0]["state"] == "stalled")
            status, _, body = await fetch(f"{server.url}api/state")
            assert status == 200
            (source,) = json.loads(body)["sources"]
            assert (source["state"], source["detail"]) == ("stalled", "no sound")
            assert source["prediction"]["seq"] == 1

    run(scenario())


def test_api_history_returns_json_and_csv(running, tmp_path):
    async def scenario():
        async with running("radio", "hall", history=tmp_path / "h.db") as (hub, server):
            hub.publish(prediction(10))
            hub.publish(segment(1, end=10.0, final=True))
            found = {"segments": []}
            while not found["segments"]:
                found = json.loads((await fetch(f"{server.url}api/history?source=radio"))[2])
            (row,) = found["segments"]
            assert (row["genre"], row["title"]) == ("blues", "Song 1")
            for request in ("?format=csv", ""):
                _, headers, text = await fetch(
                    f"{server.url}api/history{request}", headers={"Accept": "text/csv"}
                )
                assert headers["Content-Type"] == "text/csv; charset=utf-8"
                lines = text.splitlines()
                assert lines[0] == "source,start,end,state,genre,confidence,title"
                assert lines[1].startswith("radio,20")
            _, _, text = await fetch(f"{server.url}api/history?format=csv&table=minutes")
            assert text.splitlines()[0].startswith("source,minute,state,genre,seconds")
            past = f"{server.url}api/history?from=2001-01-01T00:00:00Z&to=2001-01-02"
            assert json.loads((await fetch(past))[2])["segments"] == []
            other = await fetch(f"{server.url}api/history?source=hall&from=")
            assert json.loads(other[2])["segments"] == []
            unknown = await fetch(f"{server.url}api/history?source=attic")
            assert unknown[::2] == (404, "no source is named 'attic'; see /api/state\n")
            # Once heard, a source stays known after it was removed.
            hub.remove_source("radio")
            assert (await fetch(f"{server.url}api/history?source=radio"))[0] == 200

    run(scenario())


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("from=yesterday", "from must be a moment such as 2026-05-01T12:00:00Z, not 'yesterday'"),
        ("to=9999-12-31T23:59:59-23:00", "to must be a moment"),
        ("to=0001-01-01T00:00:00Z", "there is no day before 0001-01-01T00:00:00.000Z; say from"),
        ("format=xml", "format must be json or csv"),
        ("table=users", "table must be segments, minutes or states"),
        (
            "until=2026-05-01",
            "'until' is no parameter; there are from, to, source, format, table\n",
        ),
        ("from=2026-05-02&to=2026-05-01", "from must not be later than to"),
        ("from=2126-05-02", "from must not be later than to, which is now by default"),
        ("&".join(f"a{n}=1" for n in range(99)), "the query has too many parameters"),
    ],
)
def test_an_invalid_history_query_is_answered_with_the_reason(tmp_path, query, reason):
    async def scenario():
        async with running_server(history=tmp_path / "h.db") as (_, server):
            status, _, body = await fetch(f"{server.url}api/history?{query}")
            assert status == 400
            assert body.startswith(reason)

    run(scenario())


@pytest.mark.parametrize("path", ["healthz", "api/state"])
def test_pages_of_one_format_ignore_the_accept_header(path):
    async def scenario():
        async with running_server() as (_, server):
            accept = [("Accept", "text/html"), ("Accept", "application/json")]
            assert (await fetch(f"{server.url}{path}", headers=accept))[0] == 200

    run(scenario())


def test_api_history_is_404_without_a_history():
    async def scenario():
        async with running_server() as (_, server):
            status, _, body = await fetch(f"{server.url}api/history")
            assert (status, body) == (
                404,
                "no history is kept; start the daemon with --history FILE.db\n",
            )

    run(scenario())


def test_clients_beyond_the_maximum_get_503(running):
    async def scenario():
        async with running(max_clients=2) as (_, server):
            async with connect(websocket_url(server)), connect(websocket_url(server)):
                with pytest.raises(InvalidStatus) as refused:
                    await connect(websocket_url(server))
                assert refused.value.response.status_code == 503
                assert refused.value.response.headers["Retry-After"] == "10"
                assert (await fetch(f"{server.url}healthz"))[0] == 200
            while True:
                with contextlib.suppress(InvalidStatus):
                    async with connect(websocket_url(server)) as connection:
                        assert await receive(connection, 1)
                        return

    run(scenario())


def test_pages_and_frames_are_served_over_tls(running, tmp_path):
    cert, key = make_certificate(tmp_path)
    tls = ssl.create_default_context(cafile=cert)

    async def scenario():
        async with running(tls_cert=cert, tls_key=key, token=TOKEN) as (hub, server):
            assert server.url.startswith("https://")
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            assert (await fetch(server.url, ssl=tls))[0] == 200
            async with connect(websocket_url(server), ssl=tls, additional_headers=bearer) as client:
                hub.publish(prediction(1))
                assert [frame["type"] for frame in await receive(client, 2)] == [
                    "hello",
                    "prediction",
                ]
                receiving = asyncio.create_task(receive_all(client))
                await server.close()
                assert (await receiving).rcvd.code == 1001

    run(scenario())


def test_connections_that_are_turned_away_get_503(caplog):
    async def scenario():
        async with running_server() as (_, server):
            address = server.addresses[0]
            incomplete = [
                await asyncio.open_connection(*address)
                for _ in range(connections_module.MAX_PENDING + 1)
            ]
            reader, writer = incomplete[0]
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"\r\nRetry-After: 10\r\n" in head
            # A request that comes after the answer does not destroy it.
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await reader.read() == b"too many connections at once; try again later\n"
            incomplete[1][1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await incomplete[1][0].readline()).startswith(b"HTTP/1.1 200")
            for _, writer in incomplete:
                writer.close()
            await until(lambda: not server._registry.pending)
            await until(lambda: not server._registry.turned_away)

    run(scenario())
    limit = connections_module.MAX_PENDING
    assert f"{limit} requests at once are not complete; others get 503" in caplog.text


def test_a_herd_that_comes_back_at_once_is_let_in():
    count = connections_module.MAX_PENDING + 100
    request = (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )

    async def scenario():
        async with running_server(max_clients=count) as (_, server):

            async def come_back():
                reader, writer = await asyncio.open_connection(*server.addresses[0])
                writer.write(request)
                return await reader.readline(), writer

            herd = await asyncio.gather(*(come_back() for _ in range(count)))
            assert {line for line, _ in herd} == {b"HTTP/1.1 101 Switching Protocols\r\n"}
            for _, writer in herd:
                writer.close()

    run(scenario())


def test_connections_that_are_turned_away_over_tls_get_503(tmp_path, monkeypatch):
    cert, key = make_certificate(tmp_path)
    tls = ssl.create_default_context(cafile=cert)
    # However long the handshakes of this test take.
    monkeypatch.setattr(connections_module, "LATE_HANDSHAKE_SECONDS", LONGEST_WAIT_SECONDS)

    async def scenario():
        async with running_server(tls_cert=cert, tls_key=key) as (_, server):
            address = server.addresses[0]
            idle = await asyncio.open_connection(*address, ssl=tls)
            late = await asyncio.open_connection(*address)
            others = [
                await asyncio.open_connection(*address)
                for _ in range(connections_module.MAX_PENDING)
            ]
            await until(lambda: len(server._registry.turned_away) == 2)
            await late[1].start_tls(tls, server_hostname=address[0])
            for reader, writer in (idle, late):
                writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                assert b"\r\nRetry-After: 10\r\n" in head
                sentence = b"too many connections at once; try again later\n"
                assert await reader.readexactly(len(sentence)) == sentence
            for _, writer in (idle, late, *others):
                writer.close()
            await until(lambda: not server._registry.pending)
            await until(lambda: not server._registry.turned_away)

    run(scenario())


def test_a_client_that_is_turned_away_and_stays_is_cut(monkeypatch):
    monkeypatch.setattr(connections_module, "MAX_TURNED_AWAY", 1)

    async def scenario():
        async with running_server() as (_, server):
            address = server.addresses[0]
            incomplete = [
                await asyncio.open_connection(*address)
                for _ in range(connections_module.MAX_PENDING + 2)
            ]
            await until(lambda: len(server._registry.turned_away) == 1)
            assert (await incomplete[1][0].readline()).startswith(b"HTTP/1.1 503")
            for _, writer in incomplete:
                writer.close()

    run(scenario())


def test_connections_without_a_tls_handshake_give_way_to_one_with_it(tmp_path, monkeypatch):
    for module in (connections_module, server_module):
        monkeypatch.setattr(module, "HANDSHAKE_SECONDS", 1000.0, raising=False)
    monkeypatch.setattr(connections_module, "LATE_HANDSHAKE_SECONDS", 0.05)
    cert, key = make_certificate(tmp_path)
    tls = ssl.create_default_context(cafile=cert)

    async def scenario():
        async with running_server(tls_cert=cert, tls_key=key) as (_, server):
            address = server.addresses[0]
            silent = [
                await asyncio.open_connection(*address)
                for _ in range(connections_module.MAX_PENDING + 1)
            ]
            with contextlib.suppress(ConnectionError):
                assert await silent[0][0].read() == b""
            assert (await fetch(f"{server.url}healthz", ssl=tls))[0] == 200
            silent[-1][1].write(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await silent[-1][0].read()
            for _, writer in silent:
                writer.close()

    run(scenario())


def test_an_invalid_certificate_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "cert.pem").write_text("none")
    with pytest.raises(ServerError, match=r"^cannot use the certificate .*cert\.pem with the key "):
        Server(Hub(hello()), tls_cert=tmp_path / "cert.pem")


def test_a_key_with_a_passphrase_is_refused_without_a_prompt(tmp_path, capfd):
    cert, key = make_certificate(tmp_path)
    locked = tmp_path / "locked.pem"
    lock = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(lock, check=True)
    with pytest.raises(ServerError, match=r"^the key .*locked\.pem is locked with a passphrase"):
        Server(Hub(hello()), tls_cert=cert, tls_key=locked)
    assert capfd.readouterr() == ("", "")


def test_a_port_in_use_is_refused_in_one_sentence():
    async def scenario():
        async with running_server() as (_, server):
            port = server.addresses[0][1]
            with pytest.raises(ServerError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: .*--p"):
                await Server(Hub(hello()), port=port).start()

    run(scenario())


def test_inherited_sockets_are_served():
    async def scenario():
        given = [socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))]
        expected = [listening.getsockname() for listening in given]
        async with running_server(sockets=given) as (_, server):
            assert server.addresses == expected
            for host, port in expected:
                async with connect(f"ws://{host}:{port}/") as connection:
                    assert await receive(connection, 1)

    run(scenario())


@contextlib.asynccontextmanager
async def open_socket(server):
    """Open a connection and send nothing."""
    with socket.create_connection(server.addresses[0]) as client_socket:
        yield client_socket


@contextlib.asynccontextmanager
async def open_unread(server):
    """Open a WebSocket connection that never reads."""
    host, port = server.addresses[0]
    with socket.create_connection((host, port)) as client_socket:
        client_socket.sendall(
            f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        yield client_socket


def flood(hub):
    """Publish more than the kernel's buffers hold."""
    for number in range(20):
        hub.publish(segment(1, title=str(number) * 400_000))


async def receive_all(connection, after=None):
    """Receive until the connection is closed, beginning after an event; return the exception."""
    if after is not None:
        await after.wait()
    try:
        while True:
            await connection.recv()
    except ConnectionClosed as closed:
        return closed
