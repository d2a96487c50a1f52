import asyncio
import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
import websocket
from jsonschema import Draft202012Validator, ValidationError
from support.browser import chromium, why_no_browser
from support.model import band_noise, make_model
from support.published import hello, prediction, running_server, segment, source_state
from support.schema import SCHEMA, check_frame
from websockets.asyncio.client import connect

import streamer
from streamer.core.events import Published
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline
from streamer.sinks import messages

PATIENCE = 120.0
"""Seconds that any wait may take on a busy machine."""
RATE = 22_050
TEXT = (Path(streamer.__file__).parent / "sinks" / "websocket" / "PROTOCOL.md").read_text(
    encoding="utf-8"
)
TYPES = {"hello", "prediction", "segment", "source", "spectrogram", "heartbeat", "error"}


def examples(language):
    """Return the code blocks of PROTOCOL.md in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def example(language, containing=""):
    (found,) = [text for text in examples(language) if containing in text]
    return found


def node_command():
    """Return how to run Node with a WebSocket, or skip."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node")
    version = int(subprocess.check_output([node, "-p", "parseInt(process.versions.node)"]))
    if version < 20:
        pytest.skip(f"needs Node 20 or newer, not {version}")
    return [node] if version >= 22 else [node, "--experimental-websocket", "--no-warnings"]


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


def test_the_document_shows_a_valid_frame_of_every_type():
    frames = [check_frame(json.loads(text)) for text in examples("json")]
    assert {frame["type"] for frame in frames} == TYPES | {"subscribe"}


def test_the_document_names_every_field_and_every_word_of_the_schema():
    words = set()
    for definition in SCHEMA["$defs"].values():
        words |= set(definition.get("properties", {})) | set(definition.get("enum", []))
    words |= set(SCHEMA["$defs"]["error"]["properties"]["code"]["enum"])
    assert [word for word in sorted(words) if word not in TEXT] == []


@pytest.mark.parametrize(
    "frame",
    [
        messages.message(prediction(1)) | {"genre": None},
        messages.message(prediction(1)) | {"state": "silence"},
        messages.message(prediction(1)) | {"confidence": 1.5},
        messages.message(prediction(1)) | {"time": "2026-05-01 12:00:00"},
        messages.message(prediction(1)) | {"extra": 1},
        messages.message(segment(1)) | {"final": True},
        messages.message(segment(1)) | {"title": 7},
        messages.message(source_state("live")) | {"state": "broken"},
        {"type": "error", "code": "oops", "message": ""},
        {"type": "subscribe", "messages": ["predictions"]},
    ],
)
def test_the_schema_refuses_what_the_contract_does_not_allow(frame):
    with pytest.raises(ValidationError):
        check_frame(frame)


def test_everything_a_real_pipeline_says_keeps_to_the_schema(tmp_path):
    classifier = Classifier.load(make_model(tmp_path / "m.onnx", noise=True))
    pipeline = Pipeline(classifier, spectrogram=True)
    now = datetime.now(UTC)
    frames = [
        messages.hello(classifier.contract, [], hop_seconds=1.0),
        messages.heartbeat(now),
        messages.message(source_state("live")),
    ]
    sounds = [band_noise(band, 12.0, RATE) for band in ("low", "noise", "high")]
    sounds.insert(1, 0 * sounds[0])
    events = [event for sound in sounds for event in pipeline.feed(sound, RATE, title="A - B")]
    for seq, event in enumerate([*events, *pipeline.finish()]):
        frames.append(messages.message(Published("a", seq, now, 0.0125, event)))
    told = [check_frame(json.loads(messages.encode(frame))) for frame in frames]
    assert {frame["type"] for frame in told} == TYPES - {"error"}
    states = {frame["state"] for frame in told if frame["type"] == "prediction"}
    assert {"music", "silence", "not_music"} <= states


async def publish_until(hub, done):
    """Publish predictions and segments until an event is set."""
    seq = 0
    while not done.is_set():
        seq += 1
        hub.publish(prediction(seq))
        hub.publish(segment(seq, end=10.0 * seq, final=True))
        await asyncio.sleep(0.05)


