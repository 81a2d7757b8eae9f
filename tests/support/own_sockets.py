"""A server extension with websockets that behave badly, for tests that start a server as a process.

Name it in ``start_server(extensions={"tests.support.own_sockets": True})``.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.websocket import WebSocketHandler

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


class Echo(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """Well-behaved."""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.current_user is None:
            raise web.HTTPError(403)
        await super().get(*args, **kwargs)

    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message, binary=isinstance(message, bytes))


class Plain(WebSocketHandler):
    """Of no framework, open to all, without a ping of its own."""

    def check_origin(self, origin: str) -> bool:
        return True

    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message, binary=isinstance(message, bytes))


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


class NeverOpens(Echo):
    async def get(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.Event().wait()


EVENT_LOG = "TEST_EVENT_LOG"
"""Environment: the file for what the server emits as events."""

SOCKETS = {
    "own/echo": Echo,
    "own/plain": Plain,
    "own/fails-in-get": FailsInGet,
    "own/fails-in-open": FailsInOpen,
    "own/fails-in-message": FailsInMessage,
    "own/never-opens": NeverOpens,
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
