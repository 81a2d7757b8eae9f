"""Asks the server's identity provider who a request is from (contract section 2).

The provider is asked as upstream asks it, at the moment upstream asks it, and needs to know nothing
of subprotocols. This module never decides by itself that a token is good.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from jupyter_server.auth.identity import (
    IdentityProvider,
    LegacyIdentityProvider,
    PasswordIdentityProvider,
    User,
)
from jupyter_server.auth.login import LegacyLoginHandler
from jupyter_server.base.handlers import AuthenticatedHandler, JupyterHandler
from tornado import web
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from jupyter_token_ws.protocol.tickets import is_ticket

from .credentials import (
    CredentialSource,
    Digester,
    Shown,
    carried_tokens,
    remove_ours,
    remove_url_token,
)
from .handshake import Handshake
from .refusal import Refused
from .tickets import remove_tickets

if TYPE_CHECKING:
    from typing_extensions import Self

    from .throttle import Throttle
    from .tickets import Grant, Tickets

_LOG = logging.getLogger("jupyter_token_ws")


class _NoConnection:
    """The connection of a request that nobody answers."""

    def __init__(self, context: object) -> None:
        self.context = context

    def set_close_callback(self, callback: object) -> None:
        """Nothing here is ever closed."""


class DetachedHandler(JupyterHandler):
    """A handler for asking a provider once more, without what the first answer left behind.

    Providers memoise on the handler, so a second question needs a second handler. Nothing it writes
    goes anywhere.
    """


def detach(
    handler: web.RequestHandler, authorization: str | None, *, keep_url_token: bool = False
) -> DetachedHandler:
    """A detached handler for the same request with one credential only, or with none (C2.2)."""
    request = handler.request
    headers = HTTPHeaders()
    for name, value in request.headers.get_all():
        if name not in ("Authorization", "Cookie"):
            headers.add(name, value)
    if authorization is not None:
        headers["Authorization"] = authorization
    method, uri = request.method or "GET", request.uri or "/"
    copy = HTTPServerRequest(
        headers=headers,
        connection=cast("Any", _NoConnection(getattr(request.connection, "context", None))),
        start_line=RequestStartLine(method, uri, request.version),
        server_connection=request.server_connection,
    )
    copy.remote_ip, copy.protocol, copy.host = request.remote_ip, request.protocol, request.host
    if not keep_url_token:
        remove_url_token(copy)
    detached = DetachedHandler(handler.application, copy)
    detached.path_args, detached.path_kwargs = handler.path_args, handler.path_kwargs
    return detached


async def ask(provider: IdentityProvider, handler: web.RequestHandler) -> User | None:
    """Who the provider takes a handler's request to be from, as ``JupyterHandler.prepare`` asks it."""
    user: User | None
    if asks_handler(provider, handler):
        name = handler.get_current_user()
        user = User(name) if name else None
    else:
        answer = provider.get_user(handler)
        user = await answer if isinstance(answer, Awaitable) else answer
    _set_user(handler, user)
    return user


def _set_user(handler: web.RequestHandler, user: User | None) -> None:
    # Upstream's property reads these, and `is_token_authenticated` reads the property.
    handler.current_user = user
    cast("Any", handler)._jupyter_current_user = user


def asks_handler(provider: IdentityProvider, handler: web.RequestHandler) -> bool:
    """Whether the handler's ``get_current_user`` is asked instead of the provider.

    The way of before jupyter_server 2, which upstream still honours for the base provider only.
    """
    if type(provider) is not IdentityProvider or not isinstance(handler, JupyterHandler):
        return False
    asked = handler.get_current_user
    if getattr(asked, "__func__", None) is AuthenticatedHandler.get_current_user:
        return False  # as with nearly all; asking for the module takes long
    module = inspect.getmodule(asked)
    return module is not None and module.__name__ != AuthenticatedHandler.__module__


def says_nobody(error: web.HTTPError) -> bool:
    """Whether an error of a provider means that it does not know who this is."""
    # One that names its own reason, such as an expired token, is told as it is.
    return error.status_code in (401, 403) and not hasattr(error, "slug")


def knows_but_refuses(user: User | None, handler: web.RequestHandler | None) -> bool:
    """Whether a provider that said ``user`` for a handler knows who it is, and that they may not enter.

    JupyterHub's says ``None`` then as for a token that is good nowhere. It keeps on the handler whom the
    Hub named, scopes and all.
    """
    return user is None and bool(getattr(handler, "_cached_hub_user", None))


