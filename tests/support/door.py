"""A server of this process as its clients see it: knocks at its websockets, asks its REST paths."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.websocket import WebSocketHandler

from jupyter_token_ws.guard.core import SETTING, Guard
from tests.support import knock as knocking
from tests.support.knock import TIMEOUT, Knock
from tests.support.waiting import auntil

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

EVENTS = "api/events/subscribe"
"""A websocket that needs nothing but a credential to open."""


@dataclass
class Answer:
    """A plain HTTP answer. Header names are in lower case; ``cookies`` has name and value of each it sets."""

    status: int
    headers: dict[str, str]
    body: bytes
    cookies: tuple[str, ...] = ()


class Socket(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """A websocket like those of jupyter_server: asks for a user, then echoes.

    Registered with a list as ``seen``, it adds itself to that.
    """

    def initialize(self, seen: list[Socket] | None = None) -> None:
        if seen is not None:
            seen.append(self)

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.current_user is None:
            raise web.HTTPError(403)
        await super().get(*args, **kwargs)

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))


@dataclass
class Door:
    """A running server: ``path`` arguments are below its base."""

    app: ServerApp
    port: int
    base: str

    @property
    def token(self) -> str:
        """The token that the server takes."""
        token: str = self.app.identity_provider.token
        return token

    @property
    def guard(self) -> Guard:
        guard: Guard = self.app.web_app.settings[SETTING]
        return guard

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self, pattern: str, handler: Any, **kwargs: Any) -> None:
        """Register a handler at a pattern below the base, now that the server already runs."""
        self.app.web_app.add_handlers(".*$", [(self.base + pattern, handler, kwargs)])

    async def knock(self, path: str, *args: Any, **options: Any) -> Knock:
        """One handshake, see ``tests.support.knock.knock``."""
        return await knocking.knock(self.port, self.base + path, *args, **options)

    async def refused(self, path: str, *args: Any, **options: Any) -> Knock:
        """One handshake; a socket that opens is read until it is closed."""
        return await knocking.refused(self.port, self.base + path, *args, **options)

    async def raw(self, data: bytes) -> Knock:
        """Whatever bytes one wants to send."""
        return await knocking.knock_raw(self.port, data)

    async def fetch(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        *,
        method: str = "GET",
        body: bytes = b"",
    ) -> Answer:
        """A plain HTTP request on a connection of its own."""
        lines = {"Host": self.host, "Connection": "close", **(headers or {})}
        if body:
            lines["Content-Length"] = str(len(body))
        head = f"{method} {self.base}{path} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(head.encode("latin-1") + b"\r\n" + body)
            whole = await asyncio.wait_for(reader.read(), TIMEOUT)
        finally:
            writer.transport.abort()
        top, _, content = whole.partition(b"\r\n\r\n")
        first, *rest = top.decode("latin-1").split("\r\n")
        parted = [line.partition(":") for line in rest]
        named = [(name.lower(), value.strip()) for name, _, value in parted]
        return Answer(
            int(first.split(" ")[1]),
            dict(named),
            content,
            tuple(value.partition(";")[0] for name, value in named if name == "set-cookie"),
        )

    async def login_cookie(self) -> str:
        """A ``Cookie`` header of somebody who signed in at this server."""
        answer = await self.fetch(
            "api/me", {"Authorization": f"token {self.token}"}
        )  # a token makes the stock provider set its cookie
        assert answer.status == 200
        return answer.headers["set-cookie"].partition(";")[0]

    async def settled(self) -> None:
        """Wait until nothing is left of any socket: neither open, nor opening, nor being refused."""
        guard = self.guard
        await auntil(
            lambda: not len(guard.registry) and not guard.opening and not guard.refusals.open,
            "sockets are left",
        )


def errors(records: Iterable[logging.LogRecord]) -> list[str]:
    """What was logged as an error."""
    return [record.getMessage() for record in records if record.levelno >= logging.ERROR]


def refusals(records: Iterable[logging.LogRecord]) -> list[str]:
    """The lines that tell of refused sockets, less their beginning."""
    lines = [record.getMessage() for record in records]
    start = "Refused websocket: "
    return [line.removeprefix(start) for line in lines if line.startswith(start)]