async def lines_of(command, enough, **options):
    """Run a program until `enough` of its lines say so; return them."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        **options,
    )
    lines = []
    try:
        while not enough(lines):
            line = await process.stdout.readline()
            assert line, (await process.stderr.read()).decode()
            lines.append(line.decode().rstrip("\n"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.wait()
    return lines


def run_example(command, enough, **options):
    """Run an example against a server that tells predictions; return the lines that it prints."""

    async def scenario():
        async with asyncio.timeout(PATIENCE), running_server(**options) as (hub, server):
            done = asyncio.Event()
            publishing = asyncio.create_task(publish_until(hub, done))
            host, port = server.addresses[0]
            replace = [part.replace("127.0.0.1:8765", f"{host}:{port}") for part in command]
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            lines = await lines_of(replace, enough, env=os.environ | {"PATH": path})
            done.set()
            await publishing
            return lines

    return asyncio.run(scenario())


def test_the_python_example_works():
    lines = run_example([sys.executable, "-uc", example("python")], lambda lines: len(lines) == 3)
    assert all(re.fullmatch(r"radio music \w+ 0\.\d+", line) for line in lines)


def test_the_node_example_works():
    lines = run_example(
        [*node_command(), "-e", example("javascript")], lambda lines: len(lines) == 3
    )
    assert all(re.fullmatch(r"radio music \w+ 0\.\d+", line) for line in lines)


def test_the_shell_example_asks_for_the_state():
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    command = ["sh", "-c", example("sh", "api/state") + "echo"]
    (line,) = run_example(command, lambda lines: len(lines) == 1)
    assert json.loads(line)["sources"][0]["name"] == "radio"


def test_the_shell_example_follows_predictions():
    command = ["sh", "-c", example("sh", "genre-stream watch")]
    lines = run_example(command, lambda lines: len(lines) == 3)
    assert all(check_frame(json.loads(line))["type"] == "prediction" for line in lines)


def test_the_shell_example_asks_for_the_history(tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    command = ["sh", "-c", f"while sleep 0.2; do {example('sh', 'api/history')} done"]
    lines = run_example(
        command, lambda lines: any("Song" in line for line in lines), history=tmp_path / "h.db"
    )
    assert lines[0].strip() == "source,start,end,state,genre,confidence,title"


@pytest.mark.skipif(why_no_browser() is not None, reason=str(why_no_browser()))
def test_the_browser_example_works_from_a_page_elsewhere_whose_origin_is_listed(tmp_path):
    async def scenario():
        with page_elsewhere() as (page, origin):
            async with (
                asyncio.timeout(PATIENCE),
                running_server(origins=[origin]) as (hub, server),
            ):
                address = server.url.split("/")[2]
                page.text = example("html").replace("127.0.0.1:8765", address)
                hub.publish(prediction(1))
                text = await asyncio.to_thread(look_at, origin, tmp_path)
                assert text == "radio: blues"

    asyncio.run(scenario())


def look_at(origin, profile):
    """Return what the example's page says once it has heard something."""
    with chromium(profile) as page:
        page.open(origin)
        page.until("document.getElementById('genre').textContent !== 'nothing yet'")
        return page.text("genre")


class Page:
    text = ""


@contextlib.contextmanager
def page_elsewhere():
    """Serve one page from another port, and so another origin."""
    page = Page()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = page.text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as elsewhere:
        thread = threading.Thread(target=elsewhere.serve_forever, daemon=True)
        thread.start()
        yield page, f"http://127.0.0.1:{elsewhere.server_address[1]}"
        elsewhere.shutdown()


NODE_CLIENT = """
const socket = new WebSocket(process.argv[1]);
socket.onmessage = ({ data }) => console.log(data);
socket.onclose = ({ code }) => { console.log(JSON.stringify({ type: "closed", code })); };
"""


async def hear_with_websockets(url):
    async with connect(url) as connection:
        return [frame async for frame in connection], connection.close_code


async def hear_with_aiohttp(url):
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as connection:
        frames = [message.data async for message in connection]
        return frames, connection.close_code


async def hear_with_websocket_client(url):
    def hear():
        frames, codes = [], []
        websocket.WebSocketApp(
            url,
            on_message=lambda _, frame: frames.append(frame),
            on_close=lambda _, code, reason: codes.append(code),
        ).run_forever()
        return frames, codes[0]

    return await asyncio.to_thread(hear)


async def hear_with_node(url):
    lines = await lines_of(
        [*node_command(), "-e", NODE_CLIENT, url],
        lambda lines: lines and json.loads(lines[-1])["type"] == "closed",
    )
    return lines[:-1], json.loads(lines[-1])["code"]


def test_clients_of_four_libraries_hear_the_same_and_are_told_that_the_server_goes():
    node_command()
    hearers = (hear_with_websockets, hear_with_aiohttp, hear_with_websocket_client, hear_with_node)

    async def scenario():
        async with asyncio.timeout(PATIENCE):
            async with running_server("radio", "hall") as (hub, server):
                url = server.url.replace("http", "ws")
                hearing = [asyncio.create_task(hear(url)) for hear in hearers]
                while len(list(hub.outboxes)) < len(hearers):
                    await asyncio.sleep(0.01)
                for seq in range(100):
                    hub.publish(prediction(seq, "radio"))
                    hub.publish(prediction(seq, "hall"))
                    hub.publish(segment(seq + 1, title="Café, Ünïcödé 🎷"))
                    await asyncio.sleep(0)
            return await asyncio.gather(*hearing)

    heard = asyncio.run(scenario())
    for frames, code in heard:
        assert code == 1001
        assert frames == heard[0][0]
    told = [check_frame(json.loads(frame)) for frame in heard[0][0]]
    assert told[0] == hello("radio", "hall")
    assert [frame["seq"] for frame in told if frame["type"] == "prediction"] == [
        seq for seq in range(100) for _ in range(2)
    ]
