"""Attacks by clients, which must not affect a well-behaved client.

Those of tests with `server` are on a daemon and on a relay: they fill the event loop, by which a
relay also takes what the broker sends, need memory, or try what a relay is set up with. The other
attacks end within the server's code, which is the same with the same limits.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
import sys
from pathlib import Path

import aiohttp
import pytest
import support.daemon
from support.broker import mosquitto
from support.model import make_model
from support.schema import check_frame
from support.waiting import LONGEST_WAIT_SECONDS
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

ATTACK_SECONDS = 4 * LONGEST_WAIT_SECONDS
"""Limit of one attack, which waits for several things in turn."""
TOKEN = "open-sesame"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PATIENT = {
    "additional_headers": BEARER,
    "open_timeout": LONGEST_WAIT_SECONDS,
    "ping_interval": None,
}
"""Options of a client that must not give up on a busy machine, which these tests make it."""
HOP_SECONDS = 0.1
CONNECTS = 10_000
CONNECTS_PER_SECOND = 1000
CONNECTING = f"""
import socket, struct, sys, threading, time
host, port, upgrade = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
started = time.monotonic()
def connect(numbers):
    for number in numbers:
        time.sleep(max(0.0, started + number / {CONNECTS_PER_SECOND} - time.monotonic()))
        with socket.socket() as attacker:
            attacker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            attacker.settimeout(1)
            try:
                attacker.connect((host, port))
                attacker.sendall(upgrade[: (0, 40, None)[number % 3]])
                if number % 3 == 2:
                    attacker.recv(100)
            except OSError:
                pass
