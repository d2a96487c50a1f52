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
from support.browser import chromium, missing_browser
from support.model import band_noise, make_model
from support.published import hello, prediction, segment, source_state
from support.schema import SCHEMA, check_frame
from support.waiting import LONGEST_WAIT_SECONDS
from websockets.asyncio.client import connect

import streamer
from streamer.core.events import Published
from streamer.core.model import Classifier
from streamer.core.pipeline import Pipeline
from streamer.sinks import messages

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


def test_the_schema_is_valid():
    Draft202012Validator.check_schema(SCHEMA)


def test_the_document_shows_a_valid_frame_of_every_type():
    frames = [check_frame(json.loads(text)) for text in examples("json")]
    assert {frame["type"] for frame in frames} == TYPES | {"subscribe"}


def test_the_document_names_every_field_and_enum_value_of_the_schema():
    names = set()
    for definition in SCHEMA["$defs"].values():
        names |= set(definition.get("properties", {})) | set(definition.get("enum", []))
    names |= set(SCHEMA["$defs"]["error"]["properties"]["code"]["enum"])
    assert [name for name in sorted(names) if name not in TEXT] == []


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
def test_the_schema_refuses_invalid_frames(frame):
    with pytest.raises(ValidationError):
        check_frame(frame)


def test_frames_of_a_real_pipeline_conform_to_the_schema(tmp_path):
    classifier = Classifier.load(make_model(tmp_path / "m.onnx", noise=True))
    pipeline = Pipeline(classifier, spectrogram=True)
    now = datetime.now(UTC)
    frames = [
        messages.hello(classifier.contract, [], hop_seconds=1.0, arithmetic=classifier.arithmetic),
        messages.heartbeat(now),
        messages.message(source_state("live")),
    ]
    sounds = [band_noise(band, 12.0, RATE) for band in ("low", "noise", "high")]
    sounds.insert(1, 0 * sounds[0])
    events = [event for sound in sounds for event in pipeline.feed(sound, RATE, title="A - B")]
    for seq, event in enumerate([*events, *pipeline.finish()]):
        frames.append(messages.message(Published("a", seq, now, 0.0125, event)))
    sent = [check_frame(json.loads(messages.encode(frame))) for frame in frames]
    assert {frame["type"] for frame in sent} == TYPES - {"error"}
    states = {frame["state"] for frame in sent if frame["type"] == "prediction"}
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
    """Run a program until `enough(lines)` is true of the lines it prints; return them."""
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


def run_example(running, command, enough, **options):
    """Run an example against a server that sends predictions; return the lines that it prints."""

    async def scenario():
        async with (
            asyncio.timeout(LONGEST_WAIT_SECONDS),
            running(**options) as (hub, server),
        ):
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


def test_the_python_example_works(running):
    lines = run_example(
        running, [sys.executable, "-uc", example("python")], lambda lines: len(lines) == 3
    )
    assert all(re.fullmatch(r"radio music \w+ 0\.\d+", line) for line in lines)


def test_the_node_example_works(running):
    lines = run_example(
        running, [*node_command(), "-e", example("javascript")], lambda lines: len(lines) == 3
    )
    assert all(re.fullmatch(r"radio music \w+ 0\.\d+", line) for line in lines)


def test_the_shell_example_reads_the_state(running):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    command = ["sh", "-c", example("sh", "api/state") + "echo"]
    (line,) = run_example(running, command, lambda lines: len(lines) == 1)
    assert json.loads(line)["sources"][0]["name"] == "radio"


def test_the_shell_example_follows_predictions(running):
    command = ["sh", "-c", example("sh", "genre-stream watch")]
    lines = run_example(running, command, lambda lines: len(lines) == 3)
    assert all(check_frame(json.loads(line))["type"] == "prediction" for line in lines)


