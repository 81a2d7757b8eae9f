"""A kernel's output on a stream of a tunnel: it waits where it should, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_token_ws.bridge.backlog import Backlog, Limits, Quota
from jupyter_token_ws.bridge.client import Client
from jupyter_token_ws.bridge.outlet import KeepingOutlet, MessageOutlet, outlet_for
from jupyter_token_ws.bridge.spool import FileSpool
from jupyter_token_ws.bridge.wire import V1, Batch, Legacy, Message, Wire
from jupyter_token_ws.protocol.frames import MAX_DATA
from jupyter_token_ws.protocol.kernel_messages import pack_json
from jupyter_token_ws.protocol.tunnel import Closed, Data, Side, Tunnel
from jupyter_token_ws.tunnel.streams import Stream, StreamClosedError, Streams
from jupyter_token_ws.tunnel.virtual import StreamProtocol, VirtualIOStream

WINDOW = 64 * 1024
WIRES = pytest.mark.parametrize("wire", [V1, Legacy])


def made(number: int, size: int = 0, buffers: int = 0) -> Message:
    content = pack_json({"number": number, "x": "x" * size})
    header = b'{"msg_id": "a", "msg_type": "x"}'
    return Message("iopub", [header, b"{}", b"{}", content, *[bytes(1000)] * buffers])


def numbers(messages: list[Message]) -> list[int]:
    return [json.loads(message.parts[3])["number"] for message in messages]


class Line:
    """A stream with both its ends, whose client reads and acknowledges when it is told to."""

    def __init__(self, wire: Wire = V1, **options: Any) -> None:
        options = {"stream_window": WINDOW, "max_kept": 256 * 1024} | options
        self.wire = wire
        self.server = Tunnel(Side.SERVER, **options)
        self.client = Tunnel(Side.CLIENT, **options)
        streams: list[Stream] = []
        self.streams = Streams(self.server, streams.append)
        self.arrived: list[Message] = []
        self._parts = b""
        self._read = 0
        self.server.attach()
        self.receive()
        self.client.open("x")
        self.carry()
        (self.stream,) = streams
        self.stream.accept(None)
        handler: Any = SimpleNamespace(max_message_size=1, ws_connection=None)
        self.connection = handler.ws_connection = StreamProtocol(handler, self.stream)
        self.connection.stream = VirtualIOStream(self.stream, "")
        outlet = outlet_for(handler, wire)
        assert isinstance(outlet, KeepingOutlet)
        self.outlet = outlet
        self.receive()

    def carry(self) -> None:
        """What the client has to say."""
        while (batch := self.client.take()) is not None:
            self.server.receive(*batch)
        self.streams.hear()

    def receive(self, batches: int = 1000) -> None:
        """What the server has to say, so much of it."""
        for _ in range(batches):
            if (batch := self.server.take(WINDOW // 4)) is None:
                return
            self.client.receive(*batch)
            for event in self.client.events():
                if isinstance(event, Data):
                    self._read += event.size
                    self._parts += event.payload
                    if event.last:
                        self.arrived.append(self.wire.read_back(self._parts, event.text))
                        self._parts = b""

    def read(self) -> None:
        """The client's application takes what is there."""
        read, self._read = self._read, 0
        self.client.consumed(1, read)
        self.carry()

    def acknowledge(self) -> None:
        if self.client.wants_ack and (batch := self.client.take(ack=True)) is not None:
            self.server.receive(*batch)
            self.streams.hear()

    def cut(self) -> None:
        """Another carrier, after this one."""
        self.server.detach()
        self.client.detach()
        self.server.attach(self.client.received)
        self.receive()
        self.carry()

    def end(self) -> None:
        """The tunnel is over, and no word of it gets out."""
        self.server.close_tunnel()
        self.streams.hear()

    async def all(self, done: Callable[[], bool]) -> None:
        while not done():
            self.receive()
            self.read()
            await asyncio.sleep(0)


@WIRES
async def test_what_there_is_room_for_goes_at_once(wire):
    line = Line(wire)
    assert line.outlet.send(Batch([made(n) for n in range(100)])) is None
    assert line.outlet.unsent_bytes == 0
    line.receive()
    assert numbers(line.arrived) == list(range(100))


@WIRES
async def test_messages_of_all_sizes_arrive_in_order(wire):
    line = Line(wire)
    sizes = [0, 50_000, 20_000, 300_000, 10, 10, 3_000_000, 5, 70_000, 70_000]
    future = line.outlet.send(Batch([made(n, size, n % 3) for n, size in enumerate(sizes)]))
    assert future is not None
    assert line.outlet.unsent_bytes > 3_000_000
    await asyncio.wait_for(line.all(future.done), 30)
    assert line.outlet.unsent_bytes == 0
    line.receive()
    assert numbers(line.arrived) == list(range(len(sizes)))
    assert [len(each.parts) for each in line.arrived] == [4 + n % 3 for n in range(len(sizes))]


async def test_output_waits_in_the_backlog():
    """Of a batch for which there was no room to its end, the rest waits here, and nothing in the tunnel but
    its next message."""
    line = Line()
    limits = Limits(2**30, 0)
    client = Client("s", Backlog(limits, lambda *_: made(0), FileSpool, Quota(0)), lambda _: None)
    client.attach(line.outlet)
    for start in range(0, 10_000, 100):
        client.deliver(Batch([made(n, 200) for n in range(start, start + 100)]))
        line.receive()
    assert line.server.kept_bytes <= 2 * WINDOW
    assert line.server.unsent(1) < 1000
    assert line.outlet.unsent_bytes < 100 * 1000
    assert client.backlog.size > 9_000 * 200
    await asyncio.wait_for(line.all(lambda: len(line.arrived) == 10_000), 60)
    assert numbers(line.arrived) == list(range(10_000))
    assert not client.backlog


