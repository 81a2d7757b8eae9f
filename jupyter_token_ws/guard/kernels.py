"""Whose a kernel ``session_id`` is (C2.8, code 4409).

Upstream replaces whoever holds a ``session_id`` by whoever shows it, and hands over what was
buffered for it. Here upstream never sees the id that a client sends but one made of it and of the
principal, so nobody can name the session of anybody else, connected or away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tornado import web

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest
    from tornado.websocket import WebSocketHandler

Key = tuple[str, str]
"""Kernel id and session id, as upstream sees it."""


class SessionClaims:
    """Which handlers show the same session at the moment, in the order of their handshakes."""

    def __init__(self) -> None:
        self._claims: dict[Key, list[WebSocketHandler]] = {}

    def __len__(self) -> int:
        return len(self._claims)

    def claim(self, handler: WebSocketHandler, key: Key) -> bool:
        """A handshake shows a session. Whether somebody else does already."""
        handlers = self._claims.setdefault(key, [])
        handlers.append(handler)
        return len(handlers) > 1

    def release(self, handler: WebSocketHandler, key: Key) -> None:
        """The handshake failed, or its socket ended; one that shows nothing is no error."""
        handlers = self._claims.get(key, [])
        if handler in handlers:
            handlers.remove(handler)
            if not handlers:
                del self._claims[key]

    def replaced(self, handler: WebSocketHandler, key: Key) -> bool:
        """Whether a newer connection of the same session is about to take over from ``handler``."""
        handlers = self._claims.get(key, [])
        return handler in handlers and handlers[-1] is not handler


def session_id(handler: web.RequestHandler) -> str | None:
    """The ``session_id`` as upstream reads it; ``None`` without one that can be read."""
    try:
        return handler.get_argument("session_id", None) or None
    except web.HTTPError:
        return None  # upstream asks again and answers 400


def own_session_id(digest: Callable[[str], str], principal: str, named: str) -> str:
    """The id that upstream sees for the one that a principal's client named.

    ``digest`` is keyed, so the outcome cannot be named by a client either. A client never sees it:
    replies are addressed by the ``session`` in its own messages, and upstream uses this one as its
    ZMQ identity.
    """
    # tornado leaves no NUL in an argument, so no two pairs of these make the same text.
    return digest(f"{principal}\0{named}")


def change_session_id(request: HTTPServerRequest, own: str) -> None:
    """Let upstream see this ``session_id``."""
    for arguments in (request.arguments, request.query_arguments):
        arguments["session_id"] = [own.encode()]
