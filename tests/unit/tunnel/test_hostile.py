"""What hostile clients did once: it is refused by itself, and the tunnel goes on, or it ends and says why."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from jupyter_token_ws.protocol.frames import close_frame, encode, open_frame
from jupyter_token_ws.tunnel.tunnels import SETTING
from tests.support.door import Door
from tests.support.knock import TIMEOUT
from tests.support.tunnel_carriers import FarEvents
from tests.support.waiting import auntil

FIELDS = "echo?" + "a&" * 7000
"""A query of more fields than newer tornados take."""


class Echo(WebSocketHandler):
    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message, binary=isinstance(message, bytes))


class Talks(WebSocketHandler):
    """More than there is credit for."""

    told: list[BaseException | None]

    async def on_message(self, message: str | bytes) -> None:
        try:
            await self.write_message(b"x" * 5_000_000, binary=True)
        except WebSocketClosedError as error:
            Talks.told.append(error)
        except BaseException as error:
            Talks.told.append(error)
            raise


class Pours(WebSocketHandler):
    """As much as is taken."""

    ended = False

    async def open(self) -> None:
        Pours.ended = False
        with suppress(WebSocketClosedError):
            while True:
                await self.write_message(b"x" * 65536, binary=True)

    def on_close(self) -> None:
        Pours.ended = True


class Sheds(WebSocketHandler):
    """Does not wait for what it sends, as those that pass on events."""

    closed = False

    def open(self) -> None:
        Sheds.closed = False
        for _ in range(int(self.get_query_argument("n"))):
            self.write_message(b"x" * 5000, binary=True)

    def on_close(self) -> None:
        Sheds.closed = True


class Counts(WebSocketHandler):
    """How many are made, and how many of them in one turn of the loop."""

    made = turn = most = 0

    def initialize(self) -> None:
        if not Counts.turn:
            asyncio.get_running_loop().call_soon(Counts.next_turn)
        Counts.made += 1
        Counts.turn += 1
        Counts.most = max(Counts.most, Counts.turn)

    @staticmethod
    def next_turn() -> None:
        Counts.turn = 0


@pytest.fixture
def far(door: Door, jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[FarEvents]:
    door.add("echo", Echo)
    door.add("talks", Talks)
    door.add("pours", Pours)
    door.add("counts", Counts)
    door.add("sheds", Sheds)
    Talks.told = []
    Counts.made = Counts.turn = Counts.most = 0
    far = FarEvents(door)
    yield far
    jp_asyncio_loop.run_until_complete(far.leave())


async def begun(far: FarEvents) -> None:
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)


@pytest.mark.parametrize(
    "offered",
    ["", " ", "a b", "a,b", "ü", "\ud800", "x\r\nX-Evil: 1", "\0"],
    ids=ascii,
)
async def test_a_subprotocol_that_is_no_token_is_no_header(far, offered):
    await begun(far)
    refused = await far.open("echo", [offered]).wait_closed()
    assert (refused.code, refused.reason.partition(":")[0]) == (4400, "bad_request")
    socket = await far.open("echo", ["a"]).wait_open()
    await socket.send("on")
    assert await socket.wait_message() == "on"
    await far.cut()


async def test_a_request_that_tornado_does_not_make_is_refused_alone(far):
    await begun(far)
    socket = await far.open(FIELDS).wait_open()
    assert (socket.opened, socket.code) in [(True, None), (False, 4400)]
    again = await far.open("echo").wait_open()
    assert again.opened
    await far.cut()


async def test_nor_where_one_stream_is_followed(far):
    events = await far.get(f"?path={FIELDS.replace('&', '%26')}")
    assert events.status in (200, 400)
    await events.close()


async def test_who_waits_for_credit_when_the_stream_closes_is_told_as_by_a_socket(far):
    """By tornado's error, which handlers know."""
    await begun(far)
    socket = await far.open("talks").wait_open()
    far.client.consumed = lambda *_: None
    await socket.send("talk")
    await auntil(lambda: socket._parts, "the beginning of what is said")
    await socket.close(1000)
    await auntil(lambda: Talks.told, "the handler to be told")
    assert [type(error) for error in Talks.told] == [WebSocketClosedError]
    await far.cut()


