"""A websocket client on a bare blocking socket, so that what is measured is the server.

It knows just enough of RFC 6455 to shake hands, to recognise a close frame and to close.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

TIMEOUT = 30.0
"""Seconds for any single answer."""

_OPCODE_CLOSE = 0x8


class AnswerError(Exception):
    """The server answered something else than was asked for."""


@dataclass(frozen=True)
class Answer:
    """How a handshake ended, as the client learned it.

    Attributes:
        status: of the HTTP answer.
        subprotocol: that it named, "" if none.
        close_code: of the close frame that followed; None if none was awaited.
        nanoseconds: from before the TCP connection to the last byte that was needed to know.
    """

    status: int
    subprotocol: str
    close_code: int | None
    nanoseconds: int


def request_json(port: int, method: str, path: str, token: str, body: object = None) -> Any:
    """Ask the REST API of the server on *port*; return the JSON of the answer.

    Raises:
        AnswerError: it was no success.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        headers = {"Authorization": f"token {token}"} if token else {}
        text = None if body is None else json.dumps(body)
        connection.request(method, path, body=text, headers=headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status >= 300:
        raise AnswerError(f"{method} {path}: {response.status}")
    return json.loads(content) if content else None


class Socket:
    """One connection: opens on entry, closes on exit.

    Args:
        port: of the server, on 127.0.0.1.
        path: of the websocket.
        token: to send as Authorization header; "" for none.
        subprotocols: to offer, in order.
        await_close: an answer 101 is expected to be followed by a close frame at once, and the
            time until that frame counts.

    Attributes:
        socket: what it speaks through.
        buffer: what came and was not looked at.
    """

    def __init__(
        self,
        port: int,
        path: str,
        token: str = "",
        subprotocols: Sequence[str] = (),
        *,
        await_close: bool = False,
    ) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
        ]
        if token:
            lines.append(f"Authorization: token {token}")
        if subprotocols:
            lines.append(f"Sec-WebSocket-Protocol: {', '.join(subprotocols)}")
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._address = ("127.0.0.1", port)
        self._await_close = await_close
        self.socket = socket.socket()
        self.buffer = b""

    def __enter__(self) -> Answer:
        """Shake hands.

        Raises:
            AnswerError: the connection ended before the answer.
        """
        begun = time.perf_counter_ns()
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(self._address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(self._request)
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        accepted = self.buffer.startswith(b"HTTP/1.1 101")
        header, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        close_code = self._receive_close() if accepted and self._await_close else None
        ended = time.perf_counter_ns()
        self._accepted = accepted and close_code is None
        lines = header.decode("latin-1").split("\r\n")
        named = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        subprotocol = named.get("sec-websocket-protocol", "")
        return Answer(int(lines[0].split()[1]), subprotocol, close_code, ended - begun)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close in good order; wait until the server has let go, so that it is idle again."""
        try:
            if kind is None:
                self._finish()
        finally:
            self.socket.close()

    def _finish(self) -> None:
        if self._accepted or self._await_close:
            # A close frame with code 1000, masked with zeros.
            self.socket.sendall(struct.pack("!BB4xH", 0x80 | _OPCODE_CLOSE, 0x80 | 2, 1000))
        self.socket.shutdown(socket.SHUT_WR)
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass  # a refusal may be cut off

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise AnswerError("the server hung up before it answered")
        self.buffer += data

    def _receive_close(self) -> int:
        """Read frames up to a close frame; return its code."""
        while True:
            opcode, payload = self._receive_frame()
            if opcode == _OPCODE_CLOSE:
                return int(struct.unpack("!H", payload[:2])[0]) if payload else 1005

    def _receive_frame(self) -> tuple[int, bytes]:
        head = self._take(2)
        length = head[1] & 0x7F
        if length == 126:
            length = struct.unpack("!H", self._take(2))[0]
        elif length == 127:
            length = struct.unpack("!Q", self._take(8))[0]
        return head[0] & 0x0F, self._take(length)

    def _take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._receive()
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken
