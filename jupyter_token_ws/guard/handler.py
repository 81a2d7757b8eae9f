"""The guarded websocket handler.

``TokenWebSocketHandler`` is for extension authors. ``_Guarded`` is what stands before a handler
class: it judges the credential when the handler asks who is there, tells refusals, chooses the
answer, and enters the socket into the registry. It is always first in the order of methods, so that
nothing a handler overrides can pass it by.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler
from tornado import web
from tornado.httputil import HTTPServerRequest
from tornado.websocket import WebSocketHandler, WebSocketProtocol

from jupyter_token_ws.protocol.reasons import REASONS, TOKEN_SLUGS, Reason, slug_for_status
from jupyter_token_ws.protocol.subprotocols import choose

from . import kernels, metrics
from .core import RETRY_AFTER_CROWD, RETRY_AFTER_DRAINING, RETRY_AFTER_FULL, Guard, set_offer
from .credentials import CredentialSource, Shown, remove_ours
from .handshake import Handshake, Stage
from .identity import (
    CookiesUndone,
    Judge,
    JudgedProvider,
    ask_behind,
    auth_enabled,
    detach,
    knows_but_refuses,
    names_users,
    undo_cookies,
)
from .refusal import RefusalHandler, Refused, carried_protocol, refusal_headers
from .registry import OpenSocket

if TYPE_CHECKING:
    from asyncio import Future

    from jupyter_server.auth.identity import IdentityProvider

CROSS_ORIGIN = "Cross origin websockets not allowed"
"""The body of the plain 403 across origins: tornado's words, so that every such answer is the same."""


@dataclass(frozen=True)
class SocketInfo:
    """How a client came in.

    ``source`` is where its credential came from, ``subprotocol`` what the handshake was answered
    with, ``opted_in`` whether the client understands close codes, ``principal`` the key of whatever
    belongs to its user, ``user`` what the identity provider returned, ``carrier`` what brings the
    messages: ``websocket``, ``tunnel-websocket`` or ``tunnel-eventstream``.
    """

    source: CredentialSource
    subprotocol: str | None
    opted_in: bool
    principal: str
    user: Any
    carrier: str = "websocket"


def socket_info(handler: web.RequestHandler) -> SocketInfo | None:
    """How the client of a websocket handler came in; ``None`` where the guard does not stand before it."""
    if not isinstance(handler, _Guarded):
        return None
    handshake = handler._token_ws_handshake
    handler._settle_late()
    return SocketInfo(
        handshake.source,
        handshake.answered,
        handshake.opted_in,
        handshake.principal,
        handshake.user,
        handshake.carrier,
    )


def close_with_reason(handler: WebSocketHandler, slug: str, retry_after: int | None = None) -> None:
    """Close a websocket with a reason of the table (contract section 3).

    ``retry_after`` is in seconds. Clients that opted in get the code and the reason; others are
    closed as stock closes (C3.6). Before the socket is open it is refused with the reason. Closing
    twice does nothing. Raises ``KeyError`` for a slug that is not in the table and ``ValueError``
    for a negative ``retry_after``.
    """
    reason = REASONS[slug]
    text = reason.close_reason(retry_after)
    if isinstance(handler, _Guarded):
        if handler._token_ws_handshake.stage is Stage.OPENING:
            handler.refuse_opening(slug, retry_after)
            return
        entry = handler._token_ws_guard.registry.get(handler)
        if entry is not None:
            entry.close(slug, retry_after)
            return
    handler.close(reason.code, text)


