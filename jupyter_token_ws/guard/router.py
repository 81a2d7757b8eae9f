"""How the guard gets before every websocket of a server, whoever registered it and whenever.

One rule at the front of the application's router looks at requests that concern websockets, asks
the application who would serve them, and answers with the guarded class of that handler. No library
class is changed, and handlers registered later are found like all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from jupyter_server.base.handlers import JupyterHandler
from tornado import routing, web
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.websocket import WebSocketHandler

from .bearer import bearer_class, can_watch, is_login_form, may_bear
from .handler import guarded_class
from .refusal import Refused

if TYPE_CHECKING:
    from .core import Guard

_HEADER = "Sec-WebSocket-Protocol"
_SEEN = "_token_ws_seen"


class MissingSocketHandler(JupyterHandler, WebSocketHandler):
    """A path without a websocket, for who can read the answer. Says so only after the credential.

    The origins that it allows are those of the server, as for every other websocket.
    """

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: 403 to strangers, else there is nothing here."""
        if self.current_user is None:
            raise web.HTTPError(403)
        raise Refused("not_found")


class UnguardedTokenHandler(WebSocketHandler):
    """A token was sent to a handler that cannot be guarded."""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """500: neither the token nor the socket is given to it."""
        raise Refused("internal_error")


class _Concerns(routing.Matcher):
    """Matches requests that upgrade, ask what a websocket path allows, or may bear a token or password."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        if getattr(request, _SEEN, False):
            return None
        upgrade = is_upgrade(request)
        concerns = upgrade or request.method in ("OPTIONS", "POST") or _HEADER in request.headers
        if concerns or may_bear(request) or self._guard.lacks_tls(request):
            return {"upgrade": upgrade}
        return None


def is_upgrade(request: HTTPServerRequest) -> bool:
    """Whether a request asks to become a websocket (RFC 6455 section 4.1)."""
    return request.method == "GET" and request.headers.get("Upgrade", "").lower() == "websocket"


class GuardRouter(routing.Router):
    """The target of the rule."""

    def __init__(self, guard: Guard, options_handler: type[web.RequestHandler]) -> None:
        self._guard = guard
        self._options_handler = options_handler

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate | None:
        """The delegate for the guarded class, or ``None`` to let the next rules decide.

        ``kwargs`` is what the matcher found: ``upgrade``, whether the request asks to be a websocket.
        """
        setattr(request, _SEEN, True)
        guard, upgrade = self._guard, kwargs["upgrade"]
        offer = guard.begin(request).offer if upgrade else guard.strip(request)
        if not guard.covers(request.path):
            return None
        delegate: Any = guard.application.find_handler(request)
        kind = getattr(delegate, "handler_class", None)
        if not isinstance(kind, type) or not issubclass(kind, web.RequestHandler):
            return cast("HTTPMessageDelegate", delegate)
        socket = issubclass(kind, WebSocketHandler)
        if upgrade:
            # A path may be served otherwise to who does not ask for a websocket.
            kind = cast("type[web.RequestHandler]", getattr(kind, "token_ws_socket", kind))
            socket = issubclass(kind, WebSocketHandler)
        else:
            stock_options = kind.options is web.RequestHandler.options
            if request.method == "OPTIONS" and socket and stock_options:
                return self._delegate(request, self._options_handler)
            return self._watched(request, delegate)
        if not socket:
            if not guard.opted_in(offer):
                return self._watched(request, delegate)
            return self._delegate(request, guarded_class(MissingSocketHandler))
        try:
            guarded = guarded_class(kind)
        except Exception:  # a metaclass may raise anything
            guard.log.exception("Cannot guard %s.%s", kind.__module__, kind.__qualname__)
            if not offer.token_bearing:
                return cast("HTTPMessageDelegate", delegate)
            return self._delegate(request, guarded_class(UnguardedTokenHandler))
        return self._instead(request, delegate, guarded)

    def _watched(self, request: HTTPServerRequest, delegate: Any) -> HTTPMessageDelegate:
        """The delegate for a request that is no websocket's: it may bear a ticket, or a wrong token or
        password."""
        guard, kind = self._guard, delegate.handler_class
        watches = guard.throttle.active or guard.tickets is not None
        watches = (watches and may_bear(request)) or is_login_form(kind)
        if not (watches and can_watch(kind)):
            return cast("HTTPMessageDelegate", delegate)
        try:
            watched = bearer_class(kind)
        except Exception as error:  # noqa: BLE001 - a metaclass may raise anything
            guard.log.debug("Cannot count for %s.%s: %r", kind.__module__, kind.__qualname__, error)
            return cast("HTTPMessageDelegate", delegate)
        return self._instead(request, delegate, watched)

    def _instead(
        self, request: HTTPServerRequest, delegate: Any, kind: type[web.RequestHandler]
    ) -> HTTPMessageDelegate:
        """The same delegate with a class that stands before its own."""
        return self._guard.application.get_handler_delegate(
            request, kind, delegate.handler_kwargs, delegate.path_args, delegate.path_kwargs
        )

    def _delegate(
        self, request: HTTPServerRequest, kind: type[web.RequestHandler]
    ) -> HTTPMessageDelegate:
        return self._guard.application.get_handler_delegate(request, kind)


def install(guard: Guard, options_handler: type[web.RequestHandler]) -> None:
    """Put the rule at the front. Calling it again for the same application changes nothing."""
    rules = guard.application.default_router.rules
    if not any(isinstance(rule.target, GuardRouter) for rule in rules):
        rules.insert(0, routing.Rule(_Concerns(guard), GuardRouter(guard, options_handler)))
