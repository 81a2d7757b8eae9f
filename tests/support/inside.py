"""A server extension that tells what goes on inside the server: tasks, and what the bridge holds.

Name it in ``start_server(extensions={"tests.support.inside": True})``, and ask for ``PATH``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jupyter_server.base.handlers import APIHandler
from tornado import web

from jupyter_token_ws.bridge.server import Bridge

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

PATH = "inside"


class Inside(APIHandler):
    """Counts, by name."""

    @web.authenticated
    async def get(self) -> None:
        """Tell them."""
        bridge = Bridge.of(self.settings)
        hubs: list[Any] = list(bridge._hubs.values())
        self.finish(
            {
                "tasks": len(asyncio.all_tasks()),
                "hubs": len(hubs),
                "clients": sum(len(hub.clients) for hub in hubs),
                "spooled": bridge.quota.used,
            }
        )


def _load_jupyter_server_extension(serverapp: ServerApp) -> None:
    base_url = serverapp.web_app.settings["base_url"]
    serverapp.web_app.add_handlers(".*$", [(base_url + PATH, Inside)])


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]