def without_token(request: HTTPServerRequest) -> Shown:
    """A request as a provider sees it that knows its token to be wrong already: the rest may admit."""
    return Shown(request, authorization=None, keep_url_token=False, keep_cookies=True)


def is_stock(provider: IdentityProvider) -> bool:
    """Whether a provider is upstream's own, which compares a token to one in memory."""
    return type(provider) in _STOCK


def auth_enabled(provider: IdentityProvider) -> bool:
    """Whether the provider asks for any credential at all."""
    return bool(getattr(provider, "auth_enabled", True))


@dataclass(frozen=True)
class Answer:
    """Who a provider takes a request to be from, whether it says by token, and which handler it saw.

    Without arguments: nobody could be asked.
    """

    user: User | None = None
    by_token: bool = False
    handler: web.RequestHandler | None = None


class Judge:
    """Judges the credential of one request, once (C2.1, C2.2).

    ``asked`` is the handler that the answer was found with: the request's own, or a detached one.
    """

    def __init__(
        self,
        handshake: Handshake,
        digest: Digester,
        throttle: Throttle,
        *,
        allow_token_in_url: bool,
        tickets: Tickets | None = None,
    ) -> None:
        self.handshake = handshake
        self._digest = digest
        self._throttle = throttle
        self._allow_url = allow_token_in_url
        self._tickets = tickets
        self.asked: web.RequestHandler | None = None
        self._held: list[Callable[[], None]] | None = None
        self._known_wrong = False

    def hold(self, set_cookie: Callable[[], None]) -> bool:
        """Whether a login cookie waits until it is known whether a token was it (C2.5).

        Upstream signs one for every token, only for it to be dropped here.
        """
        if self._held is None:
            return False
        self._held.append(set_cookie)
        return True

    def view(self, request: HTTPServerRequest) -> Shown:
        """The request as the provider sees it while it is asked."""
        handshake = self.handshake
        if handshake.grant is not None:
            return handshake.grant.shown(request)
        if self._known_wrong:
            return without_token(request)
        return Shown(
            request,
            authorization=handshake.shown_authorization,
            keep_url_token=self._allow_url and handshake.offer.token is None,
            keep_cookies=True,
        )

    async def judge(self, provider: IdentityProvider, handler: web.RequestHandler) -> User | None:
        """Who is admitted. Afterwards the request is as it came, less the token that was ours.

        Raises ``tornado.web.HTTPError`` 403 where a subprotocol token admits nobody, however good
        the cookie and however open the handler; and what the provider raises.
        """
        handshake = self.handshake
        token = handshake.offer.token
        user: User | None
        if not auth_enabled(provider):
            user = await ask(provider, handler)
            # Nothing was judged, so the token counts as taken: a browser that offered only marker
            # and token needs an answer to connect at all.
            handshake.token_accepted = token is not None
            handshake.judged = handshake.unasked = True
            self.settle(user, CredentialSource.NONE, "", named=names_users(provider))
            self.remove_tickets(handler.request)
            return user
        if self.ticket() is not None:
            grant = await self.redeem(handler.request)
            user, named = await ask_behind(provider, handler, grant)
            self.settle_ticket(handler, user, named=named)
            await self.remove_unused(provider, handler)
            return user
        remembers = handshake.token_presented and self._may_remember(provider, handler)
        if remembers:
            self._known_wrong = self._throttle.remembers(handler.request, *self._shown())
        try:
            answer = await self._ask(provider, handler)
        except web.HTTPError as error:
            if says_nobody(error):
                await self.wrong(handler)
            raise
        handshake.forbidden = knows_but_refuses(answer.user, answer.handler)
        wrong = answer.user is None and not handshake.forbidden
        if remembers and wrong and not self._known_wrong:
            self._throttle.remember(handler.request, *self._shown())
        self.asked = answer.handler
        handshake.judged = True
        user = answer.user
        if user is None:
            handshake.rejected = token is not None
            self.settle(None, CredentialSource.NONE, "")
            if wrong:
                await self.wrong(handler)
            if handshake.rejected:
                raise web.HTTPError(403)
        else:
            handshake.by_token = answer.by_token
            handshake.token_accepted = token is not None
            await self._attribute(provider, handler, user)
        await self.remove_unused(provider, handler)
        return user

    # -- tickets -----------------------------------------------------------------------------------

    def ticket(self) -> tuple[str, CredentialSource] | None:
        """The ticket that is to be judged, and where it was: the first token of a request, if it is one."""
        handshake = self.handshake
        in_url = handshake.url_token if self._allow_url else None
        for token, source in (
            (handshake.offer.token, CredentialSource.SUBPROTOCOL),
            (in_url, CredentialSource.URL),
            (handshake.header_token, CredentialSource.HEADER),
        ):
            if token is not None:
                found = self._tickets is not None and is_ticket(token)
                return (token, source) if found else None
        return None

    async def redeem(self, request: HTTPServerRequest) -> Grant:
        """What the request's ticket stands for. Raises ``Refused``."""
        found = cast("tuple[str, CredentialSource]", self.ticket())
        tickets = cast("Tickets", self._tickets)
        carried = self.handshake.carried
        try:
            if carried is not None and carried.grant is not None:
                grant = tickets.pass_on(request, carried.grant)
            else:
                grant = await tickets.look_up(request, found[0])
        except Refused as error:
            if error.slug == "too_many_attempts":
                self.handshake.wait = error.retry_after
            raise
        self.handshake.grant = grant
        return grant

    def settle_ticket(self, handler: web.RequestHandler, user: Any, *, named: bool) -> None:
        """Note who came by the ticket, and take it out of the request."""
        handshake = self.handshake
        grant, found = cast("Grant", handshake.grant), self.ticket()
        handshake.ours, source = cast("tuple[str, CredentialSource]", found)
        handshake.judged = handshake.by_token = True
        cast("Any", handler)._token_authenticated = True  # upstream's flag, for who reads that
        handshake.token_accepted = source is CredentialSource.SUBPROTOCOL
        remove_ours(handler.request, handshake.ours)
        self.settle(user, source, grant.secret, named=named)
        self.remove_tickets(handler.request)

    def remove_tickets(self, request: HTTPServerRequest) -> None:
        """Take every ticket out of a request, where there are tickets."""
        if self._tickets is not None:
            remove_tickets(request)

    # -- other credentials -------------------------------------------------------------------------

    async def _ask(self, provider: IdentityProvider, handler: web.RequestHandler) -> Answer:
        """Who is admitted, by the provider's word."""
        token = self.handshake.offer.token
        answer = Answer(handler=handler)
        if token is not None and self._known_wrong:
            # It stands alone, but for what is neither cookie nor token, such as a proxy's header.
            answer = await self._ask_with(provider, handler, None)
            _set_user(handler, answer.user)
            return answer
        # An override of old keeps what it found on the handler itself, so that handler is asked
        # only once, and with nothing but the token.
        if token is None or not asks_handler(provider, handler):
            answer = await self._ask_first(provider, handler)
        if token is not None and not answer.by_token and not self._alone_already(provider, handler):
            answer = await self.alone(provider, handler, token)
            _set_user(handler, answer.user)
        return answer

    def _may_remember(self, provider: IdentityProvider, handler: web.RequestHandler) -> bool:
        """Whether asking again costs more than it tells."""
        return not (is_stock(provider) or asks_handler(provider, handler))

    def _shown(self) -> tuple[str | None, str | None, str | None]:
        handshake = self.handshake
        in_url = handshake.url_token if self._allow_url else None
        return handshake.offer.token, in_url, handshake.authorization

    async def wrong(self, handler: web.RequestHandler) -> None:
        """The tokens that were judged admitted nobody: count them."""
        handshake = self.handshake
        in_url = handshake.url_token if self._allow_url else None
        sent = [handshake.offer.token]
        if handshake.offer.token is None:
            sent = [in_url, handshake.header_token]
        tokens = [token for token in sent if token is not None]
        if tokens:
            handshake.wait = await self._throttle.wrong(handler.request, tokens)

    async def _ask_first(self, provider: IdentityProvider, handler: web.RequestHandler) -> Answer:
        """Ask as upstream does; where a token is it, no login cookie is set or cleared (C2.5)."""
        if not self.handshake.token_presented:
            before = _cookies_so_far(handler)
            answer = await self._ask_as_usual(provider, handler)
            if answer.by_token:  # by a way of the provider's own
                undo_cookies(handler, *before)
            return answer
        with CookiesUndone(handler) as cookies:
            held: list[Callable[[], None]] = []
            self._held = held
            try:
                with self.view(handler.request):
                    answer = await self._ask_as_usual(provider, handler)
            finally:
                self._held = None
            if self.handshake.offer.token is None and not answer.by_token:
                for set_cookie in held:
                    set_cookie()
                cookies.keep()
        return answer

    def _alone_already(self, provider: IdentityProvider, handler: web.RequestHandler) -> bool:
        """Whether the token stood alone in the first question, so that the second were the same."""
        if type(provider) not in _STOCK or asks_handler(provider, handler):
            return False
        return "Cookie" not in handler.request.headers

    async def _ask_as_usual(
        self, provider: IdentityProvider, handler: web.RequestHandler
    ) -> Answer:
        try:
            user = await ask(provider, handler)
        except web.HTTPError as error:
            if self.handshake.offer.token is None or not says_nobody(error):
                raise
            user = None
        by_token = user is not None and bool(provider.is_token_authenticated(handler))
        return Answer(user, by_token, handler)

    async def alone(
        self, provider: IdentityProvider, handler: web.RequestHandler, token: str
    ) -> Answer:
        """Who is admitted with ``token`` and without cookie and other credentials."""
        first, *others = schemes(provider, handler)
        answer = await self._ask_with(provider, handler, f"{first} {token}")
        for scheme in others:
            if answer.user is None:
                answer = await self._ask_with(provider, handler, f"{scheme} {token}")
        return answer

    async def _ask_with(
        self,
        provider: IdentityProvider,
        handler: web.RequestHandler,
        authorization: str | None,
        *,
        keep_url_token: bool = False,
    ) -> Answer:
        """Who is admitted with one credential or none."""
        asked, by_token = handler, False
        user: User | None = None
        shown = (None, self.handshake.url_token if keep_url_token else None, authorization)
        remembers = any(shown) and self._may_remember(provider, handler)
        if remembers and self._throttle.remembers(handler.request, *shown):
            authorization, keep_url_token, remembers = None, False, False
        try:
            if asks_handler(provider, handler):
                with (
                    CookiesUndone(handler),
                    Shown(
                        handler.request,
                        authorization=authorization,
                        keep_url_token=keep_url_token,
                        keep_cookies=False,
                    ),
                ):
                    name = handler.get_current_user()
                    user = User(name) if name else None
            else:
                asked = detach(handler, authorization, keep_url_token=keep_url_token)
                user = await ask(provider, asked)
                by_token = user is not None and bool(provider.is_token_authenticated(asked))
        except web.HTTPError as error:
            if not says_nobody(error):
                raise
            remembers = False  # without the token it would not raise, and that is to be told
        if remembers and user is None and not knows_but_refuses(user, asked):
            self._throttle.remember(handler.request, *shown)
        return Answer(user, by_token, asked)

    async def _attribute(
        self, provider: IdentityProvider, handler: web.RequestHandler, user: User
    ) -> None:
        """Settle which credential it was, and take it out of the request where it is ours."""
        handshake, request = self.handshake, handler.request
        named = names_users(provider) or asks_handler(provider, handler)
        ours: str | None
        if handshake.token_accepted:
            ours, source = handshake.offer.token, CredentialSource.SUBPROTOCOL
        else:
            ours, source = await self._which(provider, handler, user, named=named)
        if not named:
            # A stock provider's user is somebody only where a cookie says who.
            named = await _cookie_user_name(provider, handler) == user.username
        handshake.ours = ours
        remove_ours(request, ours)
        credential = ours if ours is not None else request.headers.get("Cookie", "")
        self.settle(user, source, credential, named=named)

    async def _which(
        self, provider: IdentityProvider, handler: web.RequestHandler, user: User, *, named: bool
    ) -> tuple[str | None, CredentialSource]:
        """Which credential the provider took, where no subprotocol token was sent.

        It need not say, so it is asked what it makes of the request with something left out.
        """
        handshake = self.handshake
        in_url = handshake.url_token if self._allow_url else None
        in_header = handshake.header_token
        keep_url = in_url is not None

        async def admits(authorization: str | None, *, keep_url_token: bool) -> bool:
            question = self._ask_with(
                provider, handler, authorization, keep_url_token=keep_url_token
            )
            other = (await _quietly(question)).user
            return other is not None and (not named or other.username == user.username)

        if not handshake.by_token:
            if not named:
                return None, CredentialSource.COOKIE
            if not await self._needed(provider, handler, user):
                return None, CredentialSource.AMBIENT
            if "Cookie" in handler.request.headers and not await admits(
                handshake.authorization, keep_url_token=keep_url
            ):
                return None, CredentialSource.COOKIE
        if keep_url and (in_header is None or await admits(None, keep_url_token=True)):
            return in_url, CredentialSource.URL
        if in_header is not None:
            return in_header, CredentialSource.HEADER
        return None, CredentialSource.AMBIENT

    async def _needed(
        self, provider: IdentityProvider, handler: web.RequestHandler, user: User
    ) -> bool:
        """Whether a user would not have been admitted without credentials."""
        handshake = self.handshake
        carried = handshake.token_presented or "Cookie" in handler.request.headers
        if not carried:
            return False
        other = (await _quietly(self._ask_with(provider, handler, None))).user
        return other is None or other.username != user.username

    async def knows(
        self, provider: IdentityProvider, handler: web.RequestHandler, token: str
    ) -> User | None:
        """Who a token is good for, where none was asked for; ``None`` too where tokens are ignored."""
        answer = await _quietly(self.alone(provider, handler, token))
        user = answer.user
        if user is None or answer.by_token or await self._needed(provider, handler, user):
            return user
        return None

    async def remove_unused(self, provider: IdentityProvider, handler: web.RequestHandler) -> None:
        """A token that was not used can be a good one all the same: a proxied app must not get it."""
        handshake, request = self.handshake, handler.request
        self.remove_tickets(request)
        failed: list[str | None] = []
        if handshake.user is None:
            failed = [handshake.header_token, handshake.url_token if self._allow_url else None]
        for token in carried_tokens(request):
            if token not in failed and await self.knows(provider, handler, token) is not None:
                remove_ours(request, token)

    def settle(
        self, user: Any, source: CredentialSource, credential: str, *, named: bool = False
    ) -> None:
        """Note the outcome. ``named``: the user's name says who it is, now and the next time."""
        handshake = self.handshake
        handshake.user = user
        handshake.source = source
        handshake.credential = self._digest(credential) if credential else ""
        name = handshake.user_name
        # The two kinds cannot meet: a user may call himself as he likes.
        handshake.principal = (
            f"user:{name}" if named and name else f"credential:{handshake.credential}"
        )


