"""What every client must decide the same way: how a token travels and whom to trust (C2.9).

Pure functions over the capabilities document, shared by the Python client, the command line and, as
test vectors, the TypeScript client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .subprotocols import MARKER

_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
# Narrower than RFC 3986, so that no two parsers can differ on it: no user, no backslash, no blank or
# control character anywhere.
_URL = re.compile(
    r"(?P<scheme>https?|wss?)://(?P<host>\[[0-9a-f:.]+\]|[^\x00-\x20\x7f\\/?#@:\[\]]+)"
    r"(?::(?P<port>[0-9]{0,5}))?(?P<path>/[^\x00-\x20\x7f\\?#]*)?(?:[?#][^\x00-\x20\x7f\\]*)?",
    re.IGNORECASE | re.ASCII,
)
_CLIMBS = re.compile(r"(?:^|/)(?:\.|%2e){2}(?:/|$)|%2f|%5c", re.IGNORECASE)


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
    ``allow_url`` is the user's leave to put a token into a URL for a server without the extension; a
    document that does not say ``in_url`` takes it away.
    """
    if capabilities is not None:
        token = capabilities.get("token")
        if isinstance(token, Mapping) and token.get("subprotocol") == MARKER:
            return TokenRoute.SUBPROTOCOL
        allow_url = allow_url and isinstance(token, Mapping) and token.get("in_url") is True
    if not browser:
        return TokenRoute.HEADER
    return TokenRoute.URL if allow_url else TokenRoute.NONE


def within_base(base_url: str, url: str) -> bool:
    """Whether ``url`` lies below ``base_url``: same security, host, port and path prefix (C2.9).

    ``ws`` counts as ``http`` and ``wss`` as ``https``. Paths compare to the letter and at ``/``
    boundaries; a path that climbs (``..``, plain or encoded) or hides a separator is never inside.
    Whatever is no plain absolute URL is outside.
    """
    base, other = _URL.fullmatch(base_url), _URL.fullmatch(url)
    if base is None or other is None or _place(base) != _place(other):
        return False
    path = other["path"] or "/"
    prefix = (base["path"] or "").rstrip("/") + "/"
    return _CLIMBS.search(path) is None and f"{path}/".startswith(prefix)


def _place(url: re.Match[str]) -> tuple[int, str, int]:
    """The scheme's default port, which stands for its security; the host; the port."""
    default = _DEFAULT_PORTS[url["scheme"].lower()]
    return default, url["host"].lower(), int(url["port"] or default)


@dataclass(frozen=True)
class Addresses:
    """Where a client goes on after the preflight. Both end in ``/``."""

    base_url: str
    ws_url: str


def addresses(asked: str, capabilities: Mapping[str, Any] | None) -> Addresses:
    """The document's own addresses as far as they lie below the base that was asked (C4.5).

    ``asked`` is the ``http`` or ``https`` base URL the capabilities came from. What the document
    does not say, or says of another place, follows from ``asked``.
    """
    base_url = asked.rstrip("/") + "/"
    ws_url = f"ws{base_url[len('http') :]}"
    told = capabilities or {}
    return Addresses(
        base_url=_told(told.get("base_url"), base_url, ("http:", "https:")),
        ws_url=_told(told.get("ws_url"), ws_url, ("ws:", "wss:")),
    )


def _told(said: object, otherwise: str, schemes: tuple[str, ...]) -> str:
    if (
        isinstance(said, str)
        and said.lower().startswith(schemes)
        and said.endswith("/")
        and within_base(otherwise, said)
    ):
        return said
    return otherwise
