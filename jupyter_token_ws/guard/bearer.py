"""REST requests that bear a token: tickets are taken by the rule of websockets (section 6), and wrong tokens
are counted as theirs are (section 3, 4429). So is upstream's login form, which takes passwords.

Nothing else changes for them. The server's identity provider judges as ever, a ticket by what is behind it;
and what needs no user is served to whoever asks. Only what would be refused for want of a user is refused
with the reason that is known.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn, cast

from jupyter_server.auth.identity import IdentityProvider, User
from jupyter_server.auth.login import LoginFormHandler
from jupyter_server.base.handlers import JupyterHandler
from tornado import web

from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.tickets import is_ticket

from . import metrics
from .core import Guard
from .credentials import header_token
from .handler import TokenWebSocketHandler, subclass
from .identity import (
    StandIn,
    ask,
    ask_behind,
    asks_handler,
    auth_enabled,
    checks_origin,
    is_stock,
    knows_but_refuses,
    says_nobody,
    undo_cookies,
    without_token,
)
from .logs import printable
from .refusal import Refused, refusal_headers
from .tickets import remove_tickets

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

    from .tickets import Tickets

JUDGES = "_token_ws_judges"
"""The attribute of a handler class that judges its requests itself."""

_REDIRECTED = ("too_many_attempts", "unavailable")
"""Reasons for which signing in once more is no help."""

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def may_bear(request: HTTPServerRequest) -> bool:
    """Whether a request may have a token where upstream looks for one: in a header, URL or form."""
    headers = request.headers
    if "Authorization" in headers or "token" in request.query_arguments:
        return True
    return request.method == "POST" and headers.get("Content-Type", "").startswith(_FORMS)


def can_watch(kind: type[web.RequestHandler]) -> bool:
    """Whether handlers of a class ask the server's identity provider, and nobody judges them already."""
    judged = issubclass(kind, TokenWebSocketHandler) or getattr(kind, JUDGES, False)
    return issubclass(kind, JupyterHandler) and not judged


def is_login_form(kind: type[web.RequestHandler]) -> bool:
    """Whether a class is upstream's login page, or made of it."""
    return issubclass(kind, LoginFormHandler)


def bearer_class(kind: type[web.RequestHandler]) -> type[web.RequestHandler]:
    """The class that stands before ``kind`` for requests that bear a token or a password: same name and
    module.

    Raises ``TypeError`` or whatever the class raises where it cannot be subclassed.
    """
    before = _LoginForm if is_login_form(kind) else _Bearer
    made: type[web.RequestHandler] = subclass(before, cast("Any", kind))
    return made


class _Told(Refused):
    """With text and slug for upstream's own answers, which show them as ``message`` and ``reason``."""

    def __init__(self, error: Refused) -> None:
        super().__init__(error.slug, error.retry_after)
        web.HTTPError.__init__(self, self.status_code, error.text, reason=self.slug)


class _Bearer(JupyterHandler):
    """What is mixed in before a handler class."""

    _token_ws_refused: Refused | None = None
    """Why the request's token admitted nobody, where there is more to say than that."""
    _token_ws_by_ticket = False
    """Whether a ticket admitted the user."""

    @functools.cached_property
    def identity_provider(self) -> IdentityProvider:
        """The server's provider, with somebody who counts and knows tickets before it."""
        provider: IdentityProvider = cast("Any", super()).identity_provider
        tickets = Guard.of(self.application).tickets
        if not auth_enabled(provider):
            if tickets is not None:
                remove_tickets(self.request)
            return provider
        if asks_handler(provider, self) and (tickets is None or _ticket(self) is None):
            return provider
        return cast("IdentityProvider", _Watched(provider, self))

    def flush(self, include_footers: bool = False) -> Any:
        """As stock; no answer to a ticket sets or clears a login cookie (C2.5), which would outlive it."""
        if self._token_ws_by_ticket and not self._headers_written:
            self._keep_login_cookie()
        return super().flush(include_footers)

    def _keep_login_cookie(self) -> None:
        login: str = self.identity_provider.get_cookie_name(self)
        new: dict[str, Any] = getattr(self, "_new_cookie", {})
        raw = self._headers.get_list("Set-Cookie")
        undo_cookies(
            self,
            {name: morsel for name, morsel in new.items() if name != login},
            [value for value in raw if value.partition("=")[0].strip() != login],
        )

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """As stock, but with the reason for 401 and 403 where it is known, and its status."""
        error = self._token_ws_refused
        if error is not None and status_code in (401, 403) and not self._headers_written:
            status_code, kwargs = error.status_code, {"exc_info": (_Told, _Told(error), None)}
            metrics.request_refused(error)
            Guard.of(self.application).log.info(
                "Refused request: %d %s %s from %s",
                status_code,
                error.slug,
                printable(self.request.path),
                self.request.remote_ip,
            )
        super().send_error(status_code, **kwargs)

    def redirect(self, *args: Any, **kwargs: Any) -> None:
        """As stock, but not to the login page where that is no help; the login page itself may redirect."""
        error = self._token_ws_refused
        known = error is not None and error.slug in _REDIRECTED
        if known and self.request.method in ("GET", "HEAD"):
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


