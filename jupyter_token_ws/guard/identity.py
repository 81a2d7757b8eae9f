"""Asks the server's identity provider who a request is from (contract section 2).

The provider is asked as upstream asks it, at the moment upstream asks it, and needs to know nothing
of subprotocols. This module never decides by itself that a token is good.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from jupyter_server.auth.identity import IdentityProvider, LegacyIdentityProvider, User
from jupyter_server.auth.login import LegacyLoginHandler
from jupyter_server.base.handlers import AuthenticatedHandler, JupyterHandler
from tornado import web
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from .credentials import (
    CredentialSource,
    Digester,
    remove_ours,
    remove_url_token,
    same_secret,
    shown,
)
from .handshake import Handshake


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


def detach(handler: web.RequestHandler, authorization: str) -> DetachedHandler:
    """A detached handler for the same request with ``Authorization`` as its only credential (C2.2)."""
    request = handler.request
    headers = HTTPHeaders()
    for name, value in request.headers.get_all():
        if name not in ("Authorization", "Cookie"):
            headers.add(name, value)
    headers["Authorization"] = authorization
    method, uri = request.method or "GET", request.uri or "/"
    copy = HTTPServerRequest(
        headers=headers,
        connection=cast("Any", _NoConnection(getattr(request.connection, "context", None))),
        start_line=RequestStartLine(method, uri, request.version),
        server_connection=request.server_connection,
    )
    copy.remote_ip, copy.protocol, copy.host = request.remote_ip, request.protocol, request.host
    remove_url_token(copy)
    detached = DetachedHandler(handler.application, copy)
    detached.path_args, detached.path_kwargs = handler.path_args, handler.path_kwargs
    return detached


async def ask(provider: IdentityProvider, handler: web.RequestHandler) -> User | None:
    """Who the provider takes a handler's request to be from, as ``JupyterHandler.prepare`` asks it."""
    if type(provider) is IdentityProvider and _overrides_get_current_user(handler):
        # The way of before jupyter_server 2, which upstream still honours for the base provider
        # only.
        name = handler.get_current_user()
        user: User | None = User(name) if name else None
    else:
        answer = provider.get_user(handler)
        user = await answer if isinstance(answer, Awaitable) else answer
    # Upstream's property reads these, and `is_token_authenticated` reads the property.
    handler.current_user = user
    cast("Any", handler)._jupyter_current_user = user
    return user


def _overrides_get_current_user(handler: web.RequestHandler) -> bool:
    module = inspect.getmodule(handler.get_current_user)
    if isinstance(handler, DetachedHandler) or module is None:
        return False
    # The guard's own override in between does not count.
    return not module.__name__.startswith(("jupyter_server.base.", "jupyter_token_ws."))


def auth_enabled(provider: IdentityProvider) -> bool:
    """Whether the provider asks for any credential at all."""
    return bool(getattr(provider, "auth_enabled", True))


class Judge:
    """Judges the credential of one request, once (C2.1, C2.2)."""

    def __init__(self, handshake: Handshake, digest: Digester, *, allow_token_in_url: bool) -> None:
        self.handshake = handshake
        self._digest = digest
        self._allow_url = allow_token_in_url

    @contextmanager
    def view(self, request: HTTPServerRequest) -> Iterator[None]:
        """The request as the provider sees it while it is asked."""
        handshake = self.handshake
        with shown(
            request,
            authorization=handshake.shown_authorization,
            keep_url_token=self._allow_url and handshake.offer.token is None,
            keep_cookies=True,
        ):
            yield

    async def judge(self, provider: IdentityProvider, handler: web.RequestHandler) -> User | None:
        """Who is admitted. Afterwards the request is as it came, less the token that was ours.

        Raises ``tornado.web.HTTPError`` 403 where a subprotocol token admits nobody, however good
        the cookie and however open the handler.
        """
        handshake = self.handshake
        token = handshake.offer.token
        if not auth_enabled(provider):
            user = await ask(provider, handler)
            # Nothing was judged, so the token counts as taken: a browser that offered only marker
            # and token needs an answer to connect at all.
            handshake.token_accepted = token is not None
            self._settle(user, CredentialSource.NONE, "")
            return user
        with _cookies_undone(handler) as keep_cookies, self.view(handler.request):
            user = await ask(provider, handler)
            by_token = user is not None and bool(provider.is_token_authenticated(handler))
            if token is None and not by_token:
                keep_cookies()
        if token is not None and not by_token:
            user = await self.alone(provider, handler, token)
            handler.current_user = user
            cast("Any", handler)._jupyter_current_user = user
            if user is None:
                handshake.judged = handshake.rejected = True
                raise web.HTTPError(403)
        handshake.by_token = by_token
        handshake.token_accepted = token is not None
        await self._attribute(provider, handler, user)
        return user

    async def alone(
        self, provider: IdentityProvider, handler: web.RequestHandler, token: str
    ) -> User | None:
        """Who is admitted with ``token`` and without cookie and other credentials."""
        user = await ask(provider, detach(handler, f"token {token}"))
        if user is None and _names_users(provider):
            # Upstream's own know the scheme `token`; a provider written for OAuth may know only
            # this one.
            user = await ask(provider, detach(handler, f"Bearer {token}"))
        return user

    async def _attribute(
        self, provider: IdentityProvider, handler: web.RequestHandler, user: User | None
    ) -> None:
        """Settle which credential it was, and take it out of the request where it is ours."""
        handshake, request = self.handshake, handler.request
        ours: str | None = None
        source = CredentialSource.NONE
        cookie_user: str | None = None
        if handshake.token_accepted:
            ours, source = handshake.offer.token, CredentialSource.SUBPROTOCOL
        elif handshake.by_token:
            ours, source = await self._which_token(provider, handler)
        names_users = _names_users(provider)
        if user is not None and (ours is None or not names_users):
            cookie_user = await _cookie_user_name(provider, handler)
        if user is not None and ours is None:
            source = CredentialSource.COOKIE if cookie_user else CredentialSource.AMBIENT
        handshake.ours = ours
        remove_ours(request, ours)
        await self._remove_unused(provider, handler)
        credential = ours if ours is not None else request.headers.get("Cookie", "")
        named = user is not None and (names_users or cookie_user == user.username)
        self._settle(user, source, credential, named=named)

    async def _which_token(
        self, provider: IdentityProvider, handler: web.RequestHandler
    ) -> tuple[str | None, CredentialSource]:
        """Which of URL and header the provider took, when it says that it was a token."""
        in_url = self.handshake.url_token if self._allow_url else None
        in_header = self.handshake.header_token
        if in_url is None and in_header is None:
            return None, CredentialSource.AMBIENT
        if in_url is None:
            return in_header, CredentialSource.HEADER
        if in_header is None or same_secret(in_url, in_header):
            return in_url, CredentialSource.URL
        if await self.alone(provider, handler, in_url) is not None:
            return in_url, CredentialSource.URL
        return in_header, CredentialSource.HEADER

    async def _remove_unused(self, provider: IdentityProvider, handler: web.RequestHandler) -> None:
        """A URL token that was not used can be a good one all the same: a proxied app must not get it."""
        in_url = self.handshake.url_token
        if in_url is None or self._allow_url:
            return
        detached = detach(handler, f"token {in_url}")
        if await ask(provider, detached) is not None and provider.is_token_authenticated(detached):
            remove_url_token(handler.request)

    def _settle(
        self, user: User | None, source: CredentialSource, credential: str, *, named: bool = False
    ) -> None:
        handshake = self.handshake
        handshake.judged = True
        handshake.user = user
        handshake.source = source
        handshake.credential = self._digest(credential) if credential else ""
        name = handshake.user_name
        # The two kinds cannot meet: a user may call himself as he likes.
        handshake.principal = (
            f"user:{name}" if named and name else f"credential:{handshake.credential}"
        )