def test_the_shell_example_reads_the_history(running, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    command = ["sh", "-c", f"while sleep 0.2; do {example('sh', 'api/history')} done"]
    lines = run_example(
        running,
        command,
        lambda lines: any("Song" in line for line in lines),
        history=tmp_path / "h.db",
    )
    assert lines[0].strip() == "source,start,end,state,genre,confidence,title"


@pytest.mark.skipif(missing_browser() is not None, reason=str(missing_browser()))
def test_the_browser_example_works_from_a_page_of_a_listed_origin(running, tmp_path):
    async def scenario():
        with page_of_another_origin() as (page, origin):
            async with (
                asyncio.timeout(LONGEST_WAIT_SECONDS),
                running(origins=[origin]) as (hub, server),
            ):
                address = server.url.split("/")[2]
                page.text = example("html").replace("127.0.0.1:8765", address)
                hub.publish(prediction(1))
                text = await asyncio.to_thread(read_page, origin, tmp_path)
                assert text == "radio: blues"

    asyncio.run(scenario())


def read_page(origin, profile):
    """Return the text of the example's page after the first prediction."""
    with chromium(profile) as page:
        page.open(origin)
        page.until("document.getElementById('genre').textContent !== 'nothing yet'")
        return page.text("genre")


class Page:
    text = ""


@contextlib.contextmanager
def page_of_another_origin():
    """Serve a page from another port, which is another origin."""
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

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield page, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


NODE_CLIENT = """
const socket = new WebSocket(process.argv[1]);
socket.onmessage = ({ data }) => console.log(data);
socket.onclose = ({ code }) => { console.log(JSON.stringify({ type: "closed", code })); };
"""


async def receive_with_websockets(url):
    async with connect(url) as connection:
        return [frame async for frame in connection], connection.close_code


async def receive_with_aiohttp(url):
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as connection:
        frames = [message.data async for message in connection]
        return frames, connection.close_code


async def receive_with_websocket_client(url):
    def receive():
        frames, codes = [], []
        websocket.WebSocketApp(
            url,
            on_message=lambda _, frame: frames.append(frame),
            on_close=lambda _, code, reason: codes.append(code),
        ).run_forever()
        return frames, codes[0]

    return await asyncio.to_thread(receive)


async def receive_with_node(url):
    lines = await lines_of(
        [*node_command(), "-e", NODE_CLIENT, url],
        lambda lines: lines and json.loads(lines[-1])["type"] == "closed",
    )
    return lines[:-1], json.loads(lines[-1])["code"]


def test_clients_of_four_libraries_get_the_same_frames_and_close_code(running):
    node_command()
    clients = (
        receive_with_websockets,
        receive_with_aiohttp,
        receive_with_websocket_client,
        receive_with_node,
    )

    async def scenario():
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            async with running("radio", "hall") as (hub, server):
                url = server.url.replace("http", "ws")
                receiving = [asyncio.create_task(receive(url)) for receive in clients]
                while len(list(hub.outboxes)) < len(clients):
                    await asyncio.sleep(0.01)
                for seq in range(100):
                    hub.publish(prediction(seq, "radio"))
                    hub.publish(prediction(seq, "hall"))
                    hub.publish(segment(seq + 1, title="Café, Ünïcödé 🎷"))
                    await asyncio.sleep(0)
                while len(hub.state()["segments"]) < 100:
                    await asyncio.sleep(0.01)
            return await asyncio.gather(*receiving)

    results = asyncio.run(scenario())
    for frames, code in results:
        assert code == 1001
        assert frames == results[0][0]
    frames_received = [check_frame(json.loads(frame)) for frame in results[0][0]]
    # A relay has its own name, and the sources' states may have changed before a client comes.
    assert frames_received[0] | {"server": "", "sources": []} == hello() | {
        "server": "",
        "sources": [],
    }
    assert {source["name"] for source in frames_received[0]["sources"]} == {"radio", "hall"}
    assert [frame["seq"] for frame in frames_received if frame["type"] == "prediction"] == [
        seq for seq in range(100) for _ in range(2)
    ]
