"""Who signed out stays out (C6.7): their cookie is denied until it would expire, and its sockets close.

Upstream's login cookie is signed and kept nowhere, so to delete it is a request to the browser; a copy of it
goes on being good. Here its digest is remembered, in this process: after a restart it is forgotten. A changed
password denies every cookie from before.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.identity import IdentityProvider, User
from tornado.httputil import HTTPServerRequest

from jupyter_token_ws.guard.credentials import CredentialSource

if TYPE_CHECKING:
    from tornado.web import RequestHandler

    from jupyter_token_ws.guard.core import Guard
    from jupyter_token_ws.guard.registry import OpenSocket

MOST = 10_000
"""Cookies that are remembered; beyond that the oldest one is forgotten. Only good ones get here."""

DAY = 24 * 3600
COOKIE_DAYS = 31
"""For so long tornado takes a signed cookie, if it is told nothing else."""


class SignedOut:
    """The cookies of one server that are denied.

    Stands on the server's own identity provider, by attributes of that one object, and so before whoever
    asks it: pages, REST and websockets.

    Args:
        guard: of the server.
        provider: of the server.
        on_denied: told of the open sockets of a cookie that is denied from now on, and may end them.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        guard: Guard,
        provider: IdentityProvider,
        on_denied: Callable[[list[OpenSocket]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._guard = guard
        self._provider = provider
        self._on_denied = on_denied
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()
        self._since = 0
        """Cookies that were signed before are denied: seconds since the epoch."""
        self._get_user = provider.get_user
        self._clear = provider.clear_login_cookie
        changed: Any = provider
        changed.get_user = self.get_user
        changed.clear_login_cookie = self.clear_login_cookie
        if provider.has_trait("hashed_password"):
            provider.observe(self._on_password, "hashed_password")
        self._opened = guard.on_opened
        guard.on_opened = self.opened

    def opened(self, socket: OpenSocket) -> None:
        """A socket opened: somebody may have signed out since its cookie was looked at."""
        self._opened(socket)
        if (self._until or self._since) and self.concerns(socket, None):
            self._on_denied([socket])

    # -- before the provider -----------------------------------------------------------------------

    def get_user(self, handler: RequestHandler) -> User | Awaitable[User | None] | None:
        """The provider's answer, to a request without a cookie that is denied."""
        if self._until or self._since:
            cookie = self._cookie(handler)
            if cookie is not None and self.denies(*cookie):
                remove_cookie(handler.request, cookie[0])
        return self._get_user(handler)

    def clear_login_cookie(self, handler: RequestHandler) -> None:
        """Somebody signs out, or has a cookie that is good for nothing."""
        cookie = self._cookie(handler)
        # By the older of its two names, which tornado 6.2 knows.
        options = self._provider.get_secure_cookie_kwargs
        if cookie is not None and handler.get_secure_cookie(cookie[0], **options) is not None:
            self._deny(*cookie)
        self._clear(handler)

    def _on_password(self, change: Any) -> None:
        if change["old"]:
            self._since = int(self._clock())
            self._guard.log.info(
                "The password was changed: who signed in before has to do it again"
            )
            self._end(None)

    # -- what is denied ----------------------------------------------------------------------------

    def _cookie(self, handler: RequestHandler) -> tuple[str, str] | None:
        """Name and value of a request's login cookie."""
        name = self._provider.get_cookie_name(handler)
        value = handler.get_cookie(name)
        return None if value is None else (name, value)

    def _deny(self, name: str, value: str) -> None:
        digest = self._guard.digest(f"{name}={value}")
        # Not when the browser forgets it, but when a copy is no good any more.
        days = float(self._provider.get_secure_cookie_kwargs.get("max_age_days", COOKIE_DAYS))
        self._until.pop(digest, None)
        self._until[digest] = self._clock() + DAY * days
        if len(self._until) > MOST:
            self._until.popitem(last=False)
        self._end(f"{name}={value}")

    def _end(self, cookie: str | None) -> None:
        registry = self._guard.registry
        self._on_denied([socket for socket in registry if self.concerns(socket, cookie)])

    def denies(self, name: str, value: str) -> bool:
        """Whether a cookie is denied."""
        if signed_at(value) < self._since:
            return True
        digest = self._guard.digest(f"{name}={value}")
        until = self._until.get(digest)
        if until is None:
            return False
        if until <= self._clock():
            del self._until[digest]
            return False
        return True

    def concerns(self, socket: OpenSocket, cookie: str | None) -> bool:
        """Whether an open socket came by a cookie, or by a ticket for it; ``None``: by any that is denied."""
        shown = None
        if socket.grant is not None and socket.grant.header == "Cookie":
            shown = socket.grant.value
        elif socket.source is CredentialSource.COOKIE:
            shown = "=".join(self._cookie(socket.handler) or ())
        if shown is None:
            return False
        if cookie is not None:
            return shown == cookie
        name, _, value = shown.partition("=")
        return self.denies(name, value)


def signed_at(value: str) -> float:
    """When a cookie was signed, by the stamp in it (tornado's format 2); a time to come where there is
    none."""
    fields = value.split("|", 3)
    _, _, stamp = fields[2].partition(":") if len(fields) == 4 else ("", "", "")
    return int(stamp) if stamp.isdigit() and len(stamp) < 16 else float("inf")


def remove_cookie(request: HTTPServerRequest, name: str) -> None:
    """Take a cookie out of a request."""
    request.cookies.pop(name, None)
    kept = [
        part
        for part in request.headers.get("Cookie", "").split(";")
        if part.partition("=")[0].strip() != name
    ]
    if any(part.strip() for part in kept):
        request.headers["Cookie"] = ";".join(kept).strip()
    else:
        request.headers.pop("Cookie", None)
