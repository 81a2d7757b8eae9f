"""A TCP server that says what a test wants, and keeps what it heard. With TLS where it is given a context."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

Conversation = Callable[["Talker", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Talker:
    """``port`` is where it listens; ``heard`` all bytes that came, after the TLS."""

    port: int = 0
    heard: bytearray = field(default_factory=bytearray)
    connections: int = 0

    @property
    def text(self) -> str:
        return self.heard.decode("latin-1")

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """The head of a request, and its body if it says how long that is."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heard += head
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                body = await reader.readexactly(int(line.partition(b":")[2]))
                self.heard += body
                head += body
        return head


def answer(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def saying(*answers: bytes) -> Conversation:
    """Each request is given the next of these answers, the last one again and again."""
    left = list(answers)

    async def talk(
        talker: Talker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            await talker.request(reader)
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            await writer.drain()

    return talk


@asynccontextmanager
async def talking(
    conversation: Conversation,
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    path: Path | None = None,
) -> AsyncIterator[Talker]:
    """Run one for the length of a block, on a free port of ``host``, or on a unix socket."""
    talker = Talker()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talker.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await conversation(talker, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    if path is not None:
        server: asyncio.Server = await asyncio.start_unix_server(connected, str(path))
    else:
        server = await asyncio.start_server(connected, host, 0, ssl=tls)
        talker.port = server.sockets[0].getsockname()[1]
    try:
        yield talker
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports' own end