async def ask_behind(
    provider: IdentityProvider, handler: web.RequestHandler, grant: Grant
) -> tuple[User, bool]:
    """Who is admitted by what is behind a ticket, and whether the user's name says who it is.

    The request's own cookies are hidden meanwhile, and none is set or cleared (C2.5, C6.3). Raises
    ``Refused`` where it admits nobody, and what the provider raises.
    """
    with CookiesUndone(handler), grant.shown(handler.request):
        try:
            user = await ask(provider, handler)
        except web.HTTPError as error:
            if not says_nobody(error):
                raise
            user = None
        if user is None:
            known = knows_but_refuses(user, handler)
            raise Refused("forbidden" if known else "token_revoked")
        named = names_users(provider) or asks_handler(provider, handler)
        return user, named or await _cookie_user_name(provider, handler) == user.username


async def _quietly(question: Awaitable[Answer]) -> Answer:
    """Ask where only what is noted depends on the answer: whatever goes wrong is no answer."""
    try:
        return await question
    except Exception as error:  # noqa: BLE001 - a provider may raise anything
        _LOG.debug("Asked for a credential's owner: %r", error)
        return Answer()


_STOCK = (IdentityProvider, PasswordIdentityProvider)


def schemes(provider: IdentityProvider, handler: web.RequestHandler) -> tuple[str, ...]:
    """How a token may stand in ``Authorization`` for a provider to read it.

    Upstream's own know the scheme ``token``; one written for OAuth may know only the other.
    """
    if type(provider) in _STOCK and not asks_handler(provider, handler):
        return ("token",)
    return ("token", "Bearer")


