"""Clients at addresses of this machine that try tokens and passwords at a server, by every way there is."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

TIMEOUT = 60.0
HANDSHAKE = (
    "GET /api/events/subscribe HTTP/1.1",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
FORM = "application/x-www-form-urlencoded"

Way = Callable[[int, str, str], Awaitable[int]]
"""The status that the server at a port answers, who is asked from an address with a secret."""


async def _status(port: int, source: str, lines: list[str], body: str = "") -> int:
    if body:
        lines = [*lines, f"Content-Length: {len(body)}"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        head = "\r\n".join([*lines, f"Host: 127.0.0.1:{port}", "", ""])
        writer.write((head + body).encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
        return int(answer.split(b" ", 2)[1])
    finally:
        writer.transport.abort()


async def by_rest(port: int, source: str, token: str) -> int:
    """A request with a token."""
    return await _status(port, source, ["GET /api/me HTTP/1.1", f"Authorization: token {token}"])


async def by_url(port: int, source: str, token: str) -> int:
    """A request with a token in its URL."""
    return await _status(port, source, [f"GET /api/me?token={token} HTTP/1.1"])


async def by_subprotocol(port: int, source: str, token: str) -> int:
    """A handshake with a token as subprotocol."""
    offer = f"Sec-WebSocket-Protocol: v1.token.websocket.jupyter.org.{token}"
    return await _status(port, source, [*HANDSHAKE, offer])


async def by_handshake(port: int, source: str, token: str) -> int:
    """A handshake with a token in its header."""
    return await _status(port, source, [*HANDSHAKE, f"Authorization: token {token}"])


async def _log_in(port: int, source: str, name: str, secret: str) -> int:
    lines = ["POST /api/token-ws/login HTTP/1.1", "Content-Type: application/json"]
    return await _status(port, source, lines, json.dumps({name: secret, "max_age": 5}))


async def by_login(port: int, source: str, token: str) -> int:
    """A login with a token."""
    return await _log_in(port, source, "token", token)


async def by_password(port: int, source: str, password: str) -> int:
    """A login with a password."""
    return await _log_in(port, source, "password", password)


async def by_form(port: int, source: str, password: str) -> int:
    """jupyter_server's own login page."""
    lines = ["POST /login HTTP/1.1", f"Content-Type: {FORM}", "Cookie: _xsrf=x"]
    return await _status(port, source, lines, f"_xsrf=x&password={password}")


TOKENS: tuple[Way, ...] = (by_rest, by_url, by_subprotocol, by_handshake, by_login)
PASSWORDS: tuple[Way, ...] = (by_password, by_form)
ALL = (*TOKENS, *PASSWORDS)


@dataclass(frozen=True)
class Guesses:
    """How often each way was answered by each status, and in how many seconds all of them."""

    ends: Counter[tuple[str, int]]
    seconds: float

    def count(self, ways: tuple[Way, ...], *statuses: int) -> int:
        """How many guesses by these ways ended so."""
        names = [way.__name__ for way in ways]
        return sum(self.ends[name, status] for name in names for status in statuses)


async def _guess_at(port: int, source: str, rate: float, seconds: float) -> Guesses:
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def guess(n: int) -> tuple[str, int]:
        way = ALL[n % len(ALL)]
        return way.__name__, await way(port, source, f"guess-{n}")

    begun = []
    for n in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + n / rate - loop.time()))
        begun.append(asyncio.ensure_future(guess(n)))
    return Guesses(Counter(await asyncio.gather(*begun)), loop.time() - began)


def guess_at(port: int, source: str, rate: float, seconds: float) -> Guesses:
    """Guess so many times a second for so long, each time something else, in turn by each way.

    For a process of its own, so that whoever takes the time of others is not in their way.
    """
    return asyncio.run(_guess_at(port, source, rate, seconds))


async def timed(way: Way, port: int, source: str, secret: str) -> tuple[int, float]:
    """The answer, and the seconds until it came."""
    began = time.perf_counter()
    return await way(port, source, secret), time.perf_counter() - began
