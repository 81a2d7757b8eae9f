"""A server extension with websockets that behave badly, for tests that start a server as a process.

Name it in ``start_server(extensions={"tests.support.own_sockets": True})``.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from jupyter_token_ws import MessageStream, StreamHandler, StreamInfo

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


async def echo(handler: WebSocketHandler, message: str | bytes) -> None:
    with suppress(WebSocketClosedError):  # the client has left
        await handler.write_message(message, binary=isinstance(message, bytes))


class Echo(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """Well-behaved."""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.current_user is None:
            raise web.HTTPError(403)
        await super().get(*args, **kwargs)

    async def on_message(self, message: str | bytes) -> None:
        await echo(self, message)


class Plain(WebSocketHandler):
    """Of no framework, open to all, without a ping of its own."""

    def check_origin(self, origin: str) -> bool:
        return True

    async def on_message(self, message: str | bytes) -> None:
        await echo(self, message)


class Streamed(StreamHandler):
    """An echo that says at the end of messages how many these were."""

    async def on_stream(self, stream: MessageStream, info: StreamInfo) -> None:
        count = 0
        async for message in stream:
            await stream.send(message)
            count += 1
        await stream.send(f"{count} messages")
        await stream.send_eof()


class FailsInGet(Echo):
    async def get(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(f"in get() of {self.request!r}")


class FailsInOpen(Echo):
    async def open(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        raise RuntimeError(f"in open() of {self.request!r}")


class FailsInMessage(Echo):
    async def on_message(self, message: str | bytes) -> None:
        raise RuntimeError(f"in on_message() of {self.request!r}")


class OpensLate(Echo):
    async def get(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0.2)
        await super().get(*args, **kwargs)


class NeverOpens(Echo):
    async def get(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.Event().wait()


EVENT_LOG = "TEST_EVENT_LOG"
"""Environment: the file for what the server emits as events."""

SOCKETS = {
    "own/echo": Echo,
    "own/plain": Plain,
    "own/streamed": Streamed,
    "own/fails-in-get": FailsInGet,
    "own/fails-in-open": FailsInOpen,
    "own/fails-in-message": FailsInMessage,
    "own/never-opens": NeverOpens,
    "own/opens-late": OpensLate,
}


def _load_jupyter_server_extension(serverapp: ServerApp) -> None:
    base_url = serverapp.web_app.settings["base_url"]
    serverapp.web_app.add_handlers(
        ".*$", [(base_url + path, handler) for path, handler in SOCKETS.items()]
    )
    if serverapp.event_logger is not None and EVENT_LOG in os.environ:
        serverapp.event_logger.register_handler(logging.FileHandler(os.environ[EVENT_LOG]))


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "tests.support.own_sockets"}]
