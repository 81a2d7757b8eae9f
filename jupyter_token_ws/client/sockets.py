"""What a websocket looks like to who uses it, whatever carries it.

``PlainSocket`` is one connection of its own; ``tunnel.TunnelSocket`` is a stream of a tunnel.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed

from jupyter_token_ws.protocol.reasons import MAX_REASON_SIZE, Advice

from .errors import SocketClosedError, UnsupportedError, advice_of_close
from .transport import ClientConnection

if TYPE_CHECKING:
    from typing_extensions import Self

DONE = frozenset({1000, 1001, 1005})
"""Codes by which the other side says that it is done (RFC 6455 section 7.4.1; 1005: without any)."""

_MAY_SAY = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})

_FAILED = frozenset({1002, 1007, 1009})


class Socket(ABC):
    """An open websocket of a server. Messages are ``str`` (text) or ``bytes`` (binary).

    ``async for message in socket`` ends when the other side said that it is done, by a close with 1000 or
    1001, or by the end of its direction; it raises ``SocketClosedError`` when it was closed otherwise.
    """

    subprotocol: str | None
    """What the server chose of the offer, the markers left out."""
    close_code: int | None = None
    """Once closed: its code; 1006 for a lost connection."""
    close_text: str = ""
    """Once closed: the text of the close frame."""
    generation: int | None = None
    """Which credential it was opened with (``Grant.generation``), where that is known."""

    @property
    def advice(self) -> Advice | None:
        """Once closed: what to do next (contract section 3)."""
        if self.close_code is None:
            return None
        return advice_of_close(self.close_code, self.close_text)[0]

    @property
    def reason(self) -> str | None:
        """Once closed: the reason's slug, or the bare text where it is none of the table."""
        if self.close_code is None:
            return None
        return advice_of_close(self.close_code, self.close_text)[2] or self.close_text

    @property
    def retry_after(self) -> float | None:
        """Once closed: seconds to wait before the next try, where the server said so."""
        if self.close_code is None:
            return None
        return advice_of_close(self.close_code, self.close_text)[1]

    @abstractmethod
    async def send(self, message: str | bytes) -> None:
        """Send a message; waits while the way is full. Raises ``SocketClosedError``."""

    @abstractmethod
    async def send_eof(self) -> None:
        """Say that no more will be sent, and go on receiving. Only a tunnel's stream can: others raise
        ``UnsupportedError``."""

    @abstractmethod
    async def recv(self) -> str | bytes:
        """The next message. Raises ``SocketClosedError`` when there is none any more."""

    @abstractmethod
    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close; what was sent goes first. Closing again changes nothing.

        Raises ``ValueError`` for a code that no close frame may carry (RFC 6455 section 7.4)."""

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        while True:
            try:
                message = await self.recv()
            except SocketClosedError as error:
                if error.code in DONE:
                    return
                raise
            yield message

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _closed_error(self) -> SocketClosedError:
        code, text = self.close_code or 1006, self.close_text
        error = SocketClosedError(f"the websocket is closed: {code} {text}".rstrip(), code, text)
        error.generation = self.generation
        return error


def check_code(code: int) -> None:
    """Raises ``ValueError`` for what is no code of a close frame."""
    if code not in _MAY_SAY and not 3000 <= code <= 4999:
        raise ValueError(f"no close frame may carry {code}: 1000 says that all is done")


class PlainSocket(Socket):
    """A connection of its own.

    It is its own keepalive, both ways: after half of ``keepalive`` seconds in which nothing came it asks by a
    ping, and after all of it without an answer the connection counts as lost. While nobody reads, and so
    nothing can come, it is not judged; what still drains counts as a sign of life.
    """

    def __init__(
        self, connection: ClientConnection, subprotocol: str | None, keepalive: float
    ) -> None:
        self.subprotocol = subprotocol
        self._connection = connection
        self._keepalive = keepalive
        self._unsent = 0
        connection.heard = connection.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._pings: set[asyncio.Future[object]] = set()
        self._watch()

    async def send(self, message: str | bytes) -> None:
        """Send a message; waits while the connection takes no more. Raises ``SocketClosedError``."""
        try:
            await self._connection.send(message)
        except ConnectionClosed:
            raise self._over() from None

    async def send_eof(self) -> None:
        """Not to be had here (RFC 6455 has no half-close). Raises ``UnsupportedError``."""
        raise UnsupportedError(
            "a websocket of its own cannot say that no more will come: use a tunnel carrier"
        )

    async def recv(self) -> str | bytes:
        """The next message. Raises ``SocketClosedError`` when there is none any more."""
        try:
            return await self._connection.recv()
        except ConnectionClosed:
            raise self._over() from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, and wait until the other side has too, or five seconds. See ``Socket``."""
        check_code(code)
        self._stop()
        try:
            # Of a reason that is too long the beginning is told, as by a tunnel.
            told = reason.encode()[:MAX_REASON_SIZE].decode(errors="ignore")
            await self._connection.close(code, told)
        finally:
            self._connection.transport.abort()
        self._over()

    def _over(self) -> SocketClosedError:
        self._stop()
        if self.close_code is None:
            protocol = self._connection.protocol
            ended = protocol.close_rcvd
            if ended is None and protocol.close_sent is not None:
                # What we ended by ourselves, for what came, is not answered any more.
                ended = protocol.close_sent if protocol.close_sent.code in _FAILED else None
            self.close_code = 1006 if ended is None else int(ended.code)
            self.close_text = "" if ended is None else ended.reason
        return self._closed_error()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        connection = self._connection
        loop = connection.loop
        if connection.close_code is not None:
            self._timer = None
            return
        transport = connection.transport
        unsent = transport.get_write_buffer_size()
        if unsent < self._unsent or not transport.is_reading():
            connection.heard = loop.time()
        self._unsent = unsent
        silent = loop.time() - connection.heard
        if silent >= self._keepalive:
            transport.abort()
            self._timer = None
            return
        half = self._keepalive / 2
        if silent >= half:
            self._ask()
            wait = self._keepalive - silent
        else:
            wait = half - silent
        self._timer = loop.call_later(max(wait, 0.01), self._watch)

    def _ask(self) -> None:
        async def ask() -> None:
            with suppress(ConnectionClosed):
                await self._connection.ping()

        asking: asyncio.Future[object] = asyncio.ensure_future(ask())
        self._pings.add(asking)
        asking.add_done_callback(self._pings.discard)
