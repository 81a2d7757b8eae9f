"""A tunnel over an event stream and POST: by whom, in which order, resumed, and one stream for curl."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado import web
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.protocol.subprotocols import KERNEL
from jupyter_token_ws.protocol.tunnel import Side, Tunnel
from jupyter_token_ws.tunnel.tunnels import SETTING
from tests.support.door import Door
from tests.support.knock import TIMEOUT
from tests.support.live_kernel import Client
from tests.support.tunnel_carriers import Events, FarEvents
from tests.support.waiting import auntil


class Echo(WebSocketHandler):
    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message, binary=isinstance(message, bytes))


@pytest.fixture
def far(door: Door, jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[FarEvents]:
    door.add("echo", Echo)
    far = FarEvents(door)
    yield far
    jp_asyncio_loop.run_until_complete(far.leave())


async def test_C7_2_a_kernel_over_it(far, kernel):
    events = await far.connect()
    assert events.headers["content-type"] == "text/event-stream"
    assert events.headers["x-accel-buffering"] == "no"
    assert events.headers["cache-control"] == "no-store"
    await asyncio.wait_for(far.attached(), TIMEOUT)
    path = f"api/kernels/{kernel.id}/channels?session_id=a"
    socket: Any = await far.open(path, [KERNEL]).wait_open()
    assert (socket.opened, socket.subprotocol) == (True, KERNEL)
    assert await Client(socket, True).run("print(6 * 7)") == "42\n"
    await far.cut()


async def test_C7_6_what_is_sent_arrives_once_whatever_is_cut(far):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    socket = await far.open("echo").wait_open()
    heard = []
    for n in range(20):
        await socket.send(str(n))
        await socket.send(bytes([n]) * 50_000)
        if n % 5 == 0:
            await far.cut()
            await far.connect()
            await asyncio.wait_for(far.attached(), TIMEOUT)
            far.move()
        heard += [await socket.wait_message(), await socket.wait_message()]
    expected = [each for n in range(20) for each in (str(n), bytes([n]) * 50_000)]
    assert heard == expected
    await far.cut()


# -- who may -----------------------------------------------------------------------------------------


async def refusal(events: Events) -> tuple[int, str]:
    return events.status, json.loads(await events.body())["status"]


@pytest.mark.parametrize(
    ("token", "status", "slug"),
    [("", 403, "credentials_missing"), ("wrong", 403, "token_rejected")],
)
async def test_C7_3_without_a_good_credential(far, token, status, slug):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    authorization = f"token {token}" if token else ""
    assert await refusal(await far.get(Authorization=authorization)) == (status, slug)
    code, told = await far.post({"first": 1, "frames": ""}, Authorization=authorization)
    assert (code, told["status"]) == (status, slug)
    await far.cut()


@pytest.mark.parametrize("query", ["?token={}", ""])
async def test_C7_2_neither_cookies_nor_a_token_in_the_url_count(far, door, query):
    cookie = await login_cookie(door)
    events = await far.get(query.format(door.token), Authorization="", Cookie=cookie)
    assert await refusal(events) == (403, "credentials_missing")


async def login_cookie(door: Door) -> str:
    answer = await AsyncHTTPClient().fetch(
        f"http://127.0.0.1:{door.port}{door.base}tree?token={door.token}",
        follow_redirects=False,
        raise_error=False,
    )
    return "; ".join(each.partition(";")[0] for each in answer.headers.get_list("Set-Cookie"))


async def test_C7_3_an_id_that_there_is_not(far):
    events = await far.get("?tunnel=none&received=0")
    assert await refusal(events) == (404, "not_found")
    code, told = await far.post({"first": 1, "frames": ""}, "none")
    assert (code, told["status"]) == (404, "not_found")


@pytest.mark.parametrize("received", ["x", "-1", "1" * 19, "%C2%B2"])
async def test_a_number_that_is_none(far, received):
    assert await refusal(await far.get(f"?tunnel=a&received={received}")) == (400, "bad_request")


async def test_C7_6_who_claims_frames_that_were_never_sent(far):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    query = f"?tunnel={far.hello['tunnel']}&received=99"
    assert await refusal(await far.get(query)) == (410, "resume_failed")
    await far.cut()


# -- what is posted ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    ["", "x", "[]", "{}", {"first": 1}, {"first": 0, "frames": ""}, {"first": True, "frames": ""},
     {"first": 2**63, "frames": ""}, {"first": 1, "frames": "?"}, {"first": 1, "frames": None},
     {"first": 1, "frames": "", "ask": 1},
     "[" * 100_000],
)  # fmt: skip
async def test_C7_2_a_body_that_is_none(far, body):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    code, told = await far.post(body)
    assert (code, told["status"]) == (400, "bad_request")
    await far.cut()


async def test_C7_2_other_bodies_and_methods(far):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    assert (await far.post({"first": 1, "frames": ""}, Content_Type="text/plain"))[0] == 415
    code, told = await far.post("x" * (512 * 1024 + 1))
    assert (code, told["message"]) == (413, "the body is too large")
    assert (await far.post({"first": 1, "frames": ""}, Api_Version="9.0"))[0] == 422
    await far.cut()


async def test_frames_that_make_no_sense_end_the_tunnel(far):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    assert await far.send(1, b"rubbish") == (200, {"received": 0})
    await far.ended()
    assert far.client.closed
    assert far.others == [
        (
            "end",
            {"code": 4400, "status": "bad_request", "message": "the request was not understood"},
        )
    ]
    assert await refusal(await far.get(f"?tunnel={far.hello['tunnel']}&received=0")) == (
        404,
        "not_found",
    )


async def test_C7_2_what_comes_twice_counts_once_and_what_overtakes_waits(far):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    socket = await far.open("echo").wait_open()
    client = far.client
    assert far._moving is not None
    await far._moving
    for text in (b"a", b"b"):
        client.send(socket.number, text, text=True)
    (first, both) = client.take()
    middle = len(both) // 2
    one, two = both[:middle], both[middle:]
    late = asyncio.ensure_future(far.send(first + 1, two))
    assert not late.done()
    assert (await far.send(first, one))[0] == 200
    assert await late == (200, {"received": first + 1})
    assert await far.send(first, both) == (200, {"received": first + 1})
    assert [await socket.wait_message(), await socket.wait_message()] == ["a", "b"]
    await far.cut()


async def test_C7_2_not_too_many_wait_and_not_for_ever(far, monkeypatch):
    monkeypatch.setattr("jupyter_token_ws.tunnel.event_stream.POST_WAIT", 0.2)
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    answers = await asyncio.gather(*(far.send(100 + n, b"") for n in range(6)))
    assert [(code, told["status"]) for code, told in answers] == [(409, "out_of_order")] * 6
    await far.cut()


# -- what ends it ------------------------------------------------------------------------------------


async def test_the_client_closes_the_tunnel(far):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    far.client.close_tunnel(1000, "enough")
    far.move()
    await far.ended()
    assert far.others == [("end", {"code": 1000, "message": "enough"})]


async def test_C7_6_a_newer_carrier_takes_the_place_of_the_older(far):
    first = await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    old = far._hearing
    far.client.detach()
    await far.connect()
    assert old is not None
    await asyncio.wait_for(old, TIMEOUT)
    assert far.others == [
        ("end", {"code": 4409, "status": "replaced", "message": "the same session connected again"})
    ]
    first.cut()
    await far.cut()


class Floods(WebSocketHandler):
    async def open(self, *args: Any, **kwargs: Any) -> None:
        for _ in range(200):
            await self.write_message(b"x" * 100_000, binary=True)


@pytest.mark.parametrize("token_ws_config", [{"tunnel_replay": 2**26}])
async def test_who_reads_no_more_is_cut_when_he_comes_back(far, door):
    """What was written to the old connection would keep it open."""
    door.add("floods", Floods)
    far.client = Tunnel(Side.CLIENT, stream_window=2**26, tunnel_window=2**26)
    old = await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    hearing = far._hearing
    socket = far.open("floods")
    await far._moving
    old._writer.transport.pause_reading()
    hearing.cancel()
    connection = next(iter(door.app.web_app.settings[SETTING])).carrier.connection
    written: list[int] = []

    def stuck() -> bool:
        written.append(connection._total_write_done_index)
        return connection.writing() and len(set(written[-30:])) == 1 and len(written) > 30

    await auntil(stuck, "nothing more goes out")
    far.client.detach()
    await far.connect()
    await auntil(connection._stream.closed, "the old connection is cut")
    await socket.wait_open()
    old.cut()
    await far.cut()


@pytest.mark.parametrize("token_ws_config", [{"tunnel_idle_timeout": 0.2}])
async def test_a_tunnel_that_nobody_uses(far):
    await far.connect()
    await far.ended()
    assert [told["status"] for _, told in far.others] == ["open_timeout"]


@pytest.mark.parametrize("token_ws_config", [{"tunnel_resume_window": 0.2}])
async def test_C7_6_a_tunnel_to_which_nobody_comes_back(far, door):
    tunnels = door.app.web_app.settings[SETTING]
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    await far.open("echo").wait_open()
    await far.cut()
    async with forgotten(tunnels):
        pass
    assert await refusal(await far.get(f"?tunnel={far.hello['tunnel']}")) == (404, "not_found")


@asynccontextmanager
async def forgotten(tunnels: Any) -> AsyncIterator[None]:
    """Wait until there are no tunnels."""
    yield
    while len(tunnels):
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("token_ws_config", [{"keepalive_interval": 0.1, "keepalive_timeout": 0.4}])
async def test_C7_2_who_gives_no_sign_of_life(far, door):
    tunnels = door.app.web_app.settings[SETTING]
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    far.mute = True
    await far.ended()
    assert {name for name, _ in far.others} == {"keepalive"}
    assert [tunnel.carried_by for tunnel in tunnels] == ["none"]


@pytest.mark.parametrize("token_ws_config", [{"keepalive_interval": 0}])
async def test_C7_2_who_asks_for_an_event_gets_one(far):
    """Where the server gives none by itself."""
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    far.mute = True
    for asked in 1, 2:
        assert (await far.post({"first": 1, "frames": "", "ask": False}))[0] == 200
        assert (await far.post({"first": 1, "frames": "", "ask": True}))[0] == 200
        while len(far.others) < asked:
            await asyncio.sleep(0.01)
        assert [name for name, _ in far.others] == ["keepalive"] * asked
    await far.cut()
    assert (await far.post({"first": 1, "frames": "", "ask": True}))[0] == 200  # there is none


@pytest.mark.parametrize("token_ws_config", [{"max_tunnels_per_principal": 1}])
async def test_so_many_tunnels(far):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    assert await refusal(await far.get()) == (429, "too_many_connections")
    await far.cut()


async def test_the_server_ends(far, door):
    await far.connect()
    await asyncio.wait_for(far.attached(), TIMEOUT)
    socket = await far.open("echo").wait_open()
    await door.app.web_app.settings["token_ws_guard"].drain()
    await far.ended()
    assert (far.client.closed, socket.gone) == (True, True)
    assert [told["status"] for _, told in far.others] == ["draining"]
    assert await refusal(await far.get()) == (503, "draining")


# -- one stream --------------------------------------------------------------------------------------


class Talks(WebSocketHandler):
    async def open(self, *args: Any, **kwargs: Any) -> None:
        await self.write_message("one\ntwo")
        await self.write_message(b"\x00\xff", binary=True)
        self.close(4404, "not_found: there is nothing here by that name")


async def test_C7_7_one_stream_for_curl(far, door):
    door.add("talks", Talks)
    events = await far.get("?path=talks")
    assert events.status == 200
    got = [await events.next() for _ in range(5)]
    assert got == [
        ("open", None, "{}"),
        ("", None, "one\ntwo"),
        ("binary", None, base64.b64encode(b"\x00\xff").decode()),
        ("close", None, got[3][2]),
        None,
    ]
    assert json.loads(got[3][2]) == {
        "code": 4404,
        "status": "not_found",
        "message": "there is nothing here by that name",
    }


@pytest.mark.parametrize(
    ("path", "status", "slug"),
    [
        ("api/nothing", 404, "not_found"),
        ("api/token-ws/tunnel", 404, "not_found"),
        ("api/kernels/x/channels", 404, "not_found"),
        ("a%20b", 400, "bad_request"),
        ("x" * 17_000, 400, "bad_request"),
        ("", 404, "not_found"),
    ],
)
async def test_C7_7_one_stream_that_there_is_not(far, path, status, slug):
    assert await refusal(await far.get(f"?path={path}")) == (status, slug)


@pytest.mark.parametrize("token_ws_config", [{"exclude_paths": ["bare"]}])
@pytest.mark.parametrize("status", [401, 403])
async def test_C7_7_one_stream_that_its_handler_refuses_without_a_reason(far, door, status):
    class Bare(WebSocketHandler):
        async def get(self, *args: Any, **kwargs: Any) -> None:
            raise web.HTTPError(status)

    door.add("bare", Bare)
    assert await refusal(await far.get("?path=bare")) == (403, "forbidden")


@pytest.mark.parametrize(
    "token_ws_config", [{"keepalive_interval": 0.05, "keepalive_timeout": 0.1}]
)
async def test_C7_7_one_stream_is_kept_alive_and_left(far, door):
    events = await far.get("?path=echo")
    assert [await events.next() for _ in range(3)] == [
        ("open", None, "{}"),
        ("keepalive", None, "{}"),
        ("keepalive", None, "{}"),
    ]
    registry = door.app.web_app.settings["token_ws_guard"].registry
    assert [socket.carrier for socket in registry] == ["tunnel-eventstream"]
    events.cut()
    assert await registry.wait_empty(TIMEOUT)


@pytest.mark.parametrize("token_ws_config", [{"keepalive_interval": 5, "keepalive_timeout": 0}])
async def test_C7_7_where_nobody_is_dropped_for_silence_one_stream_is_not(far, door):
    """And what does not go out at once is no silence."""
    door.add("floods", Floods)
    events = await far.get("?path=floods")
    names = [(await events.next())[0] for _ in range(201)]
    assert names == ["open", *["binary"] * 200]
    events.cut()
