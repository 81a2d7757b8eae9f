"""The other end of a tunnel in memory: a client of the state machine, without a carrier between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application

from jupyter_token_ws.protocol.tunnel import Closed, Data, Ended, Opened, Side, Tunnel
from jupyter_token_ws.tunnel.streams import Stream, Streams
from jupyter_token_ws.tunnel.virtual import serve, virtual_request
from tests.support.knock import TIMEOUT


class FakeSocket:
    """A stream at the client, asked as ``Knock`` is."""

    def __init__(self, link: Link, number: int) -> None:
        self.link = link
        self.number = number
        self.subprotocol: str | None = None
        self.opened = False
        self.code: int | None = None
        self.reason = ""
        self.gone = False
        self.ended = False
        self.reading = True
        self._unread = 0
        self.heard: deque[str | bytes] = deque()
        self._parts = b""
        self._moved = asyncio.Event()

    def on_event(self, event: Any) -> None:
        if isinstance(event, Opened):
            self.opened, self.subprotocol = True, event.subprotocol
        elif isinstance(event, Data):
            self._parts += event.payload
            if event.last:
                whole, self._parts = self._parts, b""
                self.heard.append(whole.decode() if event.text else whole)
            self._unread += event.size
            self._consume()
        elif isinstance(event, Ended):
            self.ended = True
        elif isinstance(event, Closed):
            self.gone, self.code, self.reason = True, event.code, event.reason
        self._moved.set()

    def _consume(self) -> None:
        if self.reading:
            unread, self._unread = self._unread, 0
            self.link.client.consumed(self.number, unread)

    def read(self, reading: bool = True) -> None:
        """Take messages from now on, or leave them where they are."""
        self.reading = reading
        self._consume()
        self.link.move()

    async def _until(self, condition: Any) -> None:
        async def wait() -> None:
            while not condition():
                self._moved.clear()
                await self._moved.wait()

        await asyncio.wait_for(wait(), TIMEOUT)

    async def wait_open(self) -> FakeSocket:
        await self._until(lambda: self.opened or self.gone)
        return self

    async def wait_message(self) -> str | bytes:
        await self._until(lambda: self.heard or self.gone)
        return self.heard.popleft()

    async def wait_ended(self) -> FakeSocket:
        await self._until(lambda: self.ended or self.gone)
        return self

    async def wait_closed(self) -> FakeSocket:
        await self._until(lambda: self.gone)
        return self

    async def send(self, data: str | bytes) -> None:
        text = isinstance(data, str)
        self.link.client.send(
            self.number, data.encode() if isinstance(data, str) else data, text=text
        )
        self.link.move()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        self.link.client.close(self.number, code, reason)
        self.link.move()

    def end(self) -> None:
        self.link.client.end(self.number)
        self.link.move()


def carrier_request(**headers: str) -> HTTPServerRequest:
    """A request that opened a carrier. Names of headers have ``_`` for ``-``."""
    start = RequestStartLine("GET", "/api/token-ws/tunnel", "HTTP/1.1")
    shown = {"Host": "127.0.0.1"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return HTTPServerRequest(start_line=start, headers=HTTPHeaders(shown))


class Link:
    """A tunnel whose two sides are here; what one sends the other has in the loop's next turn."""

    def __init__(
        self, application: Application, carrier: HTTPServerRequest, base: str = "/", **options: Any
    ) -> None:
        self.base = base
        self.application = application
        self.carrier = carrier
        self.client = Tunnel(Side.CLIENT, **options)
        self.server = Tunnel(Side.SERVER, **options)
        self.streams = Streams(self.server, self._asked, self.move)
        self.sockets: dict[int, FakeSocket] = {}
        self._moving = False
        self.server.attach()
        self.move()

    def _asked(self, stream: Stream) -> None:
        serve(self.application, virtual_request(stream, self.carrier, self.base))

    def open(self, path: str, offer: Sequence[str] = ()) -> FakeSocket:
        number = self.client.open(path, offer)
        self.sockets[number] = FakeSocket(self, number)
        self.move()
        return self.sockets[number]

    def move(self) -> None:
        if not self._moving:
            self._moving = True
            asyncio.get_running_loop().call_soon(self._move)

    def _move(self) -> None:
        self._moving = False
        moved = False
        for one, other in ((self.server, self.client), (self.client, self.server)):
            while (batch := one.take(ack=True)) is not None:
                other.receive(*batch)
                moved = True
        self.streams.hear()
        for event in self.client.events():
            number = getattr(event, "stream", None)
            if number is not None:
                self.sockets[number].on_event(event)
        if moved:
            self.move()
