"""Clients at addresses of this machine that try tokens at a server, by REST and by websocket."""

from __future__ import annotations

import asyncio
from collections import Counter

TIMEOUT = 60.0
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


async def _status(port: int, source: str, lines: list[str]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        writer.write("\r\n".join([*lines, f"Host: 127.0.0.1:{port}", "", ""]).encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
        return int(head.split(b" ", 2)[1])
    finally:
        writer.transport.abort()


async def by_rest(port: int, source: str, token: str) -> int:
    """The status of a request with a token."""
    return await _status(port, source, ["GET /api/me HTTP/1.1", f"Authorization: token {token}"])


async def by_socket(port: int, source: str, token: str) -> int:
    """The status of a handshake with a token."""
    lines = [
        "GET /api/events/subscribe HTTP/1.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        f"Sec-WebSocket-Protocol: v1.token.websocket.jupyter.org.{token}",
    ]
    return await _status(port, source, lines)


async def guess(port: int, source: str, n: int) -> int:
    """One wrong token of its own, by either way."""
    return await (by_rest, by_socket)[n % 2](port, source, f"guess-{n}")


async def _guess_at(port: int, source: str, rate: float, seconds: float) -> Counter[int]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    begun = []
    for n in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + n / rate - loop.time()))
        begun.append(asyncio.ensure_future(guess(port, source, n)))
    return Counter(await asyncio.gather(*begun))


def guess_at(port: int, source: str, rate: float, seconds: float) -> Counter[int]:
    """Guess so many times a second for so long; how often each status was the answer.

    For a process of its own, so that whoever takes the time of others is not in their way.
    """
    return asyncio.run(_guess_at(port, source, rate, seconds))
