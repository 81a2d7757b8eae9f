"""A client of a kernel, cheap enough that what is measured is the server."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from benchmarks import client
from jupyter_token_ws.protocol.subprotocols import KERNEL

if TYPE_CHECKING:
    from typing_extensions import Self

    from benchmarks.servers import Server

HEAD = 1024
"""Bytes of a message that are looked at, where not all of it is wanted."""

PORTION = 2**14
"""Bytes read at a time then: many small messages, and little of a large one."""

_CLOSE = 0x8

Message = tuple[int, bytes]
"""Bytes of a message, and its beginning."""


def make_request(kind: str, code: str = "", *, v1: bool = True) -> tuple[bytes, bytes]:
    """The id of a request on the shell channel, and the request."""
    message_id = os.urandom(8).hex()
    header = {
        "msg_id": message_id,
        "msg_type": kind,
        "session": message_id,
        "username": "",
        "date": "2026-01-01T00:00:00Z",
        "version": "5.3",
    }
    content: dict[str, Any] = {}
    if kind == "execute_request":
        content = {"code": code, "silent": False, "store_history": False}
        content |= {"user_expressions": {}, "allow_stdin": False, "stop_on_error": False}
    parts = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
    if v1:
        blobs = [b"shell", *(json.dumps(part).encode() for part in parts.values())]
        offsets = [8 * (len(blobs) + 2)]
        for blob in blobs:
            offsets.append(offsets[-1] + len(blob))
        payload = struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets)
        payload += b"".join(blobs)
    else:
        payload = json.dumps({"channel": "shell", "buffers": [], **parts}).encode()
    return message_id.encode(), payload


class Channels:
    """A kernel's socket: connects on entry.

    Args:
        server: where it is.
        kernel_id: which kernel.
        v1: whether to speak the newer format.
        whole: keep messages in full and not their beginnings only.
    """

    def __init__(
        self, server: Server, kernel_id: str, *, v1: bool = True, whole: bool = False
    ) -> None:
        path = f"/api/kernels/{kernel_id}/channels?session_id={os.urandom(8).hex()}"
        self._connection = client.Socket(server.port, path, server.token, [KERNEL] if v1 else [])
        self._socket = self._connection.socket
        self._v1 = v1
        self._keep, self._portion = (2**62, 2**20) if whole else (HEAD, PORTION)
        self._buffer = bytearray()
        self._scratch = bytearray(2**20)
        self._left = 0
        self._large: Message = (0, b"")

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            client.AnswerError: the server does not want us.
        """
        answer = self._connection.__enter__()
        if answer.status != 101:
            raise client.AnswerError(f"the server answered {answer.status}")
        self._buffer += self._connection.buffer
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.__exit__(kind, error, trace)

    def abandon(self) -> None:
        """Hang up without a word."""
        self._socket.close()

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def ask(self, kind: str, code: str = "") -> bytes:
        """Send a request on the shell channel; return its id."""
        message_id, payload = make_request(kind, code, v1=self._v1)
        # Longer than 125 bytes, and masked with zeros.
        head = struct.pack("!BBH4x", 0x82 if self._v1 else 0x81, 0x80 | 126, len(payload))
        self._socket.sendall(head + payload)
        return message_id

    def read(self) -> list[Message]:
        """The messages that are complete with what the socket has; waits until it has something."""
        if self._left:
            # The rest of a large one is thrown away, by the operating system if it can (tcp(7),
            # MSG_TRUNC): copying it takes longer than the server.
            wanted = min(self._left, len(self._scratch))
            got = self._socket.recv_into(self._scratch, wanted, socket.MSG_TRUNC)
            self._check(got)
            self._left -= got
            return [] if self._left else [self._large]
        data = self._buffer
        received = self._socket.recv(self._portion)
        self._check(len(received))
        data += received
        messages, at, end = [], 0, len(data)
        while end - at >= 4:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                if end - at < 10:
                    break
                size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if start + size > end:
                if end - start > self._keep:
                    self._left = start + size - end
                    self._large = (size, bytes(data[start : start + self._keep]))
                    at = end
                break
            if data[at] & 0x0F == _CLOSE:
                raise client.AnswerError("the server closed")
            at = start + size
            messages.append((size, bytes(data[start : min(at, start + self._keep)])))
        del data[:at]
        return messages

    @staticmethod
    def _check(received: int) -> None:
        if not received:
            raise client.AnswerError("the server hung up")

    def messages(self, patience: float = client.TIMEOUT) -> Iterator[Message]:
        """What comes, until nothing comes for *patience* seconds.

        Raises:
            TimeoutError: then.
        """
        self._socket.settimeout(patience)
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
