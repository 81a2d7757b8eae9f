"""Kernels of a real server: one that dies, and clients that vanish while they use it."""

from __future__ import annotations

import asyncio

import psutil

from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.integration.conftest import Start
from tests.support.kernel_messages import execute, read
from tests.support.knock import Knock, bearing, knock
from tests.support.process import Server
from tests.support.waiting import auntil, given_back


async def connect(server: Server, kernel_id: str, session: str) -> Knock:
    socket = await knock(
        server.port,
        f"/api/kernels/{kernel_id}/channels?session_id={session}",
        [MARKER, bearing(server.token), REASON_MARKER],
    )
    assert socket.status == 101
    return socket


async def statuses(socket: Knock, wanted: str) -> None:
    """Read until the kernel's state is said to be ``wanted``."""
    while True:
        message = read(await socket.wait_message())
        if message["content"].get("execution_state") == wanted:
            return


async def answer(socket: Knock) -> None:
    """Answer pings for as long as the connection stands."""
    while (frame := await socket.read_frame()) is not None:
        if frame[0] == 9:
            await socket.send(frame[1], opcode=10)


async def test_a_kernel_that_dies_is_not_gone_while_it_comes_back(start: Start):
    """The restarter starts it anew under the same id; only who shuts a kernel down ends its sockets."""
    # The guard looks at the kernels again and again, and waits long for this client, which is busy here.
    traits = {"keepalive_interval": 0.25, "keepalive_timeout": 300}
    server = start(config={"TokenWebSocketApp": traits})
    kernel_id = server.start_kernel()
    async with await connect(server, kernel_id, "s") as socket:
        await socket.send(execute("1").frame(None))
        await statuses(socket, "idle")
        [process] = psutil.Process(server.pid).children()
        await asyncio.to_thread(process.kill)
        await statuses(socket, "restarting")
        await auntil(
            lambda: (
                [child.pid != process.pid for child in psutil.Process(server.pid).children()]
                == [True]
            ),
            "the kernel's new process",
        )
        model = await asyncio.to_thread(server.kernel, kernel_id)
        assert model is not None
        assert model["connections"] == 1
        await socket.send("still there", opcode=9)
        frame = await socket.read_frame()
        while frame is not None and frame[0] != 10:
            assert frame[0] != 8
            frame = await socket.read_frame()
        assert frame == (10, b"still there")
        # While it starts jupyter_server can neither shut it down nor end well itself.
        await auntil(
            lambda: server.request("DELETE", f"api/kernels/{kernel_id}").status == 204,
            "the kernel can be shut down",
        )
        await socket.wait_closed()
        assert (socket.code, socket.slug) == (4410, "gone")


async def test_clients_that_vanished_give_their_channels_back(start: Start):
    """Ten clients without a word, one that stays: descriptors and connections are what they were."""
    server = start(
        config={
            "TokenWebSocketApp": {"keepalive_interval": 0.25, "keepalive_timeout": 2},
            "MappingKernelManager": {"buffer_offline_messages": False},
        }
    )
    kernel_id = server.start_kernel()
    process = psutil.Process(server.pid)

    def connections() -> int:
        model = server.kernel(kernel_id)
        assert model is not None
        count: int = model["connections"]
        return count

    async def settled(count: int) -> None:
        for _ in range(600):
            if await asyncio.to_thread(connections) == count:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"still {connections()} connections")

    async with await connect(server, kernel_id, "stays") as stays:
        await stays.send(execute("1").frame(None))
        await statuses(stays, "idle")
        answering = asyncio.ensure_future(answer(stays))
        async with await connect(server, kernel_id, "warm"):
            await settled(2)
        await settled(1)
        before = process.num_fds()
        vanished, there = [], []
        for number in range(10):
            vanished.append(await connect(server, kernel_id, f"vanished-{number}"))
            there.append(asyncio.ensure_future(answer(vanished[-1])))
        await settled(11)
        # One or two of requests that had just ended may be among those before.
        assert process.num_fds() >= before + 8
        # From here on they read nothing and say nothing, as if the network had gone away.
        for each in there:
            assert not each.done()
            each.cancel()
        await settled(1)
        await given_back(process, before)
        assert not answering.done()
        answering.cancel()
        for socket in vanished:
            socket.vanish()
    assert server.log().count("of silence") == 10
