"""The client's tunnel to a real server, without what ``connect`` does besides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from jupyter_token_ws.client.auth import Authenticator
from jupyter_token_ws.client.backoff import Backoff
from jupyter_token_ws.client.transport import Transport
from jupyter_token_ws.client.tunnel import Tunnel
from jupyter_token_ws.protocol.auth import AuthPlugin, Endpoint, TokenAuth
from jupyter_token_ws.protocol.clients import addresses

CAPABILITIES: dict[str, Any] = {
    "token": {"subprotocol": "v1.token.websocket.jupyter.org"},
    "tunnel": {"path": "api/token-ws/tunnel"},
    "login": {"path": "api/token-ws/login"},
    "keepalive": {"interval": 1, "timeout": 3},
}
"""Of a server with ``QUICK``."""

QUICK = {
    "TokenWebSocketApp": {
        "keepalive_interval": 1,
        "keepalive_timeout": 3,
        "tunnel_resume_window": 20,
    }
}
"""Configuration: who is silent for three seconds is gone, and does not come back after twenty more."""


@asynccontextmanager
async def tunnel_to(
    url: str, token: str, *carriers: str, auth: AuthPlugin[Any] | None = None, **options: Any
) -> AsyncIterator[Tunnel]:
    """A tunnel to a server with ``QUICK``, by its token or a plugin, closed behind the block."""
    transport = Transport(url)
    endpoint = Endpoint(url, CAPABILITIES)
    authenticator = Authenticator([auth or TokenAuth(token)], endpoint, transport.request)
    if carriers:
        options["carriers"] = carriers
    tunnel = Tunnel(
        transport,
        authenticator,
        addresses(url, None),
        CAPABILITIES,
        **{"keepalive": 2, "backoff": Backoff(base=0.05, cap=0.5), **options},
    )
    try:
        yield tunnel
    finally:
        await tunnel.aclose()
        await authenticator.aclose()
        await transport.aclose()