async def test_a_long_message_is_there_once_and_goes_when_the_client_has_it():
    line = Line()
    size = 5_000_000
    future = line.outlet.send(Batch([made(0, size), made(1)]))
    assert future is not None
    assert line.server.kept_bytes <= WINDOW + 100  # OPENED is no data
    assert line.streams.keeping == {line.stream}
    await asyncio.wait_for(line.all(future.done), 30)
    assert line.streams.keeping == {line.stream}
    line.receive()
    line.acknowledge()
    assert not line.streams.keeping
    assert line.outlet.unsent() == []
    assert numbers(line.arrived) == [0, 1]


@pytest.mark.parametrize("went", [False, True])
async def test_a_long_message_of_a_stream_that_is_gone(went):
    """Who sent it knows it, and the tunnel does not keep it."""
    line = Line(max_kept=2**20)
    line.outlet.send(Batch([made(0, MAX_DATA + 5)]))
    if went:
        await asyncio.wait_for(line.all(lambda: not line.outlet.unsent_bytes), 30)
    line.end()
    assert numbers(line.outlet.unsent()) == [0]
    assert not line.streams.keeping


@WIRES
async def test_what_was_not_acknowledged_is_known_when_the_tunnel_is_over(wire):
    line = Line(wire)
    line.outlet.send(Batch([made(n) for n in range(100)]))
    line.receive()
    line.acknowledge()
    line.outlet.send(Batch([made(n, buffers=n % 2) for n in range(100, 150)]))
    line.receive()
    line.outlet.send(Batch([made(n, 3000, n % 2) for n in range(150, 300)]))
    assert line.outlet.unsent_bytes > 0
    line.end()
    left = line.outlet.unsent()
    assert numbers(left) == list(range(100, 300))
    assert line.outlet.closed is False  # nobody has read that it is
    assert line.outlet.send(Batch([made(300)])) is not None
    assert numbers(line.outlet.unsent()) == list(range(100, 301))


async def test_what_is_sent_to_a_stream_that_is_gone_is_known():
    line = Line()
    line.end()
    line.outlet.send(Batch([made(0), made(1, MAX_DATA)]))
    await asyncio.sleep(0)
    assert numbers(line.outlet.unsent()) == [0, 1]


async def test_a_stream_that_was_cut_off_is_closed_for_who_is_behind_it():
    line = Line()
    told: list[str] = []
    line.connection.stream.set_close_callback(lambda: told.append("once"))
    future = line.outlet.send(Batch([made(n, 10_000) for n in range(20)]))
    assert future is not None
    reading = asyncio.ensure_future(line.stream.receive())
    await asyncio.sleep(0)
    line.connection.stream.close()
    with pytest.raises(StreamClosedError):
        await asyncio.wait_for(reading, 30)
    assert line.outlet.closed
    assert told == ["once"]
    assert numbers(line.outlet.unsent()) == list(range(20))
    line.receive()
    line.carry()
    assert [each.code for each in line.client.events() if isinstance(each, Closed)] == []
    assert line.server.streams == line.client.streams == 0
    line.connection.stream.set_close_callback(lambda: told.append("late"))
    await asyncio.sleep(0)
    assert told == ["once", "late"]


def test_what_keeps_nothing_is_written_to_by_messages():
    handler: Any = SimpleNamespace(ws_connection=SimpleNamespace())
    assert isinstance(outlet_for(handler, V1), MessageOutlet)


small = st.integers(0, 3000)
sizes = st.one_of(small, small, st.sampled_from([WINDOW - 200, WINDOW, 200_000, MAX_DATA]))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.lists(sizes, min_size=1, max_size=30)),
        st.tuples(st.just("receive"), st.integers(1, 5)),
        st.just(("read",)),
        st.just(("acknowledge",)),
        st.just(("cut",)),
        st.just(("turn",)),
    ),
    max_size=40,
)


@given(steps, st.sampled_from([V1, Legacy]))
def test_nothing_is_lost_whenever_the_tunnel_ends(program, wire):
    """What the client has and what is not acknowledged is everything, and what is both was on its way."""

    async def play() -> None:
        line = Line(wire)
        count = 0
        for step in program:
            match step:
                case ("say", some):
                    batch = [made(count + n, size, size % 2) for n, size in enumerate(some)]
                    line.outlet.send(Batch(batch))
                    count += len(some)
                case ("receive", batches):
                    line.receive(batches)
                case ("turn",):
                    await asyncio.sleep(0)
                case (name,):
                    getattr(line, name)()
            assert line.server.kept_bytes <= 256 * 1024
        heard = numbers(line.arrived)
        acknowledged = line.server.acknowledged
        line.end()
        await asyncio.sleep(0)
        left = numbers(line.outlet.unsent())
        assert heard == list(range(len(heard)))
        assert left == list(range(count - len(left), count))
        assert len(heard) + len(left) >= count
        if acknowledged == line.client.received:
            assert len(heard) + len(left) == count

    asyncio.run(play())
