"""``api/token-ws/login``: a credential is traded for a ticket, which is renewed and revoked here (C6.1).

Which credential counts is settled by the body, so nobody is judged before that was read; it is bounded. What
a ticket stands for is tried before the ticket is issued: shown alone, it must admit whom it was shown for.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn, cast

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.auth.identity import IdentityProvider, LegacyIdentityProvider, User
from tornado import web

from jupyter_token_ws.guard.alone import Judged, judge_alone, judge_of, judge_request
from jupyter_token_ws.guard.core import Guard
from jupyter_token_ws.guard.credentials import CredentialSource, header_token
from jupyter_token_ws.guard.identity import (
    DetachedHandler,
    Judge,
    JudgedProvider,
    auth_enabled,
    detach,
    says_nobody,
    undo_cookies,
)
from jupyter_token_ws.guard.refusal import Refused
from jupyter_token_ws.guard.rest import ApiHandler
from jupyter_token_ws.protocol.tickets import is_ticket

from .directory import Place
from .service import PATH, Login, login_cookie, name_of, refuse
from .tickets import Credential, Issued, RevokedTicket, Ticket, TicketError

if TYPE_CHECKING:
    from jupyter_server.base.handlers import JupyterHandler

MAX_BODY = 16 * 1024
"""Bytes of a body at most: a token of the longest, an audience and some words."""

_OPTIONS = frozenset({"max_age", "single_use", "audience"})
_KEYS = _OPTIONS | {"password", "token", "renew"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Asked:
    """What a login asks for. Of ``password``, ``token`` and ``renew`` one at most is there."""

    options: dict[str, Any]
    password: str | None = None
    token: str | None = None
    renew: bool = False


def read_body(body: bytes, max_token_size: int) -> Asked:
    """What the body of a login asks for; the options are judged by who issues tickets.

    Raises ``Refused``: ``bad_request``, or ``malformed_credentials`` for a password or token that is none.
    What is not known is refused, not passed over: a misspelt audience would give more than was asked for.
    """
    try:
        read = json.loads(body, object_pairs_hook=_each_once) if body else {}
    except (ValueError, RecursionError):
        raise Refused("bad_request", text="the body is no JSON") from None
    if not isinstance(read, dict) or not read.keys() <= _KEYS:
        raise Refused(
            "bad_request",
            text=f"the body must be an object with some of {', '.join(sorted(_KEYS))}",
        )
    ways = [name for name in ("password", "token", "renew") if name in read]
    if len(ways) > 1:
        raise Refused("bad_request", text=f"{' and '.join(ways)} do not go together")
    secrets = [read[name] for name in ("password", "token") if name in read]
    if not all(_is_secret(text, max_token_size) for text in secrets):
        raise Refused("malformed_credentials")
    if "renew" in read and read["renew"] is not True:
        raise Refused("bad_request", text="renew must be true")
    options = {name: read[name] for name in _OPTIONS if name in read}
    if "renew" in read and options.keys() - {"max_age"}:
        raise Refused("bad_request", text="a renewal keeps audience and single_use")
    return Asked(options, read.get("password"), read.get("token"), "renew" in read)


def _each_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members. Raises ``ValueError`` where one is there twice: readers differ in which counts."""
    read = dict(members)
    if len(read) < len(members):
        raise ValueError("a member is there twice")
    return read


def _is_secret(text: object, max_size: int) -> bool:
    """Whether a password or token is one: some text without control characters, not too long."""
    if not isinstance(text, str) or not text or _CONTROL.search(text):
        return False
    return len(text.encode()) <= max_size


