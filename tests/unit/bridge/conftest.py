"""Servers in this process with the extension on, and kernels of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_server.serverapp import ServerApp
from tornado.httpserver import HTTPServer

from tests.support.door import Door
from tests.support.live_kernel import Live


@pytest.fixture
def token_ws_config() -> dict[str, object]:
    """Traits of TokenWebSocketApp; override or parametrize."""
    return {}


@pytest.fixture
def more_config() -> dict[str, dict[str, object]]:
    """Traits of other classes; override or parametrize."""
    return {}


@pytest.fixture
def jp_server_config(
    token_ws_config: dict[str, object], more_config: dict[str, dict[str, object]]
) -> dict[str, object]:
    config: dict[str, dict[str, object]] = {
        "ServerApp": {"jpserver_extensions": {"jupyter_token_ws": True}},
        # Looks at the kernels twenty times a second.
        "TokenWebSocketApp": {
            "keepalive_interval": 0.25,
            "keepalive_timeout": 30,
            **token_ws_config,
        },
    }
    for section, traits in more_config.items():
        config.setdefault(section, {}).update(traits)
    return dict(config)


@pytest.fixture
def door(
    jp_serverapp: ServerApp, http_server: HTTPServer, jp_http_port: int, jp_base_url: str
) -> Door:
    """The running server, as its clients see it."""
    return Door(jp_serverapp, jp_http_port, jp_base_url)


@pytest.fixture
def kernel_name(jp_data_dir: Path) -> str:
    """Which kernel is started; override or parametrize with the name of an odd one."""
    return "python3"


@pytest.fixture
def kernel(
    jp_asyncio_loop: asyncio.AbstractEventLoop, door: Door, kernel_name: str
) -> Iterator[Live]:
    """A running kernel, which ends with the test."""
    manager = door.app.kernel_manager
    kernel_id = jp_asyncio_loop.run_until_complete(manager.start_kernel(kernel_name=kernel_name))
    yield Live(door, kernel_id)
    if kernel_id in manager:
        jp_asyncio_loop.run_until_complete(manager.shutdown_kernel(kernel_id, now=True))
