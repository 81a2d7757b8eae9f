"""Servers in this process with the extension on, and tunnels to them in memory."""

from __future__ import annotations

from tests.unit.bridge.conftest import (  # noqa: F401
    door,
    jp_server_config,
    kernel,
    kernel_name,
    more_config,
    token_ws_config,
)
