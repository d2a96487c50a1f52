"""What clients may do to us while another listens, which must not notice."""

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
from support.model import make_model
from support.schema import check_frame
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

PATIENCE = 240.0
TOKEN = "open-sesame"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
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


class Besieged:
    """A real daemon, and its address."""

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
def besieged(tmp_path_factory):
    """Run the daemon with two sources that play without end."""
    home = tmp_path_factory.mktemp("home")
    (home / "token").write_text(TOKEN)
    model = make_model(home / "thirds.onnx")
    tone = support.daemon.write_tone(home / "tone.wav", (200, 7), (800, 7), (0, 3), (3500, 7))
    with support.daemon.daemon(
        home,
        *("--source", f"radio={tone}", "--source", f"hall={tone}", "--loop"),
        *("--model", model, "--hop-seconds", HOP_SECONDS, "--token-file", home / "token"),
    ) as daemon:
        yield Besieged(daemon)


async def listen(url, stop, seqs):
    """Be a well-behaved client until told to stop; note every prediction."""
    async with connect(url, additional_headers=BEARER) as connection:
        while not stop.is_set():
            frame = check_frame(json.loads(await connection.recv()))
            if frame["type"] == "prediction":
                seqs[frame["source"]].append(frame["seq"])


def under_attack(besieged, attack):
    """Run an attack beside a well-behaved client, which must hear every prediction."""

    async def scenario():
        async with asyncio.timeout(PATIENCE):
            stop, seqs = asyncio.Event(), {"radio": [], "hall": []}
            listening = asyncio.create_task(listen(besieged.websocket, stop, seqs))
            while not seqs["hall"]:
                await asyncio.sleep(0.01)
            await attack(besieged)
            enough = len(seqs["hall"]) + 3
            while len(seqs["hall"]) < enough:
                await asyncio.sleep(0.01)
            stop.set()
            await listening
            for source, heard in seqs.items():
                missed = set(range(heard[0], heard[-1])) - set(heard)
                assert not missed, f"{source}: missed {sorted(missed)}"

    asyncio.run(scenario())


async def all_files_closed(besieged, before):
    """Wait until the server has let go of what attackers held."""
    while besieged.open_files() > before:
        await asyncio.sleep(0.05)


def cut(writer):
    """Close a connection with a reset, so that no port stays taken."""
    if writer.transport.is_closing():
        return
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def handshake(besieged):
    """Become a WebSocket client by hand."""
    reader, writer = await besieged.connect()
    writer.write(UPGRADE)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    return reader, writer


async def push(writer, payload, times):
    """Write a payload over and over, until the other side cuts the connection."""
    with contextlib.suppress(ConnectionError, TimeoutError):
        for _ in range(times):
            writer.write(payload)
            async with asyncio.timeout(3):
                await writer.drain()
    cut(writer)


def test_garbage_that_is_no_http(besieged):
    async def attack(besieged):
        for payload in (b"\0" * 100_000, b"\x16\x03\x01" * 10_000, os.urandom(100_000), b"GET\n\n"):
            _, writer = await besieged.connect()
            await push(writer, payload, 10)
        _, writer = await besieged.connect()
        await push(writer, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, 1)

    under_attack(besieged, attack)


def test_floods_of_garbage_frames(besieged):
    async def attack(besieged):
        clients = [await handshake(besieged) for _ in range(50)]
        await asyncio.gather(*(push(writer, MASKED_GARBAGE * 10_000, 30) for _, writer in clients))

    under_attack(besieged, attack)


def test_floods_of_pings_by_clients_that_read_no_answer(besieged):
    async def attack(besieged):
        clients = [await handshake(besieged) for _ in range(50)]
        await asyncio.gather(*(push(writer, MASKED_PING * 10_000, 30) for _, writer in clients))

    under_attack(besieged, attack)


def test_frames_of_ten_megabytes(besieged):
    async def attack(besieged):
        before = besieged.memory()
        frame = b"\x81\xff" + struct.pack("!Q", TEN_MEGABYTES) + bytes(4 + TEN_MEGABYTES)
        for _ in range(5):
            assert await closed_after(besieged, frame) == 1009
        assert besieged.memory() - before < TEN_MEGABYTES

    under_attack(besieged, attack)


def test_ten_megabytes_in_small_fragments(besieged):
    async def attack(besieged):
        fragment = bytes([0, 0x80 | 126]) + struct.pack("!H", 1000) + bytes(4 + 1000)
        first = b"\x01" + fragment[1:]
        assert await closed_after(besieged, first + fragment * (TEN_MEGABYTES // 1000)) == 1009

    under_attack(besieged, attack)


async def closed_after(besieged, payload):
    """Send a payload, reading all the while; return the code with which we are closed."""
    reader, writer = await handshake(besieged)
    writer.write(payload)  # goes out while we read, for as long as the other side takes
    code = None
    while code is None:
        opcode, length = await reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
        content = await reader.readexactly(length)
        if opcode == 0x88:
            (code,) = struct.unpack("!H", content[:2])
    cut(writer)
    return code


def test_half_handshakes_that_are_held_open(besieged):
    async def attack(besieged):
        before = besieged.open_files()
        halves = [await besieged.connect() for _ in range(400)]
        for number, (_, writer) in enumerate(halves):
            writer.write(UPGRADE[: number % len(UPGRADE)])
        async with connect(besieged.websocket, additional_headers=BEARER) as another:
            assert json.loads(await another.recv())["type"] == "hello"
        assert besieged.open_files() - before < 150
        for _, writer in halves:
            cut(writer)
        await all_files_closed(besieged, before)

    under_attack(besieged, attack)


def test_a_thousand_connects_a_second_for_ten_seconds(besieged):
    async def attack(besieged):
        before = besieged.open_files()
        attacker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CONNECTING, besieged.host, str(besieged.port), UPGRADE.hex()),
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await attacker.communicate()
        print(f"\n{told.decode().strip()} of {CONNECTS} connects, a second")
        assert attacker.returncode == 0
        await all_files_closed(besieged, before)

    under_attack(besieged, attack)


def test_clients_that_never_read(besieged):
    async def attack(besieged):
        before = besieged.memory()
        deaf = []
        for _ in range(50):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.connect((besieged.host, besieged.port))
            listener.sendall(UPGRADE)
            deaf.append(listener)
        async with aiohttp.ClientSession(headers=BEARER) as session:
            closed = 0
            while closed < len(deaf):
                await asyncio.sleep(0.2)
                async with session.get(f"{besieged.url}metrics") as response:
                    text = await response.text()
                name = "genre_stream_slow_clients_closed_total"
                closed = float(re.search(rf"^{name} (.*)$", text, re.MULTILINE)[1])
        assert besieged.memory() - before < 50 * 1024 * 1024
        for listener in deaf:
            listener.close()

    under_attack(besieged, attack)


def test_wrong_origins_wrong_tokens_and_paths_that_lead_astray(besieged):
    async def refused(besieged, **headers):
        with pytest.raises(InvalidStatus) as refusal:
            await connect(besieged.websocket, additional_headers=headers)
        return refusal.value.response.status_code

    async def attack(besieged):
        async with aiohttp.ClientSession() as session:
            for _ in range(50):
                assert await refused(besieged, Origin="https://evil.example", **BEARER) == 403
                assert await refused(besieged, Authorization="Bearer guess") == 401
                assert await refused(besieged) == 401
                for path in ("../server.py", "%2e%2e/%2e%2e/etc/passwd", "..%5c..%5cetc"):
                    async with session.get(besieged.url + path, headers=BEARER) as response:
                        assert response.status == 404

    under_attack(besieged, attack)
