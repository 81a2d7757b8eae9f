"""Servers in this process with the extension on (pytest-jupyter's fixtures)."""

from __future__ import annotations

import pytest
from jupyter_server.serverapp import ServerApp
from tornado.httpserver import HTTPServer

from jupyter_token_ws.guard.core import SETTING, Guard
from tests.support.door import Door

EXTENSIONS = {"jupyter_token_ws": True, "jupyter_server_terminals": True}


@pytest.fixture
def token_ws_config() -> dict[str, object]:
    """Traits of TokenWebSocketApp; override or parametrize."""
    return {}


@pytest.fixture
def jp_server_config(token_ws_config: dict[str, object]) -> dict[str, object]:
    return {
        "ServerApp": {"jpserver_extensions": dict(EXTENSIONS)},
        "TokenWebSocketApp": token_ws_config,
    }


@pytest.fixture
def guard(jp_serverapp: ServerApp, http_server: HTTPServer) -> Guard:
    """The guard of the running server."""
    found: Guard = jp_serverapp.web_app.settings[SETTING]
    return found


@pytest.fixture
def door(
    jp_serverapp: ServerApp, http_server: HTTPServer, jp_http_port: int, jp_base_url: str
) -> Door:
    """The running server, as its clients see it."""
    return Door(jp_serverapp, jp_http_port, jp_base_url)
