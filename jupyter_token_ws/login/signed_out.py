"""Who signed out stays out (C6.7): their cookie is denied until it would expire, and its sockets close.

Upstream's login cookie is signed and kept nowhere, so to delete it is a request to the browser; a copy of it
goes on being good. Here its digest is remembered, in a table that the store of tickets may share with other
servers. A changed password denies every cookie from before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.identity import IdentityProvider, User
from tornado.httputil import HTTPServerRequest

from jupyter_token_ws.guard.credentials import CredentialSource

from .denials import Denied, digest_of

if TYPE_CHECKING:
    from tornado.web import RequestHandler

    from jupyter_token_ws.guard.core import Guard
    from jupyter_token_ws.guard.registry import OpenSocket

    from .denials import Denials

DAY = 24 * 3600
MAX_AGE_DAYS = 31
"""How old a signed cookie may be where nobody says otherwise: tornado's own default."""


class SignedOut:
    """The cookies of one server that are denied.

    Stands on the server's own identity provider, by attributes of that one object, and so before whoever
    asks it: pages, REST and websockets.

    Args:
        guard: of the server.
        provider: of the server.
        on_denied: told of the open sockets of cookies that are denied from now on, and may end them.
        denials: what is denied, here and on servers that share it.
    """

    def __init__(
        self,
        guard: Guard,
        provider: IdentityProvider,
        on_denied: Callable[[list[OpenSocket]], None],
        denials: Denials,
    ) -> None:
        self._guard = guard
        self._provider = provider
        self._on_denied = on_denied
        self.denials = denials
        denials.on_news = self._end
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
        if self.denials.any and self.concerns(socket):
            self._on_denied([socket])

    # -- before the provider -----------------------------------------------------------------------

    def get_user(self, handler: RequestHandler) -> User | Awaitable[User | None] | None:
        """The provider's answer, to a request without a cookie that is denied."""
        if self.denials.any:
            cookie = self._cookie(handler)
            if cookie is not None and self.denials.denies(*cookie):
                remove_cookie(handler.request, cookie[0])
        return self._get_user(handler)

    def clear_login_cookie(self, handler: RequestHandler) -> None:
        """Somebody signs out, or has a cookie that is good for nothing."""
        cookie = self._cookie(handler)
        if cookie is not None and self._is_good(handler, cookie[0]):
            self.denials.deny(Denied({digest_of(*cookie): self._longest()}))
        self._clear(handler)

    def _on_password(self, change: Any) -> None:
        if change["old"]:
            self._guard.log.info(
                "The password was changed: who signed in before has to do it again"
            )
            now = int(self.denials.clock())
            self.denials.deny(Denied(before=now, seconds=self._longest()))

    # -- what is denied ----------------------------------------------------------------------------

    def _cookie(self, handler: RequestHandler) -> tuple[str, str] | None:
        """Name and value of a request's login cookie."""
        name = self._provider.get_cookie_name(handler)
        value = handler.get_cookie(name)
        return None if value is None else (name, value)

    def _is_good(self, handler: RequestHandler, name: str) -> bool:
        # By the older of its two names, which tornado 6.2 knows.
        kwargs = self._provider.get_secure_cookie_kwargs
        return handler.get_secure_cookie(name, **kwargs) is not None

    def _longest(self) -> float:
        """Seconds for which a cookie that was signed just now is good, whatever a browser does with it."""
        days = self._provider.get_secure_cookie_kwargs.get("max_age_days", MAX_AGE_DAYS)
        return DAY * float(days)

    def _end(self) -> None:
        self._on_denied([socket for socket in self._guard.registry if self.concerns(socket)])

    def concerns(self, socket: OpenSocket) -> bool:
        """Whether an open socket came by a cookie that is denied, or by a ticket for one."""
        if socket.grant is not None:
            if socket.grant.header != "Cookie":
                return False
            shown = (part.partition("=") for part in socket.grant.value.split("; "))
            return any(self.denials.denies(name, value) for name, _, value in shown)
        if socket.source is not CredentialSource.COOKIE:
            return False
        cookie = self._cookie(socket.handler)
        return cookie is not None and self.denials.denies(*cookie)


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
