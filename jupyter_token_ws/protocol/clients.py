"""What every client must decide the same way: how a token travels and whom to trust (C2.9).

Pure functions over the capabilities document, shared by the Python client, the command line and, as
test vectors, the TypeScript client.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from .subprotocols import MARKER

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_SECURE = {"http": False, "ws": False, "https": True, "wss": True}


class TokenRoute(str, Enum):
    """How a client sends its token on a websocket handshake."""

    SUBPROTOCOL = "subprotocol"
    HEADER = "header"
    URL = "url"
    NONE = "none"


def token_route(
    capabilities: Mapping[str, Any] | None, *, browser: bool, allow_url: bool = True
) -> TokenRoute:
    """How to send a token to the server with these capabilities (C2.9).

    ``capabilities`` is the document, or ``None`` for a server that has none (404). Where it names
    the subprotocol there is no other way, whatever failed before: a client never downgrades.
    ``allow_url`` is the user's leave to put a token into a URL for a server without the extension.
    """
    if capabilities is not None:
        token = capabilities.get("token")
        if isinstance(token, Mapping) and token.get("subprotocol") == MARKER:
            return TokenRoute.SUBPROTOCOL
    if not browser:
        return TokenRoute.HEADER
    return TokenRoute.URL if allow_url else TokenRoute.NONE


def within_base(base_url: str, url: str) -> bool:
    """Whether ``url`` lies below ``base_url``: same security, host, port and path prefix (C2.9).

    ``ws`` counts as ``http`` and ``wss`` as ``https``. Paths compare at ``/`` boundaries, and a
    path that climbs (``..``, plain or encoded) or hides a separator is never inside. Bad URLs are
    outside.
    """
    try:
        base, other = urlsplit(base_url), urlsplit(url)
        places = [
            (_SECURE[part.scheme], part.hostname, part.port or _DEFAULT_PORTS[part.scheme])
            for part in (base, other)
        ]
    except (ValueError, KeyError):
        return False
    if places[0] != places[1] or not base.hostname or other.username or other.password:
        return False
    path = other.path.lower()
    segments = path.replace("%2e", ".").split("/")
    if ".." in segments or "%2f" in path or "%5c" in path or "\\" in path:
        return False
    prefix = base.path.rstrip("/") + "/"
    return (other.path + "/").startswith(prefix)