def names_users(provider: IdentityProvider) -> bool:
    """Whether the provider names users; the stock ones invent a new name per request (C2.8)."""
    kind: Any = type(provider)
    if kind in _STOCK:
        return False
    if _overrides(kind, IdentityProvider, "_get_user", "get_user_token", "generate_anonymous_user"):
        return True
    if not isinstance(provider, LegacyIdentityProvider):
        return _overrides(kind, IdentityProvider, "get_user")
    login: Any = provider.login_handler_class
    return _overrides(kind, LegacyIdentityProvider, "get_user") or _overrides(
        login, LegacyLoginHandler, "get_user", "get_user_token"
    )


def _overrides(kind: type, base: type, *names: str) -> bool:
    def function(owner: type, name: str) -> Any:
        method = getattr(owner, name, None)
        return getattr(method, "__func__", method)

    return any(function(kind, name) is not function(base, name) for name in names)


async def _cookie_user_name(provider: IdentityProvider, handler: web.RequestHandler) -> str | None:
    """The user whom the stock login cookie names."""
    if "Cookie" not in handler.request.headers:
        return None
    if isinstance(provider, LegacyIdentityProvider):
        name = cast("Any", provider.login_handler_class).get_user_cookie(handler)
        return cast("str | None", name)
    answer = provider.get_user_cookie(handler)
    user = await answer if isinstance(answer, Awaitable) else answer
    return str(user.username) if user is not None else None


