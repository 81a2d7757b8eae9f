"""The list of open sockets: who is on it, who leaves it, and what is left afterwards."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from typing import Any, cast

import psutil
import pytest
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.guard.credentials import CredentialSource
from jupyter_token_ws.guard.registry import CLOSE_EVERYBODY, OpenSocket, Registry
from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS, Door, Socket, errors
from tests.support.knock import bearing, knock
from tests.support.waiting import auntil, given_back

# --- by itself ------------------------------------------------------------------------------------


class Handler:
    """Remembers how it was closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.closed: list[tuple[Any, ...]] = []
        self.error = error

    def close(self, *how: Any) -> None:
        self.closed.append(how)
        if self.error is not None:
            raise self.error


class Stream:
    closed = False

    def close(self) -> None:
        self.closed = True


def a_socket(handler: Handler, **options: Any) -> OpenSocket:
    fields: dict[str, Any] = {"principal": "user:ann", "opted_in": True, **options}
    return OpenSocket(
        handler=cast("WebSocketHandler", handler),
        path="/socket",
        credential="",
        source=CredentialSource.COOKIE,
        **fields,
    )


def test_a_socket_is_listed_once():
    registry = Registry()
    socket = a_socket(Handler())
    registry.add(socket)
    registry.add(socket)
    assert list(registry) == [socket]
    assert registry.get(socket.handler) is socket
    registry.discard(socket.handler)
    registry.discard(socket.handler)
    assert (len(registry), registry.get(socket.handler)) == (0, None)


def test_by_principal():
    registry = Registry()
    sockets = [a_socket(Handler(), principal=name) for name in ("user:a", "user:b", "user:a")]
    for socket in sockets:
        registry.add(socket)
    assert registry.by_principal("user:a") == [sockets[0], sockets[2]]
    assert registry.by_principal("user:c") == []


def test_sockets_may_leave_while_one_looks():
    registry = Registry()
    for _ in range(3):
        registry.add(a_socket(Handler()))
    for socket in registry:
        registry.discard(socket.handler)
    assert len(registry) == 0


@pytest.mark.parametrize("slug", sorted(REASONS))
@pytest.mark.parametrize("opted_in", [True, False])
def test_C3_6_who_is_closed_with_a_code(slug, opted_in):
    handler = Handler()
    a_socket(handler, opted_in=opted_in).close(slug, 7)
    if opted_in or slug in CLOSE_EVERYBODY:
        assert handler.closed == [(REASONS[slug].code, REASONS[slug].close_reason(7))]
    else:
        assert handler.closed == [()]


def test_C3_6_these_close_everybody():
    assert set(CLOSE_EVERYBODY) == {"draining", "token_revoked", "replaced"}


def test_a_slug_that_is_not_in_the_table():
    registry, socket = Registry(), a_socket(Handler())
    registry.add(socket)
    for close in (socket.close, lambda slug: registry.close(socket, slug), registry.close_all):
        with pytest.raises(KeyError, match="nonsense"):
            close("nonsense")


def test_a_handler_that_cannot_close_is_cut_and_keeps_nobody_waiting(caplog):
    registry = Registry(logging.getLogger("a.server"))
    stream = Stream()
    handlers = [
        Handler(TypeError("close() takes 1")),
        Handler(TypeError("close() takes 1")),
        Handler(),
    ]
    for handler, its in zip(handlers, (stream, None, None), strict=True):
        registry.add(a_socket(handler, stream=its))
    registry.close_all("draining", 1)
    assert all(handler.closed for handler in handlers)
    assert stream.closed
    assert {record.name for record in caplog.records} == {"a.server"}
    assert errors(caplog.records) == ["Cannot close websocket /socket, cutting it"] * 2


def test_without_a_log_of_the_servers_it_is_the_packages(caplog):
    registry = Registry()
    registry.close(a_socket(Handler(RuntimeError("no"))), "gone")
    assert [record.name for record in caplog.records] == ["jupyter_token_ws"]


async def test_waiting_until_nobody_is_left():
    registry = Registry()
    assert await registry.wait_empty(0)
    sockets = [a_socket(Handler()) for _ in range(2)]
    for socket in sockets:
        registry.add(socket)
    assert not await registry.wait_empty(0.01)
    waiting = asyncio.ensure_future(registry.wait_empty(10))
    registry.discard(sockets[0].handler)
    _, still = await asyncio.wait({waiting}, timeout=0.05)
    assert still == {waiting}
    registry.discard(sockets[1].handler)
    assert await waiting


# --- on a server ----------------------------------------------------------------------------------


async def test_what_is_noted_of_a_socket(door):
    async with await door.knock(EVENTS, [MARKER, bearing(door.token)]) as socket:
        await auntil(lambda: len(door.guard.registry) == 1, "it is not listed")
        (entry,) = door.guard.registry
        assert (entry.path, entry.remote_ip) == (f"{door.base}{EVENTS}", "127.0.0.1")
        assert (entry.source, entry.opted_in) == (CredentialSource.SUBPROTOCOL, True)
        assert (entry.kernel, entry.carrier) == (None, "websocket")
        assert entry.stream is entry.handler.ws_connection.stream
        assert entry.stream.socket.getpeername() == socket.writer.get_extra_info("sockname")


class Echo(Socket):
    """Ends in whatever way it is told to."""

    def on_message(self, message: str | bytes) -> None:
        if message == "close":
            self.close(4999, "of its own")
        elif message == "raise":
            raise RuntimeError("in on_message")
        else:
            super().on_message(message)


