"""Frames written to real sockets of a tornado server: all of them, and what did not get out."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketHandler, websocket_connect

from jupyter_token_ws.bridge.outlet import MessageOutlet, SocketOutlet, outlet_for
from jupyter_token_ws.bridge.wire import LARGE, V1, Batch, Legacy, Message
from jupyter_token_ws.protocol.kernel_messages import pack_json
from tests.support.knock import TIMEOUT
from tests.support.waiting import auntil


def message(number: int, size: int = 0) -> Message:
    content = pack_json({"number": number, "x": "x" * size})
    return Message("iopub", [b'{"msg_type": "x", "msg_id": "y"}', b"{}", b"{}", content])


class Socket(WebSocketHandler):
    """Open, and no more."""

    def initialize(self, opened: list[Socket], compressed: bool) -> None:
        self.opened, self.compressed = opened, compressed

    def open(self, *args: str, **kwargs: str) -> None:
        self.opened.append(self)

    def on_message(self, message: str | bytes) -> None:
        """Nothing is expected."""

    def get_compression_options(self) -> dict[str, Any] | None:
        return {} if self.compressed else None


class Line:
    """One websocket, with both its ends."""

    def __init__(self, client: Any, handler: Socket) -> None:
        self.client, self.handler = client, handler

    async def numbers(self, count: int) -> list[int]:
        found = []
        for _ in range(count):
            data = await asyncio.wait_for(self.client.read_message(), TIMEOUT)
            text = data if isinstance(data, str) else V1.decode(data).parts[3]
            fields = json.loads(text)
            found.append(fields.get("content", fields)["number"])
        return found


@asynccontextmanager
async def connected(compressed: bool) -> AsyncIterator[Line]:
    opened: list[Socket] = []
    tasks = len(asyncio.all_tasks())
    server = HTTPServer(Application([("/", Socket, {"opened": opened, "compressed": compressed})]))
    listener, port = bind_unused_port()
    server.add_socket(listener)
    client = await websocket_connect(
        f"ws://127.0.0.1:{port}/",
        compression_options={} if compressed else None,
        max_message_size=2**30,
    )
    await auntil(lambda: opened)
    streams = [cast("Any", client).protocol.stream, cast("Any", opened[0].ws_connection).stream]
    try:
        yield Line(client, opened[0])
    finally:
        client.close()
        for stream in streams:
            stream.close()
        # What came in before has to be taken, or tornado's client waits to hand it over.
        while await asyncio.wait_for(client.read_message(), TIMEOUT) is not None:
            pass
        server.stop()
        await server.close_all_connections()
        await auntil(lambda: len(asyncio.all_tasks()) <= tasks, "both ends to be done")


@pytest.mark.parametrize("wire", [V1, Legacy])
@pytest.mark.parametrize(("compressed", "kind"), [(False, SocketOutlet), (True, MessageOutlet)])
async def test_messages_arrive_in_order(compressed, wire, kind):
    async with connected(compressed) as line:
        outlet = outlet_for(line.handler, wire)
        assert type(outlet) is kind
        sizes = [0, 100, 70_000, 0, 300_000, 5]
        for start in (0, 6):
            outlet.send(Batch([message(start + n, size) for n, size in enumerate(sizes)]))
        assert await line.numbers(12) == list(range(12))
        await auntil(lambda: outlet.unsent_bytes == 0)
        assert outlet.unsent() == []
        assert not outlet.closed


@pytest.mark.parametrize("compressed", [False, True])
async def test_what_did_not_get_out_is_known(compressed):
    """To the message, though they were written together."""
    async with connected(compressed) as line:
        outlet = outlet_for(line.handler, V1)
        count = 60
        for start in range(0, count, 10):
            # What compresses well would all fit into the system's buffers.
            outlet.send(Batch([noise(start + n, 300_000) for n in range(10)]))
        assert outlet.unsent_bytes > 1_000_000
        left = [json.loads(each.parts[3])["number"] for each in outlet.unsent()]
        assert left == list(range(left[0], count))
        cast("Any", line.handler.ws_connection).stream.close()
        await asyncio.sleep(0)
        assert outlet.closed
        after = [json.loads(each.parts[3])["number"] for each in outlet.unsent()]
        assert after == list(range(after[0], count))
        outlet.send(Batch([message(count)]))
        last = [json.loads(each.parts[3])["number"] for each in outlet.unsent()]
        assert last == [*after, count]


def noise(number: int, size: int) -> Message:
    content = pack_json({"number": number, "x": os.urandom(size // 2).hex()})
    return Message("iopub", [b'{"msg_type": "x"}', b"{}", b"{}", content])


async def test_a_future_tells_when_all_has_left():
    async with connected(False) as line:
        outlet = outlet_for(line.handler, V1)
        assert outlet.send(Batch([message(0)])) is None, "it has left already"
        future = outlet.send(Batch([noise(n, 300_000) for n in range(1, 60)]))
        assert future is not None
        assert not future.done()
        assert await line.numbers(60) == list(range(60))
        await asyncio.wait_for(future, TIMEOUT)
        assert outlet.send(Batch([message(60)])) is None
        assert outlet.unsent() == []


class Counting:
    """A socket, and how often it was asked to send."""

    def __init__(self, sends: socket.socket) -> None:
        self.sends = sends
        self.count = 0

    def sendmsg(self, pieces: Any) -> int:
        self.count += 1
        return self.sends.sendmsg(pieces)


@pytest.mark.parametrize("wire", [V1, Legacy])
async def test_frames_leave_at_once_while_nothing_waits(wire):
    async with connected(False) as line:
        outlet = cast("Any", outlet_for(line.handler, wire))
        sends = outlet._socket = Counting(outlet._socket)
        stream = cast("Any", line.handler.ws_connection).stream
        before = stream._total_write_index
        for start in (0, 3):
            sizes = enumerate((0, 40_000, 50_000))
            assert outlet.send(Batch([message(start + n, size) for n, size in sizes])) is None
        assert (sends.count, stream._total_write_index) == (2, before)
        assert await line.numbers(6) == list(range(6))


async def test_frames_do_not_overtake_what_waits():
    """Not those that tornado sends either."""
    async with connected(False) as line:
        outlet = cast("Any", outlet_for(line.handler, V1))
        sends = outlet._socket = Counting(outlet._socket)
        for number in range(100):
            outlet.send(Batch([message(number, 300_000)]))
            line.handler.ping()
        assert sends.count < 100
        assert outlet.unsent_bytes > 1_000_000
        assert await line.numbers(100) == list(range(100))
        await auntil(lambda: outlet.unsent_bytes == 0)
        assert outlet.send(Batch([message(100)])) is None
        assert await line.numbers(1) == [100]
        assert outlet.unsent() == []


async def test_more_pieces_than_the_system_takes_at_once():
    async with connected(False) as line:
        outlet = outlet_for(line.handler, V1)
        many = message(0)
        many.parts += [bytes(LARGE)] * 1025  # IOV_MAX of Linux and macOS is 1024
        outlet.send(Batch([many, message(1)]))
        assert await line.numbers(2) == [0, 1]


async def test_a_stream_that_encrypts_gets_everything():
    class Encrypting(IOStream):
        """What is written through it is counted."""

        count = 0

        def write_to_fd(self, data: memoryview) -> int:
            size = super().write_to_fd(data)
            self.count += size
            return size

    async with connected(False) as line:
        stream = cast("Any", line.handler.ws_connection).stream
        stream.__class__ = Encrypting
        outlet = outlet_for(line.handler, V1)
        batch = Batch([message(n, 50_000) for n in range(3)])
        outlet.send(batch)
        assert await line.numbers(3) == [0, 1, 2]
        assert stream.count == sum(map(len, batch.chunks(V1)))


async def test_a_system_that_cannot_send_pieces_together():
    class Without:
        """A socket as it is on Windows."""

        def __init__(self, whole: socket.socket) -> None:
            self.whole = whole

        def __getattr__(self, name: str) -> Any:
            if name == "sendmsg":
                raise AttributeError(name)
            return getattr(self.whole, name)

    async with connected(False) as line:
        stream = cast("Any", line.handler.ws_connection).stream
        stream.socket = Without(stream.socket)
        outlet = outlet_for(line.handler, V1)
        outlet.send(Batch([message(n, 50_000) for n in range(3)]))
        assert await line.numbers(3) == [0, 1, 2]


async def test_a_broken_connection_closes_and_what_it_did_not_take_is_known():
    async with connected(False) as line:
        outlet = outlet_for(line.handler, V1)
        stream = cast("Any", line.handler.ws_connection).stream
        stream.socket.shutdown(socket.SHUT_WR)
        assert outlet.send(Batch([message(0)])) is not None
        assert outlet.closed
        assert [json.loads(each.parts[3])["number"] for each in outlet.unsent()] == [0]