class CookiesUndone:
    """For the length of a block: what is done to cookies is undone, unless ``keep`` is called (C2.5)."""

    __slots__ = ("_before", "_handler", "_kept")

    def __init__(self, handler: web.RequestHandler) -> None:
        self._handler = handler
        self._before = _cookies_so_far(handler)
        self._kept = False

    def keep(self) -> None:
        """They stay."""
        self._kept = True

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Undo it."""
        if not self._kept:
            undo_cookies(self._handler, *self._before)


def _cookies_so_far(handler: web.RequestHandler) -> tuple[dict[str, Any], list[str]]:
    private = cast("Any", handler)
    new = dict(getattr(private, "_new_cookie", {}))
    return new, list(private._headers.get_list("Set-Cookie"))


def undo_cookies(
    handler: web.RequestHandler, cookies: dict[str, Any] | None = None, raw: list[str] | None = None
) -> None:
    """Set the cookies that a handler is about to send back to what they were, or to none."""
    private = cast("Any", handler)
    if hasattr(private, "_new_cookie"):
        jar = private._new_cookie
        for name in list(jar):
            if name not in (cookies or {}):
                del jar[name]
        for name, morsel in (cookies or {}).items():
            jar[name] = morsel
    if "Set-Cookie" in private._headers:
        del private._headers["Set-Cookie"]
    for value in raw or ():
        private._headers.add("Set-Cookie", value)


class StandIn:
    """Stands before the identity provider for one request and is it in all that is not overridden."""

    def __init__(self, provider: IdentityProvider, handler: web.RequestHandler) -> None:
        object.__setattr__(self, "_provider", provider)
        object.__setattr__(self, "_handler", handler)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._provider)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_provider"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_provider"), name, value)


def checks_origin(stand_in: Any, handler: web.RequestHandler) -> bool:
    """Whether the origin is checked, by the provider's rule, where the stand-in says what is by token."""
    provider = object.__getattribute__(stand_in, "_provider")
    return bool(type(provider).should_check_origin(stand_in, handler))