class _LoginForm(_Bearer):
    """What is mixed in before upstream's login form: passwords wait for their turn, as at our own login."""

    _token_ws_right: Callable[[], None] | None = None

    async def prepare(self) -> None:  # type: ignore[override] # upstream's argument is for websockets
        """As stock; then a password waits, before anybody looks at it."""
        guard = Guard.of(self.application)
        if guard.lacks_tls(self.request):
            # Nobody was asked who this is, and the page of the error asks.
            self.current_user = cast("Any", self)._jupyter_current_user = None
            self._refuse(Refused("tls_required"))
        result: Any = super().prepare()
        if result is not None:
            await result
        if self.request.method == "POST" and not self._finished:
            try:
                self._token_ws_right = await guard.throttle.take_turn(self.request)
            except Refused as error:
                self._refuse(error)

    def _refuse(self, error: Refused) -> NoReturn:
        self._token_ws_refused = error
        raise web.HTTPError(403)  # which `send_error` tells as what it is

    def finish(self, chunk: Any = None) -> Any:
        """As stock; the page of a refusal, which has no form, sets no cookie."""
        error = self._token_ws_refused
        if error is not None and self.get_status() == error.status_code:
            undo_cookies(self)
        return super().finish(chunk)

    def on_finish(self) -> None:
        """Who was right is sent on, and costs nothing."""
        status = self.get_status()
        if self._token_ws_right is not None and HTTPStatus.MULTIPLE_CHOICES <= status < 400:
            self._token_ws_right()
        super().on_finish()


class _Watched(StandIn):
    """Before the identity provider for one request: takes tickets, notes who was not admitted."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        """As the provider says; a token that admitted nobody a moment ago is not asked for again."""
        provider = cast("IdentityProvider", self._provider)
        shown = _shown(handler) if handler is self._handler else ()
        if handler is self._handler and Guard.of(handler.application).tickets is not None:
            ticket = _ticket(handler)
            if ticket is not None:
                return await self._by(ticket)
            remove_tickets(handler.request)  # beside another credential
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

    async def _by(self, ticket: str) -> User | None:
        """Who is admitted by a ticket."""
        handler: web.RequestHandler = self._handler
        try:
            user = await self._behind(handler, ticket)
        except Refused as error:
            cast("_Bearer", handler)._token_ws_refused = error
            return None
        finally:
            remove_tickets(handler.request)
        cast("_Bearer", handler)._token_ws_by_ticket = True
        cast("Any", handler)._token_authenticated = True  # upstream's flag, for who reads that
        return user

    async def _behind(self, handler: web.RequestHandler, ticket: str) -> User:
        """Who is admitted by what is behind a ticket. Raises ``Refused``."""
        tickets = cast("Tickets", Guard.of(handler.application).tickets)
        grant = await tickets.look_up(handler.request, ticket)
        if grant.single_use:
            raise Refused("wrong_audience")  # it is for a websocket (C6.5)
        user, _ = await ask_behind(cast("IdentityProvider", self._provider), handler, grant)
        return user

    @property
    def token(self) -> Any:
        """The server's token, which upstream writes into pages; none for a ticket, which it would outlive."""
        return "" if by_ticket(self._handler) else self._provider.token

    def is_token_authenticated(self, handler: web.RequestHandler) -> bool:
        """As the provider says; whoever came by a ticket came by token (C6.3)."""
        if handler is self._handler and by_ticket(handler):
            return True
        return bool(self._provider.is_token_authenticated(handler))

    def should_check_origin(self, handler: web.RequestHandler) -> bool:
        """As the provider says of who came by token."""
        if handler is self._handler and by_ticket(handler):
            return checks_origin(self, handler)
        return bool(self._provider.should_check_origin(handler))


def by_ticket(handler: web.RequestHandler) -> bool:
    """Whether a ticket admitted the user of a request that is no websocket's."""
    return bool(getattr(handler, "_token_ws_by_ticket", False))


def _ticket(handler: web.RequestHandler) -> str | None:
    """The ticket of a request: its first token, if that is one."""
    in_argument, header = _shown(handler)
    token = in_argument or header_token(header or "")
    return token if token and is_ticket(token) else None


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
    wait = await throttle.wrong(handler.request, tokens)
    if wait is not None:
        cast("_Bearer", handler)._token_ws_refused = Refused("too_many_attempts", wait)
