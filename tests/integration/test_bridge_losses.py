"""Connections that break, again and again: what a real server has then is what it had before."""

from __future__ import annotations

import asyncio

import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL, REASON_MARKER
from tests.integration.conftest import Start
from tests.support import inside
from tests.support.live_kernel import Client
from tests.support.served_kernel import Served, had, no_more, reset
from tests.support.waiting import auntil

CONFIG = {
    # Nobody is waited for, so that what is left is a leak.
    "MappingKernelManager": {"buffer_offline_messages": False},
    "TokenWebSocketApp": {"backlog_memory": 2**18},
}

FLOOD = """
from IPython.display import display
for n in range(40):
    display({"text/plain": "x" * 100_000}, raw=True)
"""


async def during_connect(kernel: Served, number: int) -> int:
    """The handshake is on its way, and nobody waits for the answer."""
    offer = ", ".join([KERNEL, REASON_MARKER])
    _, writer = await asyncio.open_connection("127.0.0.1", kernel.server.port)
    lines = (
        f"GET {kernel.path(f'connect-{number}')} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Protocol: {offer}\r\n"
        f"Authorization: token {kernel.server.token}\r\n\r\n"
    )
    writer.write(lines.encode())
    await writer.drain()
    writer.transport.abort()
    return 0


async def during_write(kernel: Served, number: int) -> int:
    """Some of a flood has been read."""
    client = await kernel.open(f"write-{number}", v1=bool(number % 4))
    running = await client.execute(FLOOD)
    await client.until("display_data", running)
    reset(client)
    return 0


async def during_spool(kernel: Served, number: int) -> int:
    """Nothing has been read, and there is more than memory may hold; returns what is spooled then."""
    client = await kernel.open(f"spool-{number}", v1=bool(number % 4))
    async with kernel.client(f"beside-{number}") as beside:
        running = await client.execute(FLOOD)
        await beside.until("status", running, execution_state="idle")
        spooled = had(kernel.server)["spooled"]
        reset(client)
    return spooled


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cycles", [50, pytest.param(1000, marks=pytest.mark.heavy)])
async def test_connections_that_break_leave_nothing_behind(start: Start, cycles: int):
    server = start(config=CONFIG, extensions={inside.__name__: True})
    kernel = Served(server, await asyncio.to_thread(server.start_kernel))
    ways = (during_connect, during_write, during_spool)
    async with kernel.client("stays") as stays:
        await stays.run("1")
        reading = asyncio.create_task(read(stays))
        for number in range(len(ways)):
            await ways[number](kernel, -number)
        await kernel.becomes(connections=1)
        before = had(kernel.server)
        spools = 0
        for number in range(cycles):
            spools = max(spools, await ways[number % len(ways)](kernel, number))
        await kernel.becomes(connections=1)
        await auntil(lambda: no_more(had(kernel.server), before), "everything to be given back")
        assert spools > 0, "nothing was ever spooled"
        reading.cancel()
    await kernel.becomes(connections=0)
    async with kernel.client("after") as client:
        assert await client.run("print('on')") == "on\n"
    assert not [line for line in server.log().splitlines() if line.startswith("[E ")]


async def read(client: Client) -> None:
    """Take whatever comes."""
    while (frame := await client.knock.read_frame()) is not None:
        if frame[0] == 9:
            await client.knock.send(frame[1], opcode=10)
