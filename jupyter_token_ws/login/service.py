"""Login on one server: its tickets, and the one rule by which requests that bear a ticket are judged.

The guard asks here what a ticket stands for, for websockets and REST alike; ``handler`` is the REST path
where tickets are had. Where else a user may have a server is a ``ServerDirectory``'s to say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

from jupyter_token_ws.guard.credentials import header_token
from jupyter_token_ws.guard.identity import detach
from jupyter_token_ws.guard.refusal import Refused
from jupyter_token_ws.guard.tickets import Grant
from jupyter_token_ws.protocol.reasons import Feature
from jupyter_token_ws.protocol.tickets import covers

from .directory import Caller
from .tickets import BadRequest, Ticket, TicketError, UnknownTicket

if TYPE_CHECKING:
    from jupyter_server.auth.identity import IdentityProvider
    from tornado import web
    from tornado.httputil import HTTPServerRequest

    from jupyter_token_ws.guard.core import Guard
    from jupyter_token_ws.guard.handshake import Handshake

    from .directory import Place, ServerDirectory
    from .link import Links
    from .signed_out import SignedOut
    from .store import TicketStore
    from .watch import Watch

SETTING = "token_ws_login"
"""Key of the login in the web application's settings."""

PATH = "api/token-ws/login"
"""Where tickets are had, below the server's base."""


class Login:
    """The login of one server.

    Args:
        guard: of the server.
        store: keeps the tickets.
        directory: knows other servers, if there is one.
    """

    def __init__(
        self,
        guard: Guard,
        store: TicketStore,
        *,
        directory: ServerDirectory | None = None,
    ) -> None:
        self.guard = guard
        self.store = store
        self.directory = directory
        self.watch: Watch | None = None
        """Who ends open sockets with their credential."""
        self.signed_out: SignedOut | None = None
        """Who denies the cookies of those who signed out."""
        self.links: Links | None = None
        """The links that sign a browser in, if there are any."""
        application = guard.application
        base: str = application.settings.get("base_url", "/")
        self._base = base
        self._path = f"{base.rstrip('/')}/{PATH}"
        guard.tickets = self
        if directory is not None:
            guard.elsewhere = self.belongs_elsewhere
        guard.features |= {Feature.LOGIN}
        guard.login_document = {
            "path": PATH,
            "max_age": store.max_age,
            "revocable": store.revocable,
        }
        application.settings[SETTING] = self

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Login:
        """The login of a web application, by its settings. Raises ``KeyError`` where it has none."""
        found: Login = settings[SETTING]
        return found

    # -- the rule ----------------------------------------------------------------------------------

    async def look_up(self, request: HTTPServerRequest, ticket: str) -> Grant:
        """What a ticket stands for that a request shows. See ``guard.tickets.Tickets``."""
        return grant_of(await self.find(request, ticket))

    async def find(self, request: HTTPServerRequest, ticket: str) -> Ticket:
        """The ticket that a request shows. Raises ``Refused``; one that nobody issued is counted as any
        other wrong token is."""
        try:
            found = await self.store.look_up(ticket)
            if (
                request.path != self._path
            ):  # whoever has it may renew and revoke it, wherever it is good
                found.check_audience(request.path, self._base)
        except UnknownTicket as error:
            wait = await self.guard.throttle.wrong(request, [ticket])
            if wait is not None:
                raise Refused("too_many_attempts", wait) from None
            refuse(error)
        except TicketError as error:
            refuse(error)
        return found

    def pass_on(self, request: HTTPServerRequest, grant: Grant) -> Grant:
        """What the ticket of a tunnel stands for at one of its streams. See ``guard.tickets.Tickets``."""
        if not covers(grant.audience, request.path, self._base):
            raise Refused("wrong_audience")
        return replace(grant, single_use=False)

    async def consume(self, request: HTTPServerRequest, ticket: str) -> None:
        """Use up a ticket for a single use. See ``guard.tickets.Tickets``."""
        try:
            await self.store.consume(ticket)
        except TicketError as error:
            refuse(error)

    # -- other servers -----------------------------------------------------------------------------

    async def belongs_elsewhere(self, handler: web.RequestHandler) -> bool:
        """Whether the websockets of whoever was admitted belong to another server (4421)."""
        caller = self.caller(handler, self.guard.begin(handler.request))
        if not caller.user:
            return False
        try:
            return await cast("ServerDirectory", self.directory).belongs_elsewhere(caller)
        except TicketError as error:
            refuse(error)

    async def locate(self, handler: web.RequestHandler, handshake: Handshake) -> Place | None:
        """The server of whoever was admitted, ``None`` for this one. Raises ``Refused``."""
        caller = self.caller(handler, handshake)
        if self.directory is None or not caller.user:
            return None
        try:
            return await self.directory.locate(caller)
        except TicketError as error:
            refuse(error)

    def caller(self, handler: web.RequestHandler, handshake: Handshake) -> Caller:
        """Whoever was admitted, as a directory asks for them; who has no name belongs here (C2.8)."""
        kind, _, name = handshake.principal.partition(":")
        if kind != "user":
            return Caller("")
        grant, token = handshake.grant, handshake.ours
        if grant is not None:
            token = grant.secret if grant.header == "Authorization" else None
        elif token is None:
            provider = self.guard.application.settings["identity_provider"]
            cookies = handler.request.headers.get("Cookie", "")
            header, value = login_cookie(provider, handler, cookies) or ("", "")
            token = header_token(value) if header == "Authorization" else None
        return Caller(name, token)


def login_cookie(
    provider: IdentityProvider, handler: web.RequestHandler, cookies: str
) -> tuple[str, str] | None:
    """Of all cookies what logs in, as a header and its value: the provider's own cookie, or under JupyterHub
    the token inside it (C6.3)."""
    shown = detach(handler, None)
    shown.request.headers["Cookie"] = cookies
    hub_auth: Any = getattr(provider, "hub_auth", None)
    if hub_auth is not None:
        token = hub_auth.get_token(shown, in_cookie=True)
        return ("Authorization", f"token {token}") if token else None
    name = provider.get_cookie_name(shown)
    value = shown.get_cookie(name)
    return None if value is None else ("Cookie", f"{name}={value}")


def grant_of(ticket: Ticket) -> Grant:
    """A ticket as the guard sees it."""
    behind = ticket.credential
    return Grant(
        ticket.family,
        ticket.expires_at,
        ticket.single_use,
        behind.kind,
        behind.value,
        ticket.audience,
    )


def name_of(ticket: Ticket) -> str:
    """The user's name, empty where the identity provider names nobody (C2.8)."""
    kind, _, name = ticket.principal.partition(":")
    return name if kind == "user" else ""


def refuse(error: TicketError) -> NoReturn:
    """What is wrong with a ticket, as the guard tells it."""
    text = str(error) if isinstance(error, BadRequest) else ""
    raise Refused(error.slug, error.retry_after, text) from None