class TokenWebSocketHandler(WebSocketHandler):
    """Takes tokens from the subprotocol and tells refusals by close codes; for any tornado
    application.

    Put it first among the bases::

        class Echo(TokenWebSocketHandler, JupyterHandler):
            def on_message(self, message):
                self.write_message(message)

    A Jupyter handler is judged by the server's identity provider. In a plain tornado application
    override ``get_current_user``: while it runs, the token stands in the ``Authorization`` header
    as ``token <value>``. Under a Jupyter server with the extension every websocket has all this
    without the class.
    """

    def __new__(  # noqa: PYI034 - it returns a subclass
        cls, application: web.Application, request: HTTPServerRequest, **kwargs: Any
    ) -> TokenWebSocketHandler:
        """An instance of the guarded class, unless the guard is switched off for the path."""
        guard = Guard.of(application)
        guard.begin(request)
        kind: Any = guarded_class(cls) if guard.covers(request.path) else cls
        return cast("TokenWebSocketHandler", object.__new__(kind))

    @property
    def socket_info(self) -> SocketInfo | None:
        """How the client came in; ``None`` where the guard is switched off for this path."""
        return socket_info(self)

    def close_with_reason(self, slug: str, retry_after: int | None = None) -> None:
        """See the function of the same name."""
        close_with_reason(self, slug, retry_after)


