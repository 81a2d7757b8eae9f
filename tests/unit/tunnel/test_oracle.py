"""A handler cannot tell a stream from a socket: the same is done over both, and the same is seen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import tornado
from tornado import gen, httpserver, netutil, web
from tornado.websocket import WebSocketClosedError, WebSocketHandler, WebSocketProtocol13

from jupyter_token_ws import Refused, TokenWebSocketHandler
from jupyter_token_ws.guard.core import Guard
from tests.support.knock import knock
from tests.support.tunnel_peer import Link, carrier_request
from tests.support.waiting import auntil

REASON_MARKER = "v1.reason.websocket.jupyter.org"


class Writes(WebSocketHandler):
    """Writes down all that it is told."""

    log: list[Any]

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        self.log.append(("offered", list(subprotocols)))
        return "b" if "b" in subprotocols else None

    def open(self, *args: Any, **kwargs: Any) -> Any:
        self.log.append(("open", args, self.get_query_argument("x", None), self.request.path))

    def on_message(self, message: str | bytes) -> Any:
        self.log.append(("message", message if len(message) < 100 else len(message)))
        match message:
            case "close":
                self.close(4001, "as asked")
            case "close without code":
                self.close()
            case "fail":
                raise ValueError("as asked")
            case "later":
                return self.later()
            case "cut":
                assert self.ws_connection is not None
                self.ws_connection._abort()
            case "cut later":
                assert self.ws_connection is not None
                asyncio.get_running_loop().call_soon(self.ws_connection._abort)
            case "fail later":
                return self.fail_later()
            case "in tornado's way":
                return self.in_tornados_way()
            case "a reason that is too long":
                self.close(4001, "x" * 124)
            case "twice":
                self.close(4001, "once")
                self.close(4002, "twice")
                self.after_close()
            case "a document":
                self.write_message({"a": [1, None]})
            case "touch":
                self.touch()
                self.write_message("touched")
            case "ping":
                with pytest.raises(ValueError, match="125 bytes"):
                    self.ping(b"x" * 126)
                self.ping("ä")
            case _:
                self.write_message(message, binary=isinstance(message, bytes))
        return None

    async def later(self) -> None:
        await asyncio.sleep(0)
        await self.write_message("done")
        self.log.append("was written")

    async def fail_later(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("as asked")

    @gen.coroutine
    def in_tornados_way(self) -> Any:
        yield gen.moment
        self.write_message("done")

    def on_pong(self, data: bytes) -> None:
        self.log.append(("pong", data))
        self.write_message("pong")

    def after_close(self) -> None:
        for late in (lambda: self.write_message("late"), lambda: self.ping(b"")):
            with pytest.raises(WebSocketClosedError):
                late()
        with pytest.raises(AssertionError):
            self.set_nodelay(True)

    def touch(self) -> None:
        """What else handlers ask of an open socket."""
        protocol: Any = self.ws_connection
        stream = protocol.stream
        self.set_nodelay(True)
        stream.set_nodelay(True)
        stream.set_close_callback(None)
        request: Any = self.request
        self.log.append(
            (
                self.selected_subprotocol,
                protocol.selected_subprotocol,
                (protocol.client_terminated, protocol.server_terminated, protocol.is_closing()),
                (protocol.close_code, protocol.close_reason),
                (protocol.ping_interval, protocol.mask_outgoing, protocol.handler is self),
                (stream.closed(), stream.writing(), stream.max_write_buffer_size),
                stream.io_loop is not None,
                (request.connection.stream, request.connection.context.remote_ip),
                (request.remote_ip, request.protocol, request.version, request.method),
                (request.body, request.files, request.uri, request.query, dict(request.cookies)),
            )
        )
        with pytest.raises(RuntimeError):
            self.write("plain HTTP")

    def on_close(self) -> None:
        self.log.append(("close", self.close_code, self.close_reason))
        with pytest.raises(WebSocketClosedError):
            self.write_message("too late")


class Seen(TokenWebSocketHandler, Writes):
    """As extensions are told to write them."""


class Unguarded(Writes):
    """The guard does not stand before it."""


class ClosesAtOnce(Seen):
    def open(self, *args: Any, **kwargs: Any) -> Any:
        super().open(*args, **kwargs)
        self.close(4002, "at once")


class FailsToOpen(Seen):
    async def open(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError("as asked")


class Greets(Seen):
    async def open(self, *args: Any, **kwargs: Any) -> None:
        super().open(*args, **kwargs)
        await self.write_message("hello")
        await self.write_message(b"\x00\xff", binary=True)


class RefusesInPrepare(Seen):
    async def prepare(self) -> None:
        raise Refused("forbidden")


class Looks(Seen):
    """At the connection, before it is a websocket's."""

    async def prepare(self) -> None:
        connection: Any = self.request.connection
        self.log.append((connection.stream.closed(), connection.context.protocol))
        self.set_header("X-Mine", "1")
        self.set_cookie("mine", "1")

    def get_compression_options(self) -> dict[str, Any] | None:
        self.log.append("compressed?")
        return {"compression_level": 9}


