"""The one list of open sockets.

Everything that must find sockets later (shutdown, revocation, limits, metrics) finds them here, and
closes them by slug.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING, Any

from jupyter_token_ws.protocol.reasons import REASONS, parse_close

from .credentials import CredentialSource

if TYPE_CHECKING:
    from tornado.websocket import WebSocketHandler

    from .tickets import Grant

CLOSE_EVERYBODY = frozenset({"draining", "token_revoked", "replaced"})
"""Reasons that close with their code also who did not opt in (C3.6)."""


@dataclass(eq=False)
class OpenSocket:
    """One open socket.

    ``principal`` keys what belongs to a user, ``credential`` is a digest, ``source`` tells how the
    client came in, ``carrier`` what carries the messages, ``opted_in`` that the client understands
    close codes. ``opened_at`` is in seconds since the epoch. ``kernel`` is the kernel's id where it
    is a kernel socket; ``kernel_id`` stays when the kernel is gone. ``stream`` is the connection's
    stream where it has one of its own. ``number`` counts the sockets of a server. ``grant`` is what the
    ticket stands for that opened it, if one did.

    When it ends, ``ended_by`` is ``client``, ``server`` or ``keepalive``, ``code`` the server's
    close code if it gave one, and ``slug`` its reason if that is one of the table.

    What is no ``socket`` is in the list to end with its credential, and is in no count.
    """

    handler: WebSocketHandler
    path: str
    principal: str
    credential: str
    source: CredentialSource
    opted_in: bool
    user: Any = None
    remote_ip: str = ""
    kernel: str | None = None
    carrier: str = "websocket"
    stream: Any = None
    opened_at: float = field(default_factory=time)
    user_name: str = ""
    kernel_id: str | None = None
    number: int = 0
    grant: Grant | None = None
    socket: bool = True
    ended_by: str = "client"
    code: int | None = None
    slug: str | None = None

    def ends(self, code: int | None, reason: str | None) -> None:
        """The server closes it with this code and reason; what was closed before is not closed again."""
        if self.ended_by != "client":
            return
        self.ended_by, self.code = "server", code
        told = None if code is None else parse_close(code, reason or "")
        if told is not None:
            self.slug = told.reason.slug

    def close(self, slug: str, retry_after: int | None = None) -> None:
        """Close with a reason of the table; as stock does for who did not opt in (C3.6).

        Raises ``KeyError`` for a slug that is not in the table.
        """
        reason = REASONS[slug]
        if self.ended_by == "client":
            self.ended_by, self.slug = "server", slug
        if self.opted_in or slug in CLOSE_EVERYBODY:
            self.handler.close(reason.code, reason.close_reason(retry_after))
        else:
            self.handler.close()


class Registry:
    """All open sockets of one server.

    ``on_end`` is called with each that leaves the list, once.
    """

    def __init__(
        self,
        log: logging.Logger | None = None,
        on_end: Callable[[OpenSocket], None] = lambda _: None,
    ) -> None:
        self._log = log or logging.getLogger("jupyter_token_ws")
        self._on_end = on_end
        self._sockets: dict[WebSocketHandler, OpenSocket] = {}
        self._counts: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Iterator[OpenSocket]:
        """A snapshot: sockets may close meanwhile."""
        return iter(list(self._sockets.values()))

    def get(self, handler: WebSocketHandler) -> OpenSocket | None:
        """The entry of a handler, or ``None``."""
        return self._sockets.get(handler)

    def add(self, socket: OpenSocket) -> None:
        """A socket opened."""
        self.discard(socket.handler)
        self._sockets[socket.handler] = socket
        if socket.socket:
            self._counts[socket.principal] += 1
        self._empty.clear()

    def discard(self, handler: WebSocketHandler) -> None:
        """A socket closed; one that is not listed is no error."""
        socket = self._sockets.pop(handler, None)
        counts = socket is not None and socket.socket
        if socket is not None and counts:
            self._counts[socket.principal] -= 1
            if not self._counts[socket.principal]:
                del self._counts[socket.principal]
        if not self._sockets:
            self._empty.set()
        if socket is not None and counts:
            self._on_end(socket)

    @property
    def sockets(self) -> int:
        """How many sockets are open."""
        return self._counts.total()

    def count(self, principal: str) -> int:
        """How many sockets of one principal are open."""
        return self._counts[principal]

    def by_family(self, family: str) -> list[OpenSocket]:
        """The sockets that a ticket of this family opened."""
        return [socket for socket in self if socket.grant and socket.grant.family == family]

    def by_principal(self, principal: str) -> list[OpenSocket]:
        """The sockets of one principal."""
        return [socket for socket in self if socket.principal == principal]

    def close(self, socket: OpenSocket, slug: str, retry_after: int | None = None) -> None:
        """Close a socket with a reason, one way or another: a handler whose own ``close`` fails must
        not keep the caller from the next one. Raises ``KeyError`` for a slug that is not in the table.
        """
        if slug not in REASONS:
            raise KeyError(slug)
        try:
            socket.close(slug, retry_after)
        except Exception:  # noqa: BLE001 - whatever a handler raises
            self._log.exception("Cannot close websocket %s, cutting it", socket.path)
            if socket.stream is not None:
                socket.stream.close()

    def close_all(self, slug: str, retry_after: int | None = None) -> None:
        """Close every socket with a reason."""
        for socket in self:
            self.close(socket, slug, retry_after)

    async def wait_empty(self, timeout: float) -> bool:
        """Wait until no socket is open, ``timeout`` seconds at most; false when that ran out."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._empty.wait(), timeout)
        return not self._sockets