async def test_what_waits_for_its_turn_is_answered_when_the_tunnel_ends(far):
    await begun(far)
    late: Any = asyncio.ensure_future(far.send(100, b""))
    (held,) = far.door.app.web_app.settings[SETTING]
    await auntil(lambda: held._waiting, "the batch to wait")
    assert (await far.send(1, b"\xff" * 10))[0] == 200
    assert (await asyncio.wait_for(late, 5))[0] == 200
    await far.ended()
    assert [name for name, _ in far.others] == ["end"]


async def test_streams_that_are_asked_for_at_once_are_served_one_after_the_other(far):
    """Between them it is the others' turn."""
    await begun(far)
    far.client.receive = lambda *_: None  # it did not ask by itself
    asked = [encode(open_frame(number, "counts", [], 0)) for number in range(1, 201)]
    assert (await far.send(1, b"".join(asked)))[0] == 200
    await auntil(lambda: Counts.made == 200, "all to be served")
    assert Counts.most <= 2  # as a turn is counted here, two may have a part of it
    await far.cut()


async def test_a_stream_that_is_withdrawn_at_once_is_not_served(far):
    """A batch has room for thousands of these."""
    await begun(far)
    far.client.receive = lambda *_: None  # it did not ask by itself
    asked = [
        encode(open_frame(number, "counts", [], 0)) + encode(close_frame(number, 1000))
        for number in range(1, 2001)
    ]
    last = encode(open_frame(2001, "counts", [], 0))
    assert (await far.send(1, b"".join([*asked, last])))[0] == 200
    await auntil(lambda: Counts.made, "the last to be served")
    assert Counts.made == 1
    await far.cut()


@pytest.mark.parametrize("token_ws_config", [{"keepalive_interval": 0.1, "keepalive_timeout": 0.5}])
async def test_who_follows_a_stream_and_reads_no_more_is_cut(far):
    """As over a websocket, where he does not answer."""
    events = await far.get("?path=pours")
    assert events.status == 200
    await auntil(lambda: Pours.ended, "the stream to end")
    events.cut()


async def test_what_waits_for_credit_when_a_tunnel_ends_fills_no_log(far, caplog):
    await begun(far)
    far.client.consumed = lambda *_: None
    await far.open("sheds?n=500").wait_open()
    (held,) = far.door.app.web_app.settings[SETTING]
    held.close()
    await far.ended()
    await auntil(lambda: Sheds.closed, "the handler to be told")
    gc.collect()
    told = [record.getMessage() for record in caplog.records]
    assert not [each for each in told if "never retrieved" in each]


KEPT_ALIVE = {"keepalive_interval": 0.1, "keepalive_timeout": 0.5}


@pytest.mark.parametrize("token_ws_config", [KEPT_ALIVE])
async def test_who_takes_nothing_from_who_does_not_wait_is_cut(far):
    """Else what waits would be more and more, for ever."""
    await begun(far)
    far.client.consumed = lambda *_: None
    socket = await far.open("sheds?n=500").wait_open()
    await auntil(lambda: Sheds.closed, "the stream to be cut")
    await socket.wait_closed()
    again = await far.open("echo").wait_open()
    assert again.opened
    await far.cut()


@pytest.mark.parametrize("token_ws_config", [KEPT_ALIVE])
async def test_who_takes_nothing_from_who_waits_is_waited_for(far):
    await begun(far)
    far.client.consumed = lambda *_: None
    await far.open("pours").wait_open()
    slow = await far.open("echo").wait_open()
    await auntil(lambda: sum(name == "keepalive" for name, _ in far.others) > 10, "some time")
    assert not Pours.ended
    await slow.send("on")
    assert await slow.wait_message() == "on"
    await far.cut()