class _Guarded(WebSocketHandler):
    """What is mixed in before a handler class."""

    _token_ws_is_jupyter = False
    _token_ws_handshake: Handshake
    _token_ws_guard: Guard

    def __init__(
        self, application: web.Application, request: HTTPServerRequest, **kwargs: Any
    ) -> None:
        guard = self._token_ws_guard = Guard.of(application)
        handshake = self._token_ws_handshake = guard.begin(request)
        # A stream of a tunnel has its carrier's credential, whatever stands in its own URL (C7.5).
        self._token_ws_url = guard.options.allow_token_in_url and handshake.carried is None
        self._token_ws_judge = Judge(
            handshake,
            guard.digest,
            guard.throttle,
            allow_token_in_url=self._token_ws_url,
            tickets=guard.tickets,
        )
        self._token_ws_placed: ExitStack | None = None
        self._token_ws_session: kernels.Key | None = None
        self._token_ws_replaces = False
        super().__init__(application, request, **kwargs)
        # jupyter-server-proxy puts methods of a parent on the instance, before ours.
        self._token_ws_redirect = self.__dict__.pop("redirect", None)

    # -- who is there ------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Judge the credential at the moment the handler asks for the user; refuse what cannot be read."""
        handshake, guard = self._token_ws_handshake, self._token_ws_guard
        early = self._early()
        guard.opening.add(self, guard.open_timeout(self.request.path))
        if early is not None:
            self._check_host_first()
            self._refuse(early.slug, retry_after=early.retry_after)
            return
        if not self._token_ws_is_jupyter:
            await self._judge_plain()
        result: Any = super().prepare()
        if result is not None:
            await result
        if handshake.offer.token is not None and not handshake.judged:
            # A handler with a `prepare` all of its own.
            await cast("Any", self).identity_provider.get_user(self)
        if handshake.stage is Stage.OPENING and await self._belongs_elsewhere():
            self._refuse("other_server")
        if handshake.stage is Stage.OPENING and isinstance(self, KernelWebsocketHandler):
            self._before_kernel()

    async def _belongs_elsewhere(self) -> bool:
        """Whether this belongs to another server of the user's. Not asked for who is refused anyway."""
        elsewhere = self._token_ws_guard.elsewhere
        if elsewhere is None or self._known_user() is None or not self._origin_allowed():
            return False
        answer = await elsewhere(self)
        self._stop_if_late()
        return answer

    def _early(self) -> Refused | None:
        """What is wrong with a handshake whoever it is from."""
        handshake, guard = self._token_ws_handshake, self._token_ws_guard
        if guard.lacks_tls(self.request):
            return Refused("tls_required")
        if handshake.offer.malformed:
            return Refused("malformed_credentials")
        if guard.draining:
            return Refused("draining", RETRY_AFTER_DRAINING)
        if guard.crowded(self):
            return Refused("too_many_connections", RETRY_AFTER_CROWD)
        return None

    def opening_client(self) -> str | None:
        """See ``Opening``."""
        handshake = self._token_ws_handshake
        if handshake.client == "":
            handshake.client = self._token_ws_guard.proxies.client(self.request)
        return handshake.client

    def _check_host_first(self) -> None:
        """What is refused before the handler asks anything still comes after the Host check (C2.7)."""
        if self._token_ws_is_jupyter and not cast("Any", self).check_host():
            self.current_user = cast("Any", self)._jupyter_current_user = None
            raise web.HTTPError(403)

    async def _judge_plain(self) -> None:
        """Judge for a handler that is not Jupyter's: it may ask for its user at any time, or never."""
        handshake = self._token_ws_handshake
        provider: IdentityProvider | None = self.settings.get("identity_provider")
        token = handshake.offer.token
        if provider is not None and not auth_enabled(provider):
            handshake.token_accepted = token is not None
            handshake.judged = handshake.unasked = True
            self._token_ws_judge.remove_tickets(self.request)
            return
        if self._token_ws_judge.ticket() is not None:
            await self._judge_plain_ticket(provider)
            return
        if token is None:
            await self._attribute_plain(provider)
            return
        user: Any = None
        named = False
        if not _is_default_current_user(type(self)):
            with (
                CookiesUndone(self),
                Shown(
                    self.request,
                    authorization=f"token {token}",
                    keep_url_token=False,
                    keep_cookies=False,
                ),
            ):
                user = self.get_current_user() or None
            if user is not None:
                named = True
                self.current_user = user  # asked again it might prefer a cookie
        if user is None and provider is not None:
            answer = await self._token_ws_judge.alone(provider, self, token)
            user, named = answer.user, names_users(provider)
            handshake.forbidden = knows_but_refuses(user, answer.handler)
        self._stop_if_late()
        handshake.judged = True
        if user is None:
            handshake.rejected = True
            if not handshake.forbidden:
                await self._token_ws_judge.wrong(self)
            raise web.HTTPError(403)
        handshake.ours = token
        handshake.token_accepted = True
        self._token_ws_judge.settle(user, CredentialSource.SUBPROTOCOL, token, named=named)
        # It may read the header in `prepare`, in `get` or not at all; taken away before the
        # handshake.
        self._token_ws_placed = ExitStack()
        self._token_ws_placed.enter_context(self._token_ws_judge.view(self.request))

    async def _judge_plain_ticket(self, provider: IdentityProvider | None) -> None:
        """The same for a ticket, wherever it is: the handler sees what is behind it."""
        judge = self._token_ws_judge
        grant = await judge.redeem(self.request)
        user: Any = None
        if not _is_default_current_user(type(self)):
            with CookiesUndone(self), grant.shown(self.request):
                user = self.get_current_user() or None
        named = user is not None
        if user is not None:
            self.current_user = user
        elif provider is not None:
            user, named = await ask_behind(provider, detach(self, None), grant)
        else:
            raise Refused("token_revoked")
        self._stop_if_late()
        judge.settle_ticket(self, user, named=named)
        self._token_ws_placed = ExitStack()
        self._token_ws_placed.enter_context(judge.view(self.request))

    async def _attribute_plain(self, provider: IdentityProvider | None) -> None:
        """Find out whether a token in URL or header is the server's own, so that it can be removed."""
        handshake, judge = self._token_ws_handshake, self._token_ws_judge
        handshake.judged = True
        if provider is None:
            return
        await judge.remove_unused(provider, self)
        allowed = self._token_ws_url
        for token, source in (
            (handshake.url_token if allowed else None, CredentialSource.URL),
            (handshake.header_token, CredentialSource.HEADER),
        ):
            user = await judge.knows(provider, self, token) if token is not None else None
            if token is not None and user is not None:
                handshake.ours = token
                judge.settle(user, source, token, named=names_users(provider))
                return

    def _settle_late(self) -> None:
        """Note who came in where no provider was asked: the handler's own user, or nobody."""
        if self._token_ws_handshake.user is not None:
            return
        user = self._known_user()
        source = CredentialSource.NONE if user is None else CredentialSource.AMBIENT
        cookies = self.request.headers.get("Cookie", "")
        self._token_ws_judge.settle(user, source, cookies, named=True)

    def _before_kernel(self) -> None:
        """What upstream's kernel handler looks at too late: it has ended the older connection of a
        session before it checks the origin (C2.7) and the handshake's own headers."""
        if self._known_user() is None:
            return  # refused by upstream before all that
        if self._origin_allowed():
            self._claim_session()
        else:
            self._refuse_across()

    def _claim_session(self) -> None:
        """Keep a kernel session for its principal, before upstream looks at it (C2.8, 4409)."""
        named = kernels.session_id(self)
        if named is None:
            return
        guard, principal = self._token_ws_guard, self._token_ws_handshake.principal
        if not _can_upgrade(self.request):
            named = uuid4().hex  # tornado will refuse it, so it must not end anybody's connection
        own = kernels.own_session_id(guard.digest, principal, named)
        kernels.change_session_id(self.request, own)
        self._token_ws_session = (self.path_kwargs.get("kernel_id", ""), own)
        self._token_ws_replaces = guard.sessions.claim(self, self._token_ws_session)

    # -- refusals ----------------------------------------------------------------------------------

    def check_origin(self, *args: Any, **kwargs: Any) -> bool:
        """Upstream's check; where it fails the answer is the same for everybody (C3.4)."""
        self._stop_if_late()
        if not cast("Any", super()).check_origin(*args, **kwargs):
            self._refuse_across()
            raise web.Finish
        return True

    def _check_cross_origin(self, check: Callable[[str], bool]) -> str | None:
        """The check of tornado 6.6 and later, which refuses some requests without asking ``check_origin``."""
        self._stop_if_late()
        error: str | None = super()._check_cross_origin(check)
        if error is not None:
            self._refuse_across()
            raise web.Finish
        return None

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """An error of the handler, told by its reason where the client can read one."""
        stage = self._token_ws_handshake.stage
        if stage is Stage.REFUSED:
            return
        if stage is Stage.OPEN or self._headers_written:
            super().send_error(status_code, **kwargs)
            return
        handshake = self._token_ws_handshake
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, Refused):
            self._refuse(error.slug, retry_after=error.retry_after)
        elif handshake.host_refused:
            self._refuse(
                self._slug(status_code),
                functools.partial(super().send_error, status_code, **kwargs),
            )
        else:
            self._refuse(self._slug(status_code), status=status_code)

    def redirect(self, *args: Any, **kwargs: Any) -> None:
        """A redirect of somebody unknown leads to the login page, which a websocket cannot show."""
        stage = self._token_ws_handshake.stage
        if stage is Stage.REFUSED:
            return
        stock: Callable[..., None] = self._token_ws_redirect or super().redirect
        if stage is Stage.OPENING and self._known_user() is None:
            self._refuse(self._slug(403), functools.partial(stock, *args, **kwargs))
        else:
            stock(*args, **kwargs)

    def _known_user(self) -> Any:
        # Not the property: before `prepare` is through, asking it raises.
        return self._token_ws_handshake.user or getattr(self, "_current_user", None) or None

    def _slug(self, status: int) -> str:
        """The reason for an error status, by what is known of the credential."""
        handshake = self._token_ws_handshake
        if status not in (401, 403):
            return slug_for_status(status)
        if handshake.host_refused:
            return "origin_refused"
        if handshake.forbidden:
            return "forbidden"
        if handshake.rejected:
            return "token_rejected"
        ignored = handshake.unasked and handshake.token_presented  # authentication is off
        if ignored or self._known_user() is not None:
            return "forbidden"
        return self._token_slug() if handshake.token_presented else "credentials_missing"

    def _token_slug(self) -> str:
        """What is wrong with a token that admitted nobody."""
        in_url = self._token_ws_handshake.url_token is not None
        if in_url and not self._token_ws_url:
            return "url_token_refused"
        return "token_rejected"

    def _slug_across(self, slug: str) -> str:
        """What may be told where the origin is not allowed (C3.4)."""
        handshake = self._token_ws_handshake
        if handshake.token_presented and slug in TOKEN_SLUGS:
            return slug
        # Named here too, or a page with a wrong token could tell by the answer whether the browser
        # has a good cookie, with which it comes as far as the origin check.
        return self._token_slug() if handshake.token_unused else "origin_refused"

    def _refuse(
        self,
        slug: str,
        plain: Callable[[], None] | None = None,
        *,
        status: int | None = None,
        across: bool | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Refuse this socket, once.

        ``plain`` answers in plain HTTP as upstream would; without it we answer, with upstream's
        ``status`` where it has one. ``across`` says that the origin is not allowed, where the
        caller knows. ``retry_after`` is in seconds.
        """
        handshake = self._token_ws_handshake
        self._leave()
        if slug == "token_rejected" and handshake.wait is not None:
            slug, retry_after, status, plain = "too_many_attempts", handshake.wait, None, None
        if across is None:
            across = not handshake.host_refused and not self._origin_allowed()
        reason = REASONS[self._slug_across(slug) if across else slug]
        if reason.slug != slug:
            retry_after = None
        handshake.stage = Stage.REFUSED
        tellable = reason.told and handshake.opted_in
        told = tellable and self._budget_allows()
        self._token_ws_guard.refused(self, reason, told)
        if told:
            self._tell(reason, retry_after)
            return
        if tellable:
            # One of too many: it may not keep the connection for its next request either (C3.5).
            cast("Any", self.request.connection)._disconnect_on_finish = True
        if across:
            undo_cookies(self)
            self._answer(403, CROSS_ORIGIN)
        elif plain is not None:
            plain()
        else:
            # Upstream's page would take longer to render than all the rest, for nobody to see.
            body = f"{reason.slug}: {reason.text}\n"
            headers = refusal_headers(reason, retry_after)
            self._answer(status or self._plain_status(reason), body, headers)

    def _refuse_across(self) -> None:
        """Refuse because of the origin, which is known not to be allowed."""
        self._refuse("origin_refused", across=True)

    def _plain_status(self, reason: Reason) -> int:
        """C3.3; but where only the reason marker opts in, JEP 121 holds to the letter: 403 (C3.1)."""
        explicit = self._token_ws_guard.options.close_reasons == "explicit"
        return 403 if explicit and reason.slug in TOKEN_SLUGS else reason.http_status

    def _origin_allowed(self) -> bool:
        """Whether upstream's origin check passes, as things stand."""
        before_6_6 = functools.partial(_check_cross_origin, self.request)
        protection = getattr(super(), "_check_cross_origin", before_6_6)
        try:
            return protection(cast("Any", super()).check_origin) is None
        except Exception:  # noqa: BLE001 - whatever a handler's own check raises
            # A handler whose check needs more than is settled yet: nothing is told.
            return False

    def _budget_allows(self) -> bool:
        handshake = self._token_ws_handshake
        digest = self._token_ws_guard.digest
        credential = handshake.offer.token or handshake.url_token or handshake.header_token
        # A page whose server started anew asks for all its kernels at once, and each socket must
        # hear that its own is gone. A stranger is not told more for asking at many paths.
        known = self._known_user() is not None
        client = self.opening_client() or self.request.remote_ip or ""
        if handshake.wait is not None:
            return self._token_ws_guard.refusals.allow((client, "too_many_attempts", ""))
        key = (
            client,
            digest(self.request.path) if known else type(self).__qualname__,
            digest(credential or self.request.headers.get("Cookie", "")),
        )
        return self._token_ws_guard.refusals.allow(key)

    def _answer(self, status: int, body: str, headers: Mapping[str, str] | None = None) -> None:
        """Plain HTTP, the same for everybody who gets this answer."""
        self.clear()
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        for name, value in (headers or {}).items():
            self.set_header(name, value)
        self.set_status(status)
        self.finish(body)

    def _tell(self, reason: Reason, retry_after: int | None) -> None:
        """Hand the connection to a handler that accepts and closes."""
        guard = self._token_ws_guard
        self._finished = True  # tornado asks this before it answers anything on our behalf
        offer = self._token_ws_handshake.offer
        set_offer(self.request, offer.visible)  # tornado looks for the answer in it
        # Nothing is compressed for somebody who leaves, and what cannot be read must not matter.
        self.request.headers.pop("Sec-WebSocket-Extensions", None)
        refusal = RefusalHandler(
            self.application,
            self.request,
            reason=reason,
            retry_after=retry_after,
            offer=offer,
            budget=guard.refusals,
            linger=guard.options.refusal_linger,
        )
        guard.run(refusal._execute([]))

    def refuse_opening(self, slug: str, retry_after: int | None = None) -> None:
        """Refuse the socket from outside, unless it is settled already."""
        if self._token_ws_handshake.stage is Stage.OPENING:
            self._refuse(slug, retry_after=retry_after)

    def _stop_if_late(self) -> None:
        """End a handler that goes on after its socket was refused or its client left."""
        if self._token_ws_handshake.stage in (Stage.REFUSED, Stage.ENDED):
            self._give_back()
            raise web.Finish

    def write(self, chunk: Any) -> None:
        """As stock; a handler that is late has nobody to write to."""
        if self._finished:
            self._stop_if_late()
        super().write(chunk)

    def finish(self, chunk: Any = None) -> Future[None]:
        """As stock; what a late handler would answer is dropped, the refusal is out."""
        if self._finished:
            self._stop_if_late()
        return super().finish(chunk)

    def _leave(self) -> None:
        """End what was begun for a handshake: deadline, credential in place, claim on a session."""
        self._token_ws_guard.opening.discard(self)
        self._take_away()
        if self._token_ws_session is not None:
            self._token_ws_guard.sessions.release(self, self._token_ws_session)
            self._token_ws_session = None

    def _take_away(self) -> None:
        """Take the credential away that was put into the request for a plain handler."""
        if self._token_ws_placed is not None:
            self._token_ws_placed.close()
            self._token_ws_placed = None

    def set_secure_cookie(self, *args: Any, **kwargs: Any) -> None:
        """As stock, but for a login cookie that is not wanted (C2.5). The older of two names."""
        stock = functools.partial(super().set_secure_cookie, *args, **kwargs)
        if not self._token_ws_judge.hold(stock):
            stock()

    def set_signed_cookie(self, *args: Any, **kwargs: Any) -> None:
        """As ``set_secure_cookie``."""
        stock = functools.partial(super().set_signed_cookie, *args, **kwargs)
        if not self._token_ws_judge.hold(stock):
            stock()

    # -- the open socket ---------------------------------------------------------------------------

    @property
    def ping_interval(self) -> float:
        """Never tornado's pings nor ``WebSocketMixin``'s beside the guard's."""
        if self._token_ws_guard.options.keepalive_interval > 0:
            return 0
        return cast("float", super().ping_interval)

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """The handler wants to accept. One that is late finds the socket refused and does nothing."""
        handshake = self._token_ws_handshake
        self._stop_if_late()
        self._take_away()
        self._settle_late()
        # Who takes over a session is as many as before; the older one has been told by now.
        if self._token_ws_guard.full(handshake.principal) and not self._token_ws_replaces:
            self._refuse("too_many_connections", retry_after=RETRY_AFTER_FULL)
            self._give_back()
            raise web.Finish
        if not self._token_ws_is_jupyter:
            remove_ours(self.request, handshake.ours)  # left for the handler to judge by
        protocol: Any = carried_protocol(self, super().get_websocket_protocol())
        grant = handshake.grant
        if protocol is not None and grant is not None and grant.single_use:
            accept = functools.partial(self._use_up, protocol.accept_connection)
            protocol.accept_connection = accept
        return cast("WebSocketProtocol | None", protocol)

    async def _use_up(
        self, accept: Callable[[WebSocketHandler], Awaitable[None]], handler: WebSocketHandler
    ) -> None:
        """Use up a ticket for a single use, now that nothing else refuses the socket (C6.5)."""
        handshake, tickets = self._token_ws_handshake, self._token_ws_guard.tickets
        try:
            await cast("Any", tickets).consume(self.request, handshake.ours)
        except Refused as error:
            if handshake.stage is Stage.OPENING:
                self._refuse(error.slug, retry_after=error.retry_after)
        if handshake.stage is not Stage.OPENING:
            self.ws_connection = None  # it has no stream that could be closed
            self._give_back()
            raise web.Finish
        await accept(handler)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """The handler's own choice first, then the markers (C1.1)."""
        handshake = self._token_ws_handshake
        offer = handshake.offer
        chosen = super().select_subprotocol(list(offer.protocols))
        handshake.chosen = chosen
        handshake.answered = choose(chosen, offer, handshake.token_accepted)
        # tornado has read the header by now; what handlers pass on has no markers in it.
        set_offer(self.request, offer.protocols)
        return handshake.answered

    @property
    def selected_subprotocol(self) -> str | None:
        """What the handler chose: it need not know the markers."""
        return self._token_ws_handshake.chosen

    async def open(self, *args: Any, **kwargs: Any) -> None:
        """The 101 is out: enter the registry, then let the handler open."""
        handshake, guard = self._token_ws_handshake, self._token_ws_guard
        handshake.stage = Stage.OPEN
        guard.opening.discard(self)
        kernel = (
            self.path_kwargs.get("kernel_id") if isinstance(self, KernelWebsocketHandler) else None
        )
        guard.opened(
            OpenSocket(
                handler=self,
                path=self.request.path,
                principal=handshake.principal,
                credential=handshake.credential,
                source=handshake.source,
                opted_in=handshake.opted_in,
                user=handshake.user,
                remote_ip=self.request.remote_ip or "",
                kernel=kernel,
                carrier=handshake.carrier,
                stream=getattr(self.ws_connection, "stream", None),
                user_name=handshake.told_name,
                grant=handshake.grant,
                kernel_id=kernel,
            ),
            self.request.request_time(),
        )
        try:
            result = super().open(*args, **kwargs)
            if result is not None:
                await result
        except BaseException:
            # tornado aborts the connection and tells nobody.
            self._note_end(None, None)
            guard.registry.discard(self)
            self._leave()
            raise

    def on_message(self, message: str | bytes) -> Any:
        """As stock; but no more is read from a kernel's client that is to wait before it sends more.

        Upstream's handler drops what its connection returns, so a connection says it by an attribute.
        """
        result: Any = super().on_message(message)
        if result is None and isinstance(self, KernelWebsocketHandler):
            return getattr(getattr(self, "connection", None), "waiting", None)
        return result

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """As stock; upstream's close of a connection that was replaced gets its reason."""
        session = self._token_ws_session
        sessions = self._token_ws_guard.sessions
        if code is None and session is not None and sessions.replaced(self, session):
            row = REASONS["replaced"]
            code, reason = row.code, row.close_reason()
        self._note_end(code, reason)
        super().close(code, reason)

    def _note_end(self, code: int | None, reason: str | None) -> None:
        entry = self._token_ws_guard.registry.get(self)
        if entry is not None:
            entry.ends(code, reason)

    def on_finish(self) -> None:
        """An answer is out. One that is no 101 ends the handshake, though it was no refusal of ours."""
        handshake = self._token_ws_handshake
        if handshake.stage is Stage.OPENING and self.get_status() != 101:
            handshake.stage = Stage.ENDED
            self._leave()
            metrics.ended(self, "answered")
        super().on_finish()

    def on_connection_close(self) -> None:
        """The connection ended, whoever ended it."""
        if self._token_ws_handshake.stage is Stage.OPENING:
            self._token_ws_handshake.stage = Stage.ENDED
            metrics.ended(self, "left")
        self._token_ws_guard.registry.discard(self)
        self._leave()
        super().on_connection_close()

    def on_close(self) -> None:
        """As stock; but a kernel's connection that was never counted is not counted off."""
        if (
            isinstance(self, KernelWebsocketHandler)
            and self._token_ws_handshake.stage is not Stage.OPEN
        ):
            self._leave_kernel()
        else:
            super().on_close()

    def _give_back(self) -> None:
        """Let a handler end that prepared to open: who was told a refusal is another handler's by now."""
        if isinstance(self, KernelWebsocketHandler) and not self._on_close_called:
            self._on_close_called = True
            cast("Any", self).on_close()

    def _leave_kernel(self) -> None:
        """Give back what upstream prepared for a kernel's socket that never opened.

        Its `disconnect` takes one off the kernel's connections, and at none it begins to buffer for
        this session, whosever was buffered for before. So two are counted meanwhile.
        """
        connection: Any = getattr(self, "connection", None)
        if connection is None:
            return
        manager, kernel_id = connection.multi_kernel_manager, connection.kernel_id
        manager.notify_connect(kernel_id)
        manager.notify_connect(kernel_id)
        try:
            super().on_close()
        finally:
            manager.notify_disconnect(kernel_id)


class _GuardedJupyter(_Guarded):
    """Before a handler of Jupyter's, which is judged when it asks its identity provider."""

    _token_ws_is_jupyter = True

    @functools.cached_property
    def identity_provider(self) -> IdentityProvider:
        """The server's provider, with the judge before it."""
        provider: IdentityProvider = cast("Any", super()).identity_provider
        return cast("IdentityProvider", JudgedProvider(provider, self._token_ws_judge, self))

    def check_host(self) -> bool:
        """Upstream's check, remembered."""
        allowed = bool(cast("Any", super()).check_host())
        self._token_ws_handshake.host_refused = not allowed
        return allowed


def _check_cross_origin(request: HTTPServerRequest, check: Callable[[str], bool]) -> str | None:
    """What tornado before 6.6 does instead of its method of this name: what is wrong, or ``None``."""
    origin = request.headers.get("Origin") or request.headers.get("Sec-Websocket-Origin")
    return None if origin is None or check(origin) else "origin not allowed"


def _can_upgrade(request: HTTPServerRequest) -> bool:
    """Whether tornado will find what it needs for a 101 (RFC 6455 section 4.2.1)."""
    headers = request.headers
    connection = [part.strip().lower() for part in headers.get("Connection", "").split(",")]
    return (
        "upgrade" in connection
        and headers.get("Sec-WebSocket-Version") == "13"
        and bool(headers.get("Host") and headers.get("Sec-WebSocket-Key"))
    )


def _is_default_current_user(kind: type[web.RequestHandler]) -> bool:
    return kind.get_current_user is web.RequestHandler.get_current_user


def guarded_class(kind: type[web.RequestHandler]) -> type[WebSocketHandler]:
    """The class that stands before ``kind``: same name and module, for metrics and for who asks.

    Raises ``TypeError`` or whatever the class raises where it cannot be subclassed.
    """
    if issubclass(kind, _Guarded):
        return kind
    mixin = _GuardedJupyter if issubclass(kind, JupyterHandler) else _Guarded
    made: type[WebSocketHandler] = subclass(mixin, cast("Any", kind))
    return made


class _Carried(WebSocketHandler):
    """What is mixed in before a handler class that the guard does not stand before."""

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """Tornado's, or that of what carries the connection."""
        return carried_protocol(self, super().get_websocket_protocol())


def carried_class(kind: type[web.RequestHandler]) -> type[web.RequestHandler]:
    """The class in place of ``kind`` for connections that no socket carries: itself, where it is guarded or
    no websocket's. Raises as ``guarded_class``."""
    if issubclass(kind, _Guarded) or not issubclass(kind, WebSocketHandler):
        return kind
    made: type[web.RequestHandler] = subclass(_Carried, cast("Any", kind))
    return made


@functools.lru_cache(maxsize=1024)
def subclass(mixin: type, kind: Any) -> Any:
    """The class with ``mixin`` before ``kind``, made once: same name and module as ``kind``.

    Raises ``TypeError`` or whatever the class raises where it cannot be subclassed.
    """
    namespace = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return type(kind)(kind.__name__, (mixin, kind), namespace)
