"""REST requests that bear a token: wrong ones are counted as those of websockets are (section 3, 4429).

Nothing else changes for them. The server's identity provider judges as ever, and what needs no user is
served to whoever asks; only what would be refused for want of a user is 429 instead where too many
tokens were wrong.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

from jupyter_server.auth.identity import IdentityProvider, User
from jupyter_server.base.handlers import JupyterHandler
from tornado import web

from jupyter_token_ws.protocol.reasons import REASONS

from .core import Guard
from .credentials import header_token
from .handler import Refused, TokenWebSocketHandler, subclass
from .identity import (
    StandIn,
    ask,
    asks_handler,
    auth_enabled,
    is_stock,
    knows_but_refuses,
    says_nobody,
    without_token,
)
from .logs import printable
from .refusal import refusal_headers

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def may_bear(request: HTTPServerRequest) -> bool:
    """Whether a request may have a token where upstream looks for one: in a header, URL or form."""
    headers = request.headers
    if "Authorization" in headers or "token" in request.query_arguments:
        return True
    return request.method == "POST" and headers.get("Content-Type", "").startswith(_FORMS)


def can_watch(kind: type[web.RequestHandler]) -> bool:
    """Whether handlers of a class ask the server's identity provider, and nobody judges them already."""
    return issubclass(kind, JupyterHandler) and not issubclass(kind, TokenWebSocketHandler)


def bearer_class(kind: type[web.RequestHandler]) -> type[web.RequestHandler]:
    """The class that stands before ``kind`` for requests that bear a token: same name and module.

    Raises ``TypeError`` or whatever the class raises where it cannot be subclassed.
    """
    made: type[web.RequestHandler] = subclass(_Bearer, cast("Any", kind))
    return made


class _TooMany(Refused):
    """With the text for upstream's own answers, which show it as ``message``."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too_many_attempts", retry_after)
        web.HTTPError.__init__(self, self.status_code, REASONS[self.slug].text)


class _Bearer(JupyterHandler):
    """What is mixed in before a handler class."""

    _token_ws_wait: int | None = None
    """Seconds, where the request's token was one wrong one of too many."""

    @functools.cached_property
    def identity_provider(self) -> IdentityProvider:
        """The server's provider, with somebody who counts before it."""
        provider: IdentityProvider = cast("Any", super()).identity_provider
        if asks_handler(provider, self) or not auth_enabled(provider):
            return provider
        return cast("IdentityProvider", _Watched(provider, self))

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """As stock, but 429 instead of 401 and 403."""
        wait = self._token_ws_wait
        if wait is not None and status_code in (401, 403) and not self._headers_written:
            error = _TooMany(wait)
            status_code, kwargs = error.status_code, {"exc_info": (_TooMany, error, None)}
            Guard.of(self.application).log.info(
                "Refused request: %d %s %s from %s",
                status_code,
                error.slug,
                printable(self.request.path),
                self.request.remote_ip,
            )
        super().send_error(status_code, **kwargs)

    def redirect(self, *args: Any, **kwargs: Any) -> None:
        """As stock, but 429 instead of the way to the login page; the login page itself may redirect."""
        if self._token_ws_wait is not None and self.request.method in ("GET", "HEAD"):
            self.send_error(403)
        else:
            super().redirect(*args, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """As stock, with ``Retry-After``."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, Refused):
            for name, value in refusal_headers(REASONS[error.slug], error.retry_after).items():
                self.set_header(name, value)
        super().write_error(status_code, **kwargs)


class _Watched(StandIn):
    """Before the identity provider for one request: notes who was not admitted."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        """As the provider says; a token that admitted nobody a moment ago is not asked for again."""
        provider = cast("IdentityProvider", self._provider)
        shown = _shown(handler) if handler is self._handler else ()
        if not any(shown):
            return await ask(provider, handler)
        throttle, request = Guard.of(handler.application).throttle, handler.request
        remembers = not is_stock(provider)
        known = remembers and throttle.remembers(request, *shown)
        try:
            with without_token(request) if known else nullcontext():
                user = await ask(provider, handler)
        except web.HTTPError as error:
            if says_nobody(error):
                await _note(handler, shown)
            raise
        if user is None and not knows_but_refuses(user, handler):
            if remembers and not known:
                throttle.remember(request, *shown)
            await _note(handler, shown)
        return user


def _shown(handler: web.RequestHandler) -> tuple[str | None, str | None]:
    """The tokens of a request, by argument and by the header as it stands; one without a token is none."""
    try:
        in_argument = handler.get_argument("token", None) or None
    except web.HTTPError:
        in_argument = None  # no text; upstream asks again and answers 400
    header = handler.request.headers.get("Authorization", "")
    return in_argument, header if header_token(header) else None


async def _note(handler: web.RequestHandler, shown: tuple[str | None, ...]) -> None:
    in_argument, header = shown
    tokens = [token for token in (in_argument, header_token(header or "")) if token]
    throttle = Guard.of(handler.application).throttle
    cast("_Bearer", handler)._token_ws_wait = await throttle.wrong(handler.request, tokens)