class _Deferred(JudgedProvider):
    """Before the identity provider: nobody is judged in ``prepare``, before the body was read."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        """Whoever was judged so far: in ``prepare`` nobody."""
        user: User | None = self._judge.handshake.user
        return user


@web.stream_request_body
class LoginHandler(ApiHandler):
    """The handler of all three methods."""

    _needs_tls = True
    _token_ws_judges = True

    def initialize(self) -> None:
        """Nothing was read yet."""
        self._body = bytearray()
        self._settled = False

    # -- the request -------------------------------------------------------------------------------

    async def prepare(self) -> None:  # type: ignore[override] # upstream's argument is for websockets
        """As all our paths; a body that is too large is not waited for."""
        await super().prepare()
        self.set_header("Cache-Control", "no-store")
        if self._finished:
            return
        self.bound_body(MAX_BODY)

    def _carries_body(self) -> bool:
        headers = self.request.headers
        return headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers

    def data_received(self, chunk: bytes) -> None:
        """A part of the body."""
        self._body += chunk

    @functools.cached_property
    def _login(self) -> Login:
        return Login.of(self.settings)

    @functools.cached_property
    def _judge(self) -> Judge:
        return judge_of(self)

    @property
    def _provider(self) -> IdentityProvider:
        return super().identity_provider

    @functools.cached_property
    def identity_provider(self) -> IdentityProvider:
        """The server's provider, who is asked when it is known for what."""
        return cast("IdentityProvider", _Deferred(self._provider, self._judge, self))

    def check_xsrf_cookie(self) -> None:
        """Upstream's check, once it is known whether a cookie is what counts."""
        if self._settled:
            super().check_xsrf_cookie()

    # -- the methods -------------------------------------------------------------------------------

    @allow_unauthenticated
    async def post(self) -> None:
        """A ticket for a credential, or for an older ticket."""
        asked = read_body(bytes(self._body), Guard.of(self.application).options.max_token_size)
        if asked.renew:
            issued = await self._renew(asked)
        else:
            judged, behind, source = await self._log_in(asked)
            place = await self._place(judged)
            if place is not None:
                await self._send_elsewhere(judged, place, asked)
                return
            issued = await self._issue(judged, behind, source, asked)
        ticket = issued.ticket
        self.finish(
            {
                "token": issued.token,
                "token_type": "Bearer",
                **self._until(ticket),
                "user": dict(ticket.user),
                "server": self._server(None),
            }
        )

    @allow_unauthenticated
    async def get(self) -> None:
        """Who this is, until when, and where their server is."""
        judged = await self._ambient()
        ticket = await self._ticket(judged)
        user = self._model(judged.user) if ticket is None else dict(ticket.user)
        until = {} if ticket is None else self._until(ticket)
        self.finish({**until, "user": user, "server": self._server(await self._place(judged))})

    @allow_unauthenticated
    async def delete(self) -> None:
        """Revoke the ticket in ``Authorization``, and its family with it. What is not known is no error."""
        token = header_token(self.request.headers.get("Authorization", "")) or ""
        if not is_ticket(token):
            raise Refused("bad_request", text="there is no ticket in Authorization")
        store, name = self._login.store, ""
        revoked = False
        try:
            name = name_of(await store.look_up(token))
        except RevokedTicket:
            revoked = True
        except TicketError:
            pass  # of a dead one there is no name to tell
        try:
            family = await store.revoke(token)
        except TicketError as error:
            refuse(error)
        guard = Guard.of(self.application)
        if family is not None and not revoked:
            sockets = sum(each.socket for each in guard.registry.by_family(family))
            guard.events.ticket_revoked(family=family, user=name, cause="request", sockets=sockets)
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()

    # -- who is there ------------------------------------------------------------------------------

    async def _ambient(self) -> Judged:
        """Whom the request is from by its header or cookie, as upstream judges it, XSRF and Origin too."""
        found = await judge_request(self._judge, self._provider, self)
        self.current_user = cast("Any", self)._jupyter_current_user = found.user
        self._settled = True
        self.set_cors_headers()  # upstream allows more to who came by token
        if self.request.method != "GET" and found.handshake.source is not CredentialSource.HEADER:
            self._check_origin()
            self.check_xsrf_cookie()
        return found

    async def _alone(self, header: str, value: str) -> Judged:
        """Whom a request with one credential is from. Raises ``Refused``."""
        return await judge_alone(self, self._provider, header, value)

    async def _by_token(self, token: str) -> Judged:
        """Whom a token of the body is for. Raises ``Refused``."""
        if is_ticket(token):
            _refuse_ticket()
        found = await judge_of(self).alone(self._provider, self, token)
        shown = f"token {token}"
        if found.user is not None and found.handler is not None:
            shown = found.handler.request.headers["Authorization"]  # by which scheme
        return await self._alone("Authorization", shown)

    async def _by_password(self, password: str) -> Judged:
        """Whom a password is for, as the form of the login page judges it: by the cookie that it sets."""
        provider = self._provider
        if type(provider).process_login_form is IdentityProvider.process_login_form:
            raise Refused("forbidden", text="there are no passwords here: log in with a token")
        right = await Guard.of(self.application).throttle.take_turn(self.request)
        form = detach(self, None)
        form.request.method = "POST"
        form.request.arguments = form.request.body_arguments = {"password": [password.encode()]}
        form.request.query_arguments = {}
        try:
            answer: Any = provider.process_login_form(form)
            user = await answer if isinstance(answer, Awaitable) else answer
        except web.HTTPError as error:
            if not says_nobody(error):
                raise
            user = None
        if user is None:
            raise Refused("token_rejected", text="the password is not valid here")
        right()
        form.current_user = cast("Any", form)._jupyter_current_user = user
        if isinstance(provider, LegacyIdentityProvider):
            cast("Any", provider.login_handler_class).set_login_cookie(form, user.username)
        else:
            provider.set_login_cookie(form, user)
        cookie = _set_by(form)
        if not cookie:
            _refuse_other()
        return await self._alone("Cookie", cookie)

    # -- tickets -----------------------------------------------------------------------------------

    async def _log_in(self, asked: Asked) -> tuple[Judged, Credential, str]:
        """Who logs in, what a ticket for them is to stand for, and by what they did."""
        source = "password"
        if not auth_enabled(self._provider):
            judged = await judge_request(self._judge, self._provider, self)
            source, behind = CredentialSource.NONE.value, Credential("", "")
        elif asked.password is not None:
            self._check_origin()
            judged = await self._by_password(asked.password)
            behind = Credential("Cookie", judged.handler.request.headers["Cookie"])
        else:
            if asked.token is not None:
                judged = await self._by_token(asked.token)
            else:
                judged = await self._ambient()
            source = judged.handshake.source.value if asked.token is None else "token"
            judged, behind = await self._behind(judged)
        return judged, behind, source

    async def _issue(self, judged: Judged, behind: Credential, source: str, asked: Asked) -> Issued:
        handshake = judged.handshake
        try:
            issued = await self._login.store.issue(
                handshake.principal, self._model(judged.user), behind, **asked.options
            )
        except TicketError as error:
            refuse(error)
        ticket = issued.ticket
        Guard.of(self.application).events.ticket_issued(
            family=ticket.family,
            user=name_of(ticket) and handshake.told_name,
            source=source,
            expires_in=self._until(ticket)["expires_in"],
            single_use=ticket.single_use,
        )
        return issued

    def _check_origin(self) -> None:
        """What a browser adds by itself is not for other sites; and a password can be guessed, which no
        other site tries from a browser inside."""
        if not self.check_origin():
            raise Refused("forbidden")

    async def _behind(self, judged: Judged) -> tuple[Judged, Credential]:
        """What a ticket is to stand for, tried alone. Raises ``Refused`` where there is nothing."""
        handshake, headers = judged.handshake, judged.handler.request.headers
        if handshake.grant is not None:
            _refuse_ticket()
        if handshake.source is CredentialSource.HEADER and handshake.authorization:
            return judged, Credential("Authorization", handshake.authorization)
        shown = None
        if handshake.source is CredentialSource.COOKIE:
            shown = login_cookie(self._provider, self, headers.get("Cookie", ""))
        if shown is None:
            _refuse_other()
        try:
            alone = await self._alone(*shown)
        except Refused:
            _refuse_other()
        same = alone.user.username == judged.user.username
        if alone.handshake.principal.startswith("user:") and not same:
            _refuse_other()
        return alone, Credential(*shown)

    async def _renew(self, asked: Asked) -> Issued:
        judged = await self._ambient()
        token = judged.handshake.ours
        if judged.handshake.grant is None or token is None:
            raise Refused("bad_request", text="there is no ticket in Authorization")
        try:
            issued = await self._login.store.renew(token, **asked.options)
        except TicketError as error:
            refuse(error)
        ticket = issued.ticket
        Guard.of(self.application).events.ticket_renewed(
            family=ticket.family,
            user=name_of(ticket),
            expires_in=self._until(ticket)["expires_in"],
        )
        return issued

    async def _ticket(self, judged: Judged) -> Ticket | None:
        """The ticket by which somebody came, if by one."""
        token = judged.handshake.ours
        if judged.handshake.grant is None or token is None:
            return None
        return await self._login.find(self.request, token)

    # -- the answer --------------------------------------------------------------------------------

    def _model(self, user: User) -> dict[str, Any]:
        return dict(self._provider.identity_model(user))

    def _until(self, ticket: Ticket) -> dict[str, float]:
        left = max(0.0, ticket.expires_at - self._login.store.clock())
        return {"expires_in": round(left, 3), "expires_at": round(ticket.expires_at, 3)}

    async def _place(self, judged: Judged) -> Place | None:
        """Where the user's server is, if it is another (C6.2)."""
        return await self._login.locate(judged.handler, judged.handshake)

    def _server(self, place: Place | None) -> dict[str, Any]:
        if place is None:
            here = f"{self.request.protocol}://{self.request.host}{self.base_url}"
            place = Place(here, ready=True)
        return {"base_url": place.base_url, "ready": place.ready}

    async def _send_elsewhere(self, judged: Judged, place: Place, asked: Asked) -> None:
        """Answer with a credential for another server, which stands for nothing here."""
        login = self._login
        caller = login.caller(judged.handler, judged.handshake)
        try:
            granted = await cast("Any", login.directory).log_in(caller, place, **asked.options)
        except TicketError as error:
            refuse(error)
        self.finish(
            {
                "token": granted.token,
                "token_type": "Bearer",
                "expires_in": round(granted.expires_in, 3),
                "expires_at": round(granted.expires_at, 3),
                "user": self._model(judged.user),
                "server": self._server(place),
            }
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """As all our paths, readable for the pages that may read the rest."""
        if hasattr(self, "_jupyter_current_user"):
            self.set_cors_headers()
        self.set_header("Cache-Control", "no-store")
        super().write_error(status_code, **kwargs)

    def finish(self, chunk: Any = None) -> Any:
        """As stock; whoever asks here for a ticket is not signed in or out by it (C2.5)."""
        undo_cookies(self)
        return super().finish(chunk)


def _refuse_ticket() -> NoReturn:
    """Whoever has a ticket gets no longer one by it, nor one for more (C6.4)."""
    raise Refused("bad_request", text="a ticket gives no other ticket: it can be renewed")


def _refuse_other() -> NoReturn:
    raise Refused("forbidden", text="what this server keeps of a login cannot be kept in a ticket")


def _set_by(handler: DetachedHandler) -> str:
    """The cookies that a handler is about to set, as a browser would send them back."""
    jar: Any = getattr(handler, "_new_cookie", {})
    return "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items() if morsel.value)


def handlers() -> list[tuple[str, type[JupyterHandler]]]:
    """The route, below the server's base."""
    return [(f"/{PATH}", LoginHandler)]