def _names_users(provider: IdentityProvider) -> bool:
    """Whether the provider names users; the stock ones invent a new name per request (C2.8)."""
    kind = type(provider)
    if isinstance(provider, LegacyIdentityProvider):
        login: Any = provider.login_handler_class
        get_user = getattr(login, "get_user", None)
        return kind.get_user is not LegacyIdentityProvider.get_user or getattr(
            get_user, "__func__", None
        ) is not getattr(LegacyLoginHandler.get_user, "__func__", None)
    return any(
        getattr(kind, name, None) is not getattr(IdentityProvider, name)
        for name in ("get_user", "_get_user", "get_user_token", "generate_anonymous_user")
    )


async def _cookie_user_name(provider: IdentityProvider, handler: web.RequestHandler) -> str | None:
    """The user whom the stock login cookie names, if it is one of the stock providers' cookies."""
    if "Cookie" not in handler.request.headers or not isinstance(handler, AuthenticatedHandler):
        return None
    if isinstance(provider, LegacyIdentityProvider):
        get_cookie = getattr(provider.login_handler_class, "get_user_cookie", None)
        name = get_cookie(handler) if get_cookie else None
        return name if isinstance(name, str) else None
    answer = provider.get_user_cookie(handler)
    user = await answer if isinstance(answer, Awaitable) else answer
    return str(user.username) if user is not None else None


@contextmanager
def _cookies_undone(handler: web.RequestHandler) -> Iterator[Any]:
    """Undo what the provider does to cookies meanwhile, unless the yielded function is called (C2.5)."""
    private = cast("Any", handler)
    before = dict(getattr(private, "_new_cookie", {}))
    raw = private._headers.get_list("Set-Cookie")
    kept = False

    def keep() -> None:
        nonlocal kept
        kept = True

    try:
        yield keep
    finally:
        if not kept:
            undo_cookies(handler, before, raw)


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
    private._headers.pop("Set-Cookie", None)
    for value in raw or ():
        private._headers.add("Set-Cookie", value)


class JudgedProvider:
    """Stands before the identity provider for one guarded request and is it in all other respects."""

    _OWN = ("_provider", "_judge", "_handler")

    def __init__(
        self, provider: IdentityProvider, judge: Judge, handler: web.RequestHandler
    ) -> None:
        object.__setattr__(self, "_provider", provider)
        object.__setattr__(self, "_judge", judge)
        object.__setattr__(self, "_handler", handler)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._provider)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_provider"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_provider"), name, value)

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        """Judge the guarded request; ask plainly for any other."""
        if handler is not self._handler:
            return await ask(cast("IdentityProvider", self._provider), handler)
        if self._judge.handshake.judged:
            return cast("User | None", self._judge.handshake.user)
        user: User | None = await self._judge.judge(self._provider, handler)
        return user

    def is_token_authenticated(self, handler: web.RequestHandler) -> bool:
        """As the provider says, on the request as it was judged; nobody before that."""
        if handler is not self._handler:
            return bool(self._provider.is_token_authenticated(handler))
        if not self._judge.handshake.judged:
            return False
        with self._judge.view(handler.request):
            return bool(self._provider.is_token_authenticated(handler))

    def should_check_origin(self, handler: web.RequestHandler) -> bool:
        """As the provider says, on the request as it was judged; always before that."""
        if handler is not self._handler:
            return bool(self._provider.should_check_origin(handler))
        if not self._judge.handshake.judged:
            return True
        with self._judge.view(handler.request):
            return bool(self._provider.should_check_origin(handler))
