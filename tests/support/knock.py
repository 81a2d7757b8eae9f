"""A websocket client that sends exactly what a test tells it and reports everything that came back.

Real clients hide what matters here: the status of a refusal, the headers of a 101, a bad handshake.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from jupyter_token_ws.protocol.subprotocols import MARKER

if TYPE_CHECKING:
    from typing_extensions import Self

TIMEOUT = 40.0
"""Seconds after which a silent server, or a kernel of its, is a failed test. A kernel that starts beside
much else takes long."""


def bearing(token: str) -> str:
    """The token-bearing entry for a token that needs no encoding."""
    return f"{MARKER}.{token}"


@dataclass
class Knock:
    """One handshake and the socket behind it.

    ``status`` is the HTTP status (101 when accepted), ``headers`` the answer's headers in lower case,
    ``subprotocol`` what was answered, ``code`` and ``reason`` those of the close frame when one came.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int = 0
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    code: int | None = None
    reason: str = ""
    messages: list[str | bytes] = field(default_factory=list)
    pings: int = 0

    @property
    def subprotocol(self) -> str | None:
        values = self.headers.get("sec-websocket-protocol")
        return values[0] if values else None

    @property
    def slug(self) -> str:
        """The slug of the close reason, empty without one."""
        return self.reason.partition(":")[0].partition(";")[0]

    @property
    def set_cookies(self) -> list[str]:
        return self.headers.get("set-cookie", [])

    async def send(
        self, data: str | bytes = b"", opcode: int | None = None, fin: bool = True
    ) -> None:
        """Send one masked frame; text or binary by the type of ``data`` unless ``opcode`` says."""
        payload = data.encode() if isinstance(data, str) else data
        code = (1 if isinstance(data, str) else 2) if opcode is None else opcode
        head = bytes([(0x80 if fin else 0) | code])
        if len(payload) < 126:
            head += bytes([0x80 | len(payload)])
        elif len(payload) < 65536:
            head += struct.pack("!BH", 0x80 | 126, len(payload))
        else:
            head += struct.pack("!BQ", 0x80 | 127, len(payload))
        mask = os.urandom(4)
        length = len(payload)
        whole = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
        masked = (int.from_bytes(payload, "big") ^ whole).to_bytes(length, "big")
        self.writer.write(head + mask + masked)
        await self.writer.drain()

    async def read_frame(self) -> tuple[int, bytes] | None:
        """One frame as (opcode, payload); ``None`` at the end of the connection."""
        try:
            head = await self.reader.readexactly(2)
            length = head[1] & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return head[0] & 0x0F, await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def wait_closed(self, *, answer: bool = True, pong: bool = True) -> Knock:
        """Read until a close frame or the end of the connection, keeping messages.

        ``answer`` echoes the close frame, ``pong`` answers pings.
        """

        async def read_all() -> None:
            while (frame := await self.read_frame()) is not None:
                opcode, payload = frame
                if opcode == 8:
                    if len(payload) >= 2:
                        (self.code,) = struct.unpack("!H", payload[:2])
                    self.reason = payload[2:].decode()
                    if answer:
                        await self.send(payload[:2], opcode=8)
                    return
                if opcode == 9:
                    self.pings += 1
                    if pong:
                        await self.send(payload, opcode=10)
                elif opcode in (1, 2):
                    self.messages.append(payload.decode() if opcode == 1 else payload)

        await asyncio.wait_for(read_all(), TIMEOUT)
        return self

    async def wait_message(self) -> str | bytes:
        """The next text or binary message; pings are answered. Fails if the connection ends first."""

        async def read_one() -> str | bytes:
            while (frame := await self.read_frame()) is not None:
                opcode, payload = frame
                if opcode in (1, 2):
                    return payload.decode() if opcode == 1 else payload
                if opcode == 9:
                    self.pings += 1
                    await self.send(payload, opcode=10)
                if opcode == 8:
                    break
            raise AssertionError("closed before a message came")

        return await asyncio.wait_for(read_one(), TIMEOUT)

    async def at_end(self) -> bool:
        """Whether the server ends the TCP connection (within ``TIMEOUT``)."""
        return await asyncio.wait_for(self.reader.read(), TIMEOUT) == b""

    def vanish(self) -> None:
        """Cut the connection without a close frame."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """Leave; a close frame first where the socket is open."""
        if self.status == 101 and self.code is None and not self.writer.is_closing():
            await self.send(struct.pack("!H", 1000), opcode=8)
        self.writer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if not self.writer.is_closing():
            self.writer.transport.abort()


async def knock(
    port: int,
    path: str,
    offer: list[str] | str | None = None,
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    drop: tuple[str, ...] = (),
    host: str = "127.0.0.1",
) -> Knock:
    """One handshake. ``offer`` is the list of subprotocols, ``headers`` add or replace, ``drop`` leaves
    out headers of the ordinary handshake by name."""
    lines = {
        "Host": f"{host}:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
    }
    for name in drop:
        del lines[name]
    if offer is not None:
        lines["Sec-WebSocket-Protocol"] = offer if isinstance(offer, str) else ", ".join(offer)
    lines.update(headers or {})
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    return await knock_raw(port, head.encode("latin-1") + b"\r\n")


async def knock_raw(port: int, data: bytes) -> Knock:
    """Send raw bytes and read the answer's head, and its body where it is no 101."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    result = Knock(reader, writer)
    writer.write(data)
    await writer.drain()
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
    except (asyncio.IncompleteReadError, ConnectionError):
        return result  # the server ended the connection without an answer: status stays 0
    first, *rest = head.decode("latin-1").split("\r\n")
    result.status = int(first.split(" ")[1])
    for line in filter(None, rest):
        name, _, value = line.partition(":")
        result.headers.setdefault(name.lower(), []).append(value.strip())
    length = int(result.headers.get("content-length", ["0"])[0])
    if result.status != 101 and length:
        result.body = await asyncio.wait_for(reader.readexactly(length), TIMEOUT)
    return result


async def refused(
    port: int,
    path: str,
    offer: list[str] | str | None = None,
    headers: dict[str, str] | None = None,
    **options: object,
) -> Knock:
    """A handshake whose socket, where one opens, is read until it is closed."""
    result = await knock(port, path, offer, headers, **options)  # type: ignore[arg-type]
    if result.status == 101:
        await result.wait_closed()
    result.writer.close()
    return result
