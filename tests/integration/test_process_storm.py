"""Ten thousand clients who are refused and never leave: a real server stays within its bounds."""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import struct
from collections import Counter
from dataclasses import dataclass, field

import psutil
import pytest

from jupyter_token_ws.guard.core import GuardOptions
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.integration.conftest import Start
from tests.support.knock import bearing, knock
from tests.support.process import Server
from tests.support.waiting import given_back

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

CLIENTS = 10_000
AT_ONCE = 200
"""Handshakes at the same time. Who has an answer stays until the server ends the connection."""


@dataclass
class Watch:
    """The highest figures of a process, and the lowest."""

    process: psutil.Process
    fds: int = 0
    rss: int = 0
    samples: int = 0

    def look(self) -> None:
        self.fds = max(self.fds, self.process.num_fds())
        self.rss = max(self.rss, self.process.memory_info().rss)
        self.samples += 1


@dataclass
class Outcome:
    """What became of the clients."""

    ends: Counter[str] = field(default_factory=Counter)


async def refused_and_silent(
    server: Server, n: int, gate: asyncio.Semaphore, outcome: Outcome
) -> None:
    """A wrong token of its own; never answers, never leaves, until the server ends the connection."""
    await gate.acquire()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    key = base64.b64encode(os.urandom(16)).decode()
    offer = f"{MARKER}, {bearing(f'wrong-{n}')}, {REASON_MARKER}"
    writer.write(
        (
            f"GET /own/echo HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {offer}\r\n\r\n"
        ).encode()
    )
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 120)
        gate.release()
        rest = await asyncio.wait_for(reader.read(), 120)  # to the end, whoever makes it
    finally:
        writer.transport.abort()
    status = int(head.split(b" ")[1])
    if status == 101:
        assert struct.unpack("!H", rest[2:4]) == (4403,)
        assert rest[4:].startswith(b"token_rejected")
        outcome.ends["told"] += 1
    else:
        outcome.ends[f"plain {status}"] += 1


async def test_C3_5_ten_thousand_refused_who_never_answer(start: Start):
    """Descriptors: those of an idle server, the refusals that may be open at once, and the connections
    that are being answered right now. Memory: what an idle server needs and no more than 60 MB on top.
    Good clients get in all the while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, CLIENTS + 1_000)), hard))
    server = start(
        extensions={"tests.support.own_sockets": True},
        config={"TokenWebSocketApp": {"attempt_burst": 0}},  # refusals, not guesses
    )
    process = psutil.Process(server.pid)
    good = [MARKER, bearing(server.token)]
    async with await knock(server.port, "/own/echo", good) as first:
        assert first.status == 101  # what is made once is made now
    idle = Watch(process)
    idle.look()
    during, outcome, done = Watch(process), Outcome(), asyncio.Event()
    gate = asyncio.Semaphore(AT_ONCE)

    async def watch() -> None:
        while not done.is_set():
            during.look()
            await asyncio.sleep(0.05)

    async def good_clients() -> list[float]:
        loop, times = asyncio.get_running_loop(), []
        while not done.is_set():
            began = loop.time()
            async with await knock(server.port, "/own/echo", good) as socket:
                assert socket.status == 101
                await socket.send("hello")
                assert await socket.wait_message() == "hello"
                await socket.close()
            times.append(loop.time() - began)
        return times

    watching = asyncio.ensure_future(watch())
    entering = asyncio.ensure_future(good_clients())
    try:
        await asyncio.gather(
            *(refused_and_silent(server, n, gate, outcome) for n in range(CLIENTS))
        )
    finally:
        done.set()
    await watching
    times = sorted(await entering)
    print(
        f"\nends {dict(outcome.ends)}; descriptors idle {idle.fds}, highest {during.fds}; "
        f"RSS idle {idle.rss >> 20} MB, highest {during.rss >> 20} MB; {len(times)} good clients, "
        f"median {times[len(times) // 2]:.3f} s, slowest {times[-1]:.3f} s"
    )
    assert sum(outcome.ends.values()) == CLIENTS
    assert set(outcome.ends) <= {"told", "plain 403"}
    assert outcome.ends["told"] >= GuardOptions().max_refusals_open
    assert during.fds <= idle.fds + GuardOptions().max_refusals_open + AT_ONCE + 50
    assert during.rss <= idle.rss + 60 * 2**20
    assert len(times) >= 10
    assert times[-1] < 10
    await given_back(process, idle.fds)
    assert "Traceback" not in server.log()