class HasItsOwnProtocol(Seen):
    def get_websocket_protocol(self) -> Any:
        protocol = super().get_websocket_protocol()
        self.log.append(("protocol", isinstance(protocol, WebSocketProtocol13)))
        return protocol


class SpeaksNoSuchVersion(Seen):
    def get_websocket_protocol(self) -> Any:
        return None


class AcceptsNoneOfIt(Seen):
    def get_websocket_protocol(self) -> Any:
        raise web.HTTPError(403, reason="Not today")


class Redirects(Seen):
    def prepare(self) -> Any:
        self.redirect("/elsewhere")


class AnswersInPrepare(Seen):
    def prepare(self) -> Any:
        self.set_status(451)
        self.set_cookie("mine", "1")
        self.finish("for lawyers")


class AnswersAPage(Seen):
    async def get(self, *args: Any, **kwargs: Any) -> None:
        self.write("a page\n" * 10_000)
        await self.flush()
        await self.finish("its end")


class HasNothing(Seen):
    async def get(self, *args: Any, **kwargs: Any) -> None:
        raise web.HTTPError(404, reason="Gone fishing")


class IsBroken(Seen):
    async def get(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError("as asked")


class FailsToClose(Seen):
    def on_close(self) -> None:
        super().on_close()
        raise ValueError("as asked")


@web.stream_request_body
class ReadsBodies(Seen):
    def data_received(self, chunk: bytes) -> None:
        raise AssertionError("there is none")


class Page(web.RequestHandler):
    def get(self) -> None:
        self.finish("page")


class Small(Seen):
    @property
    def max_message_size(self) -> int:
        return 1000


ROUTES = {
    "seen": Seen,
    "closes": ClosesAtOnce,
    "fails": FailsToOpen,
    "greets": Greets,
    "refuses": RefusesInPrepare,
    "small": Small,
    "unguarded": Unguarded,
    "looks": Looks,
    "own": HasItsOwnProtocol,
    "version": SpeaksNoSuchVersion,
    "accepts-none": AcceptsNoneOfIt,
    "redirects": Redirects,
    "answers": AnswersInPrepare,
    "answers-a-page": AnswersAPage,
    "nothing": HasNothing,
    "broken": IsBroken,
    "fails-to-close": FailsToClose,
    "bodies": ReadsBodies,
    "page": Page,
}
Act = Callable[[Any], Awaitable[None]]


async def nothing(_: Any) -> None:
    """Only look."""


def says(*messages: str | bytes, answers: int | None = None) -> Act:
    async def act(socket: Any) -> None:
        for message in messages:
            await socket.send(message)
        for _ in range(len(messages) if answers is None else answers):
            socket.got.append(await socket.wait_message())

    return act


def leaves(code: int | None) -> Act:
    async def act(socket: Any) -> None:
        await socket.send("hello")
        socket.got.append(await socket.wait_message())
        await socket.leave(code)

    return act


CASES: dict[str, tuple[str, list[str], Act, bool]] = {
    "text and bytes": (
        "seen?x=1",
        [REASON_MARKER, "a", "b"],
        says("ä", b"\xff\x00", "", b""),
        False,
    ),
    "a large message": ("seen", [REASON_MARKER], says("x" * 1_500_000), False),
    "no subprotocol": ("seen", [REASON_MARKER], says("1"), False),
    "closed by the server": ("seen", [REASON_MARKER], says("1", "close", answers=1), True),
    "closed without code": ("seen", [REASON_MARKER], says("close without code", answers=0), True),
    "closed at once": ("closes", [REASON_MARKER], nothing, True),
    "closed by the client": ("seen", [REASON_MARKER], leaves(4003), True),
    "an error in on_message": ("seen", [REASON_MARKER], says("fail", answers=0), True),
    "an error in open": ("fails", [REASON_MARKER], nothing, True),
    "cut": ("seen", [REASON_MARKER], says("cut", answers=0), True),
    "a coroutine": ("seen", [REASON_MARKER], says("later"), False),
    "greeted": ("greets", [REASON_MARKER], says(answers=2), False),
    "refused": ("refuses", [REASON_MARKER], nothing, True),
    "nothing there": ("nowhere", [REASON_MARKER], nothing, True),
    "too large": ("small", [REASON_MARKER], says("x" * 1001, answers=0), True),
    "closed by the client without code": ("seen", [REASON_MARKER], leaves(None), True),
    "closed twice": ("seen", [REASON_MARKER], says("twice", answers=0), True),
    "a reason too long": (
        "seen",
        [REASON_MARKER],
        says("a reason that is too long", answers=0),
        True,
    ),
    "cut from outside": ("seen", [REASON_MARKER], says("cut later", answers=0), True),
    "a coroutine of tornado's": ("seen", [REASON_MARKER], says("in tornado's way"), False),
    "a document": ("seen", [REASON_MARKER], says("a document"), False),
    "what handlers touch": ("seen?x=1&x=2&y", [REASON_MARKER, "b"], says("touch"), False),
    "a ping": ("seen", [REASON_MARKER], says("ping"), False),
    "many subprotocols": (
        "seen",
        [REASON_MARKER, *(f"app.{n}" for n in range(1000)), "b"],
        says("1"),
        False,
    ),
    "unguarded": ("unguarded", ["a", "b", REASON_MARKER], says("1", b"2", "ping", "touch"), False),
    "unguarded, closed": ("unguarded", ["a", REASON_MARKER], says("1", "close", answers=1), True),
    "looked at before": ("looks", [REASON_MARKER], says("1", "touch"), False),
    "its own protocol": ("own", [REASON_MARKER], says("1"), False),
    "no such version": ("version", [REASON_MARKER], nothing, True),
    "refused when it accepts": ("accepts-none", [REASON_MARKER], nothing, True),
    "a redirect": ("redirects", [REASON_MARKER], nothing, True),
    "an answer in prepare": ("answers", [REASON_MARKER], nothing, True),
    "a page": ("answers-a-page", [REASON_MARKER], nothing, True),
    "a page of no websocket": ("page", [REASON_MARKER], nothing, True),
    "404 with a text of its own": ("nothing", [REASON_MARKER], nothing, True),
    "an error before it opens": ("broken", [REASON_MARKER], nothing, True),
    "an error in on_close": ("fails-to-close", [REASON_MARKER], leaves(4003), True),
    "who reads bodies": ("bodies", [REASON_MARKER], says("1"), False),
}
if tornado.version_info >= (6, 6):  # older ones leave the socket as it is
    CASES["an error in a coroutine"] = (
        "seen",
        [REASON_MARKER],
        says("fail later", answers=0),
        True,
    )


@pytest.fixture
def world(jp_asyncio_loop):
    log: list[Any] = []
    routes = [
        (f"/{name}", type(kind.__name__, (kind,), {"log": log})) for name, kind in ROUTES.items()
    ]
    application = web.Application(routes)
    Guard(application)
    (listening,) = netutil.bind_sockets(0, "127.0.0.1")

    async def serve():
        server = httpserver.HTTPServer(application)
        server.add_socket(listening)
        return server

    server = jp_asyncio_loop.run_until_complete(serve())
    yield application, listening.getsockname()[1], log
    server.stop()
    jp_asyncio_loop.run_until_complete(server.close_all_connections())


async def by_socket(port: int, path: str, offer: list[str], act: Act, ends: bool) -> Any:
    socket: Any = await knock(port, f"/{path}", offer)
    socket.got = []
    if socket.status != 101:
        await socket.close()
        return {"refused": socket.status}

    async def leave(code: int | None) -> None:
        await socket.send(b"" if code is None else code.to_bytes(2, "big"), opcode=8)

    socket.leave = leave
    await act(socket)
    if ends:
        await socket.wait_closed()
        socket.writer.close()
    else:
        await socket.close()
    return {
        "answered": socket.subprotocol,
        "got": socket.got + socket.messages,
        "end": (socket.code, socket.reason) if ends else None,
    }


async def by_stream(application: Any, path: str, offer: list[str], act: Act, ends: bool) -> Any:
    carrier = carrier_request()
    carrier.remote_ip = "127.0.0.1"
    link = Link(application, carrier)
    socket: Any = await link.open(path, offer).wait_open()
    socket.got = []
    if not socket.opened and socket.reason:
        # A socket is accepted to be told why not; a stream is told so at once.
        return {"answered": REASON_MARKER, "got": [], "end": (socket.code, socket.reason)}
    if not socket.opened:
        return {"refused": socket.code - 4000}
    socket.leave = socket.close
    await act(socket)
    if not ends:
        await socket.close()
    await socket.wait_closed()
    end = (None, "") if socket.code == 1006 else (socket.code, socket.reason)
    return {
        "answered": socket.subprotocol,
        "got": socket.got + list(socket.heard),
        "end": end if ends else None,
    }


@pytest.mark.parametrize("name", CASES)
async def test_C7_1_the_same_over_both(name, world, caplog):
    caplog.set_level(logging.CRITICAL)
    application, port, log = world
    path, offer, act, ends = CASES[name]
    first = await by_socket(port, path, offer, act, ends)
    began = any(each[0] == "open" for each in log)
    if began:
        await auntil(lambda: any(each[0] == "close" for each in log), "the handler's end")
    seen, log[:] = list(log), []
    second = await by_stream(application, path, offer, act, ends)
    if began:
        await auntil(lambda: any(each[0] == "close" for each in log), "the handler's end")
    assert second == first
    assert log == seen