class JudgedProvider(StandIn):
    """Before the identity provider for one guarded request: the judge's word is its word."""

    def __init__(
        self, provider: IdentityProvider, judge: Judge, handler: web.RequestHandler
    ) -> None:
        super().__init__(provider, handler)
        object.__setattr__(self, "_judge", judge)

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        """Judge the guarded request; ask plainly for any other."""
        if handler is not self._handler:
            return await ask(cast("IdentityProvider", self._provider), handler)
        if self._judge.handshake.judged:
            return cast("User | None", self._judge.handshake.user)
        user: User | None = await self._judge.judge(self._provider, handler)
        return user

    def is_token_authenticated(self, handler: web.RequestHandler) -> bool:
        """As the provider said when the request was judged; nobody before that."""
        if handler is not self._handler:
            return bool(self._provider.is_token_authenticated(handler))
        # The provider was asked when the request was judged; where authentication is off it was not.
        handshake = self._judge.handshake
        if handshake.unasked:
            return bool(self._provider.is_token_authenticated(handler))
        return bool(handshake.by_token)

    def should_check_origin(self, handler: web.RequestHandler) -> bool:
        """As the provider says, on the request as it was judged; always before that."""
        if handler is not self._handler:
            return bool(self._provider.should_check_origin(handler))
        if not self._judge.handshake.judged:
            return True
        if self._judge.handshake.grant is not None:
            return checks_origin(self, handler)
        asked = self._judge.asked or handler
        if asked is not handler:
            return bool(self._provider.should_check_origin(asked))
        with self._judge.view(handler.request):
            return bool(self._provider.should_check_origin(handler))
