"""Websockets that belong to another server of the user's are refused: 4421 other_server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tornado import web
from tornado.websocket import WebSocketHandler

from jupyter_token_ws import Refused
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS, Socket
from tests.support.knock import bearing
from tests.support.waiting import auntil

MISSING = "api/kernels/00000000-0000-0000-0000-000000000000/channels"
FOREIGN = {"Origin": "https://elsewhere.example"}


@pytest.fixture
def token_ws_config() -> dict[str, object]:
    return {"refusal_burst": 1000, "open_timeouts": {"slow": 0.05}}


class Elsewhere:
    """Says the same of everybody, and notes of whom it was asked."""

    def __init__(self, says: bool | Exception) -> None:
        self.says = says
        self.asked: list[web.RequestHandler] = []

    async def __call__(self, handler: web.RequestHandler) -> bool:
        self.asked.append(handler)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


@pytest.fixture
def elsewhere(door, request) -> Elsewhere:
    """Everybody belongs elsewhere, unless a test says otherwise."""
    found = door.guard.elsewhere = Elsewhere(getattr(request, "param", True))
    return found


def offer(token: str) -> list[str]:
    return [MARKER, bearing(token), REASON_MARKER]


class Plain(WebSocketHandler):
    """A handler that is not Jupyter's."""


async def test_C3_1_C3_3_who_is_admitted_is_sent_elsewhere(door, elsewhere):
    door.add("plain", Plain)
    # Whether a kernel exists here does not matter any more (C2.7).
    for path in (EVENTS, MISSING, "plain"):
        answer = await door.refused(path, offer(door.token))
        # The reason has no address in it: that is the login's to say.
        told = (4421, "other_server: this belongs to another server")
        assert (answer.code, answer.reason) == told, path
    header = {"Authorization": f"token {door.token}"}
    plain = await door.refused(EVENTS, headers=header)
    assert (plain.status, b"other_server" in plain.body) == (421, True)
    assert len(elsewhere.asked) == 4


async def test_C2_7_who_is_refused_anyway_is_told_that(door, elsewhere):
    cookie = {"Cookie": await door.login_cookie()}
    assert (await door.refused(EVENTS, offer("wrong"), cookie)).slug == "token_rejected"
    assert (await door.refused(EVENTS, [REASON_MARKER])).slug == "credentials_missing"
    host = await door.refused(EVENTS, offer(door.token), {"Host": "evil.example"})
    assert host.status == 403
    # With a cookie another origin learns nothing (C3.4), with the token it is told all.
    assert (await door.refused(EVENTS, [REASON_MARKER], {**FOREIGN, **cookie})).status == 403
    assert elsewhere.asked == []
    assert (await door.refused(EVENTS, offer(door.token), FOREIGN)).slug == "other_server"


@pytest.mark.parametrize("elsewhere", [False], indirect=True)
async def test_who_belongs_here_enters(door, elsewhere):
    async with await door.knock(EVENTS, offer(door.token)) as socket:
        assert (socket.status, socket.subprotocol) == (101, MARKER)
    assert len(elsewhere.asked) == 1
    assert (await door.refused(MISSING, offer(door.token))).slug == "not_found"


@pytest.mark.parametrize("elsewhere", [Refused("unavailable", 7)], indirect=True)
async def test_where_nobody_can_say_nobody_enters(door, elsewhere):
    answer = await door.refused(EVENTS, offer(door.token))
    assert (answer.code, answer.reason.partition(":")[0]) == (4503, "unavailable;retry_after=7")


async def test_who_was_refused_meanwhile_is_gone(door):
    seen: list[Any] = []
    go_on, ended = asyncio.Event(), asyncio.Event()

    async def slow(handler: web.RequestHandler) -> bool:
        await go_on.wait()
        asyncio.get_running_loop().call_soon(ended.set)
        return False

    door.guard.elsewhere = slow
    door.add("slow", Socket, seen=seen)
    assert (await door.refused("slow", offer(door.token))).slug == "open_timeout"
    go_on.set()
    await ended.wait()
    await door.settled()
    (handler,) = seen
    await auntil(lambda: handler._token_ws_handshake.stage.name == "REFUSED")
    assert handler.ws_connection is None
