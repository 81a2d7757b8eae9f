"""What the bridge writes to, and that for a plain websocket of tornado's.

Frames of one wake-up are written at once, past ``write_message``: it would make a task for each. While
nothing waits in the connection's stream they go to the operating system from where they lie; what that
does not take goes the stream's way, as everything does where it encrypts. Where tornado compresses, or
something else stands for its protocol, messages go through ``write_message``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from socket import socket
from typing import Any, Protocol

from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketHandler, WebSocketProtocol13

from jupyter_token_ws.guard.keeping import Keeping
from jupyter_token_ws.protocol.kernel_messages import WireError

from .wire import Batch, Message, Wire, frames

HIGH = 1024 * 1024
"""Bytes that may lie in a connection's buffer before the backlog takes what comes."""


class Outlet(Protocol):
    """One connection to a client."""

    high: int
    """Bytes that it has not let go of from which on it is to be given no more."""

    @property
    def closed(self) -> bool:
        """Whether nothing more gets out."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that were sent here and have not left."""

    def send(self, batch: Batch) -> asyncio.Future[None] | None:
        """Write messages; the future tells when they have left, ``None`` that they have."""

    def unsent(self) -> list[Message]:
        """The messages that have not left in full, oldest first."""


class SocketOutlet:
    """A websocket, by its connection's stream.

    Args:
        handler: of an open websocket.
        wire: the format that its client speaks.
    """

    high = HIGH

    def __init__(self, handler: WebSocketHandler, wire: Wire) -> None:
        self.wire = wire
        connection: Any = handler.ws_connection
        self._connection = connection
        stream: Any = connection.stream
        self._stream = stream
        gathers = type(stream) is IOStream and hasattr(stream.socket, "sendmsg")  # not on Windows
        self._socket: socket | None = stream.socket if gathers else None
        self._past = 0  # bytes that the stream knows nothing of
        self._waiting: deque[tuple[int, Batch]] = deque()
        # Nagle's algorithm would keep each small message until the one before is acknowledged.
        with suppress(OSError):
            stream.set_nodelay(True)

    @staticmethod
    def fits(handler: WebSocketHandler) -> bool:
        """Whether frames may be written to this socket's stream as they are."""
        connection: Any = handler.ws_connection
        return type(connection) is WebSocketProtocol13 and connection._compressor is None

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return bool(self._stream.closed() or self._connection.is_closing())

    @property
    def unsent_bytes(self) -> int:
        """Bytes in the stream's buffer."""
        return int(self._stream._total_write_index - self._stream._total_write_done_index)

    @property
    def _done(self) -> int:
        """Bytes that have left, of all."""
        return int(self._stream._total_write_done_index) + self._past

    def send(self, batch: Batch) -> asyncio.Future[None] | None:
        """Write messages."""
        stream = self._stream
        chunks: Sequence[bytes | memoryview] = batch.chunks(self.wire)
        end = self._done + self.unsent_bytes + sum(map(len, chunks))
        future: asyncio.Future[None] | None = None
        if not self.closed:
            if self._socket is not None and not stream.writing():
                chunks = self._send_now(self._socket, chunks)
            with suppress(StreamClosedError):
                for chunk in chunks:
                    future = stream.write(chunk)
        done = self._done
        while self._waiting and self._waiting[0][0] <= done:
            self._waiting.popleft()
        if done >= end:
            return None
        self._waiting.append((end, batch))
        return future

    def _send_now(
        self, connection: socket, chunks: Sequence[bytes | memoryview]
    ) -> Sequence[bytes | memoryview]:
        """Hand over what the operating system takes at once; return what is left."""
        try:
            sent = connection.sendmsg(chunks)
        except OSError:  # it is full, or broken, or these are too many: the stream finds out
            return chunks
        self._past += sent
        for index, chunk in enumerate(chunks):
            if sent < len(chunk):
                return [memoryview(chunk)[sent:], *chunks[index + 1 :]]
            sent -= len(chunk)
        return []

    def unsent(self) -> list[Message]:
        """The messages of which the operating system has not taken all. A frame that it has in part
        is of no use to anybody."""
        left: list[Message] = []
        done = self._done
        for end, batch in self._waiting:
            lengths = [sum(map(len, frames(self.wire, [each]))) for each in batch.messages]
            at = end - sum(lengths)
            for message, length in zip(batch.messages, lengths, strict=True):
                at += length
                if at > done:
                    left.append(message)
        return left


