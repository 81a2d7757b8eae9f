"""Whose a kernel ``session_id`` is, and when a connected kernel is gone (C2.8, codes 4409 and
4410).

Upstream replaces whoever holds a ``session_id`` by whoever shows it, and hands over what was
buffered for it. Here an id belongs to the principal who uses it: to anybody else it is an id like
any other, so the foreign connection goes on under an id of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tornado import web

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest
    from tornado.websocket import WebSocketHandler

Key = tuple[str, str]
"""Kernel id and session id."""


@dataclass
class _Claim:
    principal: str
    handlers: list[WebSocketHandler] = field(default_factory=list)


class SessionClaims:
    """Who uses which kernel session, while a socket holds it and while upstream buffers for it.

    Upstream buffers for one session of a kernel, the last that left, so one is remembered per
    kernel.
    """

    def __init__(self) -> None:
        self._claims: dict[Key, _Claim] = {}
        self._away: dict[str, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._claims) + len(self._away)

    def claim(self, handler: WebSocketHandler, key: Key, principal: str) -> bool:
        """Claim a session before upstream looks at it; false where it is somebody else's."""
        claim = self._claims.get(key)
        owner = claim.principal if claim else self._away_owner(key)
        if owner is not None and owner != principal:
            return False
        if claim is None:
            claim = self._claims[key] = _Claim(principal)
        claim.handlers.append(handler)
        return True

    def release(self, handler: WebSocketHandler, key: Key, *, opened: bool) -> None:
        """A claim ended. ``opened``: upstream may now buffer for its session."""
        claim = self._claims.get(key)
        if claim is None or handler not in claim.handlers:
            return
        claim.handlers.remove(handler)
        if opened:
            # Also while another handshake holds the claim: that one may fail yet.
            self._away[key[0]] = (key[1], claim.principal)
        if not claim.handlers:
            del self._claims[key]

    def replaced(self, handler: WebSocketHandler, key: Key) -> bool:
        """Whether a newer connection of the same session is about to take over from ``handler``."""
        claim = self._claims.get(key)
        return claim is not None and handler in claim.handlers and claim.handlers[-1] is not handler

    def forget(self, kernel_manager: Any) -> None:
        """Drop what was remembered of kernels that are no more."""
        for kernel_id in [known for known in self._away if known not in kernel_manager]:
            del self._away[kernel_id]

    def _away_owner(self, key: Key) -> str | None:
        session_id, principal = self._away.get(key[0], ("", ""))
        return principal if session_id == key[1] else None


def session_id(handler: web.RequestHandler) -> str | None:
    """The ``session_id`` as upstream reads it; ``None`` without one that can be read.

    It must be tornado's own reading: whoever finds another spelling of an id takes it over.
    """
    try:
        return handler.get_argument("session_id", None) or None
    except web.HTTPError:
        return None  # upstream asks again and answers 400


def change_session_id(request: HTTPServerRequest) -> str:
    """Give a request a fresh ``session_id`` and return it.

    Clients never see it: replies are addressed by the ``session`` in the client's own headers, and
    upstream uses this one as its ZMQ identity.
    """
    fresh = uuid4().hex
    for arguments in (request.arguments, request.query_arguments):
        arguments["session_id"] = [fresh.encode()]
    return fresh
