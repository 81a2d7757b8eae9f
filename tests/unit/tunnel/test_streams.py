"""What a tunnel's streams keep of messages that nobody reads, whatever their fragments are like."""

from __future__ import annotations

import asyncio
import sys

import pytest

from jupyter_token_ws.protocol import frames
from jupyter_token_ws.protocol.frames import FIN, TEXT, Frame, Kind
from jupyter_token_ws.protocol.tunnel import Side, Tunnel, TunnelError
from jupyter_token_ws.tunnel.streams import MessageTooLargeError, Stream, Streams

WINDOW = 64 * 1024


class Server:
    """One stream of a server, whose client says what it likes."""

    def __init__(self) -> None:
        self.machine = Tunnel(Side.SERVER, stream_window=WINDOW)
        self.asked: list[Stream] = []
        self.streams = Streams(self.machine, self.asked.append)
        self.machine.attach()
        self._next = 1
        self.hear(frames.open_frame(1, "x", [], WINDOW))
        (self.stream,) = self.asked
        self.stream.accept(None)

    def hear(self, *said: Frame) -> None:
        data = b"".join(frames.encode(frame) for frame in said)
        first, self._next = self._next, self._next + len(said)
        self.machine.receive(first, data)
        self.streams.hear()
        while self.machine.take(ack=True) is not None:
            pass

    def hear_no_end(self, *said: Frame) -> None:
        """The same, until it has no credit for more."""
        while True:
            self.hear(*said)

    @property
    def kept(self) -> int:
        """Bytes of messages, whole or not."""
        stream = self.stream
        return sum(len(each.payload) for each in stream._messages) + len(stream._begun)


def part(payload: bytes, flags: int = TEXT) -> Frame:
    return Frame(Kind.DATA, 1, payload, flags)


LAST = part(b"", TEXT | FIN)


async def test_a_last_fragment_without_bytes_buys_nothing():
    server = Server()
    with pytest.raises(TunnelError, match="credit"):
        server.hear_no_end(part(b"x" * 8000), LAST)
    # The first was on its way to a reader who may have been waiting for it.
    assert server.kept <= WINDOW + 8000


async def test_a_message_longer_than_the_window_comes_when_those_before_it_are_read():
    server = Server()
    server.hear(part(b"a" * 1000, TEXT | FIN))
    server.hear(part(b"b" * 40_000))
    first = await server.stream.receive()
    assert first is not None
    granted = server.machine._streams[1].granted
    server.stream.done(first)
    assert server.machine._streams[1].granted >= granted + 40_000
    for _ in range(4):
        server.hear(part(b"b" * 40_000))
    server.hear(LAST)
    second = await server.stream.receive()
    assert second is not None
    assert second.payload == b"b" * 200_000
    server.stream.done(second)
    stream = server.machine._streams[1]
    assert stream.consumed == stream.received


async def test_a_message_in_slivers_takes_no_more_than_its_bytes():
    server = Server()
    for _ in range(200):
        server.hear(*[part(b"x")] * 100, *[part(b"")] * 100)
    assert server.kept == 20_000
    assert sys.getsizeof(server.stream._begun) < 2 * 20_000
    server.hear(LAST)
    message = await server.stream.receive()
    assert message is not None
    assert message.payload == b"x" * 20_000


async def test_what_is_too_large_is_not_kept():
    server = Server()
    server.stream.max_message_size = 10_000
    reading = asyncio.ensure_future(server.stream.receive())
    await asyncio.sleep(0)
    with pytest.raises(TunnelError, match="credit"):
        server.hear_no_end(part(b"x" * 3000))
    with pytest.raises(MessageTooLargeError):
        await reading
    assert server.kept == 0
