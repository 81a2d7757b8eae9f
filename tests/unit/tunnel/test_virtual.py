"""Handlers that do what cannot be done to a stream, or what ends it, end no other stream."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.httputil import HTTPServerRequest
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from jupyter_token_ws import Refused, TokenWebSocketHandler
from jupyter_token_ws.guard.core import Guard, GuardOptions
from tests.support.knock import TIMEOUT
from tests.support.tunnel_peer import Link, carrier_request
from tests.support.waiting import auntil


class Echo(TokenWebSocketHandler):
    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))


def link_to(
    *handlers: type[web.RequestHandler],
    carrier: HTTPServerRequest | None = None,
    **options: Any,
) -> Link:
    """A tunnel to an application with an echo and these, at their names."""
    kinds: list[type[web.RequestHandler]] = [Echo, *handlers]
    application = web.Application([(f"/{kind.__name__}", kind) for kind in kinds])
    Guard(application, GuardOptions(**options))
    return Link(application, carrier or carrier_request())


async def still_there(link: Link) -> None:
    """Other streams of the tunnel are none the worse."""
    socket = await link.open("Echo").wait_open()
    await socket.send("x")
    assert await socket.wait_message() == "x"
    await socket.close()
    await socket.wait_closed()


class Detaches(TokenWebSocketHandler):
    async def get(self, *args: Any, **kwargs: Any) -> None:
        assert self.detach().closed()


class FailsToBegin(TokenWebSocketHandler):
    def initialize(self) -> None:
        raise ValueError("as asked")


class Final(type):
    """Of classes that cannot be subclassed."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        if any(isinstance(base, Final) for base in bases):
            raise TypeError("no")
        return super().__new__(cls, name, bases, namespace)


class Closed(WebSocketHandler, metaclass=Final):
    """The guard cannot stand before it, nor can anybody else."""


@pytest.mark.parametrize("kind", [Detaches, FailsToBegin, Closed])
async def test_what_cannot_be_a_stream_is_refused(kind, caplog):
    caplog.set_level(logging.CRITICAL)
    link = link_to(kind)
    socket = await link.open(kind.__name__).wait_open()
    await socket.wait_closed()
    assert (socket.opened, socket.code) == (False, 4500)
    assert socket.reason.startswith("internal_error")
    await still_there(link)


class FailsToLeave(TokenWebSocketHandler):
    reached: asyncio.Event

    async def get(self, *args: Any, **kwargs: Any) -> None:
        self.reached.set()
        await asyncio.Event().wait()

    def on_close(self) -> None:
        raise ValueError("as asked")


async def test_who_fails_when_the_client_has_left_ends_no_tunnel(caplog):
    reached = asyncio.Event()
    link = link_to(type("FailsToLeave", (FailsToLeave,), {"reached": reached}))
    socket = link.open("FailsToLeave")
    await asyncio.wait_for(reached.wait(), TIMEOUT)
    await socket.close()
    await socket.wait_closed()
    await auntil(lambda: "as asked" in caplog.text, "the handler's error")
    await still_there(link)


class ClosesWith(TokenWebSocketHandler):
    def open(self, code: str = "") -> None:
        self.close(int(self.get_query_argument("code")), "why")


@pytest.mark.parametrize("code", [0, 200, 999, 5000, 65535])
async def test_a_close_code_that_is_none_ends_the_stream_only(code):
    link = link_to(ClosesWith)
    socket = await link.open(f"ClosesWith?code={code}").wait_open()
    await socket.wait_closed()
    assert (socket.code, socket.reason) == (1006, "")
    await still_there(link)


class Answers(TokenWebSocketHandler):
    async def get(self, *args: Any, **kwargs: Any) -> None:
        self.set_status(1234, "Odd")
        await self.finish()


async def test_a_status_that_is_none():
    link = link_to(Answers)
    socket = await link.open("Answers").wait_open()
    assert (socket.opened, socket.code) == (False, 4500)
    await still_there(link)


class Floods(TokenWebSocketHandler):
    end: asyncio.Future[Any]

    async def open(self, *args: Any, **kwargs: Any) -> None:
        self.flooding = asyncio.ensure_future(self.flood())

    async def flood(self) -> None:
        try:
            while True:
                await self.write_message("x" * 100_000)
        except WebSocketClosedError as error:
            self.end.set_result(error)


