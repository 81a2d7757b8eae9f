"""A client of a tunnel, as cheap as `channels`: its streams that are sockets of kernels."""

from __future__ import annotations

import binascii
import os
import socket
import struct
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from benchmarks import client
from benchmarks.channels import HEAD, Message, make_request
from jupyter_token_ws.protocol.subprotocols import KERNEL, TUNNEL
from jupyter_token_ws.protocol.tunnel import Attached, Closed, Data, Event, Opened, Side, Tunnel

if TYPE_CHECKING:
    from typing_extensions import Self

    from benchmarks.servers import Server

PATH = "/api/token-ws/tunnel"

WINDOW = 1024 * 1024
"""Bytes that a stream may be sent before they are read: less than what the buffers of a socket on one machine
hold for the plain one. Of what waits in the backlog the server would make fewer messages."""

_NUMBER = struct.Struct(">Q")
_BINARY, _CLOSE = 0x2, 0x8


class Carrier:
    """A tunnel: connects on entry."""

    def __init__(self) -> None:
        self.machine = Tunnel(Side.CLIENT, stream_window=WINDOW, tunnel_window=4 * WINDOW)
        self._identity = ""

    def __enter__(self) -> Self:
        """Connect, and wait for the server's first words.

        Raises:
            client.AnswerError: the server does not want us.
        """
        self._connect()
        while not any(type(event) is Attached for event in self.read()):
            pass
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.machine.close_tunnel()
            self.flush()
        self._leave(kind)

    def _connect(self) -> None:
        raise NotImplementedError

    def _leave(self, kind: type[BaseException] | None) -> None:
        raise NotImplementedError

    def _send(self, first: int, data: bytes) -> None:
        raise NotImplementedError

    def _receive(self) -> None:
        """Wait until the socket has something, and give the machine what is complete."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send what is to be sent."""
        while (batch := self.machine.take()) is not None:
            self._send(*batch)

    def read(self) -> list[Event]:
        """What happened by what came; waits until something comes, which may be of no interest.

        Raises:
            client.AnswerError: the connection ended.
        """
        self._receive()
        events = self.machine.events()
        taken: dict[int, int] = {}
        for event in events:
            if type(event) is Data:
                taken[event.stream] = taken.get(event.stream, 0) + event.size
            elif type(event) is Attached:
                self._identity = str(event.hello["tunnel"])
        for stream, size in taken.items():
            self.machine.consumed(stream, size)
        self.flush()
        return events


class WebSocketCarrier(Carrier):
    """A tunnel over a websocket.

    Args:
        server: where it is.
    """

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._connection = client.Socket(server.port, PATH, server.token, [TUNNEL])
        self._socket = self._connection.socket
        self._buffer = bytearray()
        self._fresh = True  # what came with the handshake was not looked at

    def _connect(self) -> None:
        answer = self._connection.__enter__()
        if answer.status != 101:
            raise client.AnswerError(f"the server answered {answer.status}")
        self._buffer += self._connection.buffer

    def _leave(self, kind: type[BaseException] | None) -> None:
        self._connection.__exit__(kind, None, None)

    def abandon(self) -> None:
        """Hang up without a word."""
        self._socket.close()

    def _send(self, first: int, data: bytes) -> None:
        payload = _NUMBER.pack(first) + data
        size = len(payload)
        # Masked with zeros.
        if size < 126:
            head = struct.pack("!BB4x", 0x80 | _BINARY, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH4x", 0x80 | _BINARY, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ4x", 0x80 | _BINARY, 0x80 | 127, size)
        self._socket.sendall(head + payload)

    def _receive(self) -> None:
        data = self._buffer
        if self._fresh:
            self._fresh = False
        else:
            data += receive(self._socket)
        at, end = 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                if end - at < 4:
                    break
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                if end - at < 10:
                    break
                size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if start + size > end:
                break
            opcode = data[at] & 0x0F
            at = start + size
            if opcode == _CLOSE:
                raise client.AnswerError("the server closed")
            if opcode == _BINARY:
                first = _NUMBER.unpack_from(data, start)[0]
                self.machine.receive(first, bytes(memoryview(data)[start + 8 : at]))
        del data[:at]


