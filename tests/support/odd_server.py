"""A server in this process that answers as a test wants, over real sockets, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER

Handler = Callable[[ServerConnection], Awaitable[None]]

DOCUMENT: dict[str, Any] = {
    "api_versions": ["1.0"],
    "token": {"subprotocol": MARKER, "in_url": True, "max_size": 4096},
    "transports": ["websocket", "tunnel-websocket", "tunnel-eventstream"],
}
"""Capabilities of a server that has all carriers."""


@dataclass
class OddServer:
    """``answers``: what a path, without its query, is answered: a status and a body, headers too; one that
    has none is 404. ``asked``: the requests, handshakes among them. ``refusal``: what handshakes are
    answered, ``refusals`` of them. ``judge`` may answer a request before all that."""

    port: int = 0
    answers: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)
    refusal: tuple[Any, ...] | None = None
    handshakes: int = 0
    refusals: int = 1 << 30
    judge: Callable[[Request], tuple[Any, ...] | None] = lambda _: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/base/"

    def paths(self) -> list[str]:
        return [request.path for request in self.asked]

    def respond(self, connection: ServerConnection, request: Request) -> Response | None:
        self.asked.append(request)
        judged = self.judge(request)
        if judged is not None:
            return made(*judged)
        if "Upgrade" in request.headers:
            self.handshakes += 1
            if self.refusal is None or self.handshakes > self.refusals:
                return None
            return made(*self.refusal)
        return made(*self.answers.get(request.path.partition("?")[0], (404, "nothing here")))


def made(status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> Response:
    """An answer; what is neither bytes nor text is sent as JSON."""
    if isinstance(body, str):
        body = body.encode()
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    given = {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
    return Response(status, HTTPStatus(status).phrase, Headers(given), body)


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def odd_server(
    handler: Handler = echo,
    *,
    document: Any = DOCUMENT,
    headers: Mapping[str, str] | None = None,
    subprotocol: str | None = REASON_MARKER,
) -> AsyncIterator[OddServer]:
    """Run one, with a base of ``/base/``, for the length of a block.

    Args:
        handler: what becomes of websockets.
        document: the capabilities; ``None`` for a stock server.
        headers: more of that answer.
        subprotocol: what handshakes are answered with, if it was offered.
    """
    odd = OddServer()
    if document is None:
        odd.answers["/base/api"] = (200, {"version": "2.17.0"})
    else:
        odd.answers["/base/api/token-ws/capabilities"] = (200, document, headers)

    def select(connection: ServerConnection, offered: Any) -> Subprotocol | None:
        return Subprotocol(subprotocol) if subprotocol and subprotocol in offered else None

    async with serve(
        handler,
        "127.0.0.1",
        0,
        process_request=odd.respond,
        select_subprotocol=select,
        ping_interval=None,
        close_timeout=0.1,
    ) as server:
        odd.port = next(iter(server.sockets)).getsockname()[1]
        yield odd
        await asyncio.sleep(0)
