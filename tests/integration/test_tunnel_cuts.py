"""Tunnels whose connections are cut, stalled and delayed all the time: every message arrives once and in
order, and nothing is left behind."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL
from jupyter_token_ws.tunnel.tunnels import EVENT_STREAM, WEBSOCKET
from tests.integration.conftest import Start
from tests.support import inside, own_sockets
from tests.support.cutting_proxy import CuttingProxy, cutting
from tests.support.far_peer import Counts, FarPeer, FarStream
from tests.support.live_kernel import Client
from tests.support.process import Server
from tests.support.served_kernel import had, no_more
from tests.support.waiting import auntil

EXTENSIONS = {module.__name__: True for module in (inside, own_sockets)}
CONFIG = {"MappingKernelManager": {"buffer_offline_messages": False}}

WARM_UP = 30
"""Seconds after which memory should not grow any more."""

SHORT, LONG = 12, WARM_UP + 120
"""Seconds under load."""

CUT = [WEBSOCKET, EVENT_STREAM, "changing"]
"""What carries tunnels that are cut."""

MAX_GROWTH = 2**20
"""Bytes by which it may, in a minute."""

LINES = 200
"""That a cell prints, each a message of its own."""


class Echoes:
    """Numbered messages of all sizes, text and bytes, there and back; at the end each side ends its own
    direction."""

    def __init__(self, peer: FarPeer, seed: int) -> None:
        self.peer = peer
        self.chance = random.Random(seed)
        self.sent: deque[str | bytes] = deque()
        self.count = 0

    def make(self, number: int) -> str | bytes:
        size = int(self.chance.choice((0, 100, 10_000, 100_000, 400_000)) * self.chance.random())
        text = f"{number} ".ljust(size, "é")
        return text if self.chance.random() < 0.5 else text.encode()

    async def run(self, until: float) -> None:
        """Send until then; returns when everything has come back."""
        stream = await self.peer.open("own/streamed")
        assert stream.opened is not None, stream.closed
        await asyncio.gather(self._send(stream, until), self._hear(stream))
        await stream.until(lambda: stream.closed)

    async def _send(self, stream: FarStream, until: float) -> None:
        for number in itertools.count():
            if time.monotonic() >= until:
                break
            message = self.make(number)
            self.sent.append(message)
            await stream.send(message)
            await asyncio.sleep(self.chance.random() / 100)
        await stream.end()

    async def _hear(self, stream: FarStream) -> None:
        while (message := await stream.receive()) is not None:
            expected = self.sent.popleft() if self.sent else f"{self.count} messages"
            # Not by its text, of which nobody would read a megabyte.
            assert (message == expected) is True, f"message {self.count}"
            self.count += 1
        assert (stream.ended, len(self.sent)) == (True, 0), stream.closed


class Cells:
    """Cells of a real kernel that print numbers, some of them asking for their input first."""

    def __init__(self, peer: FarPeer, kernel: str) -> None:
        self.peer = peer
        self.kernel = kernel
        self.asked: dict[str, int] = {}  # ids, in order, and with which number the cell begins
        self.lines = 0
        self.seen: set[str] = set()
        self.latest: deque[str] = deque(maxlen=8)
        self.counts = Counter[str]()
        self.others = Counter[str]()
        self.wanted = -1  # cells in all
        self.room = asyncio.Semaphore(3)

    async def run(self, until: float) -> None:
        """Run cells until then; returns when all are done."""
        path = f"api/kernels/{self.kernel}/channels?session_id=cells"
        stream = await self.peer.open(path, [KERNEL])
        assert stream.subprotocol == KERNEL, stream.closed
        client: Any = Client(stream, v1=True)  # type: ignore[arg-type]
        try:
            await asyncio.gather(self._ask(client, until), self._hear(client))
        except AssertionError as error:
            raise AssertionError(
                f"{self.counts}, {self.others}, then {list(self.latest)}"
            ) from error
        assert self.lines == self.wanted * LINES
        await stream.close()

    async def _ask(self, client: Any, until: float) -> None:
        for number in itertools.count():
            await self.room.acquire()
            if time.monotonic() >= until:
                self.wanted = number + 1
            first, asks = number * LINES, number % 5 == 0
            code = f"n = {'int(input())' if asks else first}\n"
            code += f"for n in range(n, n + {LINES}): print(n, flush=True)"
            message_id, frame = client.frame("shell", "execute_request", request(code, asks), [])
            self.asked[message_id] = first
            await client.knock.send(frame)
            if self.wanted > 0:
                return

    async def _hear(self, client: Any) -> None:
        while not self.wanted == self.counts["execute_reply"] == self.counts["idle"]:
            message = client.read(await client.knock.wait_message())
            header, content = message["header"], message["content"]
            kind, parent = header["msg_type"], message["parent_header"]
            assert header["msg_id"] not in self.seen, "heard twice"
            self.seen.add(header["msg_id"])
            if parent.get("session") != client.session:
                self.others[f"{kind} {parent.get('msg_type')} {content}"[:80]] += 1
                continue  # of the server's own questions
            self.latest.append(f"{kind} {content}"[:100])
            self.counts[kind] += 1
            if content.get("name") == "stdout":
                for line in content["text"].split():
                    assert int(line) == self.lines
                    self.lines += 1
            elif kind == "input_request":
                await client.send(
                    "stdin", "input_reply", {"value": str(self.asked[parent["msg_id"]])}
                )
            elif kind == "execute_reply":
                assert content["status"] == "ok"
                assert parent["msg_id"] == next(iter(self.asked))
                del self.asked[parent["msg_id"]]
            elif content.get("execution_state") == "idle":
                self.counts["idle"] += 1
                self.room.release()


def request(code: str, asks: bool) -> dict[str, Any]:
    """The content of an ``execute_request``."""
    return {"code": code, "silent": False, "store_history": False, "user_expressions": {}} | {
        "allow_stdin": asks,
        "stop_on_error": False,
    }


async def growth(server: Server, until: float) -> float:
    """Bytes by which a server grows from one minute to the next, once it is warm; 0 where there is no time to
    see it. The least of each counts, without garbage: what lies in buffers at the moment comes and goes."""
    process, begun = psutil.Process(server.pid), time.monotonic()
    middle = (begun + WARM_UP + until) / 2
    least = {False: math.inf, True: math.inf}
    while (now := time.monotonic()) < until:
        if now > begun + WARM_UP:
            await asyncio.to_thread(server.request, "GET", f"{inside.PATH}?tidy")
            later = now > middle
            least[later] = min(least[later], process.memory_info().rss)
        await asyncio.sleep(1)
    return least[True] - least[False] if math.isfinite(least[False]) else 0.0


async def changes(peer: FarPeer, chance: random.Random, until: float) -> None:
    """From one carrier to the other, and back."""
    while time.monotonic() < until:
        await asyncio.sleep(chance.uniform(0.5, 2))
        peer.change(WEBSOCKET if peer.carrier == EVENT_STREAM else EVENT_STREAM)


async def under_load(
    server: Server, proxy: CuttingProxy, kernel: str, carrier: str, seconds: float
) -> tuple[Counts, float]:
    """What became of carriers, and by how many bytes the server grew in a minute."""
    first = EVENT_STREAM if carrier == EVENT_STREAM else WEBSOCKET
    async with FarPeer(proxy.url, server.token, first, silence=3) as peer:
        until = time.monotonic() + seconds
        cells = Cells(peer, kernel)
        echoes = [Echoes(peer, seed) for seed in range(2)]
        loads = [cells.run(until), *(each.run(until) for each in echoes)]
        if carrier == "changing":
            loads.append(changes(peer, random.Random(1), until))
        growing = asyncio.create_task(growth(server, until))
        await asyncio.gather(*loads)
        grew = await growing
        proxy.do("calm")
        await peer.attached()  # so that the server hears that nobody comes any more
        assert peer.over is None
    assert min(cells.lines, *(each.count for each in echoes)) > 0
    return peer.counts, grew


async def cut_all_the_time(start: Start, directory: Path, carrier: str, seconds: float) -> None:
    """Load a server over connections that are cut all the time."""
    server = await asyncio.to_thread(start, name=carrier, config=CONFIG, extensions=EXTENSIONS)
    kernel = await asyncio.to_thread(server.start_kernel)
    with cutting(directory, server.port) as proxy:
        await under_load(server, proxy, kernel, carrier, 1)
    before = had(server)
    with cutting(directory, server.port, "--every=0.1-2") as proxy:
        counts, grew = await under_load(server, proxy, kernel, carrier, seconds)
    assert counts.carriers > seconds / 6
    assert grew < MAX_GROWTH
    await auntil(lambda: no_more(had(server), before), "everything to be given back")
    assert not [line for line in server.log().splitlines() if line.startswith("[E ")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("carrier", CUT)
async def test_every_message_once_and_in_order(start: Start, tmp_path: Path, carrier: str):
    await cut_all_the_time(start, tmp_path / carrier, carrier, SHORT)


@pytest.mark.heavy
@pytest.mark.timeout(900)
async def test_minutes_of_it_and_nothing_grows(start: Start, tmp_path: Path):
    """At once, each with a server of its own."""
    cut = [cut_all_the_time(start, tmp_path / carrier, carrier, LONG) for carrier in CUT]
    await asyncio.gather(*cut)
