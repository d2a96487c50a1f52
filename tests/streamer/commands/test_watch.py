import asyncio
import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import sys

import pytest
from support.certificate import make_certificate
from support.published import prediction, running_server, source_state
from support.schema import check_frame
from support.waiting import LONGEST_WAIT_SECONDS
from websockets.asyncio.server import serve

from streamer.commands import run as cli
from streamer.commands import watch
from streamer.core.colours import ansi
from streamer.sinks.terminal import DIM

COMMAND = [
    sys.executable,
    "-u",
    "-c",
    "import sys; from streamer.commands.run import main; sys.exit(main())",
]


def run(coroutine):
    async def limited():
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            return await coroutine

    return asyncio.run(limited())


@contextlib.asynccontextmanager
async def watching(*arguments, **options):
    """Run genre-stream watch."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "watch",
        *map(str, arguments),
        **{"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE} | options,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


async def line(stream):
    return (await stream.readline()).decode().rstrip("\n")


def test_each_change_is_a_new_line():
    async def scenario():
        async with (
            running_server() as (hub, server),
            watching(server.url) as watcher,
        ):
            await until(lambda: list(hub.outboxes))
            hub.publish(prediction(1, genre="jazz", confidence=0.83, level_dbfs=-21.4))
            hub.publish(prediction(2, genre="jazz"))
            hub.publish(prediction(65, state="silence", genre=None, confidence=1.0))
            hub.publish(source_state("stalled", detail="no sound for 3 s"))
            assert await line(watcher.stdout) == "radio        live"
            assert await line(watcher.stdout) == (
                "radio         0:01  jazz        83 % ████████░░  -21 dBFS"
            )
            assert (await line(watcher.stdout)).startswith("radio         1:05  silence     ")
            assert await line(watcher.stdout) == "radio        stalled: no sound for 3 s"

    run(scenario())


def test_a_source_that_is_off_is_shown_with_the_reason_and_not_with_what_it_said_before():
    async def scenario():
        async with running_server("radio", "hall", "attic") as (hub, server):
            hub.publish(prediction(1, "radio", genre="jazz"))
            hub.publish(source_state("reconnecting", "radio", "no data for 10 s"))
            hub.publish(source_state("failed", "hall", "no such file"))
            async with watching(server.url) as watcher:
                lines = [await line(watcher.stdout) for _ in range(3)]
                await until(lambda: list(hub.outboxes))
                hub.publish(source_state("live", "radio"))
                hub.publish(prediction(2, "radio", genre="rock"))
                lines += [await line(watcher.stdout) for _ in range(2)]
        assert lines[:4] == [
            "radio        reconnecting: no data for 10 s",
            "hall         failed: no such file",
            "attic        live",
            "radio        live",
        ]
        assert lines[4].startswith("radio         0:02  rock")

    run(scenario())


def test_on_a_terminal_each_source_has_one_coloured_line():
    async def scenario():
        terminal, other_end = pty.openpty()
        async with (
            running_server("radio", "hall") as (hub, server),
            watching(server.url, stdout=other_end),
        ):
            os.close(other_end)
            hub.publish(prediction(1, "radio", genre="jazz"))
            hub.publish(prediction(1, "hall", state="silence", genre=None))
            seen = ""
            while "silence" not in seen:
                seen += (await asyncio.to_thread(os.read, terminal, 4096)).decode()
            hub.publish(prediction(2, "radio", genre="rock"))
            while "rock" not in seen or "\x1b[2A" not in seen:
                seen += (await asyncio.to_thread(os.read, terminal, 4096)).decode()
        os.close(terminal)
        assert f"{ansi('#92dadd')}radio         0:01  jazz" in seen
        assert f"{DIM}hall          0:01  silence" in seen
        assert f"{ansi('#bd1f01')}radio         0:02  rock" in seen

    run(scenario())


def test_a_dumb_terminal_gets_no_escape_sequences():
    async def scenario():
        terminal, other_end = pty.openpty()
        async with (
            running_server() as (hub, server),
            watching(server.url, stdout=other_end, env=os.environ | {"TERM": "dumb"}),
        ):
            os.close(other_end)
            await until(lambda: list(hub.outboxes))
            hub.publish(prediction(1, genre="jazz"))
            hub.publish(prediction(2, state="silence", genre=None))
            seen = ""
            while "silence" not in seen:
                seen += (await asyncio.to_thread(os.read, terminal, 4096)).decode()
        os.close(terminal)
        assert "jazz" in seen
        assert "\x1b" not in seen

    run(scenario())


def test_json_prints_the_frames_of_the_chosen_sources():
    async def scenario():
        async with (
            running_server("radio", "hall") as (hub, server),
            watching(server.url, "--json", "--source", "hall") as watcher,
        ):
            await until(lambda: any(outbox.subscription.sources for outbox in hub.outboxes))
            for source in ("radio", "hall"):
                hub.publish(prediction(7, source))
            frames = [check_frame(json.loads(await line(watcher.stdout))) for _ in range(2)]
            assert [(frame["type"], frame.get("source")) for frame in frames] == [
                ("hello", None),
                ("prediction", "hall"),
            ]

    run(scenario())


def test_a_lost_connection_is_made_again():
    async def scenario():
        async with contextlib.AsyncExitStack() as stack:
            async with running_server() as (_, server):
                url, port = server.url, server.addresses[0][1]
                watcher = await stack.enter_async_context(watching(url, "--json"))
                assert json.loads(await line(watcher.stdout))["type"] == "hello"
            message = await line(watcher.stderr)
            assert message.startswith(
                f"genre-stream: ws://127.0.0.1:{port}/: the connection was clo"
            )
            assert message.endswith(": the server stops; trying again in 1 s")
            assert "connection refused; trying again in " in await line(watcher.stderr)
            async with running_server(port=port):
                assert json.loads(await line(watcher.stdout))["type"] == "hello"

    run(scenario())


def test_the_token_is_read_from_a_file_and_an_error_names_the_option(tmp_path):
    token = tmp_path / "token"
    token.write_text("open sesame\n")

    async def scenario():
        async with running_server(token="open sesame") as (_, server):
            async with watching(server.url, "--json", "--token-file", token) as watcher:
                assert json.loads(await line(watcher.stdout))["type"] == "hello"
            async with watching(f"{server.url}?token=guess", "--json") as watcher:
                assert await watcher.wait() == 1
                assert await line(watcher.stderr) == (
                    f"genre-stream: {server.url.replace('http', 'ws')} answered 401: this needs "
                    "the token: Bearer in a header or ?token=TOKEN; "
                    "give the token with --token-file"
                )

    run(scenario())


def test_an_own_certificate_is_trusted_only_if_the_environment_names_it(tmp_path):
    cert, key = make_certificate(tmp_path)

    async def scenario():
        async with running_server(tls_cert=cert, tls_key=key) as (_, server):
            async with watching(server.url, "--json") as watcher:
                assert await watcher.wait() == 1
                assert await line(watcher.stderr) == (
                    f"genre-stream: {server.url.replace('https', 'wss')}: its certificate is not "
                    "trusted (self-signed certificate); "
                    "name a file with its authority in SSL_CERT_FILE"
                )
            trusting = os.environ | {"SSL_CERT_FILE": str(cert)}
            async with watching(server.url, "--json", env=trusting) as watcher:
                assert json.loads(await line(watcher.stdout))["type"] == "hello"

    run(scenario())


@pytest.mark.parametrize(
    ("answer", "scheme", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "ws", "it answered 200"),
        (b"220 mail.example ESMTP\r\n", "ws", "what answers there is not a WebSocket server"),
        (b"220 mail.example ESMTP\r\n", "wss", "what answers there does not speak TLS"),
        (b"", "ws", "what answers there is not a WebSocket server"),
    ],
)
def test_a_server_of_another_protocol_is_reported(answer, scheme, problem):
    async def serve(reader, writer):
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def scenario():
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as other:
            port = other.sockets[0].getsockname()[1]
            async with watching(f"{scheme}://127.0.0.1:{port}/") as watcher:
                assert await line(watcher.stderr) == (
                    f"genre-stream: {scheme}://127.0.0.1:{port}/: {problem}; trying again in 1 s"
                )

    run(scenario())


def test_it_runs_with_closed_standard_output():
    async def scenario():
        async with running_server() as (hub, server):
            command = shlex.join([*COMMAND, "watch", server.url])
            watcher = await asyncio.create_subprocess_shell(
                f"exec {command} >&-", stderr=asyncio.subprocess.PIPE
            )
            await until(lambda: list(hub.outboxes))
            hub.publish(prediction(1))
            watcher.send_signal(signal.SIGINT)
            assert await watcher.wait() == 130
            assert await watcher.stderr.read() == b""

    run(scenario())


def test_an_unknown_source_is_reported():
    async def scenario():
        async with (
            running_server() as (_, server),
            watching(server.url, "--source", "nowhere") as watcher,
        ):
            assert await watcher.wait() == 1
            assert await line(watcher.stderr) == (
                "genre-stream: the server says: no source is named 'nowhere'; see the hello frame"
            )

    run(scenario())


def test_a_closed_pipe_ends_it_quietly():
    async def scenario():
        async with running_server() as (hub, server):
            command = " ".join(f"'{part}'" for part in [*COMMAND, "watch", server.url, "--json"])
            reader = await asyncio.create_subprocess_shell(
                f"({command}; echo $? >&2) | head -1",
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert json.loads(await line(reader.stdout))["type"] == "hello"
            await until(lambda: hub.publish(prediction(1)) or not list(hub.outboxes))
            assert (await reader.communicate())[1].decode() == "0\n"

    run(scenario())


@pytest.mark.parametrize(
    "url",
    [
        "ftp://radio.example",
        "ws://",
        "http://:80/",
        "ws://host:99999",
        "ws://a..b:1/",
        "ws://somebody@host/",
    ],
)
def test_a_malformed_address_is_refused(url):
    done = subprocess.run([*COMMAND, "watch", url], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"genre-stream: {url} is no address of a server; write ws://HOST:PORT/\n"
    )


def test_an_unknown_option_is_refused_in_one_line():
    done = subprocess.run([*COMMAND, "watch", "--foo"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "genre-stream: unrecognized arguments: --foo; see genre-stream watch --help\n"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file or directory"), (b"\xff\xfe", "it is not text in UTF-8")],
)
def test_an_unreadable_token_file_is_one_line(content, reason, tmp_path, capsys):
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    assert cli.main(["watch", "--token-file", str(token)]) == 2
    assert (
        capsys.readouterr().err == f"genre-stream: cannot read the token file {token}: {reason}\n"
    )


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost:8765", "ws://localhost:8765/"),
        ("radio.example", "ws://radio.example/"),
        ("http://[::1]:8765/", "ws://[::1]:8765/"),
        ("https://radio.example/listen?token=x#top", "wss://radio.example/listen?token=x"),
        ("wss://radio.example", "wss://radio.example/"),
    ],
)
def test_scheme_and_path_of_the_address_may_be_left_out(text, url):
    assert watch.websocket_url(text) == url


@contextlib.asynccontextmanager
async def foreign_server(*frames):
    """Serve frames to every client; yield the URL."""

    async def send(connection):
        for frame in frames:
            await connection.send(json.dumps(frame))
        await connection.wait_closed()

    async with serve(send, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def test_control_characters_of_a_server_do_not_reach_the_terminal():
    frame = {
        "type": "source",
        "source": "ra\x1b]0;title\x07dio",
        "state": "live\x1b[2J",
        "detail": "here\nis \x9b31mmore",
    }

    async def scenario():
        async with foreign_server(frame) as url, watching(url) as watcher:
            assert await line(watcher.stdout) == "ra]0;titledio live[2J: hereis 31mmore"

    run(scenario())


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "hello"},
        {"type": "source", "source": "radio"},
        {"type": "prediction", "source": "radio", "state": "music", "position": 1e999},
        {"type": "prediction", "source": [], "state": "music"},
        {"type": "error"},
        ["prediction"],
    ],
)
def test_frames_of_another_protocol_are_one_line(frame):
    async def scenario():
        async with foreign_server(frame) as url, watching(url) as watcher:
            _, error = await watcher.communicate()
            assert error.decode() == "genre-stream: the server is not a genre-stream\n"
            assert watcher.returncode == 1

    run(scenario())