class KeepingOutlet:
    """A connection that keeps what was sent, as a stream of a tunnel does: its client need not lose even what
    was on the way. What it has no room for waits here to the end of its batch, and in the backlog.

    Args:
        connection: that stands for tornado's protocol, of an open websocket.
        wire: the format that its client speaks.
    """

    high = 1

    def __init__(self, connection: Keeping, wire: Wire) -> None:
        self.wire = wire
        self._connection: Any = connection
        self._waiting: deque[tuple[bool, list[bytes]]] = deque()
        self._under_way = 0  # bytes of a message that waits for room, and may have gone in part
        self._sent: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return bool(self._connection.is_closing())

    @property
    def unsent_bytes(self) -> int:
        """Bytes for which there was no room."""
        return self._under_way + sum(sum(map(len, payloads)) for _, payloads in self._waiting)

    def send(self, batch: Batch) -> asyncio.Future[None] | None:
        """Write messages."""
        self._waiting += batch.payloads(self.wire)
        if not self._under_way:
            self._go_on()
        if not self._waiting and not self._under_way:
            return None
        if self._sent is None:
            self._sent = asyncio.get_running_loop().create_future()
        return self._sent

    def _go_on(self) -> None:
        """Send what there is room for. What there is none for, or is too long to go at once, goes by itself,
        as room comes."""
        waiting, connection = self._waiting, self._connection
        while waiting and not self._under_way:
            text, payloads = waiting[0]
            try:
                count = connection.send_small(payloads, text=text)
                if not count:
                    count, sent = 1, connection.send_long(payloads[0], text=text)
                    if not sent.done():
                        self._under_way = len(payloads[0])
                        sent.add_done_callback(self._went)
            except ConnectionError:
                return  # it is gone
            waiting.popleft()
            if count < len(payloads):
                waiting.appendleft((text, payloads[count:]))

    def _went(self, future: asyncio.Future[None]) -> None:
        if future.exception() is not None:
            return  # it is gone
        self._under_way = 0
        self._go_on()
        if self._sent is not None and not self._waiting and not self._under_way:
            self._sent.set_result(None)
            self._sent = None

    def unsent(self) -> list[Message]:
        """The messages that the client has not said to have."""
        waiting = [(payload, text) for text, payloads in self._waiting for payload in payloads]
        left: list[Message] = []
        for payload, text in [*self._connection.unacknowledged(), *waiting]:
            with suppress(WireError):  # that no client could have read either
                left.append(self.wire.read_back(payload, text))
        return left


class MessageOutlet:
    """A websocket by ``write_message``, for compression and for protocols that are not tornado's own."""

    high = HIGH

    def __init__(self, handler: WebSocketHandler, wire: Wire) -> None:
        self.wire = wire
        self._handler = handler
        self._waiting: deque[tuple[asyncio.Future[None] | None, Message]] = deque()
        self.unsent_bytes = 0
        with suppress(Exception):  # not every protocol has a socket to set it on
            handler.set_nodelay(True)

    @property
    def closed(self) -> bool:
        """Whether the connection is closed, or about to be."""
        connection: Any = self._handler.ws_connection
        return connection is None or bool(connection.is_closing())

    def send(self, batch: Batch) -> asyncio.Future[None] | None:
        """Write messages."""
        last: asyncio.Future[None] | None = None
        for message in batch.messages:
            opcode, pieces = self.wire.payload(message)
            try:
                written = self._handler.write_message(b"".join(pieces), binary=opcode == 2)
            except WebSocketClosedError:
                self._waiting.append((None, message))
                continue
            last = asyncio.ensure_future(written)
            self.unsent_bytes += message.size
            self._waiting.append((last, message))
            last.add_done_callback(self._written)
        return last

    def _written(self, future: asyncio.Future[None]) -> None:
        if future.cancelled() or future.exception() is not None:
            return  # the connection is gone, and what waits here did not get out
        while self._waiting:
            first, message = self._waiting[0]
            if first is None or not first.done() or first.exception() is not None:
                return
            self._waiting.popleft()
            self.unsent_bytes -= message.size

    def unsent(self) -> list[Message]:
        """The messages that have not left."""
        return [message for _, message in self._waiting]


def outlet_for(handler: WebSocketHandler, wire: Wire) -> Outlet:
    """The outlet of an open websocket."""
    if SocketOutlet.fits(handler):
        return SocketOutlet(handler, wire)
    connection: Any = handler.ws_connection
    if isinstance(connection, Keeping):
        return KeepingOutlet(connection, wire)
    return MessageOutlet(handler, wire)