async def test_who_waits_for_credit_when_the_client_leaves_is_told_as_by_a_socket():
    end = asyncio.get_running_loop().create_future()
    link = link_to(type("Floods", (Floods,), {"end": end}))
    socket = await link.open("Floods").wait_open()
    stream = next(iter(link.streams._streams.values()))
    link.client.consumed = lambda *args: None  # type: ignore[method-assign] # nobody reads
    await auntil(lambda: stream.unsent, "the handler waits")
    assert not end.done()
    await socket.close()
    assert isinstance(await asyncio.wait_for(end, TIMEOUT), WebSocketClosedError)


class Pings(WebSocketMixin, TokenWebSocketHandler):
    """Upstream's pings, where the guard has none of its own: who does not answer is closed."""

    ping_interval, ping_timeout = 20, 60  # milliseconds; type: ignore[assignment]
    log = logging.getLogger("test")

    def check_origin(self, origin: str | None = None) -> bool:
        return True

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Anybody may come."""

    def on_pong(self, data: bytes) -> None:
        super().on_pong(data)
        self.write_message("alive")


async def test_upstreams_own_pings_find_everybody_alive():
    link = link_to(Pings, keepalive_interval=0)
    socket = await link.open("Pings").wait_open()
    for _ in range(6):
        assert await socket.wait_message() == "alive"
    await socket.close()
    await socket.wait_closed()


class TellsHeaders(TokenWebSocketHandler):
    def open(self, *args: Any, **kwargs: Any) -> None:
        self.write_message(dict(self.request.headers.get_all()))


async def test_what_is_about_the_carrier_is_not_said_of_its_streams():
    carrier = carrier_request(
        Accept="text/event-stream", Last_Event_ID="7", Connection="keep-alive", X_Other="stays"
    )
    link = link_to(TellsHeaders, carrier=carrier)
    socket = await link.open("TellsHeaders").wait_open()
    headers = json.loads(await socket.wait_message())
    assert headers.keys() == {
        "Host",
        "Connection",
        "Upgrade",
        "Sec-Websocket-Key",
        "Sec-Websocket-Version",
        "Sec-Fetch-Mode",
        "X-Other",
    }
    assert headers["Connection"] == "Upgrade"


class Notes(TokenWebSocketHandler):
    """Notes its end."""

    closed: asyncio.Event

    def on_message(self, message: str | bytes) -> None:
        assert self.ws_connection is not None
        asyncio.get_running_loop().call_soon(self.ws_connection._abort)

    def on_close(self) -> None:
        self.closed.set()


async def test_who_cuts_a_stream_does_not_wait_for_its_client():
    closed = asyncio.Event()
    link = link_to(type("Notes", (Notes,), {"closed": closed}))
    socket = await link.open("Notes").wait_open()
    await socket.send("cut")
    link._move()
    link._move = lambda: None  # type: ignore[method-assign] # nothing comes to the client any more
    await asyncio.wait_for(closed.wait(), TIMEOUT)
    assert len(link.streams) == 1, "the client was not asked"


class NeverOpens(TokenWebSocketHandler):
    async def open(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.Event().wait()


async def test_who_is_stuck_is_no_open_socket_when_the_client_has_left():
    """As a socket that is found to be gone."""
    link = link_to(NeverOpens, keepalive_interval=0.05)
    registry = Guard.of(link.application).registry
    socket = await link.open("NeverOpens").wait_open()
    await auntil(lambda: len(registry) == 1, "it is open")
    await socket.send("never read")
    await socket.close()
    await auntil(lambda: not len(registry), "it is gone")


class Refuses(TokenWebSocketHandler):
    reached: asyncio.Event
    goes_on: asyncio.Event

    async def prepare(self) -> None:
        self.reached.set()
        await self.goes_on.wait()
        raise Refused("forbidden")


async def test_who_does_not_answer_a_refusal_keeps_no_place():
    reached, goes_on = asyncio.Event(), asyncio.Event()
    kind = type("Refuses", (Refuses,), {"reached": reached, "goes_on": goes_on})
    link = link_to(kind, refusal_linger=0.01)
    guard = Guard.of(link.application)
    link.open("Refuses")
    await asyncio.wait_for(reached.wait(), TIMEOUT)
    link._move()
    link._move = lambda: None  # type: ignore[method-assign] # nothing comes to the client any more
    goes_on.set()
    await auntil(lambda: len(guard.refusals), "it is refused")
    await auntil(lambda: not guard.refusals.open, "it is forgotten")
    assert len(link.streams) == 1, "the client was not asked"