threads = [
    threading.Thread(target=connect, args=[range(first, {CONNECTS}, 16)]) for first in range(16)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(round({CONNECTS} / (time.monotonic() - started)))
"""
UPGRADE = (
    f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()
MASKED_PING = b"\x89\x80\0\0\0\0"
MASKED_GARBAGE = b"\x81\x81\0\0\0\0{"
TEN_MEGABYTES = 10 * 1024 * 1024


class Target:
    """A running daemon and its address."""

    def __init__(self, daemon):
        self.process = daemon.process
        self.host, self.port = "127.0.0.1", daemon.port
        self.url = f"http://{self.host}:{self.port}/"

    @property
    def websocket(self):
        return self.url.replace("http", "ws")

    def memory(self):
        """Return the resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def open_files(self):
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    async def connect(self):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        return reader, writer


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Return the options of a daemon with two endless sources, and its home."""
    home = tmp_path_factory.mktemp("home")
    (home / "token").write_text(TOKEN)
    model = make_model(home / "thirds.onnx")
    tone = support.daemon.write_tone(home / "tone.wav", (200, 7), (800, 7), (0, 3), (3500, 7))
    options = ("--source", f"radio={tone}", "--source", f"hall={tone}", "--loop")
    return home, (*options, "--model", model, "--hop-seconds", HOP_SECONDS)


@pytest.fixture(scope="module")
def target(endless):
    """Run a daemon."""
    home, options = endless
    with support.daemon.daemon(home, *options, "--token-file", home / "token") as daemon:
        yield Target(daemon)


@pytest.fixture(scope="module")
def relay_target(endless):
    """Run a relay that a broker tells what another daemon hears."""
    home, options = endless
    relay = (*support.daemon.PATIENT, "relay")
    with (
        mosquitto(home) as broker,
        support.daemon.daemon(home, *options, "--mqtt", broker.url, "--mqtt-predictions"),
        support.daemon.daemon(
            home, "--mqtt", broker.url, "--token-file", home / "token", command=relay
        ) as relaying,
    ):
        yield Target(relaying)


@pytest.fixture(params=["target", "relay_target"], ids=["daemon", "relay"])
def server(request):
    return request.getfixturevalue(request.param)


async def listen(url, stop, seqs):
    """Collect the numbers of all predictions until `stop` is set."""
    async with connect(url, **PATIENT) as connection:
        while not stop.is_set():
            frame = check_frame(json.loads(await connection.recv()))
            if frame["type"] == "prediction":
                seqs[frame["source"]].append(frame["seq"])


def under_attack(target, attack):
    """Run an attack beside a well-behaved client, which must get every prediction."""

    async def scenario():
        async with asyncio.timeout(ATTACK_SECONDS):
            stop, seqs = asyncio.Event(), {"radio": [], "hall": []}
            listening = asyncio.create_task(listen(target.websocket, stop, seqs))
            while not seqs["hall"]:
                await asyncio.sleep(0.01)
            await attack(target)
            enough = len(seqs["hall"]) + 3
            while len(seqs["hall"]) < enough:
                await asyncio.sleep(0.01)
            stop.set()
            await listening
            for source, received in seqs.items():
                missed = set(range(received[0], received[-1])) - set(received)
                assert not missed, f"{source}: missed {sorted(missed)}"

    asyncio.run(scenario())


async def all_files_closed(target, before):
    """Wait until the server has closed the connections of attackers."""
    while target.open_files() > before:
        await asyncio.sleep(0.05)


def reset(writer):
    """Close a connection with a reset, so that no port stays in TIME_WAIT."""
    if writer.transport.is_closing():
        return
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def handshake(target):
    """Open a WebSocket connection without a client library."""
    reader, writer = await target.connect()
    writer.write(UPGRADE)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    return reader, writer


async def push(writer, payload, times):
    """Write a payload repeatedly until the server closes the connection or stops reading."""
    with contextlib.suppress(ConnectionError, TimeoutError):
        for _ in range(times):
            writer.write(payload)
            async with asyncio.timeout(3):
                await writer.drain()
    reset(writer)


def test_data_that_is_not_http(target):
    async def attack(target):
        for payload in (b"\0" * 100_000, b"\x16\x03\x01" * 10_000, os.urandom(100_000), b"GET\n\n"):
            _, writer = await target.connect()
            await push(writer, payload, 10)
        _, writer = await target.connect()
        await push(writer, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, 1)

    under_attack(target, attack)


def test_floods_of_garbage_frames(server):
    async def attack(target):
        clients = [await handshake(target) for _ in range(50)]
        await asyncio.gather(*(push(writer, MASKED_GARBAGE * 10_000, 30) for _, writer in clients))

    under_attack(server, attack)


def test_floods_of_pings_by_clients_that_do_not_read(target):
    async def attack(target):
        clients = [await handshake(target) for _ in range(50)]
        await asyncio.gather(*(push(writer, MASKED_PING * 10_000, 30) for _, writer in clients))

    under_attack(target, attack)


def test_frames_of_ten_megabytes(server):
    async def attack(target):
        before = target.memory()
        frame = b"\x81\xff" + struct.pack("!Q", TEN_MEGABYTES) + bytes(4 + TEN_MEGABYTES)
        for _ in range(5):
            assert await close_code(target, frame) == 1009
        assert target.memory() - before < TEN_MEGABYTES

    under_attack(server, attack)


def test_ten_megabytes_in_small_fragments(target):
    async def attack(target):
        fragment = bytes([0, 0x80 | 126]) + struct.pack("!H", 1000) + bytes(4 + 1000)
        first = b"\x01" + fragment[1:]
        assert await close_code(target, first + fragment * (TEN_MEGABYTES // 1000)) == 1009

    under_attack(target, attack)


async def close_code(target, payload):
    """Send a payload while reading; return the code of the close frame."""
    reader, writer = await handshake(target)
    writer.write(payload)  # sent while we read
    code = None
    while code is None:
        opcode, length = await reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
        content = await reader.readexactly(length)
        if opcode == 0x88:
            (code,) = struct.unpack("!H", content[:2])
    reset(writer)
    return code


def test_incomplete_handshakes_that_are_held_open(target):
    async def attack(target):
        before = target.open_files()
        incomplete = [await target.connect() for _ in range(400)]
        for number, (_, writer) in enumerate(incomplete):
            writer.write(UPGRADE[: number % len(UPGRADE)])
        async with connect(target.websocket, **PATIENT) as another:
            assert json.loads(await another.recv())["type"] == "hello"
        # Those that were turned away are closed soon after.
        while target.open_files() - before >= 150:
            await asyncio.sleep(0.05)
        for _, writer in incomplete:
            reset(writer)
        await all_files_closed(target, before)

    under_attack(target, attack)


def test_a_thousand_connects_a_second_for_ten_seconds(target):
    async def attack(target):
        before = target.open_files()
        attacker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CONNECTING, target.host, str(target.port), UPGRADE.hex()),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await attacker.communicate()
        print(f"\n{output.decode().strip()} of {CONNECTS} connects, a second")
        assert attacker.returncode == 0
        await all_files_closed(target, before)

    under_attack(target, attack)


def test_clients_that_never_read(target):
    async def attack(target):
        before = target.memory()
        attackers = []
        for _ in range(50):
            attacker = socket.socket()
            attacker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            attacker.connect((target.host, target.port))
            attacker.sendall(UPGRADE)
            attackers.append(attacker)
        async with aiohttp.ClientSession(headers=BEARER) as session:
            closed = 0
            while closed < len(attackers):
                await asyncio.sleep(0.2)
                async with session.get(f"{target.url}metrics") as response:
                    text = await response.text()
                name = "genre_stream_slow_clients_closed_total"
                closed = float(re.search(rf"^{name} (.*)$", text, re.MULTILINE)[1])
        assert target.memory() - before < 50 * 1024 * 1024
        for attacker in attackers:
            attacker.close()

    under_attack(target, attack)


def test_wrong_origins_wrong_tokens_and_paths_out_of_the_folder(server):
    async def refused(target, **headers):
        with pytest.raises(InvalidStatus) as refusal:
            await connect(
                target.websocket, additional_headers=headers, open_timeout=LONGEST_WAIT_SECONDS
            )
        return refusal.value.response.status_code

    async def attack(target):
        async with aiohttp.ClientSession() as session:
            for _ in range(50):
                assert await refused(target, Origin="https://evil.example", **BEARER) == 403
                assert await refused(target, Authorization="Bearer guess") == 401
                assert await refused(target) == 401
                for path in ("../server.py", "%2e%2e/%2e%2e/etc/passwd", "..%5c..%5cetc"):
                    async with session.get(target.url + path, headers=BEARER) as response:
                        assert response.status == 404

    under_attack(server, attack)
