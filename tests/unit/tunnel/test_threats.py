"""Threats to the tunnel that SECURITY.md names and that no other test is about."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from jupyter_token_ws.protocol import frames
from jupyter_token_ws.protocol.frames import Frame, encode
from jupyter_token_ws.tunnel.tunnels import PATH
from tests.support.door import Door, Socket
from tests.support.knock import TIMEOUT, Knock, knock_raw
from tests.support.tunnel_carriers import NUMBER, FarEvents, FarSocket
from tests.support.tunnel_peer import FakeSocket

LIMIT = 512 * 1024


@pytest.fixture
def far(door: Door) -> FarSocket:
    door.add("echo", Socket)
    return FarSocket(door)


@pytest.fixture
def events(door: Door, jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[FarEvents]:
    door.add("echo", Socket)
    events = FarEvents(door)
    yield events
    jp_asyncio_loop.run_until_complete(events.leave())


async def begun(far: FarSocket | FarEvents) -> None:
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)


async def says(far: FarSocket, *said: Frame) -> None:
    """Frames that the client's own state machine would not make."""
    assert far.knock is not None
    client = far.client
    client._numbered += sum(frame.kind < frames.FIRST_UNNUMBERED for frame in said)
    first = client._given + 1
    client._given = client._reached = client._numbered
    await far.knock.send(NUMBER.pack(first) + b"".join(map(encode, said)))


# -- posts -------------------------------------------------------------------------------------------


async def posted(events: FarEvents, head: str, body: bytes = b"") -> Knock:
    """A POST of whatever bytes; the answer."""
    door = events.door
    lines = (
        f"POST {door.base}{PATH}/{events.hello['tunnel']} HTTP/1.1\r\nHost: {door.host}\r\n"
        f"Content-Type: application/json\r\n{head}\r\n"
    )
    answer = await knock_raw(door.port, lines.encode() + body)
    answer.vanish()
    return answer


async def test_C7_2_a_post_is_not_read_before_its_size_is_known_to_be_allowed(events, door):
    await begun(events)
    head = f"Authorization: token {door.token}\r\n"
    # Nothing of the body is sent, and yet it is answered.
    told = await posted(events, f"{head}Content-Length: {LIMIT + 1}\r\n")
    assert (told.status, json.loads(told.body)["status"]) == (413, "bad_request")
    told = await posted(events, f"{head}Content-Length: 99999999999999999999\r\n")
    assert told.status in (0, 400, 413)
    chunk = b"%x\r\n%b\r\n" % (LIMIT + 1, b"x" * (LIMIT + 1))
    told = await posted(events, f"{head}Transfer-Encoding: chunked\r\n", chunk + b"0\r\n\r\n")
    assert told.status in (0, 400, 413)
    await events.cut()


async def test_C7_2_nor_before_it_is_known_whose_it_is(events):
    await begun(events)
    told = await posted(events, f"Content-Length: {LIMIT}\r\n")
    assert (told.status, json.loads(told.body)["status"]) == (403, "credentials_missing")
    await events.cut()


async def test_C7_2_a_page_of_another_site_posts_nothing(events, door):
    """A browser would add the cookie, and the cookie says nothing here."""
    await begun(events)
    cookie = await door.login_cookie()
    for origin in ("https://elsewhere.example", f"http://{door.host}"):
        code, told = await events.post(
            {"first": 1, "frames": ""}, Authorization="", Cookie=cookie, Origin=origin
        )
        assert (code, told["status"]) == (403, "credentials_missing")
    await events.cut()


async def test_C7_3_a_post_that_was_seen_is_worth_nothing_later(events):
    await begun(events)
    socket = await events.open("echo").wait_open()
    await socket.send("once")
    assert await socket.wait_message() == "once"
    received = events.client._given
    again = {"first": 1, "frames": ""}
    assert await events.post(again) == (200, {"received": received})
    events.client.close_tunnel()
    events.move()
    await events.ended()
    code, told = await events.post(again)
    assert (code, told["status"]) == (404, "not_found")


# -- streams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["api/contents", "api/kernels", "metrics", "tree", "logout", "api/token-ws/login", ""],
)
async def test_C7_5_a_stream_is_a_websocket_and_asks_for_nothing_else(far, path):
    await begun(far)
    socket = await far.open(path).wait_closed()
    assert (socket.code, socket.reason.partition(":")[0]) == (4404, "not_found")
    await far.cut()


async def test_no_token_in_a_streams_path_is_logged(far, door, caplog):
    caplog.set_level(logging.DEBUG)
    await begun(far)
    for path in ("echo", "nothing", "api/contents"):
        await (await far.open(f"{path}?token={door.token}&x=1").wait_open()).close()
        await far.open(f"{path}?token=an0ther-s3cret").wait_open()
    await far.cut()
    lines = [record.getMessage() for record in caplog.records if record.name != "traitlets"]
    assert any("echo" in line for line in lines)
    assert [line for line in lines if "an0ther-s3cret" in line or door.token in line] == []


async def test_of_what_is_opened_and_closed_at_once_nobody_is_asked(far, door):
    made: list[Any] = []

    class Counted(Socket):
        def initialize(self, seen: Any = None) -> None:
            made.append(self)

    door.add("counted", Counted)
    await begun(far)
    await says(
        far,
        *(
            frame
            for number in range(1, 3001)
            for frame in (
                frames.open_frame(number, "counted", [], 1000),
                frames.close_frame(number, 1000),
            )
        ),
    )
    far.client._last_stream = 3000
    for number in range(1, 3001):
        far.sockets[number] = FakeSocket(far, number)
    far.client._streams.clear()
    socket = await far.open("echo").wait_open()
    await socket.send("there")
    assert await socket.wait_message() == "there"
    assert made == []
    await far.cut()


# -- credit ------------------------------------------------------------------------------------------


async def test_C7_4_credits_that_lie_change_nothing(far):
    """As much as can be said, less than before, for a stream that there is not: none of it is an error, and
    what is granted so is no permission to keep more."""
    await begun(far)
    socket = await far.open("echo").wait_open()
    most = 2**64 - 1
    await says(
        far,
        frames.credit_frame(socket.number, most),
        frames.credit_frame(socket.number, 0),
        frames.credit_frame(12345, most),
        frames.ack_frame(0, most),
        frames.ack_frame(0, 0),
    )
    socket.reading = False
    await socket.send("x" * 100_000)
    assert await socket.wait_message() == "x" * 100_000
    assert not far.client.closed
    await far.cut()