class FailsToOpen(Socket):
    async def open(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("in open()")


class FailsToOpenAtOnce(Socket):
    def open(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("in open()")


@pytest.fixture
def sockets(door: Door) -> Door:
    door.add("echo", Echo)
    door.add("fails", FailsToOpen)
    door.add("fails-at-once", FailsToOpenAtOnce)
    return door


ENDS = ["client closes", "client vanishes", "handler closes", "registry closes", "handler raises"]


async def open_and_end(door: Door, end: str) -> None:
    if end.startswith("fails"):
        async with await door.knock(end, [MARKER, bearing(door.token)]) as socket:
            await socket.wait_closed()
        return
    async with await door.knock("echo", [MARKER, bearing(door.token)]) as socket:
        await socket.send("x")
        assert await socket.wait_message() == "x"
        [entry] = door.guard.registry
        assert (entry.path, entry.opted_in) == (f"{door.base}echo", True)
        assert door.guard.registry.get(entry.handler) is entry
        if end == "client vanishes":
            socket.vanish()
        elif end == "client closes":
            await socket.close()
        else:
            if end == "registry closes":
                entry.close("unavailable", 3)
            else:
                await socket.send({"handler closes": "close", "handler raises": "raise"}[end])
            await socket.wait_closed()
            assert socket.code == {"handler closes": 4999, "registry closes": 4503}.get(end)
    await auntil(lambda: len(door.guard.registry) == 0, end)


@pytest.mark.parametrize("end", [*ENDS, "fails", "fails-at-once"])
async def test_listed_while_open_and_no_longer(sockets, end):
    await open_and_end(sockets, end)
    await sockets.settled()
    assert len(sockets.guard.sessions) == 0


async def test_what_the_list_tells_of_a_socket(sockets):
    door = sockets
    cookie = await door.login_cookie()
    async with (
        await door.knock("echo", [MARKER, bearing(door.token)]),
        await door.knock("echo", [REASON_MARKER], {"Authorization": f"token {door.token}"}),
        await door.knock(f"echo?token={door.token}"),
        await door.knock("echo", None, {"Cookie": cookie}),
    ):
        entries = list(door.guard.registry)
        assert [entry.source.value for entry in entries] == [
            "subprotocol",
            "header",
            "url",
            "cookie",
        ]
        assert [entry.opted_in for entry in entries] == [True, True, False, False]
        by_token = {entry.principal for entry in entries[:3]}
        assert len(by_token) == 1, "the same credential by other ways is the same principal"
        assert entries[3].principal not in by_token
        assert all(door.token not in repr(entry) for entry in entries)
        assert {entry.remote_ip for entry in entries} == {"127.0.0.1"}
        assert {entry.carrier for entry in entries} == {"websocket"}
        assert {entry.kernel for entry in entries} == {None}
    await door.settled()


def census() -> Counter[str]:
    """How many objects of ours and of a connection there are."""
    gc.collect()
    names = ["OpenSocket", "Handshake", "Judge", "Pulse", "Echo", "FailsToOpen", "RefusalHandler"]
    names += ["WebSocketProtocol13", "HTTPServerRequest", "IOStream"]
    return Counter(
        type(thing).__name__ for thing in gc.get_objects() if type(thing).__name__ in names
    )


@pytest.fixture
def no_records():
    """What the test runner keeps of the log holds tracebacks, and those hold the handlers."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("token_ws_config", [{"refusal_burst": 10_000}])
async def test_500_sockets_leave_nothing_behind(sockets, no_records):
    """Descriptors, tasks, entries, claims and objects are what they were, whatever ended them."""
    door = sockets
    process = psutil.Process()

    async def cycle(n: int) -> None:
        end = [*ENDS, "fails", "fails-at-once", "refused"][n % 8]
        if end == "refused":
            socket = await door.refused("echo", [MARKER, bearing("wrong")])
            assert socket.slug == "token_rejected"
        else:
            await open_and_end(door, end)

    def weigh() -> tuple[int, int, Counter[str]]:
        return process.num_fds(), len(asyncio.all_tasks()), census()

    for n in range(16):
        await cycle(n)  # what is made once is made now
    await door.settled()
    fds, tasks, objects = weigh()
    for n in range(500):
        await cycle(n)
    await door.settled()
    guard = door.guard
    await given_back(process, fds)
    await auntil(lambda: len(asyncio.all_tasks()) <= tasks, "tasks")
    assert (len(guard.registry), len(guard.sessions), len(guard.opening)) == (0, 0, 0)
    assert (guard.refusals.open, len(guard._tasks), len(guard.keepalive._pulses)) == (0, 0, 0)
    # The last connections may still be on some frame, on a busy machine for a while; 500 cannot.
    await auntil(lambda: all(count <= 3 for count in (census() - objects).values()), "objects")


async def test_sockets_without_the_extension_class_are_listed_too(door):
    """The same list for what jupyter_server brings."""
    offer = [MARKER, bearing(door.token)]
    name = door.app.web_app.settings["terminal_manager"].create()["name"]
    async with (
        await door.knock(EVENTS, offer),
        await knock(door.port, f"{door.base}terminals/websocket/{name}", offer),
    ):
        await auntil(lambda: len(door.guard.registry) == 2)
        assert sorted(entry.path for entry in door.guard.registry) == [
            f"{door.base}{EVENTS}",
            f"{door.base}terminals/websocket/{name}",
        ]
    await door.settled()
