"""The guard of one server: what it covers, how long it waits, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application

from jupyter_token_ws.guard.core import SETTING, Guard, GuardOptions, set_offer
from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.guard.registry import OpenSocket
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import Door, Socket, errors, refusals
from tests.support.knock import bearing
from tests.support.waiting import auntil


def a_guard(base_url: str | None = None, **options: Any) -> Guard:
    application = Application()
    if base_url is not None:
        application.settings["base_url"] = base_url
    return Guard(application, GuardOptions(**options))


def a_request(offer: str | None) -> HTTPServerRequest:
    headers = HTTPHeaders({"Host": "h"})
    if offer is not None:
        headers["Sec-WebSocket-Protocol"] = offer

    class Connection:
        def set_close_callback(self, callback: object) -> None:
            """Never closed."""

    return HTTPServerRequest(
        headers=headers,
        start_line=RequestStartLine("GET", "/x", "HTTP/1.1"),
        connection=cast("Any", Connection()),
    )


def test_one_guard_an_application():
    application = Application()
    guard = Guard.of(application)
    assert Guard.of(application) is guard is application.settings[SETTING]
    assert guard.options == GuardOptions()
    assert guard.log.name == "jupyter_token_ws"
    assert Guard.of(Application()) is not guard


def test_a_request_is_begun_once():
    guard = a_guard()
    request = a_request(f"{MARKER}, {bearing('secret')}, other")
    handshake = guard.begin(request)
    assert handshake.offer.token == "secret"
    assert "secret" not in request.headers["Sec-WebSocket-Protocol"]
    assert guard.begin(request) is handshake


@pytest.mark.parametrize(
    ("offer", "left"),
    [
        (None, None),
        ("other", "other"),
        (MARKER, MARKER),
        (f"{MARKER},other", f"{MARKER},other"),  # untouched to the letter
        (bearing("secret"), None),
        (f"other,{bearing('secret')},{MARKER}", f"other, {MARKER}"),
    ],
)
def test_C1_2_what_stripping_leaves(offer, left):
    request = a_request(offer)
    a_guard().strip(request)
    assert request.headers.get("Sec-WebSocket-Protocol") == left


def test_writing_an_offer_anew():
    request = a_request(None)
    set_offer(request, ())
    assert "Sec-WebSocket-Protocol" not in request.headers
    set_offer(request, ("a", "b"))
    assert request.headers["Sec-WebSocket-Protocol"] == "a, b"
    set_offer(request, ())
    assert "Sec-WebSocket-Protocol" not in request.headers


@pytest.mark.parametrize(
    ("mode", "offer", "told"),
    [
        ("offered", None, False),
        ("offered", "other", False),
        ("offered", MARKER, True),
        ("offered", bearing("x"), True),
        ("offered", bearing(""), True),
        ("offered", REASON_MARKER, True),
        ("explicit", MARKER, False),
        ("explicit", bearing("x"), False),
        ("explicit", REASON_MARKER, True),
        ("always", None, True),
        ("never", REASON_MARKER, False),
        ("never", MARKER, False),
    ],
)
def test_C3_1_who_is_told(mode, offer, told):
    guard = a_guard(close_reasons=mode)
    assert guard.opted_in(guard.strip(a_request(offer))) is told


@pytest.mark.parametrize(
    ("base_url", "path", "covered"),
    [
        (None, "/api/kernels/x/channels", True),
        (None, "/proxy/8000/ws", False),
        ("/", "/proxy/8000/ws", False),
        ("/user/ann/", "/user/ann/proxy/8000/ws", False),
        (
            "/user/ann/",
            "/user/ann/x/proxy/8000/ws",
            True,
        ),  # at the start of the path below the base
        ("/user/ann/", "/elsewhere", True),
        ("/user/ann/", "/secret", False),  # outside the base, taken as it is
        (None, "/PROXY/8000", True),
    ],
)
def test_what_is_excluded(base_url, path, covered):
    guard = a_guard(base_url, exclude_paths=("proxy/", "secret$"))
    assert guard.covers(path) is covered
    assert not a_guard(base_url, enabled=False).covers(path)


@pytest.mark.parametrize(
    ("path", "seconds"),
    [
        ("/base/api/kernels/x/channels", 5),
        ("/base/api/events/subscribe", 0),
        ("/base/api/other", 7),
        ("/base/x/api/kernels", 300),
    ],
)
def test_how_long_a_path_may_take(path, seconds):
    guard = a_guard(
        "/base/", open_timeouts={"api/kernels/": 5, "api/events/": 0, "api/": 7}, open_timeout=300
    )
    assert guard.open_timeout(path) == seconds


async def test_work_beside_a_request_is_held_until_it_ends():
    guard = a_guard()
    go = asyncio.Event()

    async def work() -> None:
        await go.wait()

    guard.run(work())
    await asyncio.sleep(0)
    assert len(guard._tasks) == 1
    go.set()
    await auntil(lambda: not guard._tasks)


# --- ticks ----------------------------------------------------------------------------------------


class Handler:
    ws_connection = None

    def __init__(self) -> None:
        self.closed: list[tuple[Any, ...]] = []

    def close(self, *how: Any) -> None:
        self.closed.append(how)


def a_socket(guard: Guard, **options: Any) -> Handler:
    handler = Handler()
    fields: dict[str, Any] = {"opted_in": True, **options}
    guard.registry.add(
        OpenSocket(
            handler=cast("Any", handler),
            path="/socket",
            principal="user:ann",
            credential="",
            source=CredentialSource.COOKIE,
            **fields,
        )
    )
    return handler


def test_C3_6_gone_is_told_once_to_who_opted_in():
    guard = a_guard()
    guard.application.settings["kernel_manager"] = {"alive": object()}
    gone = a_socket(guard, kernel="dead")
    stock = a_socket(guard, kernel="dead", opted_in=False)
    alive = a_socket(guard, kernel="alive")
    other = a_socket(guard)
    for _ in range(3):
        guard._on_tick()
    assert [how[0] for how in gone.closed] == [4410]
    assert (stock.closed, alive.closed, other.closed) == ([], [], [])


def test_one_line_tells_who_was_dropped(caplog):
    guard = a_guard()
    a_socket(guard, remote_ip="192.0.2.1")
    guard._on_drop(next(iter(guard.registry)), 75.2)
    assert caplog.messages == ["Dropping websocket /socket from 192.0.2.1 after 75 s of silence"]


def test_C1_3_the_limit_of_a_token_is_the_options():
    for limit, malformed in ((6, False), (5, True)):
        guard = a_guard(max_token_size=limit)
        assert guard.strip(a_request(bearing("secret"))).malformed is malformed


def test_a_server_without_kernels():
    """A tornado application that is no Jupyter server has no kernel manager."""
    guard = a_guard()
    handler = a_socket(guard, kernel="dead")
    guard._on_tick()
    assert handler.closed == []


# --- the end --------------------------------------------------------------------------------------


class Slow(Socket):
    """Opens when it is told to."""

    go: asyncio.Event
    waiting: list[Slow]

    async def get(self, *args: Any, **kwargs: Any) -> None:
        self.waiting.append(self)
        await self.go.wait()
        await super().get(*args, **kwargs)


class SlowAndBroken(Slow):
    """Its own ``clear`` fails, which every refusal needs."""

    def clear(self) -> None:
        if self.waiting:
            raise RuntimeError("cannot clear")
        super().clear()


@pytest.mark.parametrize("token_ws_config", [{"drain_timeout": 1000}])
async def test_draining_closes_everybody_and_lets_nobody_in(door: Door, caplog):
    """Open sockets whether they opted in or not, opening ones, and new ones."""
    guard = door.guard

    class Late(Slow):
        go = asyncio.Event()
        waiting: list[Slow] = []  # noqa: RUF012 - one for the test

    door.add("late", Late)
    door.add("echo", Socket)
    token = {"Authorization": f"token {door.token}"}
    caplog.set_level(logging.INFO)
    async with (
        await door.knock("echo", [MARKER, bearing(door.token)]) as opted,
        await door.knock("echo", None, token) as stock,
    ):
        opening = asyncio.ensure_future(door.refused("late", [REASON_MARKER], token))
        plain = asyncio.ensure_future(door.refused("late", None, token))
        await auntil(lambda: len(Late.waiting) == 2)
        draining = asyncio.ensure_future(guard.drain())
        for socket in (opted, stock):
            await socket.wait_closed()
            assert (socket.code, socket.slug) == (4503, "draining")
            assert "retry_after=" in socket.reason
        refused = await opening
        assert (refused.code, refused.slug) == (4503, "draining")
        assert ((await plain).status, (await plain).headers["retry-after"]) == (503, ["1"])
        await draining
        new = await door.refused("echo", [REASON_MARKER], token)
        assert (new.code, new.slug) == (4503, "draining")
        assert new.reason.startswith("draining;retry_after=1:")
        answer = await door.refused("echo", None, token)
        assert (answer.status, answer.headers["retry-after"]) == (503, ["1"])
        Late.go.set()
    await door.settled()
    assert "Closing 2 websockets" in caplog.text
    assert "did not answer" not in caplog.text
    assert len([line for line in refusals(caplog.records) if "draining" in line]) == 4
    assert guard.keepalive._timer is None


@pytest.mark.parametrize("token_ws_config", [{"drain_timeout": 0.1}])
async def test_draining_waits_only_so_long_for_an_answer(door: Door, caplog):
    door.add("echo", Socket)
    caplog.set_level(logging.INFO)
    async with await door.knock("echo", [MARKER, bearing(door.token)]) as silent:
        await door.guard.drain()
        assert "1 websockets did not answer the close" in caplog.messages
        await silent.wait_closed()  # it was told all the same
        assert silent.code == 4503
    await door.settled()


async def test_draining_a_server_without_sockets_is_quick_and_quiet(door: Door, caplog):
    caplog.set_level(logging.INFO)
    await asyncio.wait_for(door.guard.drain(), 10)
    assert "websockets" not in caplog.text


async def test_a_handler_that_cannot_even_be_refused_does_not_keep_the_server(door: Door, caplog):
    class Broken(SlowAndBroken):
        go = asyncio.Event()
        waiting: list[Slow] = []  # noqa: RUF012 - one for the test

    door.add("broken", Broken)
    token = {"Authorization": f"token {door.token}"}
    knocking = asyncio.ensure_future(door.refused("broken", None, token))
    await auntil(lambda: len(Broken.waiting) == 1)
    await door.guard.drain()
    assert "Cannot refuse a websocket that is opening" in errors(caplog.records)
    Broken.waiting.clear()  # able again
    Broken.go.set()
    assert (await knocking).status != 101
    await door.settled()
