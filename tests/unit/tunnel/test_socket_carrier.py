"""A tunnel over a real websocket: opened, cut, resumed, and by whom not."""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from typing import Any

import pytest
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.protocol.reasons import parse_close
from jupyter_token_ws.protocol.subprotocols import (
    KERNEL,
    TUNNEL,
    offer_subprotocols,
)
from jupyter_token_ws.tunnel.tunnels import SETTING
from tests.support.door import Door
from tests.support.knock import TIMEOUT
from tests.support.live_kernel import Client
from tests.support.tunnel_carriers import FarSocket

PATH = "api/token-ws/tunnel"
NUMBER = struct.Struct(">Q")


class Echo(WebSocketHandler):
    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message, binary=isinstance(message, bytes))


@pytest.fixture
def far(door: Door) -> FarSocket:
    door.add("echo", Echo)
    return FarSocket(door)


async def test_C7_2_a_kernel_over_it(far, kernel):
    await far.connect()
    path = f"api/kernels/{kernel.id}/channels?session_id=a"
    socket: Any = await far.open(path, [KERNEL]).wait_open()
    assert (socket.opened, socket.subprotocol) == (True, KERNEL)
    assert await Client(socket, True).run("print(6 * 7)") == "42\n"
    await far.cut()


async def test_C7_6_what_is_sent_arrives_once_whatever_is_cut(far):
    await far.connect()
    socket = await far.open("echo").wait_open()
    heard = []
    for n in range(20):
        await socket.send(str(n))
        await socket.send(bytes([n]) * 50_000)
        if n % 5 == 0:
            await far.cut()
            await far.connect()
            await asyncio.wait_for(_attached(far), 30)
        heard += [await socket.wait_message(), await socket.wait_message()]
    expected = [each for n in range(20) for each in (str(n), bytes([n]) * 50_000)]
    assert heard == expected
    await far.cut()


async def _attached(far: FarSocket) -> None:
    while not far.client._attached:
        await asyncio.sleep(0.01)


async def test_C7_3_who_comes_to_what_is_not_there(far, door):
    offer = offer_subprotocols([TUNNEL], door.token)
    told = await door.refused(f"{PATH}?tunnel=none", offer)
    closed = parse_close(told.code or 0, told.reason)
    assert closed is not None
    assert closed.reason.slug == "not_found"


async def test_C7_2_who_speaks_another_version(far, door):
    told = await door.refused(
        PATH, offer_subprotocols(["v2.tunnel.websocket.jupyter.org"], door.token)
    )
    assert told.slug == "unsupported_version"


async def test_who_offers_nothing_else_is_told_too_that_frames_are_lost(far, door):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    told = await door.refused(
        f"{PATH}?tunnel={far.hello['tunnel']}&received=99",
        [TUNNEL],
        {"Authorization": f"token {door.token}"},
    )
    assert (told.status, told.code, told.slug) == (101, 4410, "resume_failed")
    await far.cut()


async def test_a_batch_that_is_too_large(far):
    await far.connect()
    assert far.knock is not None
    with suppress(ConnectionError):
        await far.knock.send(b"x" * (1024 * 1024 + 1))
    assert (await far.ended())[0] in (1009, None)


async def test_C7_4_who_breaks_the_protocol_is_told(far, door):
    await far.connect()
    assert far.knock is not None
    await far.knock.send(NUMBER.pack(1) + b"rubbish")
    await asyncio.wait_for(far.hearing, 30)
    await far.knock.close()
    assert far.client.closed
    assert not door.app.web_app.settings[SETTING]._held
