"""What becomes of a tunnel when its client sleeps, comes from elsewhere, or finds another server; and many
streams, and many tunnels."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jupyter_token_ws.protocol.subprotocols import KERNEL
from jupyter_token_ws.tunnel.tunnels import EVENT_STREAM, WEBSOCKET
from tests.integration.conftest import Start
from tests.support import far_sleeper, inside, own_sockets
from tests.support.cutting_proxy import cutting
from tests.support.far_peer import FarPeer, FarStream
from tests.support.live_kernel import Client, once, printed
from tests.support.process import PROJECT, Server
from tests.support.served_kernel import Served, had, no_more
from tests.support.waiting import auntil

EXTENSIONS = {module.__name__: True for module in (inside, own_sockets)}

QUICK = {"TokenWebSocketApp": {"keepalive_interval": 1, "keepalive_timeout": 3}}
"""Who is silent for three seconds is gone."""

CARRIERS = pytest.mark.parametrize("carrier", [WEBSOCKET, EVENT_STREAM])


def tunnels(server: Server) -> dict[str, int]:
    """How many there are, by what carries them at the moment."""
    text = server.request("GET", "metrics").body.decode()
    found = re.findall(
        r'^jupyter_token_ws_tunnels_open\{carrier="(.*)"\} (.*)$', text, re.MULTILINE
    )
    return {carrier: int(float(count)) for carrier, count in found if float(count)}


class Counting:
    """A cell that counts to a hundred, the second half of it when it is told to."""

    def __init__(self, tmp_path: Path, served: Served) -> None:
        self.served = served
        self.told = tmp_path / "go on"
        self.code = (
            "def say(n): print(f'{n}\\n', end='', flush=True)  # all of it in one message\n"
            "for n in range(50): say(n)\n"
            f"{once(self.told, 'for n in range(50, 100): say(n)')}"
        )
        self.wanted = "".join(f"{n}\n" for n in range(100))

    @asynccontextmanager
    async def over(self, peer: FarPeer) -> AsyncIterator[None]:
        """Half of it before the block and half of it behind, all of it heard."""
        path = f"api/kernels/{self.served.id}/channels?session_id=a"
        stream = await peer.open(path, [KERNEL])
        client: Any = Client(stream, v1=True)  # type: ignore[arg-type]
        asked = await client.execute(self.code)
        await client.until("stream", asked, text="49\n")
        yield
        self.told.touch()
        assert printed(await client.idle(asked)) == self.wanted
        await stream.close()

    async def goes_on(self) -> None:
        """Let it count on, and wait until it is done."""
        self.told.touch()
        await self.served.becomes(execution_state="idle")


async def started(start: Start, tmp_path: Path, **options: Any) -> Counting:
    server = start(extensions=EXTENSIONS, **options)
    return Counting(tmp_path, Served(server, await asyncio.to_thread(server.start_kernel)))


# -- asleep ------------------------------------------------------------------------------------------


@CARRIERS
async def test_a_client_that_sleeps_misses_nothing(start: Start, tmp_path: Path, carrier: str):
    counting = await started(start, tmp_path, config=QUICK)
    server, kernel = counting.served.server, counting.served.id
    command = [sys.executable, "-m", far_sleeper.__name__, server.url, server.token, carrier]
    process = await asyncio.create_subprocess_exec(
        *command, kernel, counting.code, cwd=PROJECT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        heard = await asyncio.wait_for(process.stdout.readuntil(b"49\n"), 60)
        process.send_signal(signal.SIGSTOP)
        await auntil(lambda: tunnels(server) == {"none": 1}, "the server to miss it")
        await counting.goes_on()
        process.send_signal(signal.SIGCONT)
        rest, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (heard + rest).decode() == f"{counting.wanted}2 carriers\n"


@CARRIERS
async def test_a_network_that_sleeps_loses_nothing(start: Start, tmp_path: Path, carrier: str):
    counting = await started(start, tmp_path, config=QUICK)
    server = counting.served.server
    with cutting(tmp_path, server.port) as proxy:
        async with (
            FarPeer(proxy.url, server.token, carrier, silence=2) as peer,
            counting.over(peer),
        ):
            proxy.process.send_signal(signal.SIGSTOP)
            await auntil(lambda: tunnels(server) == {"none": 1}, "the server to miss it")
            await counting.goes_on()
            await auntil(lambda: peer.counts.lost > 0, "the client to miss it")
            proxy.process.send_signal(signal.SIGCONT)
        assert peer.counts.carriers > 1


# -- elsewhere ---------------------------------------------------------------------------------------


@CARRIERS
async def test_a_client_that_comes_from_another_address(start: Start, tmp_path: Path, carrier: str):
    """Nobody tells the server that the connection before is dead."""
    counting = await started(start, tmp_path)
    server = counting.served.server
    with cutting(tmp_path, server.port) as proxy:
        async with FarPeer(proxy.url, server.token, carrier) as peer, counting.over(peer):
            proxy.do("vanish")
            peer.url, peer.address = server.url, "127.0.0.2"
            peer.change()
            await peer.attached(2)
            assert tunnels(server) == {carrier: 1}
            assert (await peer.open("own/nothing")).slug == "not_found"
    assert "not_found /own/nothing from 127.0.0.2" in server.log()


async def test_from_a_websocket_to_an_event_stream_and_back(start: Start, tmp_path: Path):
    counting = await started(start, tmp_path)
    server = counting.served.server
    async with FarPeer(server.url, server.token) as peer, counting.over(peer):
        assert tunnels(server) == {WEBSOCKET: 1}
        echo = await peer.open("own/streamed")
        for carriers, carrier in enumerate((EVENT_STREAM, WEBSOCKET, EVENT_STREAM), 2):
            message = carrier * 50_000
            going = asyncio.create_task(echo.send(message))
            peer.change(carrier)
            await peer.attached(carriers)
            assert tunnels(server) == {carrier: 1}
            await going
            assert await echo.receive() == message
        await echo.close()
        assert peer.counts.lost == 0


# -- another server ----------------------------------------------------------------------------------


@CARRIERS
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "stopped"])
async def test_a_server_that_was_restarted_says_at_once_that_it_knows_no_such_tunnel(
    start: Start, tmp_path: Path, carrier: str, killed: bool
):
    server = start(extensions=EXTENSIONS)
    async with FarPeer(server.url, server.token, carrier) as peer:
        stream = await peer.open("own/echo")
        if killed:
            server.kill()
            server = await asyncio.to_thread(start, port=server.port)
            begun = time.monotonic()
            assert (await peer.finished()).slug == "not_found"
            assert time.monotonic() - begun < 30
        else:
            await asyncio.to_thread(server.stop)
            assert (await peer.finished()).slug == "draining"
        assert stream.closed is not None


# -- many --------------------------------------------------------------------------------------------


@CARRIERS
async def test_two_hundred_streams_on_one_tunnel(start: Start, carrier: str):
    server = start(extensions=EXTENSIONS)
    before = had(server)

    async def talk(stream: FarStream, number: int) -> None:
        sent = [f"{number} {n} ".ljust(1000 * n, "x") for n in range(10)]
        for message in sent:
            await stream.send(message)
        await stream.end()
        for expected in [*sent, "10 messages", None]:
            assert await stream.receive() == expected

    async with FarPeer(server.url, server.token, carrier) as peer:
        streams = await asyncio.gather(*(peer.open("own/streamed") for _ in range(200)))
        assert inside_of(server)["streams"] == 200
        await asyncio.gather(*(talk(stream, n) for n, stream in enumerate(streams)))
        assert peer.counts.carriers == 1
    await auntil(lambda: no_more(had(server), before), "everything to be given back")


def inside_of(server: Server) -> dict[str, int]:
    counts: dict[str, int] = server.request("GET", inside.PATH).json()
    return counts


@pytest.mark.heavy
@CARRIERS
async def test_a_thousand_idle_tunnels(start: Start, carrier: str):
    config = {"TokenWebSocketApp": {"max_tunnels_per_principal": 1000}}
    server = start(extensions=EXTENSIONS, config=config)
    before = had(server)
    async with AsyncExitStack() as running:
        peers: list[FarPeer] = []
        for _ in range(50):
            some = [FarPeer(server.url, server.token, carrier) for _ in range(20)]
            for peer in some:
                await running.enter_async_context(peer)
            await asyncio.gather(*(peer.attached() for peer in some))
            peers += some
        assert tunnels(server) == {carrier: 1000}
        for peer in peers[::100]:
            stream = await peer.open("own/echo")
            await stream.send("hello")
            assert await stream.receive() == "hello"
            await stream.close()
        assert {peer.counts.carriers for peer in peers} == {1}
    await auntil(lambda: no_more(had(server), before), "everything to be given back")