class EventStreamCarrier(Carrier):
    """A tunnel over an event stream, whose ``POST`` go over a second connection, one after the other.

    Args:
        server: where it is.
    """

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._events, self._posts = socket.socket(), socket.socket()
        self._buffer = bytearray()
        self._text = bytearray()
        self._asked = False  # a POST whose answer was not read

    def _head(self, first: str, *lines: str) -> bytes:
        own = [f"Host: 127.0.0.1:{self._server.port}", f"Authorization: token {self._server.token}"]
        return "\r\n".join([f"{first} HTTP/1.1", *own, *lines, "", ""]).encode()

    def _connect(self) -> None:
        for each in (self._events, self._posts):
            each.settimeout(client.TIMEOUT)
            each.connect(("127.0.0.1", self._server.port))
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._events.sendall(self._head(f"GET {PATH}"))
        data = self._buffer
        while b"\r\n\r\n" not in data:
            data += receive(self._events)
        head, _, rest = bytes(data).partition(b"\r\n\r\n")
        if b" 200 " not in head:
            raise client.AnswerError(head.decode())
        data[:] = rest

    def _leave(self, kind: type[BaseException] | None) -> None:
        if kind is None:
            self._await_answer()
            self._events.shutdown(socket.SHUT_WR)
            while self._events.recv(65536):
                pass
        self._events.close()
        self._posts.close()

    def _send(self, first: int, data: bytes) -> None:
        self._await_answer()
        frames = binascii.b2a_base64(data, newline=False)
        body = b'{"first":%d,"frames":"%b"}' % (first, frames)
        lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        self._posts.sendall(self._head(f"POST {PATH}/{self._identity}", *lines) + body)
        self._asked = True

    def _await_answer(self) -> None:
        if not self._asked:
            return
        self._asked = False
        answer = b""
        while b"}" not in answer:  # a small JSON object, and all of it
            answer += receive(self._posts)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise client.AnswerError(answer.decode())

    def _receive(self) -> None:
        data, text = self._buffer, self._text
        if not self._dechunk():
            data += receive(self._events)
            self._dechunk()
        at = 0
        while (end := text.find(b"\n\n", at)) >= 0:
            event = memoryview(text)[at:end]
            at = end + 2
            first = bytes(event[:40]).partition(b"\ndata: ")[0]
            if first.startswith(b"id: "):
                begin = len(first) + len(b"\ndata: ")
                self.machine.receive(int(first[4:]), binascii.a2b_base64(event[begin:]))
            event.release()
        del text[:at]

    def _dechunk(self) -> bool:
        """Take the chunks out of what came (RFC 9112 section 7.1); whether there was one."""
        data, at = self._buffer, 0
        while (line := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:line], 16)
            if not size:
                raise client.AnswerError("the server ended the events")
            end = line + 2 + size
            if end + 2 > len(data):
                break
            self._text += memoryview(data)[line + 2 : end]
            at = end + 2
        del data[:at]
        return at > 0


def receive(connection: socket.socket) -> bytes:
    """What a connection has; waits for that.

    Raises:
        client.AnswerError: it ended.
    """
    received = connection.recv(2**18)
    if not received:
        raise client.AnswerError("the server hung up")
    return received


class StreamChannels:
    """A kernel's socket, over a tunnel of its own: opens on entry.

    Args:
        carrier: of the tunnel.
        kernel_id: which kernel.
        v1: whether to speak the newer format.
    """

    def __init__(self, carrier: Carrier, kernel_id: str, *, v1: bool = True) -> None:
        self._carrier = carrier
        self._path = f"api/kernels/{kernel_id}/channels?session_id={os.urandom(8).hex()}"
        self._v1 = v1
        self._size = 0  # of the fragments of a message
        self._head = b""

    def __enter__(self) -> Self:
        """Open.

        Raises:
            client.AnswerError: the server does not want us.
        """
        self._carrier.__enter__()
        self.open()
        return self

    def open(self) -> None:
        """Open, on a tunnel that is there."""
        carrier = self._carrier
        self._number = carrier.machine.open(self._path, [KERNEL] if self._v1 else [])
        carrier.flush()
        while not any(type(event) is Opened for event in carrier.read()):
            pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        carrier = self._carrier
        if kind is None:
            # In good order, or the server would keep for it what is said from here on.
            carrier.machine.close(self._number, 1000)
            carrier.flush()
            while not any(type(event) is Closed for event in carrier.read()):
                pass
        carrier.__exit__(kind, error, trace)

    def ask(self, kind: str, code: str = "") -> bytes:
        """Send a request on the shell channel; return its id."""
        message_id, payload = make_request(kind, code, v1=self._v1)
        self._carrier.machine.send(self._number, payload, text=not self._v1)
        self._carrier.flush()
        return message_id

    def read(self) -> list[Message]:
        """The messages that are complete with what the socket has; waits until it has something."""
        messages = []
        for event in self._carrier.read():
            if type(event) is Data:
                payload = event.payload
                if event.last and not self._size:
                    messages.append((len(payload), payload[:HEAD]))
                    continue
                if not self._size:
                    self._head = payload[:HEAD]
                self._size += len(payload)
                if event.last:
                    messages.append((self._size, self._head))
                    self._size = 0
            elif type(event) is Closed:
                raise client.AnswerError(f"the server closed: {event.code} {event.reason}")
        return messages

    def messages(self) -> Iterator[Message]:
        """What comes."""
        while True:
            yield from self.read()

    def until(self, message_id: bytes, what: bytes) -> int:
        """Read until a message about a request has this in it; return nanoseconds of the clock."""
        while True:
            for _, message in self.read():
                if what in message and message_id in message:
                    return time.perf_counter_ns()

    def settle(self) -> None:
        """Wait until the kernel answers here."""
        self.until(self.ask("kernel_info_request"), b'"idle"')
