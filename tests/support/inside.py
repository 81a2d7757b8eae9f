"""A server extension that tells what goes on inside the server: tasks, what the bridge holds, and
tunnels. It also sets traits of the kernel manager, where a test has to be ready before they count.

Name it in ``start_server(extensions={"tests.support.inside": True})``, and ask for ``PATH``; or post the
traits there.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from typing import TYPE_CHECKING, Any

from jupyter_server.base.handlers import APIHandler
from tornado import web

from jupyter_token_ws.bridge.server import Bridge
from jupyter_token_ws.tunnel.tunnels import Tunnels

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

PATH = "inside"


class Inside(APIHandler):
    """Counts and traits, by name."""

    @web.authenticated
    async def get(self) -> None:
        """Tell them; ``?tidy`` gives back first what Python and malloc keep without need."""
        if self.request.query == "tidy":
            gc.collect()
            if sys.platform == "linux":
                ctypes.CDLL(None).malloc_trim(0)
        bridge = Bridge.of(self.settings)
        tunnels = Tunnels.of(self.application)
        hubs: list[Any] = list(bridge._hubs.values())
        self.finish(
            {
                "tasks": len(asyncio.all_tasks()),
                "hubs": len(hubs),
                "clients": sum(len(hub.clients) for hub in hubs),
                "spooled": bridge.quota.used,
                "tunnels": len(tunnels),
                "streams": sum(len(tunnel.streams) for tunnel in tunnels),
            }
        )

    @web.authenticated
    async def post(self) -> None:
        """Set them."""
        for name, value in (self.get_json_body() or {}).items():
            self.kernel_manager.set_trait(name, value)
        self.set_status(204)


def _load_jupyter_server_extension(serverapp: ServerApp) -> None:
    base_url = serverapp.web_app.settings["base_url"]
    serverapp.web_app.add_handlers(".*$", [(base_url + PATH, Inside)])


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]
